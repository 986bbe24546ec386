"""tsig: who is answered, with which signature, and what stays unsigned; no sockets."""

from __future__ import annotations

import asyncio
import base64
import struct
import time
from pathlib import Path

import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import inprocess
import peers
import pytest

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError

NAME, SECRET = "key.example.test.", base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
KEY = dns.tsig.Key(NAME, SECRET, dns.tsig.HMAC_SHA256)
COREFILE = """. {{
    tsig example.test {{
        secret {name} {secret}
        {more}
    }}
    erratic {{
        drop 0
        delay 0
    }}
}}
"""


def corefile(more: str = "") -> str:
    return COREFILE.format(name=NAME, secret=SECRET, more=more)


def query(qname: str = "www.example.test", qtype: str = "A", key: dns.tsig.Key | None = KEY, **how):
    made = dns.message.make_query(qname, qtype, **how)
    if key is not None:
        made.use_tsig(key)
    return made


def ask(text: str, *packets: bytes) -> list[bytes]:
    """Return the replies of one server to some packets: table first, as a listener does."""

    async def asked() -> list[bytes]:
        async with inprocess.InProcess(text, []) as server:
            hits = server.server.tally.transport("udp", "1")
            found = []
            for packet in packets:
                reply = server.server.table.reply(packet, server.now(), hits)
                found.append(reply or await server.ask_chain(packet, "udp") or b"")
            return found

    return asyncio.run(asked())


def outcome(reply: bytes, asked: dns.message.Message) -> tuple[str, str]:
    """Return RCODE and TSIG error of a reply, whose signature is checked if it has a MAC."""
    loose = dns.message.from_wire(reply, keyring=False)
    if loose.tsig is None:
        return dns.rcode.to_text(loose.rcode()), "unsigned"
    if loose.tsig[0].mac and not loose.tsig[0].error:
        checked = dns.message.from_wire(reply, keyring=KEY, request_mac=asked.mac)
        assert checked.had_tsig
    return dns.rcode.to_text(loose.rcode()), dns.rcode.to_text(loose.tsig[0].error, True)


@pytest.mark.parametrize("algorithm", ["sha1", "sha224", "sha256", "sha384", "sha512"])
@pytest.mark.parametrize("edns", [False, True])
def test_a_signed_query_gets_a_signed_reply_by_every_algorithm(algorithm, edns):
    key = dns.tsig.Key(NAME, SECRET, f"hmac-{algorithm}")
    asked = query(key=key, use_edns=0 if edns else False)
    (reply,) = ask(corefile(), asked.to_wire())
    checked = dns.message.from_wire(reply, keyring=key, request_mac=asked.mac)
    assert (True, 0, edns) == (checked.had_tsig, checked.rcode(), checked.edns == 0)
    assert checked.answer


def test_names_in_other_zones_are_not_looked_at():
    stranger = dns.tsig.Key("other.test.", SECRET)
    asked = query("www.other.test", key=stranger)
    (reply,) = ask(corefile("require all"), asked.to_wire())
    assert ("NOERROR", "unsigned") == outcome(reply, asked)


def test_a_repeated_answer_is_no_signed_one_and_the_other_way_round():
    signed, plain = query(), query(key=None)
    replies = ask(corefile(), *[signed.to_wire(), plain.to_wire()] * 3)
    expected = [("NOERROR", "NOERROR"), ("NOERROR", "unsigned")] * 3
    asked = [signed, plain] * 3
    assert expected == [outcome(*pair) for pair in zip(replies, asked, strict=True)]


@pytest.mark.parametrize(
    ("more", "qtype", "expected"),
    [
        ("", "A", "NOERROR"), ("require all", "A", "REFUSED"), ("require none", "A", "NOERROR"),
        ("require TXT A", "A", "REFUSED"), ("require TXT", "A", "NOERROR"),
        ("require A\n require none", "A", "NOERROR"), ("require_opcode QUERY", "A", "REFUSED"),
        ("require_opcode NOTIFY UPDATE", "A", "NOERROR"), ("require_opcode all", "A", "REFUSED"),
    ],
)  # fmt: skip
def test_what_has_to_be_signed_is_refused_unsigned(more, qtype, expected):
    plain = query(qtype=qtype, key=None)
    signed = query(qtype=qtype)
    replies = ask(corefile(more), *[plain.to_wire(), signed.to_wire()] * 2)
    assert [(expected, "unsigned"), ("NOERROR", "NOERROR")] * 2 == [
        outcome(*pair) for pair in zip(replies, [plain, signed] * 2, strict=True)
    ]


def test_wrong_keys_signatures_and_algorithms_are_told():
    other = base64.b64encode(b"wrong").decode()
    cases = [
        (dns.tsig.Key(NAME, other), "BADSIG"),
        (dns.tsig.Key("unknown.example.test.", SECRET), "BADKEY"),
        (dns.tsig.Key(NAME, SECRET, dns.tsig.HMAC_MD5), "BADKEY"),
        (dns.tsig.Key(NAME, SECRET, dns.tsig.HMAC_SHA256_128), "BADKEY"),
    ]
    for key, expected in cases:
        asked = query(key=key)
        (reply,) = ask(corefile(), asked.to_wire())
        assert ("NOTAUTH", expected) == outcome(reply, asked)
        assert b"" == dns.message.from_wire(reply, keyring=False).tsig[0].mac


def test_a_clock_that_is_wrong_is_told_the_time_with_a_signature(monkeypatch):
    asked = query()
    with monkeypatch.context() as patch:
        now = time.time()
        patch.setattr(time, "time", lambda: now - 4000)
        packet = asked.to_wire()
    (reply,) = ask(corefile(), packet)
    assert ("NOTAUTH", "BADTIME") == outcome(reply, asked)
    tsig = dns.message.from_wire(reply, keyring=False).tsig[0]
    assert 5 > abs(int.from_bytes(tsig.other, "big") - time.time())
    with pytest.raises(dns.tsig.PeerBadTime):
        dns.message.from_wire(reply, keyring=KEY, request_mac=asked.mac)


def test_any_change_to_a_signed_query_is_noticed():
    packet = query(use_edns=0).to_wire()
    changed = []
    for i in range(12, len(packet), 3):
        octets = bytearray(packet)
        octets[i] ^= 1
        changed.append(bytes(octets))
    text = corefile("require all").replace("tsig example.test", "tsig .")
    for reply in ask(text, *changed):
        assert reply[3] & 15 or not reply, reply.hex()


def test_a_tsig_record_that_is_not_the_last_one_is_a_format_error():
    signed = query().to_wire()
    opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
    packet = signed[:10] + b"\0\2" + signed[12:] + opt
    (reply,) = ask(corefile(), packet)
    assert 1 == reply[3] & 15


def test_a_reply_leaves_room_for_its_signature(tmp_path):
    (tmp_path / "db").write_text(
        "$TTL 60\n@ SOA ns h 1 2 3 4 5\n@ NS ns\n"
        + "".join(f"w A 192.0.2.{i}\n" for i in range(60))
    )
    text = corefile().replace("erratic {", f"file {tmp_path}/db example.test {{")
    text = text.replace("drop 0", "").replace("delay 0", "")
    for size in (512, 600, 1232):
        asked = query("w.example.test", use_edns=0, payload=size)
        (reply,) = ask(text, asked.to_wire())
        assert size >= len(reply)
        checked = dns.message.from_wire(reply, keyring=KEY, request_mac=asked.mac)
        assert checked.had_tsig
        assert bool(checked.flags & 0x200) == (size < 1100)


def transfer_corefile(tmp_path: Path) -> str:
    zone = "$TTL 60\n@ SOA ns h 7 2 3 4 5\n@ NS ns\nns A 192.0.2.1\n"
    zone += "".join(f"$GENERATE 0-255 h{i}-$ 60 A 192.0.2.$\n" for i in range(40))
    (tmp_path / "db").write_text(zone)
    keys = f'# keys\nkey "{NAME}" {{\n algorithm hmac-sha256; // one\n secret "{SECRET}";\n}};\n'
    (tmp_path / "keys").write_text(keys)
    return """example.test {
    tsig {
        secrets keys
        require AXFR
    }
    transfer {
        to *
    }
    file db
}
"""


def test_each_message_of_a_transfer_is_signed(tmp_path):
    with peers.clusterdns(transfer_corefile(tmp_path), tmp_path) as server:
        asked = query("example.test", "AXFR")
        messages = list(
            dns.query.xfr(*server.address[:1], "example.test", port=server.port, keyring=KEY,
                          relativize=False)
        )  # fmt: skip
        assert len(messages) > 4
        assert sum(len(rrset) for each in messages for rrset in each.answer) == 40 * 256 + 4
        assert all(each.had_tsig for each in messages)
        plain = dns.message.make_query("example.test", "AXFR")
        reply = dns.message.from_wire(peers.ask_tcp(server.address, plain.to_wire()))
        assert dns.rcode.REFUSED == reply.rcode()
        forged = query("example.test", "AXFR", key=dns.tsig.Key(NAME, "d3Jvbmc="))
        reply = peers.ask_tcp(server.address, forged.to_wire())
        assert ("NOTAUTH", "BADSIG") == outcome(reply, asked)


@pytest.mark.parametrize(
    "text",
    ["key", "key a", "key a {", "key a { }", "key a { secret", 'key a { secret "";', "zone b { }",
     "key a { algorithm x; }", "key a { secret ; }", 'key "" { secret eA==; };', "} key"],
)  # fmt: skip
def test_a_file_of_keys_with_a_mistake_is_refused(text, tmp_path):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(ConfigError, match=r":3: secrets: .*keys"):
        compile_text(
            f". {{\n tsig {{\n secrets {tmp_path}/keys\n }}\n}}\n",
            "Corefile", port=53, environ={}, warn=print,
        )  # fmt: skip
