"""Where the objects of a store come from: manifests on disk, or an API server.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Where the objects of a store come from; equal sources are watched once.

    ``selector`` picks Services, EndpointSlices and Pods by label, ``namespace_selector``
    Namespaces. ``kinds`` are the kinds wanted. Without ``manifests`` it is an API server: the one
    of ``kubeconfig``, else ``endpoint``, else the one of the cluster we run in.
    """

    manifests: str
    kinds: tuple[str, ...]
    is_zonal: bool = False  # the topology zones of endpoints are wanted
    is_external: bool = False  # the external addresses of Services are wanted
    selector: str = ""
    namespace_selector: str = ""
    endpoint: str = ""
    tls: tuple[str, ...] = ()  # files: certificate, key, CA
    kubeconfig: str = ""
    context: str = ""
    qps: float = 0  # requests a second, 0 for no limit
    burst: int = 0
    audit_s: float = 300  # how often the watch is compared with the server, 0 for never
    snapshot: str = ""  # file that keeps what is known

    @property
    def title(self) -> str:
        """What a line about the source calls it."""
        return self.manifests or self.kubeconfig or self.endpoint or "the cluster"
