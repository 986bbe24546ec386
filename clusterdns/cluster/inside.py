"""Names inside, as the plugins of one server block tell each other of them.

`kubernetes` enters the cluster that it answers from; `k8s_external` and `endpoint` answer
from it too, and `search` asks which Services there are. None of them knows the others, or
who was made first.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable

from clusterdns.cluster.external import Cluster
from clusterdns.cluster.source import Source

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
