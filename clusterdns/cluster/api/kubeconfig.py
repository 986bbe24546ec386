"""Access to an API server through a kubeconfig, with its contexts and exec plugins, or a proxy.

Only this module imports the kubernetes package, and only a watcher that needs it imports this
module. The package's models, watches and informers are not used: they hold whole lists in memory,
never page, and repeat a failed request without a pause.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import urllib3
from kubernetes.client import Configuration, rest
from kubernetes.config import kube_config

from clusterdns.cluster.api.server import (
    MAX_CONNECTIONS,
    Access,
    ApiServer,
    is_here,
    socket_options,
)

_log = logging.getLogger("kubernetes")


def find(path: str, context: str) -> Access:
    """Return the access that a kubeconfig describes, by its current context if none is named.

    Raises:
        Exception: whatever the package and its libraries raise.
    """
    found: Any = Configuration()  # the package's classes are not typed
    from_file: Any = kube_config.load_kube_config
    from_file(path, context or None, found, persist_config=False)
    if not found.verify_ssl:  # logged once, not at each request
        _log.warning("plugin/kubernetes: the API server's certificate is not verified")
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

    def credentials() -> Mapping[str, str]:
        return {
            setting["key"]: str(setting["value"]).strip()
            for setting in found.auth_settings().values()
            if setting["in"] == "header" and setting["value"]
        }

    return Access(found.host.rstrip("/"), _pool(found), credentials)


def pool(server: ApiServer) -> urllib3.PoolManager:
    """Return connections to a server, through the environment's proxy if it applies."""
    found: Any = Configuration()
    found.host = server.url
    found.cert_file, found.key_file = server.certificate, server.key
    found.ssl_ca_cert = server.authority
    return _pool(found)


def _pool(configuration: Any) -> urllib3.PoolManager:  # noqa: ANN401 - see above
    if is_here(configuration.host):
        configuration.proxy = None
    configuration.connection_pool_maxsize = MAX_CONNECTIONS
    found: urllib3.PoolManager = rest.RESTClientObject(configuration).pool_manager
    found.connection_pool_kw["socket_options"] = (
        socket_options()
    )  # the package's keep-alive takes 165 s
    return found
