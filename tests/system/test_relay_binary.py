"""The relay in the real binary: the same replies and the same counts as the chain alone gives.

Two servers run side by side, one with the compiled modules and one without, each with upstream
servers of its own; both are asked the same questions in the same order. The first label of a name
says what its server replies.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import faultyupstream
import peers
import pytest
import realupstreams
import replyshapes
import tapreader
from faultyupstream import FaultyUpstream
from fuzz import fuzz_drain
from prometheus_client.parser import text_string_to_metric_families
from replyshapes import Asked

pytestmark = pytest.mark.skipif(
    fuzz_drain.built() is None,
    reason="not compiled: apt-get install gcc python3-dev, then pip install -e . again",
)
CORE = ". {\n errors\n LOG\n prometheus 127.0.0.1:METRICS\n CACHE\n loadbalance\n forward . UPSTREAM {\n OPTIONS\n }\n}\n"
PATIENCE = "read_timeout 300ms"
# What depends on when the first check of a server's health falls due.
BY_CHANCE = {"coredns_proxy_healthcheck_failures", "coredns_forward_healthcheck_broken"}

WHOLE = {  # first label -> shape of the reply
    shape.replace(" ", "-"): shape
    for shape in (
        "answer and authority", "all sections", "all sections and OPT", "referral", "exchanges",
        "addresses in each section", "signed", "denial with proofs", "the name in other letters",
        "only additional", "texts", "address and SOA", "two SOAs", "both types", "alias alone",
        "owner spelled out", "a stranger", "rcode 2 with address", "NXDOMAIN without SOA", "nothing",
    )
}  # fmt: skip
WHOLE |= {
    f"type-{rtype}": f"names in RDATA, type {rtype}"
    for rtype in (2, 5, 6, 12, 15, 33, 35, 46, 47, 64, 65)
}
Address = tuple[str, int]
Counts = dict[str, Counter[tuple[object, ...]]]  # of `coredns_*`: by family, then sample


# ---- upstream servers


def answer(asked: faultyupstream.Asked) -> None:
    """Reply as the first label of the name says."""
    made = Asked(asked.wire)
    word = made.qname[1 : 1 + made.qname[0]].decode().lower()
    if word == "silent":
        return
    octets = message_of(word, made, is_tcp=asked.proto == "tcp")
    asked.reply(octets, after_s=0.4 if word in ("late", "refusal") else 0)


def message_of(word: str, made: Asked, *, is_tcp: bool) -> bytes:
    root = (replyshapes.soa(b"\0", b"\1a\0", b"\1h\0", 9),)
    opt = (replyshapes.opt(),) if made.has_opt else ()
    parent = replyshapes.pointer(replyshapes.HEADER + 1 + len(word))
    if word in WHOLE:
        return replyshapes.whole(made)[WHOLE[word]]
    match word:
        case "refused" | "refusal":
            return made.message(flags=0x8185)
        case "servfail":
            return made.message(flags=0x8182)
        case "none":
            return made.message((), root, opt, flags=0x8183)
        case "empty":
            return made.message((), root, opt)
        case "alias":
            return made.message(made.aliases(b"\4next" + parent, b"\4last\4test\0"), (), opt)
        case "dangling":
            return made.message(made.aliases(b"\4gone" + parent, end=()), root, opt)
        case "dead":
            aliases = made.aliases(b"\4next" + parent, b"\4gone\4test\0", end=())
            return made.message(aliases, root, opt, flags=0x8183)
        case "fading":
            return made.message(made.aliases(b"\4gone" + parent, end=(), ttl=1), root, opt)
        case "many" if not (is_tcp or made.has_opt):
            return made.message(flags=0x8180 | replyshapes.TC)
        case "many":
            return made.message(made.addresses(50), (), opt)
        case "nought":
            return made.message((made.address(ttl=0),), (), opt)
        case "brief":
            return made.message((made.address(ttl=1),), (), opt)
        case "valid":
            return made.message((made.address(),), (), opt, flags=0x81A0)
        case "plenty":
            return made.message(made.addresses(3), (made.address(9, owner=b"\1x\0"),), opt)
        case "cut":
            return made.message(made.addresses(3), (), opt)[:-5]
    return made.message(made.addresses(3), (), opt)


# ---- two servers


class Subject(NamedTuple):
    """A server, its own upstream server, and where its counts are."""

    server: peers.Server
    upstream: FaultyUpstream
    metrics: int
    before: Counts

    def added(self) -> Counts:
        """Return what has changed since the beginning, when it was asked whether it is there."""
        found = {}
        for name, samples in self.counts().items():
            samples.subtract(self.before.get(name, Counter()))
            found[name] = Counter({key: value for key, value in samples.items() if value})
        return {name: samples for name, samples in found.items() if samples}

    def counts(self) -> Counts:
        """Return what `coredns_*` families say: of durations how many there are."""
        url = f"http://127.0.0.1:{self.metrics}/metrics"
        with urllib.request.urlopen(url, timeout=5) as response:
            text = response.read().decode()
        text = re.sub(rf'127\.0\.0\.1:{self.upstream.port}"', 'U"', text)
        text = text.replace(f":{self.server.port}", ":53")
        found: Counts = {}
        for family in text_string_to_metric_families(text):
            if not family.name.startswith("coredns_") or family.name in BY_CHANCE:
                continue
            is_time = family.name.endswith("_seconds") and family.type == "histogram"
            for sample in family.samples:
                if not is_time or sample.name.endswith("_count"):
                    key = sample.name, *sorted(sample.labels.items())
                    found.setdefault(family.name, Counter())[key] += sample.value
        return found


class Pair(NamedTuple):
    """The server with the relay, and the one without."""

    relayed: Subject
    pure: Subject

    def ask(self, word: str, rtype: str = "A", *, proto: str = "udp", **options: Any) -> list[Any]:
        """Ask both; hold that they say the same, and return what."""
        flags = options.pop("flags", dns.flags.RD)
        query = dns.message.make_query(f"{word}.test.", rtype, **options)
        query.flags = flags
        found = [said(each, query.to_wire(), proto) for each in self]
        assert are_alike(*found), (word, rtype, options, found)
        return found[0]

    def hold(self) -> None:
        """Hold that both have counted the same, and asked their servers the same."""
        relayed, pure = (each.added() for each in self)
        assert relayed.keys() == pure.keys()
        for name, samples in relayed.items():
            assert samples == pure[name]
        assert self.relayed.upstream.queries == self.pure.upstream.queries
        assert self.relayed.upstream.over_tcp == self.pure.upstream.over_tcp


def said(subject: Subject, query: bytes, proto: str) -> list[Any]:
    """Return a reply but for its order of records, which the fuzz target holds."""
    ask = peers.ask_tcp if proto == "tcp" else peers.ask_udp
    octets = ask(subject.server.address, query, 4)
    assert octets is not None, subject.server.output
    end = query.index(b"\0", 12) + 5
    assert query[12:end] == octets[12:end]
    reply = dns.message.from_wire(octets)
    sections = [
        each
        for part in reply.sections[1:]
        for each in sorted(sorted(rrset.to_text().split("\n")) for rrset in part)
    ]
    if reply.flags & dns.flags.TC:  # of shuffled addresses these or those
        sections = [[str(len(some))] for some in sections]
    head = [reply.id, dns.flags.to_text(reply.flags), dns.rcode.to_text(reply.rcode())]
    return [*head, reply.edns, reply.ednsflags, reply.payload, sections]


def are_alike(one: list[Any], other: list[Any]) -> bool:
    """Tell whether two replies say the same; a second may have ended between them."""
    numbers = [[int(ttl) for ttl in re.findall(r" (\d+) IN ", str(each))] for each in (one, other)]
    texts = [re.sub(r" \d+ IN ", " TTL IN ", str(each)) for each in (one, other)]
    return texts[0] == texts[1] and all(abs(a - b) <= 1 for a, b in zip(*numbers, strict=True))


def ttl_of(reply: list[Any]) -> int:
    return int(reply[-1][0][0].split()[1])


@contextlib.contextmanager
def pair(
    directory: Path, monkeypatch: pytest.MonkeyPatch, *, cache: str = "cache 30",
    options: str = "", before: str = "", address: Address | None = None,
    log: str = "", arguments: tuple[str, ...] = (),
) -> Iterator[Pair]:  # fmt: skip
    """Run both; ``before`` are servers to be asked first, ``address`` that of one both shall ask."""
    with contextlib.ExitStack() as stack:
        found = []
        for pure in ("", "1"):
            monkeypatch.setenv("CLUSTERDNS_PURE", pure)
            upstream = stack.enter_context(FaultyUpstream(answer, tcp="as udp"))
            port, place = peers.free_port(), directory / f"pure{pure}"
            text = CORE.replace("METRICS", str(port)).replace("CACHE", cache)
            own = f"{address[0]}:{address[1]}" if address else upstream.address
            text = text.replace("UPSTREAM", f"{before} {own}")
            text = text.replace("OPTIONS", options).replace("LOG", log)
            place.mkdir()
            server = stack.enter_context(peers.clusterdns(text, place, *arguments))
            found.append(Subject(server, upstream, port, {}))
        Pair(*found).ask("first.example")
        for subject in found:
            subject.upstream.queries.clear()
            subject.upstream.total = 0
            subject.before.update(subject.counts())
        yield Pair(*found)


@pytest.fixture
def run(tmp_path, monkeypatch):
    return lambda **words: pair(tmp_path, monkeypatch, **words)


# ---- what is asked

WORDS = ("www", "none", "empty", "alias", "dangling", "dead", "many", "nought", "brief", "valid", "plenty",
         "cut", "servfail", "refused")  # fmt: skip


REAL = ("www", "one", "zero", "c1", "c3", "dangling", "old", "nowhere", "ent", "mixedcase", "many",
        "mail", "ns")  # fmt: skip


def ask_all(both: Pair) -> None:
    for word in WORDS:
        for rtype in ("A", "AAAA"):
            both.ask(word, rtype)
            both.ask(f"{word}.edns", rtype, use_edns=0, payload=1232)
        both.ask(f"{word}.AD", flags=dns.flags.RD | dns.flags.AD)
        both.ask(f"{word}.CD", flags=dns.flags.RD | dns.flags.CD)
        both.ask(f"{word}.do", use_edns=0, want_dnssec=True)
        both.ask(f"{word}.norec", flags=0)
        both.ask(f"{word}.tcp", proto="tcp")
        both.ask(f"{word.title()}.MiXeD")


@pytest.mark.parametrize("cache", ["cache 30", "", "cache 30 {\n success 1000 20 0\n denial 1000 5 0\n }",
                                   "cache 30 {\n keepttl\n }", "cache 30 {\n prefetch 2 1m 20%\n }",
                                   "cache 30 {\n serve_stale\n }", "cache 30 {\n disable success edns.test\n }",
                                   "cache 30 {\n disable success\n }",
                                   "cache 30 {\n disable denial\n servfail 0s\n }"])  # fmt: skip
def test_the_same_is_said_and_counted(run, cache):
    """First as misses, then from what is kept, spelled otherwise and with another OPT."""
    with run(cache=cache) as both:
        ask_all(both)
        both.hold()
        for word in WORDS:
            both.ask(word)
            both.ask(word.upper(), "AAAA", use_edns=0, payload=4096)
            both.ask(f"{word}.edns")
            both.ask(f"{word}.mixed", flags=dns.flags.RD | dns.flags.AD)
            both.ask(word)
        both.hold()


@pytest.mark.parametrize(
    "cache", ["cache 30", "", "cache 30 {\n servfail 0s\n }\n minimal", "minimal"]
)
def test_replies_of_all_types_and_sections(run, cache):
    """Passed on by C to the octets of the chain, and repeated from what it has kept."""
    with run(cache=cache) as both:
        for word in WHOLE:
            rtypes = (
                [word.removeprefix("type-")] if word.startswith("type-") else ["A", "TYPE65280"]
            )
            for rtype in (f"TYPE{each}" if each.isdigit() else each for each in rtypes):
                for _ in range(2):
                    both.ask(word, rtype, id=7)
                    both.ask(word.upper(), rtype, use_edns=0, payload=4096)
                    both.ask(word, rtype, use_edns=0, want_dnssec=True)
                    both.ask(word, rtype, flags=dns.flags.RD | dns.flags.CD | dns.flags.AD)
        both.hold()


LOGS = ("log", 'log . "Q {combined} {name} {rsize} {size} {>rflags} é {}"', "log . {\n class error\n }",
        "log . {\n class denial\n }", 'log edns.test "Q {common}" {\n class success\n }\n log norec.test',
        "log . {\n rcode NXDOMAIN SERVFAIL\n }", 'log do.test "Q {name} {local}"\n log')  # fmt: skip


@pytest.mark.parametrize("cache", ["cache 30", ""])
@pytest.mark.parametrize("log", LOGS)
def test_the_same_is_logged(run, log, cache):
    with run(log=log, cache=cache) as both:
        check_lines(both)


def test_the_same_is_logged_as_json(run):
    with run(log='log . "Q {combined}"', arguments=("-log-format=json",)) as both:
        check_lines(both)


def check_lines(both: Pair) -> None:
    """Hold that both log the same of the same queries."""
    before = [lines(each) for each in both]
    ask_all(both)
    both.ask('quo\\"te\\.\\000{port}', id=7)
    both.ask("x" * 63 + ".y" * 40, id=8)
    wait_for(lambda: all(sum((lines(each)).values()) for each in both))
    time.sleep(0.1)  # the delay of lines
    found = [lines(each) - some for each, some in zip(both, before, strict=True)]
    assert found[0] == found[1]
    assert found[0]


def lines(subject: Subject) -> Counter[str]:
    """Return the lines about queries, without what differs: ports, IDs, times."""
    found = Counter[str]()
    for line in subject.server.output.splitlines():
        if "errors" in line or "test." not in line:
            continue
        line = re.sub(r"127\.0\.0\.1:\d+ - \d+|\d\.\d{9}s", "", line)
        found[re.sub(r'"(time|client_port|id|duration_seconds)":[^,}]*', "", line)] += 1
    return found


@pytest.mark.parametrize("cache", ["cache 30", ""])
@pytest.mark.parametrize("full", ["", "full"])
def test_the_same_is_told_to_a_tap(run, tmp_path, cache, full):
    """Of clients and of the upstream server: what C has passed on, and what it has handed over."""
    with run(log=f"dnstap tap.sock {full}", cache=cache) as both, contextlib.ExitStack() as stack:
        places = [tmp_path / f"pure{pure}" / "tap.sock" for pure in ("", "1")]
        readers = [stack.enter_context(tapreader.Reader(place)) for place in places]
        wait_for(lambda: all(reader.connections for reader in readers))
        time.sleep(0.5)
        for reader in readers:
            reader.messages.clear()  # of the start
        for i, word in enumerate(
            ("signed", "denial-with-proofs", "servfail", "none", "cut", "texts")
        ):
            both.ask(word, id=i)
            both.ask(word, "TYPE65280", id=i, use_edns=0, want_dnssec=True)
            both.ask(word, id=i, use_edns=0, payload=4096)
        wait_for(lambda: all(len(told_of(each)) >= 6 * 6 for each in readers))
        time.sleep(0.2)
        found = [Counter(told_of(reader)) for reader in readers]
        assert found[0] == found[1]
        kinds = Counter(each[0] for each in found[0].elements())
        assert kinds["CLIENT_QUERY"] == kinds["CLIENT_RESPONSE"] == 18
        assert kinds["FORWARDER_RESPONSE"] >= 12


def told_of(reader: tapreader.Reader) -> list[tuple[object, ...]]:
    """Return messages without ports and times, which have to be there."""
    found = []
    for each in reader.messages:
        assert each.query_address == socket.inet_aton("127.0.0.1")
        assert each.query_port
        is_of_server = each.kind.startswith("FORWARDER")
        assert bool(each.response_port) or not is_of_server
        assert each.response_time is None or 0 <= each.response_time - each.query_time < 5
        found.append((each.kind, each.family, each.protocol, each.query, each.response))
    return found


def test_ttls_count_down_and_end(run):
    with run(cache="cache 30 {\n success 1000 30 1\n denial 1000 30 1\n }") as both:
        words = ("www", "alias", "none", "empty", "dangling")
        first = [ttl_of(both.ask(word)) for word in words]
        both.ask("brief")
        time.sleep(1.2)
        assert [ttl - 1 for ttl in first] == [ttl_of(both.ask(word)) for word in words]
        assert 1 == ttl_of(both.ask("brief"))
        assert 2 == both.relayed.upstream.asked("brief.test.")
        both.hold()


@pytest.mark.parametrize("word", ["brief", "fading"])
def test_what_is_stale_is_served_and_renewed(run, word):
    bounds = "success 1000 30 1\n denial 1000 30 1"
    with run(cache=f"cache 30 {{\n {bounds}\n serve_stale 1h immediate 7s\n }}") as both:
        both.ask(word)
        time.sleep(1.2)
        assert 7 == ttl_of(both.ask(word))
        wait_for(lambda: all(each.upstream.asked(f"{word}.test.") == 2 for each in both))
        time.sleep(0.1)
        assert 1 == ttl_of(both.ask(word))
        both.hold()


def test_a_dead_server_before_a_good_one(run):
    """It is asked each time: when it would be left out depends on when its checks fall due."""
    dead = f"127.0.0.1:{peers.free_port()}"
    with run(before=dead, options="policy sequential\n max_fails 0") as both:
        for i in range(3):
            assert "NOERROR" in both.ask(f"www.n{i}")
        assert "NXDOMAIN" in both.ask("none")
        both.hold()


def test_nobody_replies(run):
    with run(options=f"{PATIENCE}\n max_connect_attempts 2") as both:
        assert "SERVFAIL" in both.ask("silent")
        assert 2 == both.relayed.upstream.asked("silent.test.")
        both.hold()
        output = [re.findall(r"plugin/errors: .*", each.server.output) for each in both]
        assert len(output[0]) == len(output[1]) == 1


@pytest.mark.parametrize("kind", realupstreams.KINDS)
def test_real_servers(run, tmp_path, kind):
    """What NSD, Knot, Unbound and dnsmasq say, compressed and ordered as each of them does."""
    with realupstreams.running(kind, tmp_path / kind) as address, run(address=address) as both:
        for label in REAL:
            for rtype in ("A", "AAAA"):
                both.ask(f"{label}.example", rtype)
                both.ask(f"{label.upper()}.example", rtype)
                both.ask(f"{label}.wild.example", rtype, use_edns=0, payload=4096)
        both.hold()


def test_equal_questions_count_alike(run):
    with run() as both:
        packets = [faultyupstream.query("late.test.", i) for i in range(40)]
        for each in both:
            assert 40 == len(replies_to(each.server.address, packets))
            assert 1 == each.upstream.asked("late.test.")
        both.hold()


def test_source_address(run):
    with run(options="source_address 127.0.0.9") as both:
        seen: list[str] = []
        for each in both:
            each.upstream.fault = lambda asked: (seen.append(asked.client[0]), answer(asked))[1]
        both.ask("www")
        both.ask("many", use_edns=0, payload=4096)
        assert ["127.0.0.9"] * 4 == seen


def test_no_more_than_max_concurrent(run):
    """Those of the relay and those of the chain count together."""
    with run(options="max_concurrent 6\n read_timeout 3s") as both:
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            for each in both:
                for i, rtype in enumerate(("A", "A", "A", "A", "TXT", "MX")):
                    query = dns.message.make_query(f"silent.n{i}.test.", rtype)
                    sock.sendto(query.to_wire(), each.server.address)
            wait_for(lambda: all(each.upstream.total >= 6 for each in both))
            time.sleep(0.4)  # a tick of the relay's
            for rtype in ("A", "AAAA", "TXT"):
                assert "REFUSED" in both.ask("www", rtype)
        rejected = [each.added()["coredns_forward_max_concurrent_rejects"] for each in both]
        assert [[3], [3]] == [[*each.values()] for each in rejected]
        for each in both:
            each.server.process.kill()  # else it waits for those that are out


# ---- many at one time


def wait_for(is_so: Any) -> None:
    deadline = time.monotonic() + 5
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def replies_to(address: Address, packets: list[bytes], wait_s: float = 3) -> dict[int, bytes]:
    """Send so many queries at one time; return the replies by ID."""
    found: dict[int, bytes] = {}
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        sock.settimeout(wait_s)
        for i, packet in enumerate(packets):
            sock.sendto(packet, address)
            if i % 50 == 49:
                time.sleep(0.002)  # a socket's buffer holds fewer
        with contextlib.suppress(TimeoutError):
            while len(found) < len(packets):
                octets = sock.recv(4096)
                found[int.from_bytes(octets[:2], "big")] = octets
    return found


def test_equal_questions_share_one_query(run):
    """1,000 clients ask at once: the server is asked once, and each client gets its reply."""
    with run() as both:
        packets = [faultyupstream.query("late.test.", i) for i in range(1000)]
        for each in both:
            found = replies_to(each.server.address, packets)
            assert 1000 == len(found)
            assert {3} == {octets[7] for octets in found.values()}
            assert 1 == each.upstream.asked("late.test.")
        requests = [each.added()["coredns_dns_requests"] for each in both]
        assert requests[0] == requests[1]


def test_other_questions_do_not_wait_for_one_that_does(run):
    with run() as both:
        packets = [faultyupstream.query(f"late.n{i}.test.", i) for i in range(50)]
        packets += [faultyupstream.query(f"www.n{i}.test.", i) for i in range(50, 900)]
        for each in both:
            assert 900 == len(replies_to(each.server.address, packets))
        both.hold()


@pytest.mark.parametrize("what", ["stop", "reload"])
@pytest.mark.parametrize(("word", "rcode"), [("late", 0), ("refusal", 5)])
def test_what_is_under_way_is_answered_at_the_end(run, what, word, rcode):
    """A server that stops drains what it has taken: what C passes on, and what it hands over."""
    with run() as both:
        for each in both:
            packets = [faultyupstream.query(f"{word}.n{i}.test.", i) for i in range(60)]
            end = signal.SIGTERM if what == "stop" else signal.SIGUSR1

            def stop(each: Subject = each, end: signal.Signals = end) -> None:
                wait_for(lambda: each.upstream.total >= 60)
                each.server.process.send_signal(end)

            thread = threading.Thread(target=stop)
            thread.start()
            found = replies_to(each.server.address, packets)
            thread.join()
            assert 60 == len(found)
            assert {rcode} == {octets[3] & 15 for octets in found.values()}
