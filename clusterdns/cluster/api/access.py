"""The URL of a Kubernetes API server, our credentials for it, and connections to it.

They come from the environment and the ServiceAccount's files of a Pod, from `endpoint`, or from a
kubeconfig. (CoreDNS: plugin/kubernetes/kubernetes.go getClientConfig; client-go:
rest.InClusterConfig)
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import urllib3

from clusterdns.cluster.api.identity import Identity, Stamps, identity_of
from clusterdns.cluster.api.location import proxy_of, url_of
from clusterdns.cluster.api.server import MAX_CONNECTIONS, Access, socket_options
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError
from clusterdns.host.stamp import Stamp, read_regular

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_TOKEN_OCTETS = 2**20
TOKEN_AGE_S = 50.0  # as in client-go: a minute less ten seconds
_log = logging.getLogger("kubernetes")


class TokenFile:
    """A token file that Kubernetes rewrites from time to time; the last good token is kept."""

    def __init__(self, path: Path, first: str = "") -> None:
        self._path = path
        self._token = first
        self._read_at = float("-inf")
        self._stamp: Stamp | None = None

    def get(self, now: float) -> str:
        """Return the token, read again if it is old. Raises ApiError if there was never one."""
        if now - self._read_at >= TOKEN_AGE_S:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                # A file being written is empty for a moment; a newline would break the header.
                found = read_regular(self._path, MAX_TOKEN_OCTETS, self._stamp)
                if found is None:
                    self._read_at = now
                else:
                    self._take(*found, now)
        if not self._token:
            raise ApiError(f"{self._path}: no readable token")
        return self._token

    def _take(self, stamp: Stamp, octets: bytes, now: float) -> None:
        token = octets.decode("ascii").strip()
        if token and token.isprintable():
            self._token, self._read_at = token, now
            self._stamp = stamp if stamp.is_settled else None

    def headers(self) -> Mapping[str, str]:
        """Return the header with the present token. Raises ApiError."""
        return {"authorization": f"Bearer {self.get(time.monotonic())}"}


def find(source: Source, account: Path) -> Access:
    """Return the access to the server of a source, by default that of the cluster we run in.

    ``account`` is the directory of the ServiceAccount.

    Raises:
        ApiError: nothing names a server, or a file is missing or wrong.
        Exception: the kubernetes package, if a kubeconfig needs it, rejects something.
    """
    if source.kubeconfig:
        return _of_kubeconfig(Path(source.kubeconfig), source.context)
    url = url_of(source, os.environ)
    if source.endpoint:
        return _access(url, identity_of(source), lambda: _basic(source.endpoint_user))
    identity = Identity(authority=account / "ca.crt")
    return _access(url, identity, TokenFile(account / "token").headers)


def _of_kubeconfig(file: Path, context: str) -> Access:
    from clusterdns.cluster.api import kubeconfig  # and PyYAML, which nobody else needs

    stamps = Stamps([file])
    found = kubeconfig.load(file, context)
    identity, until = found.identity, None
    headers: Callable[[], Mapping[str, str]]
    if found.needs_login:
        from clusterdns.cluster.api import login  # and the kubernetes package

        identity, headers, until = login.log_in(found)
    elif found.token_file is not None:
        headers = TokenFile(found.token_file, found.token).headers
    elif found.token:
        bearer = {"authorization": f"Bearer {found.token}"}
        headers = lambda: bearer  # noqa: E731 - one of five ways to say who we are
    else:
        headers = lambda: _basic(found.basic)  # noqa: E731 - see above
    access = _access(found.server, identity, headers, found.proxy)

    def has_changed() -> bool:
        has_ended = until is not None and time.time() >= until
        return has_ended or stamps.have_changed or access.has_changed()

    return access._replace(has_changed=has_changed)


def _access(
    url: str, identity: Identity, headers: Callable[[], Mapping[str, str]], proxy: str = ""
) -> Access:
    """Return the access to a URL, by the proxy named or else the one of the environment."""
    stamps = Stamps(identity.files)
    if not identity.is_verified:  # logged once, not at each request
        _log.warning("plugin/kubernetes: the API server's certificate is not verified")
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
    pool = _pool(url, identity, proxy or proxy_of(url, os.environ))
    return Access(url, pool, headers, identity, lambda: stamps.have_changed)


def _pool(url: str, identity: Identity, proxy: str) -> urllib3.PoolManager:
    options: dict[str, Any] = {"maxsize": MAX_CONNECTIONS, "socket_options": socket_options()}
    if url.startswith("https:"):
        options["ssl_context"] = identity.context()
        if identity.server_name:
            options["server_hostname"] = identity.server_name
    if not proxy:
        return urllib3.PoolManager(**options)
    parts = urllib.parse.urlsplit(proxy)
    if parts.username:
        user = urllib.parse.unquote(f"{parts.username}:{parts.password or ''}")
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=user)
    if parts.scheme == "https":
        options["proxy_ssl_context"] = _context_of_proxy(identity)
    where = parts._replace(netloc=parts.netloc.rpartition("@")[2], path="", query="", fragment="")
    return urllib3.ProxyManager(where.geturl(), **options)


def _context_of_proxy(identity: Identity) -> ssl.SSLContext:
    """Return how a proxy is known: by the system's CAs, or the cluster's, which Go asks alone."""
    context = identity._replace(certificate=None, key=None, is_verified=True).context()
    context.load_default_certs()
    return context


def _basic(user: str) -> Mapping[str, str]:
    return urllib3.make_headers(basic_auth=user) if user else {}
