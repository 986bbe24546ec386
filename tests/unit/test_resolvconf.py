"""resolvconf: what the three resolvers ask, as their sources say and as the lab answers."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path

import dns.message
import dns.rcode
import peers
import pytest

from clusterdns.host import resolvconf
from clusterdns.host.resolvconf import ResolvConf, SearchOutcome, names, walk

ZONES = Path(__file__).resolve().parents[2] / "zones"
POD = resolvconf.pod_search("uit")
SUFFIXED = ["web.uit.svc.cluster.local.", "web.svc.cluster.local.", "web.cluster.local."]


def test_parse():
    conf = resolvconf.parse(
        "# comment\nnameserver 10.96.0.10\nnameserver fd00::10 ; second\n"
        "domain old.example\nsearch a.example  b.example\n"
        "options ndots:5 timeout:1 rotate attempts:9\noptions\nnonsense here\nnameserver\n"
    )
    assert conf == ResolvConf(
        ("10.96.0.10", "fd00::10"), ("a.example", "b.example"), 5, 1, 5, ("rotate",)
    )


def test_the_last_of_search_and_domain_counts():
    assert resolvconf.parse("search a b\ndomain c d\n").search == ("c",)
    assert resolvconf.parse("domain c\nsearch a b\n").search == ("a", "b")


def test_numbers_have_bounds():
    conf = resolvconf.parse("options ndots:99 timeout:99 attempts:0\n")
    assert (conf.ndots, conf.timeout_s, conf.attempts) == (15, 30, 1)
    assert resolvconf.parse("options ndots:many\n").ndots == 1


def test_the_lab_has_what_kubelet_gives():
    assert resolvconf.parse((ZONES / "resolv.conf").read_text()) == POD


@pytest.mark.parametrize("resolver", ["glibc", "musl", "go"])
@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("web", [*SUFFIXED, "web."]),
        ("web.", ["web."]),
        ("www.example.com.", ["www.example.com."]),
        ("", []),
        ("x" * 254, []),
    ],
)
def test_names_all_agree_on(resolver, host, expected):
    assert names(POD, host, resolver) == expected


def test_enough_dots():
    host = "a.b.c.d.e.f"
    after = [f"{host}.{domain}." for domain in POD.search]
    assert names(POD, host, "musl") == [f"{host}."]
    assert names(POD, host, "glibc") == names(POD, host, "go") == [f"{host}.", *after]


def test_ndots_is_counted_in_dots():
    conf = ResolvConf(search=("example",), ndots=1)
    assert names(conf, "web", "glibc") == ["web.example.", "web."]
    assert names(conf, "web.a", "glibc") == ["web.a.", "web.a.example."]


def test_the_root_on_the_search_list_is_the_bare_name():
    conf = ResolvConf(search=("a.example", "."), ndots=5)
    assert names(conf, "web", "glibc") == ["web.a.example.", "web."]


def test_too_long_with_a_suffix_is_left_out():
    conf = ResolvConf(search=("x" * 60 + ".example", "b"), ndots=5)
    host = ".".join(["y" * 60] * 4)[:200]
    assert names(conf, host, "go") == [f"{host}.b.", f"{host}."]


def outcomes(resolver, *given):
    replies = iter(given)
    return [name for name, _ in walk(POD, "web", resolver, lambda _: next(replies))]


def test_after_no_data():
    given = (SearchOutcome.NODATA, SearchOutcome.ANSWER)
    assert outcomes("musl", *given) == SUFFIXED[:1]
    assert outcomes("glibc", *given) == outcomes("go", *given) == SUFFIXED[:2]


def test_after_a_server_failure():
    given = (SearchOutcome.SERVFAIL, SearchOutcome.ANSWER)
    assert outcomes("musl", *given) == SUFFIXED[:1]
    assert outcomes("glibc", *given) == outcomes("go", *given) == SUFFIXED[:2]


def test_after_a_timeout():
    given = (SearchOutcome.TIMEOUT, SearchOutcome.ANSWER)
    assert outcomes("musl", *given) == SUFFIXED[:1]
    assert outcomes("glibc", *given) == [SUFFIXED[0], "web."]
    assert outcomes("go", *given) == SUFFIXED[:2]


def test_after_a_refusal():
    given = (SearchOutcome.REFUSED, SearchOutcome.ANSWER)
    assert outcomes("musl", *given) == SUFFIXED[:1]
    assert outcomes("glibc", *given) == [SUFFIXED[0], "web."]
    assert outcomes("go", *given) == SUFFIXED[:2]


def test_nothing_anywhere_asks_for_everything():
    given = (SearchOutcome.NXDOMAIN,) * 4
    for resolver in ("glibc", "musl", "go"):
        assert outcomes(resolver, *given) == [*SUFFIXED, "web."]


@pytest.mark.parametrize(
    ("host", "resolver", "count"),
    [
        ("web", "glibc", 1),
        ("web.uit", "musl", 2),
        ("web.uit.svc", "go", 3),
        ("web.uit.svc.cluster.local", "glibc", 4),  # four dots: fewer than ndots
        ("web.uit.svc.cluster.local.", "go", 1),
        ("www.example.com", "glibc", 4),
        ("www.example.com", "musl", 4),
        ("kubernetes.default", "go", 2),
        ("six", "musl", 1),  # no A: musl is content
        ("six", "glibc", 4),
        ("kube-dns.kube-system", "musl", 2),
    ],
)
def test_the_lab_through_a_pods_resolver(lab, host, resolver, count):
    def ask(name: str) -> SearchOutcome:
        query = dns.message.make_query(name, "A").to_wire()
        reply = dns.message.from_wire(peers.ask_udp(lab.address, query))
        if reply.rcode() == dns.rcode.NXDOMAIN:
            return SearchOutcome.NXDOMAIN
        if reply.rcode() == dns.rcode.SERVFAIL:
            return SearchOutcome.SERVFAIL
        if reply.rcode() != dns.rcode.NOERROR:
            return SearchOutcome.REFUSED
        return SearchOutcome.ANSWER if reply.answer else SearchOutcome.NODATA

    assert len(walk(POD, host, resolver, ask)) == count


# Asks glibc itself: res_ninit reads the search list and ndots from the environment; the only name
# server is then put into its state (struct __res_state of 64-bit glibc: nscount at 16, the first
# sockaddr_in at 20).
ASK_GLIBC = """
import ctypes, socket, struct, sys
libc = ctypes.CDLL("libc.so.6")
state = ctypes.create_string_buffer(4096)
assert libc.__res_ninit(state) == 0
struct.pack_into("=i", state, 16, 1)
struct.pack_into("=H", state, 20, socket.AF_INET)
struct.pack_into("!H4s8x", state, 22, int(sys.argv[1]), socket.inet_aton("127.0.0.1"))
libc.res_nsearch(state, sys.argv[2].encode(), 1, 1, ctypes.create_string_buffer(4096), 4096)
"""
RCODES = {
    SearchOutcome.NODATA: dns.rcode.NOERROR,
    SearchOutcome.NXDOMAIN: dns.rcode.NXDOMAIN,
    SearchOutcome.SERVFAIL: dns.rcode.SERVFAIL,
    SearchOutcome.REFUSED: dns.rcode.REFUSED,
}


def glibc_asks(conf: ResolvConf, host: str, given: list[SearchOutcome]) -> list[str]:
    """Return the names that glibc asks for ``host`` when these are what comes of them."""
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(0.05)
        environ = {
            "LOCALDOMAIN": " ".join(conf.search),
            "RES_OPTIONS": f"ndots:{conf.ndots} timeout:1 attempts:1",
        }
        arguments = [sys.executable, "-c", ASK_GLIBC, str(server.getsockname()[1]), host]
        process = subprocess.Popen(arguments, env={**os.environ, **environ})
        asked = []
        try:
            while process.poll() is None:
                with contextlib.suppress(TimeoutError):
                    packet, client = server.recvfrom(512)
                    query = dns.message.from_wire(packet)
                    qname = query.question[0].name.to_text()
                    if qname not in asked:  # else it is asked once more
                        asked.append(qname)
                    outcome = given[len(asked) - 1]
                    if outcome is not SearchOutcome.TIMEOUT:
                        reply = dns.message.make_response(query, recursion_available=True)
                        reply.set_rcode(RCODES[outcome])
                        server.sendto(reply.to_wire(), client)
        finally:
            process.kill()
        assert process.wait() == 0
        return asked


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or sys.maxsize < 2**32, reason="needs 64-bit glibc"
)
@pytest.mark.parametrize("host", ["web", "web.", "a.b.c.d.e", "a.b.c.d.e.f"])
@pytest.mark.parametrize("outcome", [*RCODES, SearchOutcome.TIMEOUT])
def test_glibc_itself(host, outcome):
    given = [outcome, SearchOutcome.NXDOMAIN, outcome, SearchOutcome.NXDOMAIN]
    replies = iter(given)
    expected = [name for name, _ in walk(POD, host, "glibc", lambda _: next(replies))]
    assert expected == glibc_asks(POD, host, given)
