"""relay.py: which queries take the relay, and what becomes of those that it hands over.

Inside one process: an engine, its server and the relay, whose queries `Server.resolve` never sees.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator

import pytest
import replyshapes
from faultyupstream import EVIL, A, FaultyUpstream, addresses, good, query, says, silent, truncated
from inprocess import InProcess, in_packet_loop, replace_method
from peers import free_port
from replyshapes import Asked

from clusterdns.chain.route import Route
from clusterdns.serving import native, packetloop, relay
from clusterdns.serving.relay import Relay
from clusterdns.serving.udp import Engine
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Addresses, Passing

pytestmark = pytest.mark.skipif(
    native.compiled is None,
    reason="not compiled: apt-get install gcc python3-dev, then pip install -e . again",
)
NAMESPACE = {"kind": "Namespace", "metadata": {"name": "default"}}
FORWARD = "forward . UPSTREAM"
SOA, PTR, HINFO, TXT, AAAA, RD, AD, CD = 6, 12, 13, 16, 28, 0x0100, 0x0020, 0x0010


class Listener(InProcess):
    """A server with one engine and the relay; ``resolved`` are the packets the chain has seen."""

    def __init__(self, corefile: str) -> None:
        super().__init__(corefile, [NAMESPACE])
        self.sock, self.client = (socket.socket(type=socket.SOCK_DGRAM) for _ in range(2))
        for sock in (self.sock, self.client):
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 0))
        self.client.connect(self.sock.getsockname())
        self.resolved: list[bytes] = []
        resolve = self.server.resolve

        def seen(packet, client, transport, hits, send, **more):
            self.resolved.append(packet)
            return resolve(packet, client, transport, hits, send, **more)

        replace_method(self.server, "resolve", seen)
        self.engine = Engine(self.server, self.sock)
        self.relay = Relay([self.server], [self.engine])

    async def __aenter__(self) -> Listener:
        await super().__aenter__()
        self.relay.start()
        self.engine.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.engine.stop()
        await self.relay.finish(5)
        assert native.compiled is not None
        packetloop.unregister(native.compiled.open())
        await super().__aexit__(*error)
        self.sock.close()
        self.client.close()

    async def ask(self, packet: bytes) -> bytes:
        self.client.send(packet)
        async with asyncio.timeout(4):
            return await asyncio.get_running_loop().sock_recv(self.client, 4096)

    async def takes(self, packet: bytes) -> bool:
        """Tell whether a query takes the relay; it is answered in any case."""
        self.resolved.clear()
        assert packet[:2] == (await self.ask(packet))[:2]
        return not self.resolved


@pytest.fixture
def upstream() -> Iterator[FaultyUpstream]:
    with FaultyUpstream(good) as found:
        yield found


def corefile(lines: str, upstream: FaultyUpstream) -> str:
    return f".:53 {{\n{lines}\n}}\n".replace("UPSTREAM", upstream.address)


@pytest.mark.parametrize(
    ("lines", "outside", "inside"),
    [
        (FORWARD, True, True),
        (f"cache 30\n{FORWARD}", True, True),
        (f"errors\ncache 30\nloadbalance\n{FORWARD}", True, True),
        (f"cache {{\n prefetch 2\n serve_stale\n keepttl\n}}\n{FORWARD}", True, True),
        (f"kubernetes inside.test {{\n manifests .\n}}\n{FORWARD}", True, False),
        (f"kubernetes inside.test {{\n manifests .\n fallthrough\n}}\n{FORWARD}", True, False),
        (f"cache 30 {{\n disable success inside.test\n}}\n{FORWARD}", True, False),
        (f"cache 30 {{\n disable denial inside.test\n}}\n{FORWARD}", True, False),
        (f"cache 30 {{\n disable success\n}}\n{FORWARD}", True, True),
        (f"cache 30 inside.test\n{FORWARD}", False, False),
        ("forward . UPSTREAM {\n except inside.test\n}", True, False),
        ("forward inside.test UPSTREAM\nforward . UPSTREAM", True, False),
        ("forward . UPSTREAM {\n policy sequential\n}", True, True),
        (
            "forward . UPSTREAM {\n policy round_robin\n max_concurrent 9\n prefer_udp\n}",
            True,
            True,
        ),
        ("forward . UPSTREAM {\n policy fastest\n}", False, False),
        ("forward . UPSTREAM {\n force_tcp\n}", False, False),
        ("forward . UPSTREAM {\n failover SERVFAIL\n}", False, False),
        ("forward . UPSTREAM {\n next SERVFAIL\n}\nforward . UPSTREAM", False, False),
        (f"loadbalance {{\n prefer 10.0.0.0/8\n}}\n{FORWARD}", False, False),
        (f"log\n{FORWARD}", True, True),
        (f"log inside.test {{local}}\n{FORWARD}", True, False),
        (f"log . {{local}}\n{FORWARD}", False, False),
    ],
)
def test_which_server_blocks(upstream, lines, outside, inside):
    async def run() -> None:
        async with Listener(corefile(lines, upstream)) as listener:
            assert outside == await listener.takes(query("www.outside.test.", 1))
            assert inside == await listener.takes(query("www.inside.test.", 2))
            assert inside == await listener.takes(query("INSIDE.test.", 3))
            assert outside == await listener.takes(query("notinside.test.", 4))

    in_packet_loop(run())


def test_each_zone_has_its_own_way(upstream):
    blocks = "".join(
        f"{zone}:53 {{\n{lines}\n}}\n"
        for zone, lines in {
            ".": "kubernetes k.test example {\n manifests .\n}\nforward . UPSTREAM",
            "plain.example": "cache\nforward . UPSTREAM",
            "chain.plain.example": "log . {local}\nforward . UPSTREAM",
        }.items()
    )

    async def run() -> None:
        async with Listener(blocks.replace("UPSTREAM", upstream.address)) as listener:
            for i, (qname, is_taken) in enumerate(
                {
                    "x.test.": True, "x.k.test.": False, "example.": False, "x.example.": False,
                    "plain.example.": True, "x.y.plain.example.": True,
                    "chain.plain.example.": False, "x.chain.plain.example.": False,
                }.items()
            ):  # fmt: skip
                assert is_taken == await listener.takes(query(qname, i)), qname

    in_packet_loop(run())


SERVICE = {
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"], "ports": [{"port": 80}]},
}
REVERSE = (
    "kubernetes k.test in-addr.arpa d.f.ip6.arpa {\n manifests .\n fallthrough in-addr.arpa\n}"
)


@pytest.mark.parametrize("zone", [".", "arpa", "in-addr.arpa", "10.in-addr.arpa"])
def test_addresses_that_are_not_the_clusters(upstream, zone):
    """Whatever lies outside of the live set is passed on; who comes is ours from then on."""

    async def run() -> None:
        text = f"{zone}:53 {{\n{REVERSE}\ncache\n{FORWARD}\n}}\n"
        async with Listener(text.replace("UPSTREAM", upstream.address)) as listener:
            assert await listener.takes(query("9.0.1.10.in-addr.arpa.", 1, PTR))
            assert await listener.takes(query("8.0.96.10.in-addr.arpa.", 2, PTR))
            assert await listener.takes(query("9.0.96.10.in-addr.arpa.", 3, TXT))
            assert not await listener.takes(query("7.0.96.10.in-addr.arpa.", 4, SOA))
            is_above = zone in (".", "arpa")
            assert is_above == await listener.takes(query(f"{zone.rstrip('.')}.", 5, PTR))
            listener.apply(SERVICE)
            assert not await listener.takes(query("9.0.96.10.in-addr.arpa.", 6, PTR))
            reply = await listener.ask(query("9.0.96.10.in-addr.arpa.", 7, PTR))
            assert b"\3web\7default\3svc\1k\4test\0" in reply
            listener.apply(SERVICE, is_gone=True)
            assert await listener.takes(query("9.0.96.10.in-addr.arpa.", 8, PTR))

    in_packet_loop(run())


@pytest.mark.parametrize(
    ("lines", "is_taken"),
    [
        (REVERSE.replace(" fallthrough in-addr.arpa\n", ""), False),
        (REVERSE.replace("fallthrough in-addr.arpa", "fallthrough 1.in-addr.arpa"), False),
        (REVERSE.replace("fallthrough in-addr.arpa", "fallthrough"), True),
        (f"{REVERSE}\ntemplate ANY ANY arpa {{\n fallthrough\n}}", False),
        (f"{REVERSE}\nacl arpa {{\n block net 192.0.2.0/24\n}}", False),
        (f"{REVERSE}\nhosts {{\n 192.0.2.1 x.test\n fallthrough\n}}", True),
        (f"{REVERSE}\nhosts {{\n 10.1.0.9 x.test\n fallthrough\n}}", False),
    ],
)
def test_plugins_beside_a_reverse_zone(upstream, lines, is_taken):
    async def run() -> None:
        async with Listener(corefile(f"{lines}\n{FORWARD}", upstream)) as listener:
            assert is_taken == await listener.takes(query("9.0.1.10.in-addr.arpa.", 1, PTR))
            assert await listener.takes(query("y.test.", 2, TXT))

    in_packet_loop(run())


def test_zones_that_two_plugins_share_take_the_chain():
    zones = WireName(b"\7in-addr\4arpa\0"), WireName(b"\x0210\7in-addr\4arpa\0")
    one, other = (Passing(Addresses(frozenset(), {}, {}), b"", ()) for _ in range(2))
    route = Route(WireName(b"\0"))
    assert route.share(zones[:1], one)
    assert route.share(zones, one)
    assert [one, one] == [route.part_of(zone) for zone in zones]
    assert route.share(zones[1:], other)
    assert [one, None] == [route.part_of(zone) for zone in zones]
    assert route.claim(zones[:1])
    assert [None, None] == [route.part_of(zone) for zone in zones]


def test_which_queries(upstream):
    async def run() -> None:
        async with Listener(corefile(f"cache 30\n{FORWARD}", upstream)) as listener:
            assert await listener.takes(query("a.test.", 1, A))
            assert await listener.takes(query("a.test.", 2, AAAA))
            assert await listener.takes(query("a.test.", 3, TXT))
            assert not await listener.takes(query("h.test.", 3, HINFO))
            assert not await listener.takes(query("a.test.", 4, A))  # known
            packet = query("b.test.", 5)
            assert await listener.takes(packet[:2] + struct.pack("!H", RD | CD) + packet[4:])
            packet = query("c.test.", 6)
            assert await listener.takes(packet[:2] + struct.pack("!H", RD | AD) + packet[4:])
            packet = query("d.test.", 7)[:11] + b"\1" + query("d.test.", 7)[12:]
            assert await listener.takes(packet + replyshapes.opt())
            packet = query("e.test.", 8)[:11] + b"\1" + query("e.test.", 8)[12:]
            assert await listener.takes(packet + replyshapes.opt(1232, 0x8000))
            assert not await listener.takes(packet + replyshapes.opt(1232, 0x4000))

    in_packet_loop(run())


@pytest.mark.parametrize(
    ("fault", "rcode"), [(says(1), 1), (says(4), 4), (says(6), 6), (truncated, 0)]
)
def test_what_is_handed_over_goes_on_with_what_has_come(upstream, fault, rcode):
    """The server is asked once over UDP: the chain does not ask again what C has asked."""
    upstream.fault = fault

    async def run() -> None:
        async with Listener(corefile(f"cache 30\n{FORWARD}", upstream)) as listener:
            reply = await listener.ask(query("www.test.", 1))
            assert rcode == reply[3] & 15
            assert 1 == len(listener.resolved)
            assert 1 == upstream.total - upstream.over_tcp

    in_packet_loop(run())


def test_a_dead_server_is_left_out_after_a_while(upstream):
    dead = f"127.0.0.1:{free_port()}"
    lines = (
        f"forward . {dead} UPSTREAM {{\n policy sequential\n health_check 50ms\n max_fails 1\n}}"
    )

    async def run() -> None:
        async with Listener(corefile(lines, upstream)) as listener:
            assert not await listener.takes(query("n.test.", 1))  # refused, then asked of the other
            async with asyncio.timeout(4):
                i = 2
                while not await listener.takes(query(f"n{i}.test.", i)):
                    i += 1
                    await asyncio.sleep(0.05)
            assert upstream.total == i
            assert upstream.asked(f"n{i}.test.") == 1

    in_packet_loop(run())


def test_a_forged_reply_is_waited_out_and_counted(upstream):
    def fault(asked) -> None:
        asked.reply(asked.message(ident=asked.ident ^ 1, answer=EVIL))
        asked.reply(asked.message(question=b"\4evil\4test\0" + asked.question[-4:], answer=EVIL))
        good(asked)

    upstream.fault = fault

    async def run() -> None:
        async with Listener(corefile(FORWARD, upstream)) as listener:
            reply = await listener.ask(query("www.test.", 1))
            assert EVIL not in reply
            assert [] == listener.resolved
            listener.relay.add_up()
            samples = [s for p in listener.configuration.plugins for s in p.samples()]
            assert [2] == [s[2] for s in samples if s[0] == "clusterdns_forward_mismatches_total"]

    in_packet_loop(run())


def test_aliases_that_fork_are_not_kept(upstream):
    upstream.fault = lambda asked: asked.reply(replyshapes.plain(Asked(asked.wire))["fork"])

    async def run() -> None:
        async with Listener(corefile(f"cache 30\n{FORWARD}", upstream)) as listener:
            for i in range(3):
                await listener.ask(query("www.test.", i))
            assert 3 == upstream.total

    in_packet_loop(run())


def test_counts_are_added_up_when_there_are_many(upstream, monkeypatch):
    monkeypatch.setattr(relay, "MAX_COUNTS", 3)

    async def run() -> None:
        async with Listener(corefile(f"prometheus\n{FORWARD}", upstream)) as listener:
            for i in range(1, 9):
                assert await listener.takes(query(f"{'n' * i}.test.", i))
            lanes = [lane for lane in listener.engine.zones.values() if lane is not None]
            async with asyncio.timeout(4):
                while any(lane.counts for lane in lanes):  # noqa: ASYNC110 - until the next tick
                    await asyncio.sleep(0.02)
            samples = listener.server.tally.samples()
            assert 8 == sum(s[2] for s in samples if s[0] == "dns_requests_total")

    in_packet_loop(run())


@pytest.mark.parametrize("shuffles", [True, False])
def test_addresses_are_shuffled_where_there_is_loadbalance(upstream, shuffles):
    upstream.fault = lambda asked: asked.reply(replyshapes.plain(Asked(asked.wire))["addresses"])
    lines = f"loadbalance\n{FORWARD}" if shuffles else FORWARD

    async def run() -> None:
        async with Listener(corefile(lines, upstream)) as listener:
            seen = {bytes(addresses(await listener.ask(query("n.test.", i)))[0]) for i in range(40)}
            assert (5 if shuffles else 1) == len(seen)
            assert [] == listener.resolved

    in_packet_loop(run())


def test_zones_of_one_block_share_max_concurrent(upstream):
    upstream.fault = silent
    lines = (
        "forward . UPSTREAM {\n max_concurrent 3\n read_timeout 200ms\n max_connect_attempts 1\n}"
    )
    blocks = f"a.test:53 b.test:53 {{\n{lines}\n}}\n".replace("UPSTREAM", upstream.address)

    async def run() -> None:
        async with Listener(blocks) as listener:
            lanes = [listener.engine.zones[zone] for zone in (b"\1a\4test\0", b"\1b\4test\0")]
            assert [3, 3] == [lane.most for lane in lanes]
            for i, qname in enumerate(("x.a.test.", "y.a.test.", "x.b.test.")):
                listener.client.send(query(qname, i))
            async with asyncio.timeout(4):
                while [2, 1] != [lane.most for lane in lanes]:  # noqa: ASYNC110 - until the next tick
                    await asyncio.sleep(0.005)

    in_packet_loop(run())


def test_only_forged_replies_are_a_form_error(upstream):
    """As the chain has it, which asks once more: somebody is there, but answers other questions."""
    upstream.fault = lambda asked: asked.reply(
        asked.message(question=b"\4evil\4test\0" + asked.question[-4:], answer=EVIL)
    )
    lines = "forward . UPSTREAM {\n read_timeout 100ms\n}"

    async def run() -> None:
        async with Listener(corefile(lines, upstream)) as listener:
            reply = await listener.ask(query("www.test.", 1))
            assert 1 == reply[3] & 15
            assert 2 == upstream.total

    in_packet_loop(run())


def test_who_joins_has_the_reply_too(upstream):
    """Equal but for ID and spelling, asked while the first is out, and asked of nobody again."""
    upstream.fault = lambda asked: asked.reply(asked.message(), after_s=0.2)

    async def run() -> None:
        async with Listener(corefile(f"cache 30\n{FORWARD}", upstream)) as listener:
            for i, qname in enumerate(("www.test.", "WWW.test.", "wWw.TEST.")):
                listener.client.send(query(qname, i))
            loop = asyncio.get_running_loop()
            found = {}
            async with asyncio.timeout(4):
                while len(found) < 3:
                    reply = await loop.sock_recv(listener.client, 4096)
                    found[reply[1]] = reply
            assert 1 == upstream.total
            spelled = [found[i][12:22] for i in range(3)]
            assert [b"\3www\4test\0", b"\3WWW\4test\0", b"\3wWw\4TEST\0"] == spelled

    in_packet_loop(run())


def test_the_end_waits_for_what_is_out(upstream):
    upstream.fault = lambda asked: asked.reply(asked.message(), after_s=0.2)

    async def run() -> None:
        async with Listener(corefile(FORWARD, upstream)) as listener:
            listener.client.send(query("www.test.", 1))
            while not listener.relay.busy:  # noqa: ASYNC110 - until it is read
                await asyncio.sleep(0)
            listener.engine.stop()
            await listener.relay.finish(5)
            assert 0 == listener.relay.busy
            assert b"\0\1" == listener.client.recv(512)[:2]

    in_packet_loop(run())


def test_loop_sees_what_is_under_way_to_each_of_several_pools(upstream):
    """A question that comes again while C has it out is a reason to doubt, whoever was asked."""
    upstream.fault = silent
    lines = "loop\nforward a.test UPSTREAM\nforward b.test UPSTREAM"
    blocks = f"a.test:53 b.test:53 {{\n{lines}\n}}\n".replace("UPSTREAM", upstream.address)

    async def run() -> None:
        async with Listener(blocks) as listener:
            plugins = listener.configuration.plugins
            loop = next(plugin for plugin in plugins if plugin.name == "loop")
            for i, qname in enumerate((b"\1x\1a\4test\0", b"\1x\1b\4test\0")):
                packet = query("x.a.test." if i == 0 else "x.b.test.", i)
                listener.client.send(packet)
                listener.client.send(packet)  # the same again: for the chain
                async with asyncio.timeout(4):
                    while (qname, A) not in loop._out:  # noqa: ASYNC110 - until it is read
                        await asyncio.sleep(0)
                assert loop._out[qname, A] is not None, qname

    in_packet_loop(run())
