# Invariant: however a feed is cut into chunks, its messages arrive whole and in their order; a message
# of a wrong shape ends the connection, and nothing else; and the store is what was sent to it last.
"""Fuzz the feed from the watcher to the workers: ``guided.py feed_frames``.

The input says which messages there are and how they are cut; ``marshal`` itself is never given octets
that this program has not written: its only other end is a process of our own.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from clusterdns.cluster.feed import Subscription, plain
from clusterdns.cluster.objects import MANIFEST_KINDS, Namespace, Pod, Service, cut
from clusterdns.cluster.store import Store
from clusterdns.host import channel

KINDS = tuple(MANIFEST_KINDS)
logging.disable(logging.CRITICAL)
WRONG = ((), ("changes",), ("changes", 7), ("synced", None), 5, ("changes", [("services", 1)]),
         ("changes", [("services", ("a", "b"), ("x",))]), ("changes", [(1, 2, 3, 4)]))  # fmt: skip


class Transport(asyncio.Transport):
    """Notes whether it was aborted."""

    is_aborted = False

    def abort(self) -> None:
        self.is_aborted = True

    def pause_reading(self) -> None:
        """Nothing: the test goes on."""

    def resume_reading(self) -> None:
        """Nothing either."""


def seeds() -> list[bytes]:
    return [bytes(range(i, i + 40)) for i in range(0, 200, 20)] + [b"\xff" * 9, b"\0\1\2" * 20]


def message_of(a: int, b: int) -> Any:
    """Return the message that two octets stand for."""
    kind, key = KINDS[a % len(KINDS)], (f"n{b & 3}", f"s{b >> 2 & 7}")
    if a >= 250:
        return WRONG[b % len(WRONG)]
    if a >= 230:
        return ("synced" if b & 1 else "refused"), [kind]
    return "changes", [(kind, key, None if b & 128 else value_of(kind, key, b))]


def value_of(kind: str, key: tuple[str, str], b: int) -> Any:
    if kind == "namespaces":
        return plain(Namespace())
    if kind == "pods":
        return plain(Pod((f"10.0.0.{b}",)))
    manifest = {
        "metadata": {"namespace": key[0], "name": key[1],
                     "labels": {"kubernetes.io/service-name": key[1],
                                "multicluster.kubernetes.io/service-name": key[1]}},
        "spec": {"clusterIP": "None" if b & 1 else f"10.1.0.{b}", "ips": [f"10.1.0.{b}"],
                 "ports": [{"name": "p", "port": b, "protocol": "TCP"}]},
        "endpoints": [{"addresses": [f"10.2.0.{b}"]}], "addressType": "IPv4",
    }  # fmt: skip
    return plain(cut(kind, manifest)[1])


def examine(data: bytes) -> None:
    """Hold the invariant for one feed."""
    if len(data) > 2:
        asyncio.run(send(data))


async def send(data: bytes) -> None:
    size, data = 1 + data[0], data[1:]
    messages = [message_of(a, b) for a, b in zip(data[::2], data[1::2], strict=False)]
    octets = b"".join(map(channel.frame, messages))
    store = Store(KINDS)
    taken: list[Any] = []
    found = Subscription("", store, kinds=KINDS, changed=lambda _: None, clock=lambda: 1.0)

    def take(message: Any) -> None:
        taken.append(message)
        found._take(message)

    frames, transport = channel.Frames(take), Transport()
    frames.connection_made(transport)
    for i in range(0, len(octets), size):
        if not transport.is_aborted:
            frames.data_received(octets[i : i + size])
        if not i % 16:
            await asyncio.sleep(0)
    for _ in range(2 * len(messages) + 2):
        if transport.is_aborted:
            break
        await asyncio.sleep(0)
    right = messages[: next((i for i, m in enumerate(messages) if m in WRONG), len(messages))]
    assert right == taken[: len(right)]
    assert transport.is_aborted or len(taken) == len(messages)
    assert isinstance(store.services.by_name, dict) and Service is not None
