"""The settings of a `forward` directive, read from its arguments and its block.

(CoreDNS: plugin/forward/setup.go)
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from pathlib import Path

from clusterdns.corefile import arguments
from clusterdns.corefile.arguments import duration_s
from clusterdns.corefile.parser import Directive
from clusterdns.forwarding import destinations
from clusterdns.forwarding.choice import FASTEST, POLICIES
from clusterdns.forwarding.connections import TlsFiles, TlsSettings, tls_context
from clusterdns.forwarding.destinations import HTTPS, TLS, Destination, Servers
from clusterdns.forwarding.flight import DEADLINE_S, Rules
from clusterdns.forwarding.upstream import UpstreamOptions
from clusterdns.wire import name, rr
from clusterdns.wire.name import WireName

MAX_COUNT = 2**32 - 1  # CoreDNS: uint32


class ForwardSettings:
    """The names one `forward` is for, its servers, and how it asks them."""

    def __init__(self, directive: Directive, root: Path) -> None:
        """Read a directive, whose paths are relative to ``root``. Raises ConfigError."""
        if len(directive.args) < 2:
            raise directive.error("wants FROM TO...")
        self._directive = directive
        self._root = root
        self.zone = arguments.zone_names(directive.args[:1], directive)[0]
        self.excepted: list[WireName] = []
        self.max_concurrent = MAX_COUNT
        self.next: set[int] = set()  # RCODEs after which the next `forward` is asked
        self.next_on_nodata = False
        self.rules = Rules()
        self.options = UpstreamOptions()
        self.tls: ssl.SSLContext | None = None
        self.tls_files: TlsFiles | None = None
        self._web_tls: ssl.SSLContext | None = None  # the same, which agrees on a version of HTTP
        self._web_method = "POST"
        self._resolvers: tuple[str, ...] = ()
        self._server_name = ""
        for line in directive.block:
            self._read(line)
        idle = self.options.idle
        if 0 < idle.max_age_s < idle.expire_s:
            raise directive.error("max_age must be at least as long as expire")
        self.options = self.options._replace(probe_tcp=self.rules.force_tcp)
        if self.rules.max_attempts == 1:  # a single attempt may use all the time
            self.options = self.options._replace(tls_dial_timeout_s=DEADLINE_S)
        self.entries: list[Servers] = destinations.read_words(directive, self._resolvers)
        servers = destinations.all_of(self.entries)
        self._schemes = {one.scheme for one in servers}  # a file names servers of DNS alone
        self._check_tls(servers)

    def tls_of(self, one: Destination) -> TlsSettings | None:
        """Return the TLS settings of a server, None without TLS."""
        if not one.is_tls:
            return None
        context = self._web_tls if one.scheme == HTTPS else self.tls
        assert context is not None
        return TlsSettings(context, one.server_name or self._server_name)

    def web_method_of(self, one: Destination) -> str:
        """Return how a server is asked over HTTPS, "" if it is not."""
        return self._web_method if one.scheme == HTTPS else ""

    def is_for(self, qname: WireName) -> bool:
        """Tell whether a folded name is forwarded."""
        if not name.is_within(qname, self.zone):
            return False
        return qname == self.zone or not name.is_within_any(qname, self.excepted)

    @property
    def against_relay(self) -> list[str]:
        """The options that keep queries from being relayed to one server, over UDP."""
        rules = self.rules
        found = {
            f"policy {FASTEST}": rules.policy == FASTEST,
            "force_tcp": rules.force_tcp,
            "failover": bool(rules.failover),
            "next": bool(self.next),
            "next_on_nodata": self.next_on_nodata,
            "tls://": TLS in self._schemes,
            "https://": HTTPS in self._schemes,
        }
        return [option for option, is_set in found.items() if is_set]

    def _read(self, line: Directive) -> None:
        """Apply one line of the directive's block. Raises ConfigError."""
        match line.name:
            case "except":
                self.excepted += arguments.zone_names(arguments.some(line), line)
            case "next_on_nodata":
                self.next_on_nodata = arguments.flag(line)
            case "next":
                self.next |= _rcodes(line)
            case "max_concurrent":
                self.max_concurrent = arguments.number(line) or MAX_COUNT
            case "tls":
                self._take_tls(line.args, line)
            case "tls_servername":
                self._server_name = destinations.read_server_name(arguments.one(line), line)
            case "resolver":
                self._resolvers = destinations.check_resolvers(line)
            case "doh_method":
                self._web_method = arguments.word(line, "POST", "GET")
            case _:
                rules = _rules(line, self.rules)
                if rules is None:
                    self.options = _options(line, self.options)
                else:
                    self.rules = rules

    def _check_tls(self, servers: Iterable[Destination]) -> None:
        if self._server_name:
            for one in servers:
                if one.server_name:
                    both = f"{one.server_name!r} for {one.host} and {self._server_name!r} for all"
                    raise self._directive.error(f"two TLS server names: {both}")
        if self.tls is None and any(one.is_tls for one in servers):
            self._take_tls((), self._directive)

    def _take_tls(self, files: tuple[str, ...], line: Directive) -> None:
        self.tls = tls_context(files, line, self._root)
        self._web_tls = tls_context(files, line, self._root)
        self._web_tls.set_alpn_protocols(["h2", "http/1.1"])
        self.tls_files = TlsFiles((self.tls, self._web_tls), files, line, self._root)


def _rules(line: Directive, rules: Rules) -> Rules | None:
    """Return the rules with one line of the block applied, None if it is of another option."""
    match line.name:
        case "policy":
            return rules._replace(policy=arguments.word(line, *POLICIES))
        case "force_tcp":
            return rules._replace(force_tcp=arguments.flag(line))
        case "prefer_udp":
            return rules._replace(prefer_udp=arguments.flag(line))
        case "failfast_all_unhealthy_upstreams":
            return rules._replace(fails_fast=arguments.flag(line))
        case "failover":
            failover = rules.failover | _rcodes(line)
            if rr.NOERROR in failover:
                raise line.error("NOERROR is no reason to ask another server")
            return rules._replace(failover=failover)
        case "max_fails":
            return rules._replace(max_fails=arguments.number(line, most=MAX_COUNT))
        case "max_connect_attempts":
            return rules._replace(max_attempts=arguments.number(line, most=MAX_COUNT))
    return None


def _options(line: Directive, options: UpstreamOptions) -> UpstreamOptions:
    """Return the options with one line of the block applied. Raises ConfigError."""
    idle = options.idle
    match line.name:
        case "max_idle_conns":
            return options._replace(idle=idle._replace(most=arguments.number(line)))
        case "expire":
            return options._replace(idle=idle._replace(expire_s=arguments.seconds(line)))
        case "max_age":
            return options._replace(idle=idle._replace(max_age_s=arguments.seconds(line)))
        case "read_timeout":
            return options._replace(read_timeout_s=arguments.seconds(line, is_positive=True))
        case "health_check":
            return _health_check(line, options)
        case "source_address":
            return options._replace(source=arguments.address(line))
    raise line.unknown(
        "except",
        "next",
        "next_on_nodata",
        "max_concurrent",
        "tls",
        "tls_servername",
        "resolver",
        "doh_method",
        "policy",
        "force_tcp",
        "prefer_udp",
        "failfast_all_unhealthy_upstreams",
        "failover",
        "max_fails",
        "max_connect_attempts",
        "max_idle_conns",
        "expire",
        "max_age",
        "read_timeout",
        "health_check",
        "source_address",
    )


def _health_check(line: Directive, options: UpstreamOptions) -> UpstreamOptions:
    words = list(arguments.some(line))
    interval_s = duration_s(words.pop(0), line)
    if interval_s < 0:
        raise line.error("wants a positive duration")
    options = options._replace(probe_interval_s=interval_s or UpstreamOptions().probe_interval_s)
    while words:
        word = words.pop(0)
        if word == "no_rec":
            options = options._replace(probe_recursion=False)
        elif word == "domain" and words:
            options = options._replace(probe_name=arguments.zone_names([words.pop(0)], line)[0])
        else:
            raise line.error(f"unexpected word {word!r}")
    return options


def _rcodes(line: Directive) -> set[int]:
    for word in arguments.some(line):
        if word.upper() not in rr.RCODES:
            raise line.error(f"{word!r} is no return code")
    return {rr.RCODES[word.upper()] for word in line.args}
