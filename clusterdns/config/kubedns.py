"""From kube-dns's ConfigMap to an equivalent Corefile.

``read`` checks the entries `stubDomains` and `upstreamNameservers`, each JSON text, more strictly
than kube-dns; ``translate`` makes of them the Corefile that kubeadm made when it migrated a cluster
from kube-dns to CoreDNS: kubeadm's Corefile with `forward .` to the upstream servers, and a server
block for each stub domain. In a Corefile of the operator the words ``UPSTREAMS`` and ``ZONE`` are
replaced, as in NodeLocal DNSCache, and the stub domains follow with its first `bind`.

In kube-dns the cluster's zones win over a stub domain that contains one (`local` and
`cluster.local`); here they get keys of their own, because CoreDNS asks the block with the longest
key.

Sources: kubernetes/dns pkg/dns/config and pkg/dnsmasq, cmd/node-cache; kubernetes
cmd/kubeadm/app/phases/addons/dns.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from clusterdns.corefile.lexer import shorten
from clusterdns.corefile.parser import did_you_mean
from clusterdns.errors import ConfigError
from clusterdns.host.addresses import host_and_port

STUB_DOMAINS = "stubDomains"
UPSTREAM_NAMESERVERS = "upstreamNameservers"
FEDERATIONS = "federations"
KEYS = (STUB_DOMAINS, UPSTREAM_NAMESERVERS)

UPSTREAMS = "__PILLAR__UPSTREAM__SERVERS__"
ZONE = "__PILLAR__DNS__DOMAIN__"

MAX_UPSTREAM_NAMESERVERS = 3
MAX_SERVERS = 15  # of one `forward` (CoreDNS: plugin/forward/setup.go)
REVERSE_ZONES = ("in-addr.arpa", "ip6.arpa")
RESOLV_CONF = "/etc/resolv.conf"

# kubeadm's Corefile; ``_keys`` makes the first line.
_KUBEADM = f"""    errors
    health {{
        lameduck 5s
    }}
    ready
    kubernetes {ZONE} in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
    prometheus :9153
    forward . {UPSTREAMS} {{
        max_concurrent 1000
    }}
    cache 30 {{
        disable success {ZONE}
        disable denial {ZONE}
    }}
    loop
    reload
    loadbalance
}}
"""
_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_BIND = re.compile(r"^[ \t]*bind[ \t]+([^{}#\n]*[^{}#\s])", re.MULTILINE)
_HOST_AND_PORT = re.compile(r"(?:\[([^]]*)\]|([^][:]*))(?::([0-9]{1,5}))?")

Warn = Callable[[str], None]


class ConfigEntry(NamedTuple):
    """One entry of the ConfigMap; ``whole`` is the text of its file."""

    key: str
    value: str
    file: str
    whole: str

    def error(self, found: str, reason: str) -> ConfigError:
        """Return the error at the first line with ``found``, else at the entry's."""
        start = max(self.whole.find(self.key), 0)
        at = max(self.whole.find(found, start), start)
        return ConfigError(self.file, self.whole.count("\n", 0, at) + 1, self.key, reason)


class StubServer(NamedTuple):
    """A server: ``host:port`` as in `forward`; ``name`` if the host is a name."""

    text: str
    name: str = ""
    port: str = ""


class KubeDnsSettings(NamedTuple):
    """The settings of the ConfigMap; no upstream server means the node's."""

    stub_domains: dict[str, tuple[StubServer, ...]]
    upstreams: tuple[StubServer, ...]

    def names(self) -> list[str]:
        """Return the host names among the servers, each once."""
        servers = [server for found in self.stub_domains.values() for server in found]
        return list(dict.fromkeys(server.name for server in servers if server.name))


def is_domain(text: str) -> bool:
    """Tell whether kube-dns accepts a domain: RFC 1123 labels, in lower case."""
    return len(text) <= 253 and _DOMAIN.fullmatch(text) is not None


def is_within(domain: str, zone: str) -> bool:
    """Tell whether ``domain`` is ``zone`` or below it."""
    return domain == zone or domain.endswith(f".{zone}")


def read(entries: Mapping[str, ConfigEntry], *, zone: str, warn: Warn) -> KubeDnsSettings:
    """Return the settings of the ConfigMap; ``zone`` is the cluster's.

    Raises:
        ConfigError: an entry is not JSON, or has an invalid domain or server.
    """
    for key in entries:
        if key == FEDERATIONS:
            warn(f"{FEDERATIONS}: no such thing any more, it is left out")
        elif key not in KEYS:
            warn(f"{shorten(key)}: unknown, it is left out{did_you_mean(key, KEYS)}")
    stub_domains = _stub_domains(entries.get(STUB_DOMAINS), zone, warn)
    return KubeDnsSettings(stub_domains, _upstreams(entries.get(UPSTREAM_NAMESERVERS)))


def _stub_domains(
    entry: ConfigEntry | None, zone: str, warn: Warn
) -> dict[str, tuple[StubServer, ...]]:
    found: dict[str, tuple[StubServer, ...]] = {}
    domains = None if entry is None else _json(entry)
    if entry is None or domains is None:
        return found
    if not isinstance(domains, dict):
        raise entry.error("", 'wants domains and their servers, as {"acme.local": ["192.0.2.1"]}')
    for domain, servers in domains.items():
        at, stub = _quoted(domain), f"stub domain {_quoted(shorten(domain))}"
        if not is_domain(domain):
            hint = " of lower-case letters, digits, - and . without a last dot"
            raise entry.error(at, f"{stub} is no domain name{hint}")
        if domain in (zone, *REVERSE_ZONES):
            raise entry.error(at, f"{stub} is a zone of the cluster itself")
        if not isinstance(servers, list):
            raise entry.error(at, f'{stub} wants a list of servers, as ["192.0.2.1"]')
        if len(servers) > MAX_SERVERS:
            raise entry.error(at, f"{stub} has more than {MAX_SERVERS} servers")
        if not servers:
            warn(f"{STUB_DOMAINS}: {stub} has no servers, it is left out")
        else:
            found[domain] = tuple(_server(text, entry, stub) for text in servers)
    return found


def _upstreams(entry: ConfigEntry | None) -> tuple[StubServer, ...]:
    servers = None if entry is None else _json(entry)
    if entry is None or servers is None:
        return ()
    if not isinstance(servers, list):
        raise entry.error("", 'wants a list of servers, as ["192.0.2.1"]')
    if len(servers) > MAX_UPSTREAM_NAMESERVERS:
        raise entry.error("", f"has more than {MAX_UPSTREAM_NAMESERVERS} servers: {len(servers)}")
    found = tuple(_server(text, entry) for text in servers)
    for server in found:
        if server.name:
            at = _quoted(server.text)
            raise entry.error(at, f"server {at} is a host name; only an address can be asked")
    return found


def _json(entry: ConfigEntry) -> object:
    """Return the value of an entry. Raises ConfigError."""

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in pairs:
            if key in found:
                raise entry.error(_quoted(key), f"{_quoted(shorten(key))} is there twice")
            found[key] = value
        return found

    try:
        value: object = json.loads(entry.value, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        lines = entry.value.splitlines()[error.lineno - 1 : error.lineno] or [""]
        where = f"line {error.lineno}, column {error.colno}"
        raise entry.error(lines[0].strip(), f"is no JSON text: {error.msg} ({where})") from error
    except (ValueError, RecursionError) as error:
        raise entry.error("", f"is no JSON text: {error}") from error
    return value


def _server(text: object, entry: ConfigEntry, stub: str = "") -> StubServer:
    """Return a server: an address or a host name, with a port or without. Raises ConfigError."""
    of = f"{stub}: " if stub else ""
    if not isinstance(text, str):
        raise entry.error("", f"{of}server {shorten(json.dumps(text))} is no text")
    wrong = entry.error(
        _quoted(text),
        f"{of}server {_quoted(shorten(text))} is no address or host name, with a port or without",
    )
    if _is_address(text, versions=(4, 6)):
        return StubServer(text)
    match = _HOST_AND_PORT.fullmatch(text)
    if match is None:
        raise wrong
    bracketed, host, port = match[1], match[2], match[3] or ""
    if port and not 1 <= int(port) <= 65535:
        raise entry.error(_quoted(text), f"{of}server {_quoted(text)} has no valid port")
    if bracketed is not None:
        if not _is_address(bracketed, versions=(6,)):
            raise wrong
        return StubServer(text)
    if _is_address(host, versions=(4,)):
        return StubServer(text)
    # A name whose last label is a number is a mistyped address (RFC 3696 section 2).
    if not is_domain(host) or host.rpartition(".")[2].isdigit():
        raise wrong
    return StubServer(text, host, port)


def _is_address(text: str, versions: tuple[int, ...]) -> bool:
    try:
        return "%" not in text and ipaddress.ip_address(text).version in versions
    except ValueError:
        return False


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def translate(
    settings: KubeDnsSettings,
    *,
    zone: str,
    port: int,
    warn: Warn,
    own: str = "",
    addresses: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Return the Corefile for ``settings``; ``own`` is the operator's, if there is one.

    ``addresses`` replace the servers' host names, and a stub domain without any gets a block that
    refuses. Without ``addresses``, a name below ``zone`` is left out with a warning, because
    `forward` looks names up before the zone is served; a stub domain with only such names is left
    out, as in kubeadm.
    """
    servers = {
        domain: _texts(domain, found, zone, addresses, warn)
        for domain, found in settings.stub_domains.items()
    }
    if addresses is None:
        servers = {domain: texts for domain, texts in servers.items() if texts}
    upstreams = " ".join(server.text for server in settings.upstreams) or RESOLV_CONF
    if own:
        _check_own(own, settings, zone, warn)
    text = own or f"{_keys(zone, port, servers)} {{\n{_KUBEADM}"
    text = text.replace(UPSTREAMS, upstreams).replace(ZONE, zone)
    bind = _BIND.search(own)  # a block without `bind` would be another listener
    first = [f"bind {bind[1]}"] if bind else []
    return "\n".join([text, *(_block(f"{d}:{port}", first, servers[d]) for d in servers)])


def _keys(zone: str, port: int, stub_domains: Mapping[str, object]) -> str:
    keys = ["."]
    for own in (zone, *REVERSE_ZONES):
        if any(is_within(own, domain) for domain in stub_domains):
            keys.append(own)
    return " ".join(f"{key}:{port}" for key in keys)


def _check_own(own: str, settings: KubeDnsSettings, zone: str, warn: Warn) -> None:
    """Warn of settings that cannot be put into the operator's Corefile."""
    if settings.upstreams and UPSTREAMS not in own:
        warn(f"{UPSTREAM_NAMESERVERS}: not used, the Corefile has no {UPSTREAMS}")
    for domain in settings.stub_domains:
        for inner in (zone, *REVERSE_ZONES):
            if is_within(inner, domain):
                warn(f"{STUB_DOMAINS}: {domain} takes {inner}, unless that has a key of its own")


def _texts(
    domain: str,
    servers: Sequence[StubServer],
    zone: str,
    addresses: Mapping[str, Sequence[str]] | None,
    warn: Warn,
) -> list[str]:
    """Return the servers of a stub domain for `forward`, each once."""
    found: list[str] = []
    at = f"{STUB_DOMAINS}: {domain}: server"
    for server in servers:
        if not server.name:
            found.append(server.text)
        elif addresses is not None:
            known = addresses.get(server.name, ())
            found += [_with_port(address, server.port) for address in known]
            if not known:
                warn(f"{at} {server.text} has no known address, it is left out until it has one")
        elif is_within(server.name, zone):
            warn(
                f"{at} {server.text} is left out: forward looks host names up at the start, when "
                f"nobody answers for {zone} yet; write the Service's clusterIP instead"
            )
        else:
            found.append(server.text)
            warn(f"{at} {server.text} is looked up at the start only; CoreDNS needs 1.14.4 for it")
    if not found and addresses is None:
        warn(f"{STUB_DOMAINS}: {domain} has no other server, it is left out")
    return list(dict.fromkeys(found))[:MAX_SERVERS]


def _with_port(address: str, port: str) -> str:
    return host_and_port(address, port) if port else address


def _block(key: str, first: Sequence[str], servers: Sequence[str]) -> str:
    """Return the server block of a stub domain, as kubeadm wrote it behind ``first``."""
    lines = [*first]
    if servers:  # without servers the names are refused, not forwarded elsewhere
        lines += ["errors", "cache 30", "loop", f"forward . {' '.join(servers)}"]
    return f"{key} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"
