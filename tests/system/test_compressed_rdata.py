"""Names that an upstream server compressed in RDATA: each type, through the real binary.

The server spells out the owner that clusterdns will compress, so every pointer of its reply leads
elsewhere in ours: RDATA that is copied as octets is malformed.
"""

from __future__ import annotations

import struct

import faultyupstream as faulty
import peers
import pytest
from faultyupstream import Asked, FaultyUpstream

from clusterdns.errors import FormError
from clusterdns.wire import rdata, reading, rr

_LABEL = b"\6target"
_KEY = bytes(range(16))
# Type -> octets before its names, how many there are, octets behind them.
SHAPES: dict[int, tuple[bytes, int, bytes]] = {
    rdata.NAPTR: (b"\0\1\0\2\1s\7SIP+D2U\0", 1, b""),
    rr.RRSIG: (struct.pack("!HBBIIIH", 1, 8, 3, 300, 2, 1, 7), 1, _KEY),
    rdata.SIG: (struct.pack("!HBBIIIH", 1, 8, 3, 300, 2, 1, 7), 1, _KEY),
    rdata.NXT: (b"", 1, b"\x40\0\0\2"),
    rr.NSEC: (b"", 1, b"\0\1\x40"),
    rdata.SVCB: (b"\0\1", 1, b"\0\3\0\2\1\xbb"),
    rdata.HTTPS: (b"\0\1", 1, b"\0\3\0\2\1\xbb"),
    rdata.A6: (b"\x40" + bytes(8), 1, b""),
    rdata.IPSECKEY: (b"\1\3\2", 1, _KEY),
    rdata.AMTRELAY: (b"\1\x83", 1, b""),
    rdata.HIP: (b"\4\2\0\5" + bytes(9), 3, b""),
    rr.SOA: (b"", 2, bytes(20)),
}
for _rtype, _names in rdata.NAMES.items():
    SHAPES.setdefault(_rtype, (bytes(_names.before), _names.number, b""))
for _rtype in (rr.TSIG, rdata.TKEY):  # none of these can be asked for
    del SHAPES[_rtype]


def compressed(asked: Asked) -> None:
    """Reply with one record whose names point into its own owner."""
    if asked.qtype not in SHAPES:  # whether the server is ready is asked, too
        faulty.good(asked)
        return
    before, names, behind = SHAPES[asked.qtype]
    owner = asked.question[:-4]
    pointer = struct.pack("!H", 0xC000 | 12 + len(asked.question))
    octets = before + (_LABEL + pointer) * names + behind
    record = owner + struct.pack("!HHIH", asked.qtype, 1, 300, len(octets)) + octets
    asked.reply(asked.message(answer=b"", extra=[record]))


def expected(rtype: int, qname: bytes) -> bytes:
    """Return the RDATA of our reply: compressed as RFC 1035 allows, in full otherwise."""
    before, names, behind = SHAPES[rtype]
    if rtype not in rdata.NAMES or not rdata.NAMES[rtype].is_compressed:
        return before + (_LABEL + qname) * names + behind
    second = struct.pack("!H", 0xC000 | 12 + len(qname) + 4 + 12 + len(before))
    return before + _LABEL + b"\xc0\x0c" + second * (names - 1) + behind


@pytest.mark.parametrize("cache", ["", "cache 30"])
@pytest.mark.parametrize("pure", ["", "1"])
def test_names_are_written_out(pure, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CLUSTERDNS_PURE", pure)
    corefile = f". {{\n forward . {{upstream}}\n {cache}\n}}\n"
    with FaultyUpstream(compressed, tcp="as udp") as upstream:
        text = corefile.replace("{upstream}", upstream.address)
        with peers.clusterdns(text, tmp_path) as server:
            for rtype in SHAPES:
                packet = faulty.query(f"t{rtype}.example.com.", rtype, rtype)
                question = packet[12:]
                for ask in (peers.ask_udp, peers.ask_tcp, peers.ask_udp):
                    reply = ask(server.address, packet, 8)
                    assert reply is not None
                    assert (0, b"\0\1") == (reply[3] & 15, reply[6:8]), rtype
                    found = reply[12 + len(question) + 12 :]
                    assert expected(rtype, question[:-4]) == found, rr.type_text(rtype)


@pytest.mark.parametrize("rtype", [rdata.NAPTR, rr.RRSIG, rdata.SVCB, rdata.HIP])
def test_names_that_do_not_end_are_no_reply(rtype):
    """RDATA ends within its name, and the message goes on."""
    before, _, _ = SHAPES[rtype]
    head = b"\0\1\x81\x80\0\1\0\2\0\0\0\0" + b"\1a\0" + struct.pack("!HH", rtype, 1)
    record = b"\xc0\x0c" + struct.pack("!HHIH", rtype, 1, 9, len(before) + 3) + before + b"\6tar"
    with pytest.raises(FormError):
        reading.read_reply(head + record + b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 9, 4) * 2)
