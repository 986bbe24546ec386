"""Where the objects of a store come from: manifests on disk, or an API server.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import NamedTuple


class Source(NamedTuple):
    """Where the objects of a store come from; equal sources share one watcher.

    ``selector`` picks Services, EndpointSlices and Pods by label, ``namespace_selector``
    Namespaces. ``manifests`` is a directory. If it is empty, the source is an API server: that of
    ``kubeconfig``, else ``endpoint``, else that of the cluster we run in.
    """

    manifests: str
    kinds: tuple[str, ...]
    is_zonal: bool = False  # whether the topology zones of endpoints are kept
    is_external: bool = False  # whether the external addresses of Services are kept
    selector: str = ""
    namespace_selector: str = ""
    endpoint: str = ""
    endpoint_user: str = ""  # user:password, which stood in its URL
    tls: tuple[str, ...] = ()  # files: certificate, key, CA
    kubeconfig: str = ""
    context: str = ""
    qps: float = 0  # requests a second, 0 for no limit
    burst: int = 0
    audit_s: float = 300  # interval of comparisons with the server, 0 for never
    snapshot: str = ""  # path of the snapshot file, "" for none

    @property
    def title(self) -> str:
        """The name of the source in log lines and metrics."""
        return self.manifests or self.kubeconfig or self.endpoint or "the cluster"
