"""resolv.conf, and the names that the stub resolvers of glibc, musl and Go ask for.

``parse`` reads the file, ``names`` lists the names in order, ``walk`` asks until the resolver would
stop. The resolvers differ: musl asks for a name with enough dots only without search list, and
stops at the first reply that is not NXDOMAIN; glibc and Go continue after NODATA and SERVFAIL.
After REFUSED or a timeout glibc leaves the search list for the bare name, while Go continues.

Sources: glibc resolv/res_query.c and res_init.c, musl src/network/lookup_name.c and resolvconf.c,
Go net/dnsclient_unix.go and dnsconfig_unix.go, resolv.conf(5).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Literal, NamedTuple

Resolver = Literal["glibc", "musl", "go"]

MAX_NDOTS = 15
MAX_NAME_LENGTH = 253  # characters without the last dot (RFC 1035 section 2.3.4)
DEFAULT_TIMEOUT_S, DEFAULT_ATTEMPTS = 5, 2  # resolv.conf(5)
MAX_NAMESERVERS = 3  # glibc MAXNS, musl MAXNS; Go asks three as well


class SearchOutcome(Enum):
    """The outcome of one name of a search."""

    ANSWER = "answer"
    NODATA = "no data"
    NXDOMAIN = "name error"
    SERVFAIL = "server failure"
    REFUSED = "refused"  # or any other RCODE
    TIMEOUT = "timeout"


class ResolvConf(NamedTuple):
    """A resolv.conf; durations in seconds, names as written."""

    nameservers: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout_s: int = DEFAULT_TIMEOUT_S
    attempts: int = DEFAULT_ATTEMPTS
    options: tuple[str, ...] = ()  # other than the three above


def parse(text: str) -> ResolvConf:
    """Return the content of a resolv.conf; invalid lines and options are ignored."""
    conf = ResolvConf(tuple(nameservers(text))[:MAX_NAMESERVERS])
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        if len(words) < 2:
            continue
        keyword, values = words[0], tuple(words[1:])
        if keyword in ("search", "domain"):  # the last one counts
            conf = conf._replace(search=values if keyword == "search" else values[:1])
        elif keyword == "options":
            for option in values:
                conf = _with_option(conf, option)
    return conf


def text(conf: ResolvConf) -> str:
    """Return the lines of a resolv.conf, as kubelet writes them."""
    settings = [f"ndots:{conf.ndots}"]
    settings += [f"timeout:{conf.timeout_s}"] if conf.timeout_s != DEFAULT_TIMEOUT_S else []
    settings += [f"attempts:{conf.attempts}"] if conf.attempts != DEFAULT_ATTEMPTS else []
    lines = [f"search {' '.join(conf.search)}"] if conf.search else []
    lines += [f"nameserver {address}" for address in conf.nameservers]
    lines.append(f"options {' '.join((*settings, *conf.options))}")
    return "\n".join(lines) + "\n"


def nameservers(text: str) -> list[str]:
    """Return all words behind `nameserver`, whether or not they are addresses."""
    lines = map(str.split, text.splitlines())
    return [
        words[1]
        for words in lines
        if len(words) > 1 and words[0] == "nameserver" and words[1][0] not in "#;"
    ]


def _with_option(conf: ResolvConf, option: str) -> ResolvConf:
    word, _, number = option.partition(":")
    if number.isdigit():
        if word == "ndots":
            return conf._replace(ndots=min(int(number), MAX_NDOTS))
        if word == "timeout":
            return conf._replace(timeout_s=max(1, min(int(number), 30)))
        if word == "attempts":
            return conf._replace(attempts=max(1, min(int(number), 5)))
    return conf._replace(options=(*conf.options, option))


def pod_search(
    namespace: str, zone: str = "cluster.local", *, server: str = "10.96.0.10"
) -> ResolvConf:
    """Return the search list of a Pod with dnsPolicy ClusterFirst."""
    search = (f"{namespace}.svc.{zone}", f"svc.{zone}", zone)
    return ResolvConf((server,), search, ndots=5)


def names(conf: ResolvConf, host: str, resolver: Resolver) -> list[str]:
    """Return the absolute names to ask for ``host``, in order."""
    if host.endswith("."):
        return [host]
    if not host or len(host) > MAX_NAME_LENGTH:
        return []
    has_dots = host.count(".") >= conf.ndots
    found = [f"{host}.{domain.rstrip('.')}".rstrip(".") + "." for domain in conf.search]
    found = [name for name in found if len(name) <= MAX_NAME_LENGTH + 1]
    bare = f"{host}."
    if resolver == "musl":
        return [bare] if has_dots else [*found, bare]
    if has_dots:
        return [bare, *(name for name in found if name != bare)]
    # A search list with the root has the bare name already (glibc root_on_list).
    return found if bare in found else [*found, bare]


def continues(resolver: Resolver, outcome: SearchOutcome) -> bool:
    """Tell whether the next name is asked after this outcome of one on the search list."""
    if outcome is SearchOutcome.ANSWER:
        return False
    if resolver == "musl":
        return outcome is SearchOutcome.NXDOMAIN
    # After these glibc leaves the search list, but asks for the bare name: see `walk`.
    return resolver == "go" or outcome not in (SearchOutcome.REFUSED, SearchOutcome.TIMEOUT)


def walk(
    conf: ResolvConf, host: str, resolver: Resolver, ask: Callable[[str], SearchOutcome]
) -> list[tuple[str, SearchOutcome]]:
    """Ask for the names as ``resolver`` does; return the names and their outcomes."""
    asked: list[tuple[str, SearchOutcome]] = []
    left = names(conf, host, resolver)
    while left:
        name = left.pop(0)
        outcome = ask(name)
        asked.append((name, outcome))
        if outcome is SearchOutcome.ANSWER:
            break
        bare = f"{host}."
        if resolver == "glibc" and name == bare:
            continue  # the bare name asked first: the search list follows in any case
        if not continues(resolver, outcome):
            left = [bare] if resolver == "glibc" and bare in left else []
    return asked
