"""Names inside, as the plugins of one server block tell each other of them.

`kubernetes` enters the cluster that it answers from; `k8s_external` and `endpoint` answer
from it too, `search` asks which Services there are, and `policy` to which namespace a name
belongs. None of them knows the others, or who was made first.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from clusterdns.cluster.external import Cluster
from clusterdns.cluster.source import Source
from clusterdns.wire import name
from clusterdns.wire.name import WireName

# Takes the folded labels of a namespace and a Service; tells whether it exists, with or without
# endpoints.
IsService = Callable[[bytes, bytes], bool]


def _nothing(_namespace: bytes, _service: bytes) -> bool:
    return False


class Inside:
    """The cluster of a server block; a block without one has no Services."""

    def __init__(self) -> None:
        self.is_service: IsService = _nothing
        self.cluster: Callable[[], Cluster] | None = None
        self.source: Callable[[], Source] | None = None  # once all plugins are made
        self.is_asked_for_external = False  # external addresses of Services are answered
        self.published: set[str] = set()  # kinds that are watched for other plugins
        self.zones: list[WireName] = []  # whose names come from the cluster, reverse ones too
        # Right below are namespaces, such as `svc.cluster.local`; the longest come first.
        self.homes: list[WireName] = []

    def namespace_of(self, folded: WireName) -> str | None:
        """Return the namespace that a name is in, whether it exists or not; None for other names.

        Names at and below ``NAMESPACE.svc.cluster.local`` are; likewise in other homes.
        """
        home = self.home_of(folded)
        if home is None:
            return None
        return name.labels(WireName(folded[: -len(home)] + name.ROOT))[-1].decode("latin-1")

    def home_of(self, folded: WireName) -> WireName | None:
        """Return the home that a name is below, the longest of several, or None."""
        for home in self.homes:  # two or three: a generator would take longer than all else
            if name.is_below(folded, home):
                return home
        return None

    def add_homes(self, homes: Iterable[WireName]) -> None:
        """Add names right below which are namespaces."""
        self.homes = sorted((*self.homes, *homes), key=len, reverse=True)
