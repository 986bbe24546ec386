"""The URL of a Kubernetes API server, our credentials for it, and connections to it.

They come from the environment and the ServiceAccount's files of a Pod, or from `endpoint`. Both
need urllib3 only. A kubeconfig or a proxy needs the kubernetes package (kubeconfig.py), whose
import takes 14 MiB and 0.14 s of CPU. (CoreDNS: plugin/kubernetes/kubernetes.go getClientConfig;
client-go: rest.InClusterConfig)
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import urllib3

from clusterdns.cluster.api.server import (
    MAX_CONNECTIONS,
    Access,
    ApiServer,
    is_here,
    socket_options,
)
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError
from clusterdns.host.addresses import host_and_port

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_AGE_S = 50.0  # as in client-go: a minute less ten seconds


class TokenFile:
    """A token file that Kubernetes rewrites from time to time; the last good token is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""
        self._read_at = float("-inf")

    def get(self, now: float) -> str:
        """Return the token, read again if it is old. Raises ApiError if there was never one."""
        if now - self._read_at >= TOKEN_AGE_S:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                # A file being written is empty for a moment; a newline would break the header.
                found = self._path.read_text("ascii").strip()
                if found and found.isprintable():
                    self._token, self._read_at = found, now
        if not self._token:
            raise ApiError(f"{self._path}: no readable token")
        return self._token

    def headers(self) -> Mapping[str, str]:
        """Return the header with the present token. Raises ApiError."""
        return {"authorization": f"Bearer {self.get(time.monotonic())}"}


def find(source: Source, account: Path) -> Access:
    """Return the access to the server of a source, by default that of the cluster we run in.

    ``account`` is the directory of the ServiceAccount.

    Raises:
        ApiError: the environment or the ServiceAccount names no server.
        Exception: the kubernetes package or the TLS library rejects a file.
    """
    if source.kubeconfig:
        from clusterdns.cluster.api import kubeconfig

        return kubeconfig.find(source.kubeconfig, source.context)
    if source.endpoint:
        server = ApiServer(source.endpoint, *source.tls)
        return Access(server.url, _pool(server), dict)
    server = _cluster_of_the_pod(account)
    return Access(server.url, _pool(server), TokenFile(account / "token").headers)


def _cluster_of_the_pod(account: Path) -> ApiServer:
    host, port = (os.environ.get(f"KUBERNETES_SERVICE_{word}") for word in ("HOST", "PORT"))
    if not host or not port:
        raise ApiError("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined")
    authority = account / "ca.crt"
    if not authority.is_file():
        raise ApiError(f"{authority}: no such file")
    return ApiServer(f"https://{host_and_port(host, port)}", authority=str(authority))


def _pool(server: ApiServer) -> urllib3.PoolManager:
    if _has_proxy() and not is_here(server.url):
        from clusterdns.cluster.api import kubeconfig

        return kubeconfig.pool(server)
    return urllib3.PoolManager(
        cert_reqs="CERT_REQUIRED",
        ca_certs=server.authority,
        cert_file=server.certificate,
        key_file=server.key,
        maxsize=MAX_CONNECTIONS,
        socket_options=socket_options(),
    )


def _has_proxy() -> bool:
    """Tell whether the environment names a proxy; the kubernetes package checks its use."""
    names = {name.lower() for name, value in os.environ.items() if value}
    return any(name.endswith("_proxy") for name in names - {"no_proxy"})
