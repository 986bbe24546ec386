"""Replies over TCP that cannot be read: a failed exchange, as CoreDNS takes it, and no TC."""

from __future__ import annotations

import dns.flags
import dns.message
import dns.rcode
import faultyupstream as faulty
import peers
import pytest
from faultyupstream import Asked, FaultyUpstream


def cut_short(asked: Asked) -> None:
    """Reply without the last octets, over TCP."""
    asked.reply(asked.message()[: -3 if asked.proto == "tcp" else None])


def pointing_nowhere(asked: Asked) -> None:
    record = b"\xff\xff" + faulty.address_record(faulty.EVIL)[2:]
    asked.reply(asked.message(answer=b"", extra=[record]))


@pytest.mark.parametrize("fault", [cut_short, pointing_nowhere])
@pytest.mark.parametrize(
    "run", [peers.clusterdns, pytest.param(peers.coredns, marks=pytest.mark.peer)]
)
@pytest.mark.parametrize("options", ["force_tcp", ""])
def test_the_next_server_is_asked(run, fault, options, tmp_path):
    """Over TCP to the client as well: of ``options`` "", only that makes the query go over TCP."""
    with FaultyUpstream(fault, tcp="as udp") as bad, FaultyUpstream(faulty.good) as right:
        both = f"{bad.address} {right.address}"
        text = f". {{\n forward . {both} {{\n policy sequential\n max_fails 0\n {options}\n}}\n}}\n"
        with run(text, tmp_path) as server:
            for ask in (peers.ask_tcp, peers.ask_udp) if options else (peers.ask_tcp,):
                reply = ask(server.address, faulty.query("web.example.com.", 7), 8)
                assert reply is not None
                assert [faulty.address_of("web.example.com.")] == faulty.addresses(reply)
            assert bad.over_tcp, "nobody asked the bad server"


@pytest.mark.parametrize(
    "run", [peers.clusterdns, pytest.param(peers.coredns, marks=pytest.mark.peer)]
)
def test_a_lone_server_fails(run, tmp_path):
    with FaultyUpstream(cut_short, tcp="as udp") as bad:
        text = f". {{\n forward . {bad.address} {{\n force_tcp\n max_fails 0\n}}\n}}\n"
        with run(text, tmp_path) as server:
            reply = peers.ask_udp(server.address, faulty.query("web.example.com.", 7), 8)
            assert reply is not None
            found = dns.message.from_wire(reply)
            assert dns.rcode.SERVFAIL == found.rcode()
            assert not found.flags & dns.flags.TC
