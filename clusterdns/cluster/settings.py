"""The settings of a `kubernetes` directive: names, objects and the source of objects.

(CoreDNS: plugin/kubernetes/setup.go)
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Sequence
from pathlib import Path

from clusterdns.cluster import selectors
from clusterdns.cluster.api import location
from clusterdns.cluster.objects import IMPORT_SLICES, IMPORTS, NAMESPACES, PODS, SERVICES, SLICES
from clusterdns.cluster.records import DISABLED, INSECURE, VERIFIED, RecordOptions
from clusterdns.cluster.respond import is_reverse
from clusterdns.cluster.source import Source
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import ApiError
from clusterdns.host import logs
from clusterdns.wire import name
from clusterdns.wire.name import WireName

MAX_TTL_S = 3600
START_TIMEOUT_S = 5.0  # also for what other plugins have watched
_SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_log = logs.plugin_logger("kubernetes")


class Settings:
    """The arguments and the block of one `kubernetes`."""

    def __init__(self, directive: Directive, zones: Sequence[WireName], root: Path) -> None:
        """Read a directive; ``zones`` are its own where it names none, ``root`` that of its paths.

        Raises:
            ConfigError: it has a mistake, or is to find its own cluster and is in none.
        """
        self._root = root
        self.zones = arguments.zone_names(directive.args, directive) or tuple(zones)
        if all(is_reverse(zone) for zone in self.zones):
            raise directive.error("needs a zone that is not a reverse zone")
        self.ttl = 5
        self.fallthrough: tuple[WireName, ...] = ()
        self.multicluster: tuple[WireName, ...] = ()
        self.startup_timeout_s = START_TIMEOUT_S
        self.options = RecordOptions()
        self.source = Source("", ())
        settings = dict[str, str]()
        kinds = [NAMESPACES, SERVICES, SLICES]
        has_tls = any(line.name == "tls" for line in directive.block)
        self._scheme = "https" if has_tls else "http"
        for line in directive.block:
            self._read(line, settings, kinds)
        if not (self.source.manifests or self.source.kubeconfig):
            _check_access(self.source, directive)
        if self.options.namespaces and "namespace_labels" in settings:
            raise directive.error("namespaces and namespace_labels exclude each other")
        if self.options.is_zonal and SLICES not in kinds:
            raise directive.error("zonal and noendpoints exclude each other")
        if self.options.pods == VERIFIED:
            kinds.append(PODS)
        if self.multicluster:
            kinds += [IMPORTS, IMPORT_SLICES]
        self.source = self.source._replace(
            kinds=tuple(kinds),
            is_zonal=self.options.is_zonal,
            selector=settings.get("labels", ""),
            namespace_selector=settings.get("namespace_labels", ""),
        )

    def _read(self, line: Directive, settings: dict[str, str], kinds: list[str]) -> None:
        """Take in one line of the directive's block. Raises ConfigError."""
        options, args = self.options, line.args
        match line.name:
            case "namespaces":
                named = options.namespaces | set(arguments.some(line))
                self.options = options._replace(namespaces=named)
            case "labels" | "namespace_labels":
                settings[line.name] = " ".join(arguments.some(line))
                try:
                    selectors.parse(settings[line.name])
                except ValueError as error:
                    raise line.error(str(error)) from error
            case "pods":
                self.options = options._replace(
                    pods=arguments.word(line, DISABLED, INSECURE, VERIFIED)
                )
            case "endpoint_pod_names":
                self.options = options._replace(endpoint_pod_names=arguments.flag(line))
            case "single_ptr":
                self.options = options._replace(has_single_ptr=arguments.flag(line))
            case "ttl":
                self.ttl = arguments.number(line, most=MAX_TTL_S)
            case "noendpoints":
                if arguments.flag(line) and SLICES in kinds:
                    kinds.remove(SLICES)
            case "fallthrough":
                self.fallthrough = arguments.zone_names(args or (".",), line)
            case "ignore":
                if args:  # CoreDNS takes the bare word and ignores nothing
                    arguments.word(line, "empty_service")
                    self.options = options._replace(ignore_empty_service=True)
            case "startup_timeout":
                self.startup_timeout_s = arguments.seconds(line)
            case "multicluster":
                self.multicluster = arguments.zone_names(args, line) if args else ()
                for zone in set(self.multicluster) - set(self.zones):
                    raise line.error(f"{name.text(zone)} is not among the zones served")
            case "zonal":
                self.options = options._replace(is_zonal=arguments.flag(line))
            case _:
                self._read_source(line)

    def _read_source(self, line: Directive) -> None:
        """Take in one line that says where the cluster is. Raises ConfigError."""
        source, args = self.source, line.args
        match line.name:
            case "manifests":
                source = source._replace(manifests=self._path(arguments.one(line)))
                if not Path(source.manifests).is_dir():
                    raise line.error(f"{source.manifests} is no directory")
            case "endpoint":
                endpoint, user = self._url(line)
                source = source._replace(endpoint=endpoint, endpoint_user=user)
                if len(args) > 1:
                    _log.warning("only the first endpoint is used, %s", args[0])
            case "tls":
                if len(args) != 3:
                    raise line.error("takes the files of certificate, key and CA")
                source = source._replace(tls=tuple(self._file(text, line) for text in args))
            case "kubeconfig":
                if len(args) not in (1, 2):
                    raise line.error("takes a file, and a context")
                context = args[1] if len(args) == 2 else ""
                source = source._replace(kubeconfig=self._file(args[0], line), context=context)
                _check_kubeconfig(source, line)
            case "apiserver_qps":
                source = source._replace(qps=_rate(line))
            case "apiserver_burst":
                source = source._replace(burst=arguments.number(line))
            case "apiserver_max_inflight":
                arguments.number(line)
            case "snapshot":
                source = source._replace(snapshot=self._path(arguments.one(line)))
            case "audit":
                source = source._replace(audit_s=arguments.seconds(line))
            case _:
                raise line.unknown(
                    "namespaces",
                    "labels",
                    "namespace_labels",
                    "pods",
                    "endpoint_pod_names",
                    "single_ptr",
                    "ttl",
                    "noendpoints",
                    "fallthrough",
                    "ignore",
                    "startup_timeout",
                    "multicluster",
                    "zonal",
                    "manifests",
                    "endpoint",
                    "tls",
                    "kubeconfig",
                    "apiserver_qps",
                    "apiserver_burst",
                    "apiserver_max_inflight",
                    "snapshot",
                    "audit",
                )
        self.source = source

    def _url(self, line: Directive) -> tuple[str, str]:
        """Return the URL of an API server, and the user:password that stood in it."""
        try:
            return location.parse_server(arguments.some(line)[0], self._scheme, "this")
        except ApiError as error:
            raise line.error(str(error)) from None

    def _path(self, text: str) -> str:
        # Links stay: those of a mounted Secret lead elsewhere after each change.
        return str((self._root / text).absolute())

    def _file(self, text: str, line: Directive) -> str:
        """Return the path of a file that can be read. Raises ConfigError."""
        path = self._path(text)
        try:
            Path(path).open("rb").close()
        except OSError as error:
            raise line.error(f"{path}: {error.strerror}") from error
        return path


def _check_kubeconfig(source: Source, line: Directive) -> None:
    """Check that a kubeconfig says enough (CoreDNS does at its start). Raises ConfigError."""
    from clusterdns.cluster.api import kubeconfig  # and PyYAML, which nobody else needs

    def has_package() -> bool:
        return importlib.util.find_spec("kubernetes") is not None  # a slim install has not

    try:
        kubeconfig.check(Path(source.kubeconfig), source.context, has_package)
    except ApiError as error:
        raise line.error(str(error)) from error


def _check_access(source: Source, directive: Directive) -> None:
    """Check what is known of an API server without a kubeconfig. Raises ConfigError."""
    if not source.endpoint:
        _check_in_cluster(directive)
    line = next((line for line in directive.block if line.name == "tls"), directive)
    try:
        location.proxy_of(location.url_of(source, os.environ), os.environ)
        if source.tls and source.endpoint.startswith("https:"):
            from clusterdns.cluster.api import identity  # and ssl, which few need here

            identity.identity_of(source).context()
    except ApiError as error:
        raise line.error(str(error)) from error


def _check_in_cluster(directive: Directive) -> None:
    """Check that this is a Pod that may ask its API server. Raises ConfigError."""
    if not (
        os.environ.get("KUBERNETES_SERVICE_HOST") and os.environ.get("KUBERNETES_SERVICE_PORT")
    ):
        raise directive.error(
            "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and "
            "KUBERNETES_SERVICE_PORT must be defined"
        )
    token = _SERVICE_ACCOUNT / "token"
    if not token.is_file():
        raise directive.error(f"unable to load in-cluster configuration: no file {token}")


def _rate(line: Directive) -> float:
    """Return the only argument as a number that is not negative."""
    try:
        found = float(arguments.one(line))
    except ValueError:
        found = math.nan
    if not 0 <= found < math.inf:
        raise line.error(f"wants a number of at least 0, got {line.args[0]!r}")
    return found
