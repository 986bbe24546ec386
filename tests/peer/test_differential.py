"""The same questions to clusterdns and to a real CoreDNS about the same random clusters.

Every question is asked five times: over TCP and UDP, without EDNS and with it, the flags, sizes and
options at random. Where neither server caches, the cluster then changes under both, and they have
to agree again. What may differ is in ``compare.Rules``; anything else fails, with the seed and both
replies. More seeds, or others: ``DIFFERENTIAL_SEEDS=100-140 pytest tests/test_differential.py``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from pathlib import Path

import compare
import peers
import pytest
import questions
import scoreboard
from allowances import Allowances
from clusters import OUTSIDE, Cluster
from fakeapi import FakeApi
from questions import Asked, Manner
from scriptedupstream import ScriptedUpstream

from clusterdns.host import interfaces

QUESTIONS = 800
QUESTIONS_AFTER_CHANGE = 200
WINDOW = 32  # queries in flight: less than any socket buffer holds
AGREE_S = 10  # for both servers to have heard of every change
LAST_SEED = scoreboard.size("LAST_SEED", 19, 31)
FIRST, LAST = map(int, os.environ.get("DIFFERENTIAL_SEEDS", f"0-{LAST_SEED}").split("-"))
# TCP first: it brings the whole replies.
PASSES = (
    ("tcp", questions.plain),
    ("tcp", questions.extended),
    ("udp", questions.plain),
    ("udp", questions.extended),
    ("udp", questions.extended),
)


@pytest.fixture(scope="module")
def upstream():
    made = ScriptedUpstream(OUTSIDE)
    yield made
    made.stop()


@pytest.mark.row("W6")
@pytest.mark.peer
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
def test_answers_are_those_of_coredns(seed, upstream, tmp_path, figure):
    cluster = Cluster(seed, interfaces.non_loopback())
    directory = tmp_path / "cluster"
    directory.mkdir()
    write(directory, cluster)
    with FakeApi(cluster.manifests) as api:
        watched = f"endpoint {api.url}"
        theirs = cluster.corefile(watched, upstream.address)
        source = watched if seed % 2 else f"manifests {directory}"  # one after the other
        ours = cluster.corefile(source, upstream.address)
        with peers.clusterdns(ours, tmp_path) as us, peers.coredns(theirs, tmp_path) as them:
            found = differences(cluster, us, them)
            if not found and not cluster.has_cache:
                change(cluster, api, directory)
                found = differences_at_last(cluster, us, them)
    figure(
        "W6",
        "{total_queries:,} queries on {runs} random clusters beside CoreDNS: 0 differences that are not listed",
        total_queries=QUESTIONS * len(PASSES),
    )
    assert not found, f"seed {seed}: {len(found)} of them\n{ours}\n" + "\n\n".join(found[:5])


def write(directory: Path, cluster: Cluster) -> None:
    """Put the cluster's manifests in place, all at once."""
    listing = {"kind": "List", "items": cluster.manifests}
    (directory / "all.new").write_text(json.dumps(listing))
    (directory / "all.new").replace(directory / "all.json")


def change(cluster: Cluster, api: FakeApi, directory: Path) -> None:
    """Let the cluster become another, for both servers."""
    applied, gone = cluster.change()
    for kind, namespace, name in gone:
        api.delete(kind, name, namespace)
    for manifest in applied:
        api.apply(manifest)
    write(directory, cluster)


def differences(cluster: Cluster, us: peers.Server, them: peers.Server) -> list[str]:
    """Return every difference that no rule allows, as text."""
    some = questions.questions(cluster, QUESTIONS)
    allowed, started = Allowances(cluster), time.monotonic()
    found: list[str] = []
    whole: dict[int, bytes] = {}
    for transport, manner_of in PASSES:
        manners = [manner_of(cluster.random) for _ in some]
        their_replies, our_replies = both(some, manners, transport, them, us)
        whole = whole or our_replies
        for i, (asked, manner) in enumerate(zip(some, manners, strict=True)):
            age_s = time.monotonic() - started
            rules = allowed.rules(asked, manner, age_s, whole.get(i))
            query = questions.packet(asked, i, manner)
            text = compare.difference(query, their_replies.get(i), our_replies.get(i), rules)
            if text:
                found.append(f"{asked} {manner} over {transport}\n{text}")
    return found


def differences_at_last(cluster: Cluster, us: peers.Server, them: peers.Server) -> list[str]:
    """Return the differences that are left when both servers had time to hear of a change."""
    some = questions.questions(cluster, QUESTIONS_AFTER_CHANGE)
    time.sleep(1)  # the manifests are looked at every half second
    deadline = time.monotonic() + AGREE_S
    while True:
        allowed = Allowances(cluster)
        manners = [Manner()] * len(some)
        their_replies, our_replies = both(some, manners, "tcp", them, us)
        found = []
        for i, (asked, manner) in enumerate(zip(some, manners, strict=True)):
            rules = allowed.rules(asked, manner, 0, our_replies.get(i))
            query = questions.packet(asked, i, manner)
            text = compare.difference(query, their_replies.get(i), our_replies.get(i), rules)
            if text:
                found.append(f"{asked} after the change\n{text}")
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)


def both(
    some: list[Asked], manners: list[Manner], transport: str, *servers: peers.Server
) -> list[dict[int, bytes]]:
    """Return each server's replies, by the question's place."""
    packets = [
        questions.packet(asked, i, manner)
        for i, (asked, manner) in enumerate(zip(some, manners, strict=True))
    ]
    ask = ask_tcp if transport == "tcp" else ask_udp
    return [ask(server, packets) for server in servers]


def ask_udp(server: peers.Server, packets: list[bytes]) -> dict[int, bytes]:
    """Return the replies by ID; what is not answered within seconds is not there."""
    found: dict[int, bytes] = {}
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        sock.connect(server.address)
        for start in range(0, len(packets), WINDOW):
            window = packets[start : start + WINDOW]
            for sent in window:
                sock.send(sent)
            waiting = set(range(start, start + len(window)))
            deadline = time.monotonic() + 4
            while waiting and (left := deadline - time.monotonic()) > 0:
                sock.settimeout(left)
                try:
                    reply = sock.recv(65535)
                except TimeoutError:
                    break
                ident = struct.unpack("!H", reply[:2])[0]
                found[ident] = reply
                waiting.discard(ident)
    return found


def ask_tcp(server: peers.Server, packets: list[bytes]) -> dict[int, bytes]:
    """Return the replies by ID, over connections of a window each."""
    found: dict[int, bytes] = {}
    for start in range(0, len(packets), WINDOW):
        with socket.create_connection(server.address, 4) as sock:
            window = packets[start : start + WINDOW]
            sock.sendall(b"".join(struct.pack("!H", len(sent)) + sent for sent in window))
            with contextlib.suppress(TimeoutError):
                for _ in window:
                    reply = peers.read_frame(sock)
                    if reply is None:
                        break
                    found[struct.unpack("!H", reply[:2])[0]] = reply
    return found
