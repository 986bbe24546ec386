"""Which namespace a client is in: the Pods of a store, by address.

An address of no Pod, and one that Pods of several namespaces have, as it is for a moment while an
address moves from one Pod to the next, is in none: a client with that address is unknown. Pods
with the addresses of their node are not kept at all, see published.py.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

from clusterdns.cluster.objects import ObjectKey
from clusterdns.cluster.published import CLIENTS

if TYPE_CHECKING:
    from clusterdns.cluster.store import Fact

CLIENT: Final = "client"  # the first word of the fact of an address: its client has changed


class Clients:
    """Follows the Pods of a store; ``settled`` is called when they have been listed, or refused."""

    kinds: Collection[str] = (CLIENTS,)

    def __init__(self, settled: Callable[[], None]) -> None:
        self._settled = settled
        self._namespaces: dict[str, str | tuple[str, ...]] = {}  # several only for a moment
        self._addresses: dict[ObjectKey, tuple[str, ...]] = {}

    def take(
        self, kind: str, key: ObjectKey, value: tuple[Any, ...] | None, seconds: int
    ) -> list[Fact]:
        """Take a Pod, or None where it has gone; return the facts of its addresses."""
        before = self._addresses.pop(key, ())
        after: tuple[str, ...] = value[0] if value is not None else ()
        for address in before:
            self._leave(address, key[0])
        for address in after:
            self._enter(address, key[0])
        if after:
            self._addresses[key] = after
        return [(CLIENT, address) for address in {*before, *after}]

    def settle(self) -> None:
        """Take note that the Pods have been listed, or must not be."""
        self._settled()

    def namespace_of(self, address: str) -> str | None:
        """Return the namespace of the Pod at an address in canonical text, None if unknown."""
        found = self._namespaces.get(address)
        if isinstance(found, tuple):
            return found[0] if len(set(found)) == 1 else None
        return found

    def _enter(self, address: str, namespace: str) -> None:
        known = self._namespaces.get(address)
        if known is None:
            self._namespaces[address] = namespace
        else:
            self._namespaces[address] = (*_several(known), namespace)

    def _leave(self, address: str, namespace: str) -> None:
        left = [*_several(self._namespaces.pop(address, ()))]
        if namespace in left:
            left.remove(namespace)
        if left:
            self._namespaces[address] = left[0] if len(left) == 1 else tuple(left)


def _several(known: str | tuple[str, ...]) -> tuple[str, ...]:
    return (known,) if isinstance(known, str) else known
