"""The same questions to clusterdns and to a real CoreDNS about the same random clusters.

Every question is asked over UDP and TCP, without EDNS and with it. What may differ is in
``compare.Rules``; anything else fails, with the seed and both replies. More seeds, or others:
``DIFFERENTIAL_SEEDS=100-140 pytest tests/test_differential.py``.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time

import compare
import dns.message
import dns.name
import peers
import pytest
from clusters import OUTSIDE, Asked, Cluster
from fakeapi import FakeApi
from scriptedupstream import ScriptedUpstream

from clusterdns import interfaces

QUESTIONS = 800
WINDOW = 32  # queries in flight: less than any socket buffer holds
FIRST, LAST = map(int, os.environ.get("DIFFERENTIAL_SEEDS", "0-19").split("-"))
# Transport, payload size (0: no EDNS), DO. TCP first: it brings the whole replies.
MANNERS = (("tcp", 0, False), ("tcp", 4096, True), ("udp", 0, False), ("udp", 1232, False),
           ("udp", 4096, True))  # fmt: skip


@pytest.fixture(scope="module")
def upstream():
    made = ScriptedUpstream(OUTSIDE)
    yield made
    made.stop()


@pytest.mark.peer
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seed", range(FIRST, LAST + 1))
def test_answers_are_those_of_coredns(seed, upstream, tmp_path):
    cluster = Cluster(seed, interfaces.non_loopback())
    directory = tmp_path / "cluster"
    directory.mkdir()
    listing = {"kind": "List", "items": cluster.manifests}
    (directory / "all.json").write_text(json.dumps(listing))
    with FakeApi(cluster.manifests) as api:
        ours = cluster.corefile(f"manifests {directory}", upstream.address)
        theirs = cluster.corefile(f"endpoint {api.url}", upstream.address)
        with peers.clusterdns(ours, tmp_path) as us, peers.coredns(theirs, tmp_path) as them:
            found = differences(cluster, us, them)
    assert not found, f"seed {seed}: {len(found)} of them\n{ours}\n" + "\n\n".join(found[:5])


def differences(cluster: Cluster, us: peers.Server, them: peers.Server) -> list[str]:
    """Return every difference that no rule allows, as text."""
    questions = cluster.questions(QUESTIONS)
    found: list[str] = []
    whole: dict[Asked, bytes | None] = {}
    for transport, payload, wants_dnssec in MANNERS:
        packets = [
            packet(asked, i, payload, wants_dnssec=wants_dnssec)
            for i, asked in enumerate(questions)
        ]
        ask = ask_tcp if transport == "tcp" else ask_udp
        their_replies, our_replies = ask(them, packets), ask(us, packets)
        for i, asked in enumerate(questions):
            theirs, ours = their_replies.get(i), our_replies.get(i)
            if transport == "tcp" and not payload:
                whole[asked] = ours
            rules = rules_for(cluster, asked, whole[asked])
            text = compare.difference(packets[i], theirs, ours, rules)
            if text:
                found.append(f"{asked} over {transport}, EDNS {payload}, DO {wants_dnssec}\n{text}")
    return found


def rules_for(cluster: Cluster, asked: Asked, whole: bytes | None) -> compare.Rules:
    return compare.Rules(
        is_ordered=cluster.is_ordered(asked.qname),
        is_cached=cluster.has_cache,
        is_outside=is_outside(cluster, asked),
        whole=compare.parse(whole) if whole else None,
    )


def is_outside(cluster: Cluster, asked: Asked) -> bool:
    """Tell whether an upstream server may have had a part in the answer."""
    qname = asked.qname.lower()
    return not qname.endswith(".cluster.local.") or any(
        qname.startswith(f"{metadata['name']}.{metadata['namespace']}.svc.")
        for manifest in cluster.manifests
        if (manifest.get("spec") or {}).get("type") == "ExternalName"
        for metadata in [manifest["metadata"]]
    )


def packet(asked: Asked, ident: int, payload: int, *, wants_dnssec: bool) -> bytes:
    """Return a query; its ID is its place among the questions."""
    qname = dns.name.from_text(asked.qname).to_wire()
    head = struct.pack("!HHHHHH", ident, 0x0100, 1, 0, 0, 1 if payload else 0)
    opt = (
        struct.pack("!BHHIH", 0, 41, payload, 0x8000 if wants_dnssec else 0, 0) if payload else b""
    )
    return head + qname + struct.pack("!HH", asked.qtype, asked.qclass) + opt


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
            try:
                for _ in window:
                    reply = peers.read_frame(sock)
                    if reply is None:
                        break
                    found[struct.unpack("!H", reply[:2])[0]] = reply
            except TimeoutError:
                pass
    return found
