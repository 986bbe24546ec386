"""Plugins that do one thing: that the table and the relay keep to what they say, and the mistakes.

What they answer is compared with a real CoreDNS in `peer/test_small_plugins_differential.py`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import beside
import dns.edns
import dns.flags
import dns.message
import pytest
from faultyupstream import FaultyUpstream, good
from hypothesis import given
from hypothesis import strategies as st
from inprocess import InProcess, in_packet_loop
from test_relay_route import Listener

from clusterdns.addressing import translation
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.plugins.loadbalance import LoadBalance
from clusterdns.serving import native
from clusterdns.wire import message, reading

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
        blocks = [
            ("a", "bufsize 600"), ("b", "bufsize 900"), ("c", "errors"), ("d", "bufsize client")
        ]  # fmt: skip
        corefile = "".join(
            f"{key} {{\n{line}\nhosts /none {{\n192.0.2.1 {key}\n}}\n}}\n" for key, line in blocks
        )
        async with InProcess(corefile, []) as server:
            for key, most in (("a", 600), ("b", 900), ("c", 4096), ("d", 9999)):
                small, large = beside.query(key, edns=600), beside.query(key, edns=9999)
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
    "loadbalance weighted", "loadbalance weighted a b", "loadbalance random", "loadbalance round_robin x",
    "loadbalance weighted f {\nprefer 10.0.0.0/8\n}", "loadbalance {\nprefer 10.0.0.1\n}",
    "loadbalance weighted f {\nreload x\n}", "loadbalance {\nreload 5s\n}",
    "timeouts", "timeouts x", "timeouts {\nread 500ms\n}", "timeouts {\nread 25h\n}",
    "timeouts {\nidle\n}", "timeouts {\nmaxtcpqueries 0\n}", "timeouts {\nmaxtcpqueries -2\n}",
    "timeouts {\nmaxtcpqueries x\n}", "timeouts {\nwrite x\n}", "timeouts {\nsleep 5s\n}",
    "acl {\npermit\n}", "acl {\nblock net\n}", "acl {\nblock type net 10.0.0.0/8\n}",
    "acl {\nblock type NONSENSE\n}", "acl {\nblock net 10.0.0.0/33\n}", "acl {\nblock 10.0.0.0/8\n}",
    "acl {\nblock net 10.0.0.0/255.0.0.0\n}", "dns64 64:ff9b::/72", "dns64 64:ff9b::/96 x",
    "dns64 10.0.0.0/32", "dns64 64:ff9b::", "dns64 {\nx\n}", "dns64 {\nprefix\n}", "siit x",
    "siit {\nx\n}", "siit {\neam 1.2.3.4\n}", "siit {\neam ::1 1.2.3.4\n}",
    "siit {\neam 1.2.3.4 1.2.3.4\n}", "siit {\nipv6_prefix 64:ff9b::/97\n}",
    "siit {\nipv6_prefix 64:ff9b:0:0:ff00::/96\n}",
)  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_told_with_file_and_line(text):
    with pytest.raises(ConfigError, match=r"^Corefile:[2-4]: "):
        compile_text(f"test {{\n{text}\n}}", "Corefile", port=53, environ={}, warn=print)


# ---- acl

HOSTS = "hosts /none {\n192.0.2.1 a.test\n192.0.2.2 b.a.test\nfd00::1 six.test\n}"


def acl_counts(server: InProcess) -> dict[str, int]:
    return {name: count for name, count in counted(server).items() if name.startswith("acl_")}


def counted(server: InProcess) -> Counter[str]:
    """What the plugins and the answer table have counted, by metric."""
    plugins = [sample for plugin in server.configuration.plugins for sample in plugin.samples()]
    found = Counter[str]()
    for name, _, count in (*plugins, *server.server.tally.samples()):
        if isinstance(count, int):
            found[name] += count
    return found


def test_acl_is_as_fast_as_ever_where_all_clients_get_the_same():
    async def main() -> None:
        rules = "acl b.a.test {\nallow net 10.0.0.0/8\nblock\n}\nacl {\nblock type TXT\n}"
        async with InProcess(f"test {{\n{rules}\n{HOSTS}\n}}", []) as server:
            a, b = beside.query("a.test"), beside.query("b.a.test")
            text = beside.query("a.test", "TXT")
            for _ in range(3):
                assert len(await server.ask_chain(a, "udp") or b"") == 40
                for refused in (b, text):
                    reply = dns.message.from_wire(await server.ask_chain(refused, "udp") or b"")
                    assert reply.rcode() == 5
            assert server.ask_table(a, "udp") is not None
            assert server.ask_table(b, "udp") is server.ask_table(text, "udp") is None
            counts = {"acl_allowed_requests_total": 4, "acl_blocked_requests_total": 6}
            assert counts == acl_counts(server)

    asyncio.run(main())


def test_acl_drops_and_says_why_it_refuses():
    async def main() -> None:
        rules = (
            "acl {\ndrop type MX\nfilter type TXT net 127.0.0.1\nblock type A net 127.0.0.0/9\n}"
        )
        async with InProcess(f"test {{\n{rules}\n{HOSTS}\n}}", []) as server:
            assert await server.ask_chain(beside.query("a.test", "MX"), "udp") is None
            for qtype, rcode, code in (("TXT", 0, 17), ("A", 5, 15)):
                packet = beside.query("a.test", qtype, edns=1232)
                reply = dns.message.from_wire(await server.ask_chain(packet, "udp") or b"")
                assert (rcode, [code]) == (reply.rcode(), [option.code for option in reply.options])
                assert reply.ednsflags == 0
            plain = dns.message.from_wire(
                await server.ask_chain(beside.query("a.test"), "udp") or b""
            )
            assert plain.edns == -1

    asyncio.run(main())


@needs_c
def test_acl_leaves_the_relay_what_nobody_is_refused():
    rules = "acl example.org {\nallow net 127.0.0.0/8\nblock\n}\nacl {\nallow net 10.0.0.0/8\n}"
    names = ["www.example", "www.example.org"]
    found = [each for each, _ in relayed(rules, [beside.query(name) for name in names])]
    assert [True, False] == found
    closed = relayed("acl {\nallow net 127.0.0.0/8\nblock\n}", [beside.query("www.example")])
    assert [False] == [each for each, _ in closed]


# ---- dns64, siit

TRANSLATING = "dns64 {\nallow_ipv4\n}\nsiit {\neam 203.0.113.5 fd00::1\n}"


def test_translated_addresses_are_remembered():
    async def main() -> None:
        async with InProcess(f"test {{\n{TRANSLATING}\n{HOSTS}\n}}", []) as server:
            for qname, qtype, said in (
                ("a.test", "AAAA", "64:ff9b::c000:201"),
                ("six.test", "A", "203.0.113.5"),
            ):
                packet = beside.query(qname, qtype)
                for _ in range(3):
                    reply = dns.message.from_wire(await server.ask_chain(packet, "udp") or b"")
                    assert [said] == [item.to_text() for rrset in reply.answer for item in rrset]
                assert server.ask_table(packet, "udp") is not None
            counts = counted(server)
            assert counts["dns64_requests_translated_total"] == 4
            assert counts["siit_requests_translated_total"] == 4

    asyncio.run(main())


def test_dns64_is_for_clients_without_ipv4():
    async def main() -> None:
        async with InProcess(f"test {{\ndns64\n{HOSTS}\n}}", []) as server:
            query = reading.read_query(beside.query("a.test", "AAAA"))
            assert isinstance(query, message.Query)
            (view,) = server.configuration.views
            assert view.answer(query.question) is None  # the client decides
            for client, count in (("10.0.0.1", 0), ("::ffff:10.0.0.1", 0), ("fd00::9", 1)):
                query.client = client, 1
                assert count == len((await view.handle(query)).answer)

    asyncio.run(main())


@pytest.mark.parametrize(("hosts", "answers"), [
    ("::1", 1), ("::1 fd00::9", 1), ("127.0.0.1", 0), ("::1 127.0.0.1", None), ("::", None),
    ("0.0.0.0", None), ("::ffff:127.0.0.1", 0),
])  # fmt: skip
def test_dns64_is_remembered_where_bind_leaves_one_family(hosts, answers):
    async def main() -> None:
        async with InProcess(f"test {{\nbind {hosts}\ndns64\n{HOSTS}\n}}", []) as server:
            query = reading.read_query(beside.query("a.test", "AAAA"))
            assert isinstance(query, message.Query)
            response = server.configuration.views[0].answer(query.question)
            assert answers == (None if response is None else len(response.answer))

    asyncio.run(main())


@needs_c
@pytest.mark.parametrize(("rules", "taken"), [("dns64", [True, False]), ("siit", [False, True]), (TRANSLATING, [False, False])])  # fmt: skip
def test_what_is_translated_takes_the_chain(rules, taken):
    packets = [beside.query("www.example", qtype) for qtype in ("A", "AAAA")]
    assert taken == [each for each, _ in relayed(rules, packets)]


@given(length=st.sampled_from(translation.LENGTHS), ipv4=st.binary(min_size=4, max_size=4),
       base=st.binary(min_size=8, max_size=8))  # fmt: skip
def test_an_embedded_address_comes_out_again(length, ipv4, base):
    network = ipaddress.IPv6Network((base + bytes(8), length), strict=False)
    prefix = translation.Prefix(network)
    made = prefix.embed(ipv4)
    assert made[8] == 0
    assert ipaddress.IPv6Address(made) in network
    assert ipv4 == prefix.extract(made)


# ---- loadbalance weighted


def firsts(replies: list[bytes | None]) -> Counter[str]:
    """Return how often each address is the first of a reply."""
    answers = [
        dns.message.from_wire(reply or b"", one_rr_per_rrset=True).answer for reply in replies
    ]
    return Counter(answer[0][0].to_text() for answer in answers)


def weighted(path: Path, text: str, addresses: int) -> str:
    (path / "weights").write_text(text)
    hosts = "\n".join(f"192.0.2.{i} a.test" for i in range(1, addresses + 1))
    return f"test {{\nroot {path}\nloadbalance weighted weights\nhosts /none {{\n{hosts}\n}}\n}}"


def test_weights_that_share_evenly_are_kept_exactly_by_the_table(tmp_path):
    async def main() -> None:
        text = "# x\nA.test\n192.0.2.1 60\n 192.0.2.2 20\n192.0.2.3 20"
        corefile = weighted(tmp_path, text, 3)
        async with InProcess(corefile, []) as server:
            await server.ask_chain(beside.query("a.test"), "udp")
            packets = [i.to_bytes(2, "big") + beside.query("a.test")[2:] for i in range(250)]
            replies = [server.ask_table(packet, "udp") for packet in packets]
            assert {"192.0.2.1": 150, "192.0.2.2": 50, "192.0.2.3": 50} == firsts(replies)

    asyncio.run(main())


def test_other_weights_are_kept_in_the_long_run():
    (plugin,) = compile_text(
        "test {\nloadbalance\n}", "Corefile", port=53, environ={}, warn=print
    ).plugins
    assert isinstance(plugin, LoadBalance)
    weights = [255, 100, 1]
    found = Counter(i for _ in range(4000) for i in plugin._draw(weights, 16))
    for i, weight in enumerate(weights):
        share = weight / sum(weights)
        assert abs(found[i] / 64_000 - share) < 0.01 * share + 0.0015


def test_a_changed_weight_file_is_taken_up_and_a_bad_one_is_not(tmp_path, caplog):
    async def main() -> None:
        corefile = weighted(tmp_path, "a.test\n192.0.2.2 1", 2)
        corefile = corefile.replace("weights\n", "weights {\nreload 10ms\n}\n", 1)
        async with InProcess(corefile, []) as server:
            (plugin,) = [p for p in server.configuration.plugins if p.name == "loadbalance"]

            def weight() -> int | None:
                found = plugin._file.weights.get(b"\x01a\x04test\0", {})
                return found.get(bytes((192, 0, 2, 2)))

            async def write(text: str, is_taken_up: Callable[[], bool]) -> None:
                (tmp_path / "weights").write_text(text)
                async with asyncio.timeout(5):
                    while not is_taken_up():  # noqa: ASYNC110 - a file has no event
                        await asyncio.sleep(0.01)

            await write("a.test\n192.0.2.2 7", lambda: weight() == 7)
            mistake = "line 1: no name stands above this address"
            await write("192.0.2.2 9", lambda: mistake in caplog.text)
            assert 7 == weight()
            await write("b", lambda: weight() is None)

    asyncio.run(main())


@pytest.mark.parametrize(("text", "line"), [
    ("a.test\n192.0.2.1 0", 2), ("192.0.2.1 1", 1), ("a.test\n\n192.0.2.1", 3), ("a b c", 1),
    ("a.test\nx 1", 2), ("a.test\n192.0.2.1 256", 2), ("a.test\n192.0.2.1 x", 2), ("a..b", 1),
])  # fmt: skip
def test_mistakes_in_a_weight_file_are_told_with_their_line(tmp_path, text, line):
    corefile = weighted(tmp_path, text, 1)
    with pytest.raises(ConfigError, match=rf"^Corefile:3: .*weight file .*: line {line}: "):
        compile_text(corefile, "Corefile", port=53, environ={}, warn=print)


def test_a_weight_file_that_is_not_there_is_a_mistake_without_reload(tmp_path):
    corefile = "test {\nloadbalance weighted /none/weights {\nreload RELOAD\n}\n}"
    with pytest.raises(ConfigError, match=r"^Corefile:2: .*No such file"):
        compile_text(corefile.replace("RELOAD", "0"), "Corefile", port=53, environ={}, warn=print)
    compile_text(corefile.replace("RELOAD", "5s"), "Corefile", port=53, environ={}, warn=print)


GONE = {
    "proxy . 1.1.1.1": "Corefile:2: proxy: CoreDNS has removed it; use forward",
    "pprof": "Corefile:2: pprof: serves profiles of Go programs, which clusterdns is not",
    "kubernetes cluster.local {\nupstream 1.1.1.1\n}": "Corefile:3: upstream: CoreDNS has removed it;",
}


@pytest.mark.parametrize("text", GONE)
def test_what_is_gone_is_refused_with_the_reason(text):
    with pytest.raises(ConfigError) as caught:
        compile_text(f"test {{\n{text}\n}}", "Corefile", port=53, environ={}, warn=print)
    assert str(caught.value).startswith(GONE[text])


@needs_c
def test_what_is_relayed_counts_as_allowed():
    async def main() -> None:
        with FaultyUpstream(good) as upstream:
            corefile = f". {{\nacl example.org {{\nblock\n}}\nforward . {upstream.address}\n}}"
            async with Listener(corefile) as listener:
                for i in range(3):
                    assert await listener.takes(beside.query(f"w{i}.example"))
                listener.relay.add_up()
                assert {"acl_allowed_requests_total": 3} == acl_counts(listener)

    in_packet_loop(main())
