"""All options of `cache`, crossed, beside a real CoreDNS: the same questions at the same moments.

One process each, with a zone for every set of options; both ask an upstream server of their own,
which changes its mind as ``SCRIPT`` says. Replies are compared octet for octet, then how often the
upstream servers were asked, and what the two have counted.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import selectors
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import compare
import dns.edns
import dns.flags
import dns.message
import peers
import pytest
from casefile import Scripted
from scriptedupstream import ScriptedUpstream

pytestmark = [pytest.mark.peer, pytest.mark.slow]

A, TXT = 1, 16
LIMITS = "success 2000 2 1\n denial 2000 2 1"
STALES = (
    "",
    "serve_stale",
    "serve_stale 2s",
    "serve_stale 1h immediate 7s",
    "serve_stale 1h immediate 0s 2s",
    "serve_stale 1h verify",
    "serve_stale 1h verify 0s 9s 3s",
    "serve_stale 1h verify 150ms",
    "serve_stale 1h\n serve_stale_policy prefer_positive",
    "serve_stale 1h verify 500ms 4s\n serve_stale_policy prefer_positive",
)
PREFETCHES = ("", "prefetch 1 1m 50%", "prefetch 3 10s 50%")
OTHERS = (
    "",
    "servfail 0",
    "servfail 1s",
    "disable success",
    "disable denial",
    "disable success {zone}",
    "disable denial sub.{zone}\n keepttl",
    "keepttl\n servfail 2s",
)
STALE_ANSWERS = (3, 19)  # the Extended DNS Errors that ours may add

# What the upstream servers say from a second on, and when which questions are asked.
SCRIPT: tuple[tuple[float, str], ...] = (
    (0.0, "a 192.0.2.1"),
    (0.1, "ask"),
    (0.3, "ask"),
    (0.5, "ask do"),
    (0.7, "ask ad"),
    (0.9, "ask edns"),
    (1.25, "a 192.0.2.2"),
    (1.4, "ask"),  # one second is left: time to prefetch
    (1.7, "ask"),
    (3.9, "ask"),  # what was not prefetched is over
    (4.2, "ask"),
    (4.7, "servfail"),
    (6.7, "ask edns"),
    (7.1, "ask edns"),
    (8.0, "nxdomain"),
    (9.4, "ask edns"),
    (9.8, "ask"),
    (10.3, "timeout"),
    (12.6, "ask"),
    (13.3, "ask cd"),
    (14.2, "a 192.0.2.3"),
    (15.6, "ask"),
    (16.0, "ask forgetful"),
    (16.5, "nodata"),
    (18.5, "ask"),
    (18.9, "ask"),
    (19.4, "alias"),
    (21.6, "ask"),
    (22.0, "ask"),
)


class Zone(NamedTuple):
    """A zone and the options its block has."""

    origin: str
    options: str

    @property
    def block(self) -> str:
        options = self.options.replace("{zone}", self.origin)
        return (
            f"{self.origin}:{{PORT}} {{\n prometheus 127.0.0.1:{{metrics}}\n"
            f" cache {self.origin} {{\n {LIMITS}\n {options}\n }}\n"
            " forward . {upstream} {\n max_fails 0\n read_timeout 250ms\n }\n}\n"
        )

    @property
    def is_forgetful(self) -> bool:
        """Whether CoreDNS keeps a stale denial beside the answer that has been verified.

        Then it asks the upstream server each time, for as long as denials are served stale.
        """
        return re.search(r"verify($|\n| 0s)", self.options) is not None

    def is_spared(self, said: str) -> bool:
        """Whether its upstream server does not take up what would be kept otherwise on purpose.

        A query that misses and fails is kept for longer by CoreDNS, and served stale as well.
        """
        is_stale = "serve_stale" in self.options
        meets_it = not is_stale or "disable" in self.options
        return meets_it and (said == "timeout" or (said == "servfail" and is_stale))


def zones() -> list[Zone]:
    """Return every way to serve stale with every way to prefetch; the rest goes round."""
    found, others = [], itertools.cycle(OTHERS)
    for stale, prefetch in itertools.product(STALES, PREFETCHES):
        for other in ("", next(others)) if stale or prefetch else OTHERS:
            options = "\n ".join(option for option in (stale, prefetch, other) if option)
            found.append(Zone(f"z{len(found)}.test.", options))
    return found


class Subject(NamedTuple):
    """A server, its upstream server, and where its metrics are."""

    server: peers.Server
    upstream: ScriptedUpstream
    metrics: int


@contextlib.contextmanager
def subject(run, served: list[Zone], directory: Path) -> Iterator[Subject]:
    upstream, metrics = ScriptedUpstream([]), peers.free_port()
    text = "".join(zone.block for zone in served)
    text = text.replace("{metrics}", str(metrics)).replace("{upstream}", upstream.address)
    try:
        with run(text, directory) as server:
            yield Subject(server, upstream, metrics)
    finally:
        upstream.stop()


def change(upstream: ScriptedUpstream, served: list[Zone], words: list[str]) -> None:
    """Have the upstream server say something else of every zone from now on."""
    for zone in served:
        if zone.is_spared(words[0]):
            continue
        qname = f"www.{zone.origin}"
        said = [Scripted(qname, words[0])]
        if words[0] == "a":
            said = [Scripted(qname, "answer", ttl=300, rtype=A, rdata=words[1])]
        elif words[0] == "alias":  # leads nowhere
            said = [Scripted(qname, "answer", ttl=300, rtype=5, rdata=f"x.{zone.origin}")]
        upstream.entries[qname] = said


def query(zone: Zone, ident: int, manner: str) -> bytes:
    edns = {"use_edns": 0, "payload": 1232} if manner in ("do", "edns") else {}
    made = dns.message.make_query(f"www.{zone.origin}", A, want_dnssec=manner == "do", **edns)
    made.id = ident
    made.flags |= {"ad": dns.flags.AD, "cd": dns.flags.CD}.get(manner, 0)
    return made.to_wire()


def ask_all(subjects: list[Subject], queries: list[bytes]) -> list[dict[int, bytes]]:
    """Return each server's replies by ID, all queries having been sent at once."""
    with contextlib.ExitStack() as stack:
        socks = []
        for subject in subjects:
            sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            sock.connect(subject.server.address)
            socks.append(sock)
        for wire, sock in itertools.product(queries, socks):
            sock.send(wire)
        found: dict[socket.socket, dict[int, bytes]] = {sock: {} for sock in socks}
        selector = stack.enter_context(selectors.DefaultSelector())
        for sock in socks:
            selector.register(sock, selectors.EVENT_READ)
        deadline = time.monotonic() + 3
        while any(len(replies) < len(queries) for replies in found.values()):
            ready = selector.select(max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for key, _ in ready:
                sock = key.fileobj
                wire = sock.recv(65535)
                found[sock][int.from_bytes(wire[:2], "big")] = wire
        return list(found.values())


def without_error(wire: bytes | None) -> bytes | None:
    """Return our reply without the Extended DNS Error that tells of a stale answer."""
    if wire is None:
        return None
    reply = dns.message.from_wire(wire)
    told = [option for option in reply.options if isinstance(option, dns.edns.EDEOption)]
    if not told:
        return wire
    is_nxdomain = reply.rcode() == 3
    assert [STALE_ANSWERS[is_nxdomain]] == [option.code for option in told]
    ednsflags, payload = reply.ednsflags, reply.payload
    reply.use_edns(0, ednsflags, payload, options=[o for o in reply.options if o not in told])
    return reply.to_wire()


def counts(subject: Subject) -> dict[str, float]:
    """Return what `cache` has counted, by metric and labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{subject.metrics}/metrics", timeout=5) as page:
        text = page.read().decode()
    found = re.findall(r"^coredns_(cache_\w+_total\{.*?\}) (\S+)$", text, re.MULTILINE)
    return {
        re.sub(r"server=\"[^\"]*\",?", "", labels): float(value)
        for labels, value in found
        if float(value)
    }


def counted_otherwise(theirs: Subject, ours: Subject, served: list[Zone]) -> list[str]:
    """Return which counts differ: of `cache`, and of the questions the upstream servers got."""
    found = []
    their_counts, our_counts = counts(theirs), counts(ours)
    for zone in served:
        qname = f"www.{zone.origin}"
        asked = theirs.upstream.asked(qname, A), ours.upstream.asked(qname, A)
        if zone.is_forgetful:
            if not 0 < asked[1] <= asked[0]:
                found.append(f"upstream asked {asked}: {zone.options!r}")
            continue
        if asked[0] != asked[1]:
            found.append(f"upstream asked {asked}: {zone.options!r}")
        for key in sorted(their_counts.keys() | our_counts.keys()):
            values = their_counts.get(key), our_counts.get(key)
            if f'zones="{zone.origin}"' in key and values[0] != values[1]:
                found.append(f"{key} {values}: {zone.options!r}")
    return found


def test_all_options_beside_coredns(tmp_path):
    served, differences = zones(), list[str]()
    with (
        subject(peers.coredns, served, tmp_path) as theirs,
        subject(peers.clusterdns, served, tmp_path) as ours,
    ):
        began = time.monotonic()
        for at_s, step in SCRIPT:
            time.sleep(max(0.0, began + at_s - time.monotonic()))
            words = step.split()
            if words[0] != "ask":
                for each in (theirs, ours):
                    change(each.upstream, served, words)
                continue
            manner = words[1] if len(words) > 1 else ""
            queries = [query(zone, i, manner) for i, zone in enumerate(served)]
            their_replies, our_replies = ask_all([theirs, ours], queries)
            for i, zone in enumerate(served):
                if zone.is_forgetful and manner == "forgetful":
                    continue
                found = compare.difference(
                    queries[i], their_replies.get(i), without_error(our_replies.get(i)),
                    compare.Rules(),
                )  # fmt: skip
                if found:
                    differences.append(f"{at_s} {step}, {zone.options!r}: {found}")
        differences += counted_otherwise(theirs, ours, served)
    assert [] == differences, "\n\n".join(differences[:20])
