"""Plugins that do one thing: that the table and the relay keep to what they say, and the mistakes.

What they answer is compared with a real CoreDNS in `peer/test_small_plugins_differential.py`.
"""

from __future__ import annotations

import asyncio

import beside
import dns.edns
import dns.flags
import dns.message
import pytest
from faultyupstream import FaultyUpstream, good
from inprocess import InProcess, in_packet_loop
from test_relay_route import Listener

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.serving import native

ENTRIES = "\n".join(f"192.0.2.{i} big.test" for i in range(1, 120))
needs_c = pytest.mark.skipif(native.compiled is None, reason="not compiled")


def payload(reply: bytes | None) -> tuple[int, bool]:
    """Return the size the OPT of a reply names, and whether the reply is truncated."""
    assert reply is not None
    message = dns.message.from_wire(reply)
    return message.payload, bool(message.flags & dns.flags.TC)


@pytest.mark.parametrize("size", [600, 1232, 1233, 4096, 65535])
def test_remembered_answers_keep_to_bufsize(size):
    async def main() -> None:
        async with InProcess(
            "test {\nbufsize\nhosts /none {\n192.0.2.1 a.test\n}\n}", []
        ) as server:
            packet = beside.query("a.test", edns=size)
            said = [await server.ask_chain(packet, "udp") for _ in range(3)]
            assert payload(said[0]) == (min(size, 1232), False)
            for transport in ("udp", "tcp"):
                assert said[0] == server.ask_table(packet, transport)

    asyncio.run(main())


def test_what_does_not_fit_bufsize_is_cut():
    async def main() -> None:
        corefile = f"test {{\nbufsize 700\nhosts /none {{\n{ENTRIES}\n}}\n}}"
        async with InProcess(corefile, []) as server:
            packet = beside.query("big.test", edns=4096)
            for _ in range(3):
                reply = await server.ask_chain(packet, "udp")
                assert reply is not None
                assert len(reply) <= 700
                assert payload(reply) == (700, True)
                assert server.ask_table(packet, "udp") is None
            assert payload(await server.ask_chain(packet, "tcp")) == (700, False)

    asyncio.run(main())


def test_blocks_with_other_bounds_leave_larger_queries_to_the_chain():
    async def main() -> None:
        blocks = [("a", "bufsize 600"), ("b", "bufsize 900"), ("c", "errors")]
        corefile = "".join(
            f"{key} {{\n{line}\nhosts /none {{\n192.0.2.1 {key}\n}}\n}}\n" for key, line in blocks
        )
        async with InProcess(corefile, []) as server:
            for key, most in (("a", 600), ("b", 900), ("c", 4096)):
                small, large = beside.query(key, edns=600), beside.query(key, edns=4096)
                for _ in range(3):
                    assert payload(await server.ask_chain(small, "udp")) == (600, False)
                    assert payload(await server.ask_chain(large, "udp")) == (most, False)
                assert payload(server.ask_table(small, "udp")) == (600, False)
                assert server.ask_table(large, "udp") is None

    asyncio.run(main())


def relayed(directives: str, packets: list[bytes]) -> list[tuple[bool, bytes]]:
    """Return for each packet whether it takes the relay, and the reply to it."""
    found = []

    async def main() -> None:
        with FaultyUpstream(good) as upstream:
            corefile = f". {{\n{directives}\nforward . {upstream.address}\n}}"
            async with Listener(corefile) as listener:
                for packet in packets:
                    reply = await listener.ask(packet)
                    found.append((not listener.resolved, reply))
                    listener.resolved.clear()

    in_packet_loop(main())
    return found


@needs_c
def test_the_relay_and_the_drain_keep_to_bufsize():
    packets = [beside.query(f"{i}.example", edns=4096) for i in range(2)] * 2
    for is_relayed, reply in relayed("cache 30\nbufsize 777", packets)[:2]:
        assert is_relayed
        assert payload(reply) == (777, False)

    async def main() -> None:
        async with Listener("test {\nbufsize\nhosts /none {\n192.0.2.1 a.test\n}\n}") as listener:
            for _ in range(4):
                assert payload(await listener.ask(beside.query("a.test", edns=4096))) == (
                    1232,
                    False,
                )
            assert len(listener.resolved) == 1

    in_packet_loop(main())


@needs_c
@pytest.mark.parametrize("word", ["any", "chaos", "minimal", "nsid", "cancel", "bufsize"])
def test_what_changes_no_plain_reply_leaves_the_relay_open(word):
    assert [True] == [each for each, _ in relayed(word, [beside.query("www.example")])]


@needs_c
def test_the_relay_leaves_the_hosts_own_names_to_local():
    names = ["www.example", "localhost.example", "localhost", "a.localhost", "Localhost.a.b"]
    found = [each for each, _ in relayed("local", [beside.query(name) for name in names])]
    assert [True, False, False, False, False] == found
    off = relayed("local {\nlocalhost_prefix off\n}", [beside.query(name) for name in names])
    assert [True, True, False, False, True] == [each for each, _ in off]


@needs_c
@pytest.mark.parametrize("word", ["cancel 4s", "header {\nresponse set ra\n}"])
def test_what_has_to_see_queries_closes_the_relay(word):
    assert [False] == [each for each, _ in relayed(word, [beside.query("www.example")])]


def test_nsid_is_said_to_who_asks_for_it():
    async def main() -> None:
        corefile = "test {\nnsid here\nhosts /none {\n192.0.2.1 a.test\n}\n}"
        async with InProcess(corefile, []) as server:
            made = dns.message.make_query("a.test", "A", use_edns=0, payload=1232)
            plain = made.to_wire()
            made.use_edns(0, 0, 1232, options=[dns.edns.GenericOption(3, b"")])
            for _ in range(3):
                assert not dns.message.from_wire(await server.ask_chain(plain, "udp")).options
                asked = dns.message.from_wire(await server.ask_chain(made.to_wire(), "udp"))
                assert [b"here"] == [option.nsid for option in asked.options]
                assert asked.ednsflags == 0
            assert server.ask_table(plain, "udp") is not None
            assert server.ask_table(made.to_wire(), "udp") is None

    asyncio.run(main())


def test_cancel_ends_what_takes_too_long():
    async def main() -> None:
        corefile = "test {\ncancel 20ms\nerratic {\ndelay 1 10s\n}\n}"
        async with InProcess(corefile, []) as server:
            reply = await server.ask_chain(beside.query("a.test"), "udp")
            assert reply is not None
            assert dns.message.from_wire(reply).rcode() == 2

    asyncio.run(main())


def test_localhost_requests_are_counted():
    async def main() -> None:
        async with InProcess("localhost test {\nlocal\nprometheus\n}", []) as server:
            for qname in ("localhost", "a.localhost", "localhost.test", "localhost.test"):
                await server.ask_chain(beside.query(qname), "udp")
            (local,) = [p for p in server.configuration.plugins if p.name == "local"]
            assert [("local_localhost_requests_total", (), 3)] == local.samples()

    asyncio.run(main())


def test_erratic_drops_every_second_query_and_is_ready_in_between():
    async def main() -> None:
        async with InProcess("test {\nerratic\n}", []) as server:
            (erratic,) = server.configuration.plugins
            replies, ready = [], []
            for _ in range(6):
                replies.append(await server.ask_chain(beside.query("a.test"), "udp") is not None)
                ready.append(erratic.is_ready)
            assert [False, True] * 3 == replies
            assert [False, False, True, True, False, False] == ready

    asyncio.run(main())


MISTAKES = (
    "bufsize 511", "bufsize 4097", "bufsize x", "bufsize 512 512", "chaos {\nx\n}", "any x",
    "any {\nx\n}", "minimal x", "cancel 0s", "cancel -1s", "cancel x", "cancel 1s 2s",
    "header", "header {\nquery\n}", "header {\nquery set\n}", "header {\nquery set ad\n}",
    "header {\nquery flip rd\n}", "header {\nboth set rd\n}", "local x", "local {\nx\n}",
    "local {\nlocalhost_prefix\n}", "local {\nlocalhost_prefix maybe\n}", "erratic {\nx\n}",
    "erratic {\ndrop x\n}", "erratic {\ndrop -1\n}", "erratic {\ndelay 1 x\n}",
    "erratic {\ndrop 1 2\n}", "nsid a\nnsid b",
)  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_told_with_file_and_line(text):
    with pytest.raises(ConfigError, match=r"^Corefile:[2-4]: "):
        compile_text(f"test {{\n{text}\n}}", "Corefile", port=53, environ={}, warn=print)
