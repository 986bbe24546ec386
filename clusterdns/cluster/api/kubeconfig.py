"""Kubeconfigs: the server and the credentials of a context, as in client-go.

Errors do not quote the content, which has tokens and keys. A user with a login program or provider
is left to the kubernetes package (login.py). (client-go:
tools/clientcmd/client_config.go, validation.go)
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clusterdns.cluster.api.identity import Identity, Pem, read
from clusterdns.cluster.api.location import parse_proxy, parse_server
from clusterdns.cluster.yamltext import YamlError, documents
from clusterdns.errors import ApiError

Section = Mapping[str, Any]


class Kubeconfig(NamedTuple):
    """One context of a kubeconfig. ``user`` and ``cluster`` are its raw sections."""

    server: str
    identity: Identity
    proxy: str  # a URL, "" for what the environment says
    token: str
    token_file: Path | None
    basic: str  # user:password
    user: Section
    cluster: Section
    directory: Path

    @property
    def needs_login(self) -> bool:
        """Whether a program or a provider has to say who we are."""
        if self.user.get("auth-provider"):
            return True
        return bool(self.user.get("exec")) and not (self.token or self.token_file)


def load(file: Path, context: str) -> Kubeconfig:
    """Return what a context says, the current one if ``context`` is "".

    Raises:
        ApiError: the file cannot be read, or says too little. Names the file.
    """
    with _telling(file):
        return _load(_parse(file), context, file.parent)


def check(file: Path, context: str, has_package: Callable[[], bool]) -> None:
    """Check that a kubeconfig says enough, and that its files are certificates and keys.

    Raises:
        ApiError: it does not. Names the kubeconfig.
    """
    with _telling(file):
        found = load(file, context)
        if found.server.startswith("https:"):
            found.identity.context()
        if found.token_file is not None:
            read(found.token_file, "")
        if found.needs_login and not has_package():
            package = "the Python package kubernetes: pip install kubernetes"
            raise ApiError(f"exec and auth-provider need {package}")


@contextlib.contextmanager
def _telling(file: Path) -> Iterator[None]:
    """Have errors begin with the name of the kubeconfig."""
    try:
        yield
    except ApiError as error:
        text = str(error)
        raise ApiError(text if text.startswith(str(file)) else f"{file}: {text}") from None


def _parse(file: Path) -> Section:
    try:
        found = next(documents(read(file, "")), None)
    except YamlError as error:
        line = f":{error.line}" if error.line else ""
        raise ApiError(f"{file}{line}: is no YAML") from None
    if not found or not isinstance(found, Mapping):
        raise ApiError("is empty, or no kubeconfig")
    return found


def _load(config: Section, context: str, directory: Path) -> Kubeconfig:
    name = context or _text(config, "current-context")
    if not name:
        raise ApiError("has no current-context, and no context is named")
    chosen = _named(config, "context", name)
    cluster = _named(config, "cluster", _text(chosen, "cluster"))
    user_name = _text(chosen, "user")
    user = _named(config, "user", user_name) if user_name else {}
    certificate = _pem(user, "client-certificate", directory)
    key = _pem(user, "client-key", directory)
    if certificate is not None and key is None:
        raise ApiError(f"user {user_name!r} has a client-certificate and no client-key")
    is_insecure = cluster.get("insecure-skip-tls-verify") is True
    authority = None if is_insecure else _pem(cluster, "certificate-authority", directory)
    identity = Identity(
        certificate, key, authority, _text(cluster, "tls-server-name"), not is_insecure
    )
    proxy_url = _text(cluster, "proxy-url")
    token_file = _text(user, "tokenFile")
    username, password = _text(user, "username"), _text(user, "password")
    server, user_of_url = _server(_text(cluster, "server"), identity)
    return Kubeconfig(
        server,
        identity,
        parse_proxy(proxy_url, "proxy-url") if proxy_url else "",
        _text(user, "token").strip(),
        directory / token_file if token_file else None,
        f"{username}:{password}" if username or password else user_of_url,
        user,
        cluster,
        directory,
    )


def _server(text: str, identity: Identity) -> tuple[str, str]:
    """Return the URL of a server, and the user:password that stood in it."""
    if not text:
        raise ApiError("the cluster has no server")
    scheme = "http" if identity == Identity() else "https"
    return parse_server(text, scheme, "the cluster's server")


def _named(config: Section, kind: str, name: str) -> Section:
    """Return the content of the one entry of a list that has a name. Raises ApiError."""
    entries = config.get(f"{kind}s") or []
    if not isinstance(entries, list):
        raise ApiError(f"{kind}s is no list")
    found = [e for e in entries if isinstance(e, Mapping) and e.get("name") == name]
    if len(found) != 1:
        raise ApiError(f"has {len(found) or 'no'} {kind}{'s' * bool(found)} with the name {name!r}")
    return _section(found[0], kind)


def _section(parent: Section, key: str) -> Section:
    found = parent.get(key)
    if found is not None and not isinstance(found, Mapping):
        raise ApiError(f"{key} is no mapping")
    return found or {}


def _text(section: Section, key: str) -> str:
    found = section.get(key)
    if found is not None and not isinstance(found, str):
        raise ApiError(f"{key} is no text")
    return found or ""


def _pem(section: Section, key: str, directory: Path) -> Pem | None:
    """Return a certificate or key: octets in the text of KEY-data, else the file of KEY."""
    if data := _text(section, f"{key}-data"):
        try:
            return base64.b64decode("".join(data.split()), validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(f"{key}-data is no base64") from None
    file = _text(section, key)
    return directory / file if file else None
