"""Replies about as long as a datagram can be: whole, or cut with TC, but never silence."""

from __future__ import annotations

import dns.flags
import dns.message
import peers
import pytest

from clusterdns.serving import native

WHOLE, TOO_LONG = 65_507, 65_530
HEAD = "$ORIGIN big.test.\n@ 5 SOA ns h 1 2 3 4 5\n@ 5 NS ns\nns 5 A 192.0.2.9\n"
OVERHEAD = 12 + 16 + 17 + 11  # header, question, NS of the zone, OPT
RECORD = 12 + 256  # a pointer, type, class, TTL, length; a string of 255


def zone(name: str, octets: int) -> str:
    """Return TXT records of a name such that the reply has exactly so many octets."""
    full, rest = divmod(octets - OVERHEAD, RECORD)
    if rest < 13 + 3:
        full, rest = full - 1, rest + RECORD
    lines = [f'{name} 5 TXT "{i:03}{"x" * 252}"' for i in range(full)]
    pieces = [rest - 12] if rest <= RECORD else [RECORD - 12, rest - RECORD - 12]
    lines += [f'{name} 5 TXT "{"y" * (piece - 1)}"' for piece in pieces]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("pure", ["", "1"])
def test_what_no_datagram_has_room_for_is_cut(tmp_path, pure, monkeypatch):
    if pure:
        monkeypatch.setenv("CLUSTERDNS_PURE", pure)
    elif native.compiled is None:
        pytest.skip("not compiled: apt-get install gcc python3-dev, then pip install -e . again")
    (tmp_path / "big").write_text(HEAD + zone("w", WHOLE) + zone("t", TOO_LONG))
    with peers.clusterdns("big.test {\n file big\n bufsize client\n}\n", tmp_path) as server:
        for name, octets in (("w", WHOLE), ("t", TOO_LONG)):
            query = dns.message.make_query(f"{name}.big.test", "TXT", use_edns=0, payload=65535)
            for _ in range(3):  # a miss, and hits
                assert octets == len(peers.ask_tcp(server.address, query.to_wire()))
                reply = peers.ask_udp(server.address, query.to_wire())
                assert reply is not None
                is_cut = bool(dns.message.from_wire(reply).flags & dns.flags.TC)
                assert is_cut == (octets > WHOLE)
                assert (octets == len(reply)) or is_cut


USUAL = 4096


@pytest.mark.parametrize("pure", ["", "1"])
def test_a_forger_gets_4096_octets_out_of_a_query_and_over_tcp_there_is_all(
    tmp_path, pure, monkeypatch
):
    """Without `bufsize`; CoreDNS 1.15.0 sends 65,502 octets for the 59 of this query."""
    if pure:
        monkeypatch.setenv("CLUSTERDNS_PURE", pure)
    elif native.compiled is None:
        pytest.skip("not compiled: apt-get install gcc python3-dev, then pip install -e . again")
    octets = {"a": USUAL, "b": USUAL + 1, "c": 9000, "d": WHOLE}
    (tmp_path / "big").write_text(HEAD + "".join(zone(*each) for each in octets.items()))
    with peers.clusterdns("big.test {\n file big\n}\n", tmp_path) as server:
        for name, whole in octets.items():
            query = dns.message.make_query(f"{name}.big.test", "TXT", use_edns=0, payload=65535)
            for _ in range(3):  # a miss, and hits
                reply = peers.ask_udp(server.address, query.to_wire())
                assert reply is not None
                said = dns.message.from_wire(reply)
                assert (whole > USUAL, USUAL) == (bool(said.flags & dns.flags.TC), said.payload)
                assert len(reply) <= USUAL
                assert whole == len(peers.ask_tcp(server.address, query.to_wire()))
