"""transfer: zones handed on, to whom, in how many messages, and NOTIFY; beside a real CoreDNS."""

from __future__ import annotations

import asyncio
import collections
import socket
import time

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import dns.zone
import peers
import pytest
from inprocess import InProcess

from clusterdns.serving.server import Listener
from clusterdns.wire import name, reading, rr
from clusterdns.wire.message import Query
from clusterdns.wire.response import Response

ZONE = "$TTL 60\n@ IN SOA ns h 7 2 3 4 5\n@ IN NS ns\n@ IN MX 5 m\nns IN A 192.0.2.1\n"
LARGE = ZONE + "".join(f"$GENERATE 0-255 h{i}-$ 60 A 192.0.2.$\n" for i in range(40))
COREFILE = """. {{
    transfer {{
        to {to}
    }}
    file example.db example.test {{
        reload 200ms
    }}
}}
"""


def transferred(server: peers.Server, qname: str = "example.test") -> set[str]:
    """Return the records of a zone as a secondary server gets them."""
    host, port = server.address
    messages = dns.query.xfr(host, qname, port=port, timeout=10, lifetime=20, relativize=False)
    found = dns.zone.from_xfr(messages, relativize=False)
    return {
        f"{owner} {rdataset.ttl} {dns.rdatatype.to_text(rdataset.rdtype)} {rdata}"
        for owner, rdataset in found.iterate_rdatasets()
        for rdata in rdataset
    }


def ask(server: peers.Server, qname: str, rtype: str, serial: int | None = None, udp: bool = False):
    query = dns.message.make_query(qname, rtype, id=1)
    if serial is not None:
        soa = dns.rrset.from_text("example.test.", 60, "IN", "SOA", f"ns. h. {serial} 2 3 4 5")
        query.authority.append(soa)
    wire = (peers.ask_udp if udp else peers.ask_tcp)(server.address, query.to_wire())
    reply = dns.message.from_wire(wire, one_rr_per_rrset=True, xfr=True)
    return dns.rcode.to_text(reply.rcode()), dns.flags.to_text(reply.flags), len(reply.answer)


@pytest.mark.peer
@pytest.mark.parametrize("to", ["*", "127.0.0.1", "192.0.2.1 127.0.0.1:5353", "192.0.2.1"])
def test_answers_what_coredns_answers(tmp_path, to):
    (tmp_path / "example.db").write_text(ZONE)
    text = COREFILE.format(to=to)
    questions = (
        ("example.test", "AXFR", None, False), ("example.test", "IXFR", 6, False),
        ("example.test", "IXFR", 7, False), ("example.test", "IXFR", 8, False),
        ("example.test", "IXFR", None, False), ("example.test", "AXFR", None, True),
        ("example.test", "IXFR", 7, True), ("ns.example.test", "AXFR", None, False),
        ("other.test", "AXFR", None, False), ("EXAMPLE.test", "AXFR", None, False),
        ("ns.example.test", "A", None, False),
    )  # fmt: skip
    with peers.clusterdns(text, tmp_path) as ours, peers.coredns(text, tmp_path) as theirs:
        for question in questions:
            assert ask(theirs, *question) == ask(ours, *question), question
        if to != "192.0.2.1":
            assert transferred(theirs) == transferred(ours)


def test_a_large_zone_comes_in_many_messages_also_to_who_reads_slowly(tmp_path):
    (tmp_path / "example.db").write_text(LARGE)
    with peers.clusterdns(COREFILE.format(to="*"), tmp_path) as server:
        assert 40 * 256 + 4 == len(transferred(server))
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(server.address)
            packet = dns.message.make_query("example.test", "AXFR", id=1).to_wire()
            client.sendall(len(packet).to_bytes(2, "big") + packet)
            time.sleep(0.3)
            assert ask(server, "ns.example.test", "A")[0] == "NOERROR"  # nobody else waits for it
            stream = client.makefile("rb")
            soas = records = messages = 0
            while soas < 2:
                octets = stream.read(int.from_bytes(stream.read(2), "big"))
                found = dns.message.from_wire(octets, one_rr_per_rrset=True, xfr=True)
                soas += sum(rrset.rdtype == dns.rdatatype.SOA for rrset in found.answer)
                records += len(found.answer)
                messages += 1
        assert (40 * 256 + 5, True) == (records, messages > 4)


def test_a_client_that_goes_ends_its_transfer(tmp_path):
    (tmp_path / "example.db").write_text(LARGE)
    with peers.clusterdns(COREFILE.format(to="*"), tmp_path) as server:
        packet = dns.message.make_query("example.test", "AXFR", id=1).to_wire()
        for _ in range(40):  # more than may be under way at one time
            with socket.create_connection(server.address) as client:
                client.sendall(len(packet).to_bytes(2, "big") + packet)
                client.recv(1)
        time.sleep(0.3)
        assert 40 * 256 + 4 == len(transferred(server))


def test_notifies_at_the_start_and_when_the_serial_has_changed(tmp_path):
    (tmp_path / "example.db").write_text(ZONE)
    with socket.socket(type=socket.SOCK_DGRAM) as secondary:
        secondary.bind(("127.0.0.1", 0))
        secondary.settimeout(10)
        to = f"127.0.0.1:{secondary.getsockname()[1]}"
        with peers.clusterdns(COREFILE.format(to=to), tmp_path):
            for serial in ("8", "9"):
                octets, client = secondary.recvfrom(512)
                notify = dns.message.from_wire(octets)
                assert (4, "example.test.") == (notify.opcode(), notify.question[0].name.to_text())
                secondary.sendto(dns.message.make_response(notify).to_wire(), client)
                (tmp_path / "example.db").write_text(ZONE.replace(" 7 ", f" {serial} "))


def test_several_workers_notify_once_when_all_have_the_zone(tmp_path):
    (tmp_path / "example.db").write_text(ZONE)
    with socket.socket(type=socket.SOCK_DGRAM) as secondary:
        secondary.bind(("127.0.0.1", 0))
        secondary.settimeout(10)
        to = f"127.0.0.1:{secondary.getsockname()[1]}"
        text = COREFILE.format(to=to).replace("transfer {", "multisocket 3\n transfer {", 1)
        with peers.clusterdns(text, tmp_path) as server:
            octets, client = secondary.recvfrom(512)
            secondary.sendto(
                dns.message.make_response(dns.message.from_wire(octets)).to_wire(), client
            )
            (tmp_path / "example.db").write_text(ZONE.replace(" 7 ", " 8 "))
            octets, client = secondary.recvfrom(512)
            assert {8} == {serial(server) for _ in range(30)}  # a socket each: to any worker
            secondary.sendto(
                dns.message.make_response(dns.message.from_wire(octets)).to_wire(), client
            )
            secondary.settimeout(2.5)
            with pytest.raises(TimeoutError):
                secondary.recvfrom(512)


def serial(server: peers.Server) -> int:
    query = dns.message.make_query("example.test", "SOA")
    return dns.message.from_wire(peers.ask_udp(server.address, query.to_wire())).answer[0][0].serial


def test_whole_zones_are_composed_one_message_in_a_turn():
    """Sixteen at one time took 60 ms a turn, in which nothing else was read."""
    owner = name.fold(name.parse("h.test."))
    section = tuple(rr.RR(owner, 1, 60, bytes(4)) for _ in range(50))
    packet = dns.message.make_query("test", "AXFR").to_wire()

    async def main() -> collections.Counter[int]:
        loop, turn, messages = asyncio.get_running_loop(), 0, collections.Counter[int]()

        def count() -> None:
            nonlocal turn
            turn += 1
            loop.call_soon(count)

        async def more(message: bytes) -> bool:
            messages[turn] += 1
            await asyncio.sleep(0)
            return True

        async def transfer(server: Listener) -> Response:
            query = reading.read_query(packet)
            assert isinstance(query, Query)
            query.transport, query.more = "tcp", more
            response = Response(0, 0, section, lifetime_s=0, following=iter([section] * 5))
            return await server._send_all_but_last(query, response)

        async with InProcess(". {\n whoami\n}\n", []) as inside:
            count()
            ends = await asyncio.gather(*(transfer(inside.server) for _ in range(16)))
        assert all(end.answer == section and end.following is None for end in ends)
        return messages

    messages = asyncio.run(main())
    assert 16 * 5 == messages.total()
    assert 1 == max(messages.values())
