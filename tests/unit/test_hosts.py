"""hosts: what a file says, when it is read, what is remembered, and what never comes by it."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import dns.flags
import dns.message
import pytest
from beside import query
from faultyupstream import FaultyUpstream, good
from hypothesis import given
from hypothesis import strategies as st
from inprocess import InProcess, in_packet_loop
from test_relay_route import Listener

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.formats import hostsfile
from clusterdns.metrics import ledger
from clusterdns.plugins import hosts
from clusterdns.serving import native
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question
from clusterdns.wire.name import ROOT

NAMESPACE = {"kind": "Namespace", "metadata": {"name": "default"}}


def folded(text: str) -> name.WireName:
    return name.fold(name.parse(text))


def read(text: str | bytes, *zones: str, reverses: bool = True) -> hostsfile.Hosts:
    octets = text.encode() if isinstance(text, str) else text
    complaints: list[str] = []
    found = hostsfile.parse(
        octets,
        [folded(zone) for zone in zones] or [ROOT],
        lambda number, reason: complaints.append(f"{number} {reason}"),
        reverses=reverses,
    )
    found.complaints = complaints  # type: ignore[attr-defined]
    return found


# ---- the file


def test_fields_comments_and_letter_case():
    found = read("\t10.0.0.1\x0bA  B.c#d e\r\n#10.0.0.2 x\n10.0.0.3\n fd00::1%eth0 a.\nnone x")
    assert {folded("a"), folded("b.c")} == found.names.keys()
    assert (b"\x0a\0\0\1",) == found.addresses(folded("A"), rr.A)
    assert 1 == len(found.addresses(folded("a"), rr.AAAA))
    assert {"10.0.0.1": (b"\1a\0", b"\1b\1c\0"), "fd00::1": (b"\1a\0",)} == found.reverse
    assert 6 == found.entries


def test_a_mapped_address_is_one_of_ipv4():
    found = read("::ffff:10.0.0.1 a")
    assert (b"\x0a\0\0\1",) == found.addresses(folded("a"), rr.A)
    assert {"10.0.0.1"} == found.reverse.keys()


def test_only_names_in_the_zones():
    found = read("10.0.0.1 a.test b.test.example test xtest", "test")
    assert {folded("a.test"), folded("test")} == found.names.keys()


def test_wildcards_stand_for_one_label():
    found = read("10.0.0.1 *.a.test\n10.0.0.2 b.a.test\nfd00::1 b.a.test\nfd00::2 *.a.test\n::3 *")
    assert (b"\x0a\0\0\1",) == found.addresses(folded("x.a.test"), rr.A)
    assert (b"\x0a\0\0\2",) == found.addresses(folded("b.a.test"), rr.A)
    assert () == found.addresses(folded("a.test"), rr.A)
    assert () == found.addresses(folded("x.y.a.test"), rr.A)
    assert () == found.addresses(folded("x"), rr.AAAA)
    assert () == found.addresses(ROOT, rr.A)
    assert ["10.0.0.2", "fd00::1"] == [*found.reverse]


@pytest.mark.parametrize(
    ("qname", "qtype", "lines"),
    [
        ("a.test", rr.A, [2, 4]),
        ("a.test", rr.AAAA, [5]),
        ("x.w.test", rr.A, [6]),  # itself, so the wildcard does not count
        ("y.w.test", rr.A, [4]),
        ("y.y.w.test", rr.A, []),
        ("w.test", rr.A, []),
        ("single", rr.A, [7]),
        ("escaped.test", rr.A, [8]),
        ("7.2.0.192.in-addr.arpa", rr.PTR, [2]),
        (name.text(name.reverse_name("2001:db8::1")), rr.PTR, [5]),
        ("a.elsewhere", rr.A, []),
        ("10.2.0.192.in-addr.arpa", rr.PTR, []),  # its names are in no zone
    ],
)
def test_lines_of_a_name(qname, qtype, lines):
    octets = (
        b"# 192.0.2.9 a.test\n192.0.2.7 b.test A.test\na.test 192.0.2.1\n192.0.2.8 a.test. *.w.test\n"
        b"2001:DB8:0::1 a.test\n192.0.2.11 X.w.test\n192.0.2.12 single\n192.0.2.13 e\\115caped.test\n"
        b"192.0.2.10 a.elsewhere\n"
    )
    zones = [folded("test"), folded("single")]
    assert lines == hostsfile.find(octets, zones, folded(qname), qtype)
    found = hostsfile.parse(octets, zones, print)
    if qtype == rr.PTR:
        assert bool(lines) is (name.reverse_address(folded(qname)) in found.reverse)
    else:
        assert len(lines) == len(found.addresses(folded(qname), qtype))


def test_long_fields_cost_no_other_line():
    long = b"x" * (70 * 1024)
    found = read(b"10.0.0.1 a " + long + b" b\n" + long + b" c\n10.0.0.2 d")
    assert {folded(each) for each in "abd"} == found.names.keys()
    assert [
        "1 name longer than 1024 bytes, dropping the name",
        "2 address longer than 1024 bytes, dropping the line",
    ] == found.complaints  # type: ignore[attr-defined]


def test_what_is_no_name():
    long = ".".join(["x" * 63] * 4)
    found = read(f"10.0.0.1 a..b .a a... {'x' * 64} {long} ok. . \\ a\\.b \\256 " + "m\u00fcnchen")
    expected = {folded(each) for each in ("ok", ".", "a\\.b", "m\u00fcnchen")}
    assert expected == found.names.keys()


def test_a_large_file_is_read_with_pauses():
    pauses = []
    text = b"\n".join(b"0.0.0.0 ads%d.example.com" % i for i in range(20_000))
    found = hostsfile.parse(text, [ROOT], pytest.fail, pause=lambda: pauses.append(1))
    assert 40_000 == found.entries
    assert 100 < len(pauses)


def test_an_address_of_very_many_names_makes_a_bounded_answer(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("".join(f"0.0.0.0 ads{i}.example.com\n" for i in range(20_000)))

    async def run() -> None:
        async with InProcess(f". {{\nhosts {path}\n}}", [NAMESPACE]) as server:
            view = server.configuration.views[0]
            qname = folded("0.0.0.0.in-addr.arpa")
            response = view.answer(Question(qname, qname, rr.PTR))
            assert response is not None
            assert hosts.MAX_RECORDS == len(response.answer)
            reply = await server.ask_chain(query("0.0.0.0.in-addr.arpa.", "PTR"), "udp")
            assert reply is not None
            assert dns.flags.TC & dns.message.from_wire(reply).flags

    asyncio.run(run())


def test_without_reverse_names():
    assert {} == read("10.0.0.1 a", reverses=False).reverse


@given(st.binary(max_size=2000))
def test_any_octets_are_a_hosts_file(octets):
    found = read(octets)
    assert all(name.MAX_NAME_OCTETS >= len(each) for each in found.names)


# ---- the directive


def compiled(lines: str, args: str = "", key: str = "."):
    text = f"{key} {{\n hosts {args} {{\n{lines}\n }}\n}}\n"
    return compile_text(text, "Corefile", port=53, environ={}, warn=print)


@pytest.mark.parametrize(
    ("lines", "line", "reason"),
    [
        ("ttl 0", 3, "1 to 65535"),
        ("ttl 65536", 3, "1 to 65535"),
        ("ttl", 3, "needs an argument"),
        ("ttl soon", 3, "whole number"),
        ("reload", 3, "one argument"),
        ("reload 5", 3, "duration"),
        ("reload -5s", 3, "duration"),
        ("reload 5s 6s", 3, "one argument"),
        ("fallthrough\n10.0.0.1 a", 4, "before `fallthrough`"),
        ("no_reverse yes", 3, "takes no argument"),
        ("fallthrough\nfallthrough_unsupported a", 4, "takes no argument"),
        ("fallthrough_unsupported", 2, "requires fallthrough"),
        ("bogus", 3, "unknown property"),
    ],
)
def test_mistakes_have_a_line(lines, line, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        compiled(lines)
    assert line == caught.value.line


def test_a_path_below_a_file_is_a_mistake(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^Corefile:2: hosts: unable to access hosts file"):
        compiled("", str(tmp_path / "file" / "below"))


def test_once_in_a_server_block():
    with pytest.raises(ConfigError, match=r"^Corefile:3: "):
        compile_text(". {\nhosts\nhosts\n}", "Corefile", port=53, environ={}, warn=print)


def test_an_entry_without_an_address_is_warned_of(caplog):
    compiled("ttll 60")
    assert ["plugin/hosts: Corefile:3: no IP address: ttll 60"] == caplog.messages


# ---- reading


@pytest.mark.parametrize("kind", ["missing", "directory", "fifo", "large", "unreadable"])
def test_what_is_no_file_is_served_without(kind, tmp_path, caplog, monkeypatch):
    path = tmp_path / "hosts"
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "large":
            monkeypatch.setattr(hostsfile, "MAX_FILE_OCTETS", 10)
            path.write_text("10.0.0.1 a # more than ten octets")
        case "unreadable":
            path.symlink_to(path)

    async def run() -> None:
        lines = "192.0.2.1 inline\nreload 0"
        async with InProcess(f". {{\nhosts {path} {{\n{lines}\n}}\n}}", [NAMESPACE]) as server:
            assert ["192.0.2.1"] == await addresses(server, "inline.")
            assert [] == await addresses(server, "a.")

    if kind == "unreadable":
        with pytest.raises(ConfigError, match="unable to access"):
            asyncio.run(asyncio.wait_for(run(), 5))
        return
    asyncio.run(asyncio.wait_for(run(), 5))
    said = "does not exist" if kind == "missing" else f'ile "{path}"'
    assert any(said in message for message in caplog.messages), caplog.messages


async def addresses(server: InProcess, qname: str, qtype: str = "A") -> list[str]:
    reply = await server.ask_chain(query(qname, qtype), "udp")
    assert reply is not None
    return [r.to_text() for rrset in dns.message.from_wire(reply).answer for r in rrset]


async def look(server: InProcess) -> bool:
    (plugin,) = (each for each in server.configuration.plugins if each.name == "hosts")
    has_changed = await plugin.look()
    if has_changed:
        server.forget_all()
    return has_changed


def test_a_change_is_in_force_at_once(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("10.0.0.1 a\n")

    async def run() -> None:
        corefile = f". {{\ncache\nhosts {path} {{\nreload 0\n}}\n}}"
        async with InProcess(corefile, [NAMESPACE]) as server:
            assert ["10.0.0.1"] == await addresses(server, "a.")
            assert server.ask_table(query("a."), "udp")
            assert not await look(server)
            path.write_text("10.0.0.2 a\n10.0.0.3 b\n")
            os.utime(path, ns=(1, 1))  # a time that went backwards is a change, too
            assert await look(server)
            assert not server.ask_table(query("a."), "udp")
            assert ["10.0.0.2"] == await addresses(server, "a.")
            assert ["10.0.0.3"] == await addresses(server, "b.")
            path.unlink()
            assert not await look(server)
            assert ["10.0.0.2"] == await addresses(server, "a.")

    asyncio.run(run())


def test_it_looks_again_by_itself(tmp_path):
    path = tmp_path / "hosts"

    async def run() -> None:
        corefile = f". {{\nhosts {path} {{\nreload 1ms\n}}\n}}"
        async with InProcess(corefile, [NAMESPACE]) as server:
            path.write_text("10.0.0.1 a\n")
            async with asyncio.timeout(5):
                while not await addresses(server, "a."):  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(0.02)

    asyncio.run(run())


def test_complaints_are_bounded(tmp_path, caplog):
    path = tmp_path / "hosts"
    path.write_text(("10.0.0.1 " + "x" * 1025 + "\n") * 1000)

    async def run() -> None:
        async with InProcess(f". {{\nhosts {path}\n}}", [NAMESPACE]):
            pass

    with caplog.at_level(logging.ERROR):
        asyncio.run(run())
    assert hosts.MAX_COMPLAINTS == len(caplog.messages)


def test_metrics(tmp_path):
    path = tmp_path / "hosts"
    path.write_text("10.0.0.1 a b\nfd00::1 *.c\n")
    os.utime(path, ns=(1_500_000_000, 1_500_000_000))

    async def run() -> tuple:
        lines = "192.0.2.1 d\nno_reverse"
        async with InProcess(f". {{\nhosts {path} {{\n{lines}\n}}\n}}", [NAMESPACE]) as server:
            (plugin,) = server.configuration.plugins
            return plugin.samples(), plugin.families

    samples, families = asyncio.run(run())
    assert ("hosts_entries", (str(path),), 4) in samples  # `no_reverse` counts wherever it stands
    assert ("hosts_reload_timestamp_seconds", (), 1.5) in samples
    assert samples == ledger.add_up(samples * 2, families)  # the workers have read the same file


# ---- the fast path


def test_known_names_last_in_the_table_and_denials_are_shared(tmp_path):
    lines = "10.0.0.1 a.test\n10.0.0.2 *.w.svc.cluster.local\nfallthrough"
    corefile = f""". {{
        hosts {tmp_path / "none"} {{
            {lines}
        }}
        kubernetes cluster.local {{
            manifests .
        }}
    }}"""

    async def run() -> None:
        async with InProcess(corefile, [NAMESPACE]) as server:
            view = server.configuration.views[0]
            assert await addresses(server, "a.test.")
            assert server.ask_table(query("a.test."), "udp")
            for cut, is_alike in {
                "com.default.svc.cluster.local": True,
                "w.svc.cluster.local": False,
                "x.w.svc.cluster.local": False,
                "svc.cluster.local": False,
            }.items():
                assert is_alike == view.treats_alike(folded(cut), rr.A), cut

    asyncio.run(run())


@pytest.mark.skipif(native.compiled is None, reason="not compiled")
def test_unknown_names_take_the_relay_and_known_ones_do_not(tmp_path):
    path = tmp_path / "NodeHosts"
    path.write_text("10.0.0.1 node-1\n10.0.0.2 *.wild.test\n")

    async def run(upstream: FaultyUpstream) -> None:  # as k3s has it
        corefile = f""".:53 {{
            errors
            kubernetes cluster.local in-addr.arpa ip6.arpa {{
                manifests .
                pods insecure
                fallthrough in-addr.arpa ip6.arpa
            }}
            prometheus
            loop
            hosts {path} {{
                10.0.0.9 inline.test
                ttl 60
                reload 0
                fallthrough
            }}
            cache 30
            loadbalance
            forward . {upstream.address}
        }}"""
        async with Listener(corefile) as listener:
            for qname, is_taken in {
                "www.example.com.": True, "node-1.": False, "NODE-1.": False, "x.node-1.": True,
                "a.wild.test.": False, "a.b.wild.test.": True, "wild.test.": True,
                "inline.test.": False, "node-2.": True, "new.test.": True,
            }.items():  # fmt: skip
                assert is_taken == await listener.takes(query(qname)), qname
            path.write_text("10.0.0.2 node-2\n10.0.0.3 new.test\n")
            assert await look(listener)
            assert not await listener.takes(query("node-2."))
            assert not await listener.takes(query("new.test."))
            reply = dns.message.from_wire(await listener.ask(query("new.test.")))
            assert "10.0.0.3" == reply.answer[0][0].to_text()
            assert await listener.takes(query("node-1."))

    with FaultyUpstream(good) as upstream:
        in_packet_loop(run(upstream))


@pytest.mark.skipif(native.compiled is None, reason="not compiled")
@pytest.mark.parametrize(
    ("args", "lines", "outside", "inside"),
    [
        ("", "fallthrough", True, True),
        ("", "", False, False),
        ("inside.test", "", True, False),
        ("inside.test", "fallthrough", True, True),
        ("inside.test", "fallthrough elsewhere.test", True, False),
        ("", "fallthrough inside.test", False, False),
    ],
)
def test_zones_where_nobody_else_is_asked_take_the_chain(tmp_path, args, lines, outside, inside):
    async def run(upstream: FaultyUpstream) -> None:
        block = f"hosts {tmp_path / 'none'} {args} {{\n10.0.0.1 k.inside.test\n{lines}\n}}"
        async with Listener(f".:53 {{\n{block}\nforward . {upstream.address}\n}}") as listener:
            assert outside == await listener.takes(query("www.outside.test."))
            assert inside == await listener.takes(query("www.inside.test."))
            assert not await listener.takes(query("k.inside.test."))

    with FaultyUpstream(good) as upstream:
        in_packet_loop(run(upstream))


def test_the_file_may_be_named_from_the_root(tmp_path):
    Path(tmp_path, "hosts").write_text("10.0.0.1 a\n")

    async def run() -> None:
        async with InProcess(f". {{\nroot {tmp_path}\nhosts hosts\n}}", [NAMESPACE]) as server:
            assert ["10.0.0.1"] == await addresses(server, "a.")

    asyncio.run(run())
