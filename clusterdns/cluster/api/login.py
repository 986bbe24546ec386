"""Users that a program (`exec`) or a provider (`auth-provider`) logs in: the kubernetes package.

This is its only importer, in a watcher process that needs it: it takes 14 MiB and 0.14 s of CPU. Of
it these two are used. Its readers of kubeconfigs put keys into files and contents into errors, its
models, watches and informers hold lists whole, never page, and ask a failing server again without a
pause.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from kubernetes.client import Configuration
from kubernetes.config import exec_provider, kube_config

from clusterdns.cluster.api.identity import Identity
from clusterdns.cluster.api.kubeconfig import Kubeconfig
from clusterdns.errors import ApiError

EARLY_S = 10.0  # before it ends, a login is renewed


class Login(NamedTuple):
    """Who we are: a token or a certificate, and Unix time until when, None for no end."""

    identity: Identity
    headers: Callable[[], Mapping[str, str]]
    until: float | None = None


def log_in(found: Kubeconfig) -> Login:
    """Return what the program or the provider of a kubeconfig's user says.

    Raises:
        ApiError: it says nothing of use.
        Exception: whatever the package and its libraries raise.
    """
    return _by_provider(found) if found.user.get("auth-provider") else _by_program(found)


def _by_program(found: Kubeconfig) -> Login:
    node: Any = kube_config.ConfigNode  # the package's classes are not typed
    provider: Any = exec_provider.ExecProvider
    program, cluster = node("exec", found.user["exec"]), node("cluster", dict(found.cluster))
    made = provider(program, str(found.directory), cluster)
    status = made.run()
    if not isinstance(status, dict):
        raise ApiError("exec: the program's status is no object")
    until = _unix_time(status.get("expirationTimestamp"))
    if token := status.get("token"):
        return Login(found.identity, lambda: _bearer(str(token)), until)
    certificate, key = status.get("clientCertificateData"), status.get("clientKeyData")
    if not (isinstance(certificate, str) and isinstance(key, str)):
        raise ApiError("exec: the program says no token, and no certificate with its key")
    pair = found.identity._replace(certificate=certificate.encode(), key=key.encode())
    return Login(pair, dict, until)


def _by_provider(found: Kubeconfig) -> Login:
    """Let the package speak to a provider; it is told nothing of our keys."""
    provider = dict(found.user["auth-provider"])
    settings = dict(provider.get("config") or {})
    if data := settings.pop("idp-certificate-authority-data", ""):
        settings["idp-certificate-authority"] = _in_memory(data)
    provider["config"] = settings
    config = {
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": "http://x.invalid"}}],
        "users": [{"name": "x", "user": {"auth-provider": provider}}],
    }
    made: Any = Configuration()
    from_dict: Any = kube_config.load_kube_config_from_dict
    from_dict(config, client_configuration=made, persist_config=False)

    def headers() -> Mapping[str, str]:
        return {
            setting["key"]: str(setting["value"]).strip()
            for setting in made.auth_settings().values()
            if setting["in"] == "header" and setting["value"]
        }

    return Login(found.identity, headers)


@functools.lru_cache(maxsize=8)  # a file descriptor each
def _in_memory(data: str) -> str:
    """Return the path of a file in memory; it is there for as long as this process is."""
    try:
        octets = base64.b64decode(data)
    except (binascii.Error, ValueError):
        raise ApiError("idp-certificate-authority-data is no base64") from None
    number = os.memfd_create("authority")
    os.write(number, octets)
    return f"/proc/self/fd/{number}"


def _bearer(token: str) -> Mapping[str, str]:
    return {"authorization": f"Bearer {token.strip()}"}


def _unix_time(text: object) -> float | None:
    """Return the seconds of an RFC 3339 time less some, None where there is none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.timestamp() - EARLY_S
