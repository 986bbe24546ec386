"""What the benchmark serves and asks: a generated cluster, and dnsperf's input for each scenario.

Everything follows from a seed, so two runs ask the same; only names that must never repeat come
from the caller's generator.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from forms import AD, BINARY, CD, DO, RD, Form

ZONE = "cluster.local"
SEARCH = (f"default.svc.{ZONE}", f"svc.{ZONE}", ZONE)  # a Pod's resolv.conf, options ndots:5
EXTERNAL_NAMES = 200
ALIASES = 50  # Services that are another name for a name outside
ENDPOINTS = 10
HEADLESS_EVERY = 10
CHURN = " + churn"
_READY = {"ready": True, "serving": True, "terminating": False}
_SERVICE_NET, _ENDPOINT_NET = 200, 16  # second octets; apart up to 184 blocks of 65,536 endpoints

Question = tuple[str, str]
Questions = Callable[["Cluster", random.Random], Iterator[Question]]


class Cluster(NamedTuple):
    """Which names there are; the objects are on disk."""

    services: tuple[str, ...]  # namespace-qualified, such as `s7.default`
    headless: tuple[str, ...]
    aliases: tuple[str, ...] = ()

    @property
    def probe(self) -> str:
        """A name that resolves as soon as everything is loaded."""
        return f"{self.services[-1]}.svc.{ZONE}"


class Scenario(NamedTuple):
    """What is asked, and what a server must have to be asked that."""

    title: str
    questions: Questions
    needs: frozenset[str]  # of `zone`, `srv`, `external`, `unique`, `tcp`, `api`, `form`
    is_endless: bool = False  # no name is ever asked for twice
    transport: str = "udp"
    is_churned: bool = False  # the cluster changes meanwhile
    options: tuple[str, ...] = ()  # of dnsperf: the form of the queries
    form: Form | None = None  # None: dnsperf's own


def generate(directory: Path, size: int, endpoints: int = ENDPOINTS) -> Cluster:
    """Write ``size`` Services with that many endpoints each; every tenth is headless."""
    spaces = ["default", *(f"team-{i}" for i in range(size // 100))]
    items = [_object("v1", "Namespace", {"name": s}) for s in spaces]
    services, headless = list[str](), list[str]()
    for i in range(size):
        space = spaces[i % len(spaces)]
        label = f"{space}-service-{i}" if i % 3 else f"s{i}"
        is_headless = i % HEADLESS_EVERY == HEADLESS_EVERY - 1
        (headless if is_headless else services).append(f"{label}.{space}")
        items += _service(i, label, space, is_headless, endpoints)
    items += [_alias(i, host) for i, host in enumerate(external_names()[:ALIASES])]
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
    (directory / "cluster.json").write_text(text)
    aliases = tuple(f"alias-{i}.default" for i in range(ALIASES))
    return Cluster(tuple(services), tuple(headless), aliases)


def _alias(i: int, host: str) -> dict[str, Any]:
    meta = {"name": f"alias-{i}", "namespace": "default"}
    return _object("v1", "Service", meta, spec={"type": "ExternalName", "externalName": host})


def _service(
    i: int, label: str, space: str, is_headless: bool, endpoints: int
) -> Iterator[dict[str, Any]]:
    address = "None" if is_headless else _address(_SERVICE_NET, i)
    port = {"name": "http", "port": 80, "protocol": "TCP"}
    meta = {"name": label, "namespace": space}
    spec = {"clusterIP": address, "clusterIPs": [address], "ports": [port]}
    yield _object("v1", "Service", meta, spec=spec)
    slice_meta = {**meta, "name": f"{label}-1", "labels": {"kubernetes.io/service-name": label}}
    yield _object(
        "discovery.k8s.io/v1", "EndpointSlice", slice_meta, addressType="IPv4", ports=[port],
        endpoints=[
            endpoint(_address(_ENDPOINT_NET, number), f"{label}-{number}", space, number)
            for number in range(i * endpoints, (i + 1) * endpoints)
        ],
    )  # fmt: skip


def endpoint(address: str, pod: str, space: str, number: int) -> dict[str, Any]:
    """Return an endpoint with what its controller writes: servers have to read past it."""
    return {
        "addresses": [address],
        "conditions": _READY,
        "nodeName": f"node-{number % 500}",
        "targetRef": {
            "kind": "Pod",
            "name": pod,
            "namespace": space,
            "uid": f"{number:036}",
        },
    }


def _address(net: int, i: int) -> str:
    return f"10.{net + (i >> 16)}.{i >> 8 & 255}.{i & 255}"


def _object(version: str, kind: str, meta: dict[str, Any], **rest: object) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": meta, **rest}


def objects(directory: Path) -> list[dict[str, Any]]:
    """Return what ``generate`` has written."""
    found: list[dict[str, Any]] = json.loads((directory / "cluster.json").read_text())["items"]
    return found


def external_names() -> list[str]:
    """Return the names outside that are asked for again and again."""
    return [f"www{i}.example{i % 7}.com" for i in range(EXTERNAL_NAMES)]


def write_input(path: Path, questions: Iterable[Question]) -> None:
    """Write dnsperf's input: a name and a type a line."""
    path.write_text("".join(f"{qname} {qtype}\n" for qname, qtype in questions))


def cluster_addresses(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for the addresses of all Services that have a cluster address."""
    for name in rng.sample(cluster.services, len(cluster.services)):
        yield f"{name}.svc.{ZONE}", "A"


def random_services(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for Services that are not there, of a namespace that is."""
    while True:
        yield f"{rng.getrandbits(48):012x}.{SEARCH[0]}", "A"


def pod_addresses(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for Pods by their addresses, new ones all the time."""
    while True:
        yield "-".join(str(rng.randrange(256)) for _ in range(4)) + f".default.pod.{ZONE}", "A"


def headless_addresses(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for the addresses of all headless Services, each of which has those of its endpoints."""
    for name in rng.sample(cluster.headless, len(cluster.headless)):
        yield f"{name}.svc.{ZONE}", "A"


def ports(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for the port of all Services that have a cluster address."""
    for name in rng.sample(cluster.services, len(cluster.services)):
        yield f"_http._tcp.{name}.svc.{ZONE}", "SRV"


def internal(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask half for cluster addresses, a quarter for headless ones, a quarter for SRV."""
    for _ in range(5000):
        yield f"{rng.choice(cluster.services)}.svc.{ZONE}", "A"
        yield f"{rng.choice(cluster.headless)}.svc.{ZONE}", "A"
        yield f"{rng.choice(cluster.services)}.svc.{ZONE}", "A"
        yield f"_http._tcp.{rng.choice(cluster.services)}.svc.{ZONE}", "SRV"


def search_path(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for names outside under the search path, A and AAAA as a resolver asks."""
    for host in external_names():
        for suffix in SEARCH:
            yield f"{host}.{suffix}", "A"
            yield f"{host}.{suffix}", "AAAA"


def random_names(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for names under the search path that nobody ever asked for."""
    while True:
        yield f"www.{rng.getrandbits(48):012x}.com.{SEARCH[0]}", "A"


def external(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for a few names outside again and again."""
    for host in external_names():
        yield host, "A"


def unique_external(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for names outside that no cache can have; they exist."""
    while True:
        yield f"www.{rng.getrandbits(48):012x}.com", "A"


def unique_of_type(qtype: str) -> Questions:
    """Ask for a type at names outside that no cache can have."""

    def questions(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
        return ((qname, qtype) for qname, _ in unique_external(cluster, rng))

    return questions


def unique_ns(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for addresses with which the upstream server sends name servers, and their address."""
    while True:
        yield f"ns.{rng.getrandbits(48):012x}.com", "A"


def unique_reverse(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for the names of IPv6 addresses outside the cluster; its zone falls through for them."""
    while True:
        nibbles = ".".join(f"{rng.getrandbits(96):024x}")
        yield f"{nibbles}.8.b.d.0.1.0.0.2.ip6.arpa", "PTR"


def mixed(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask as Pods do: of ten look-ups six for Services, four for names outside by search path.

    The look-ups of Services follow 1/rank, since few are asked for often.
    """
    ranks = [1 / (i + 1) for i in range(len(cluster.services))]
    favorites = iter(rng.choices(cluster.services, ranks, k=1800))
    hosts = external_names()
    for i in range(3000):
        if i % 10 < 6:
            names = [f"{next(favorites)}.svc.{ZONE}"]
        else:
            host = rng.choice(hosts)
            names = [*(f"{host}.{suffix}" for suffix in SEARCH), host]
        for qname in names:
            yield qname, "A"
            yield qname, "AAAA"


_STATIC = (
    Scenario("a", cluster_addresses, frozenset({"zone"})),
    Scenario("headless", headless_addresses, frozenset({"zone"})),
    Scenario("srv", ports, frozenset({"zone", "srv"})),
    Scenario("search", search_path, frozenset({"zone"})),
    Scenario("mixed", mixed, frozenset({"zone", "external"})),
    Scenario("random nxdomain", random_names, frozenset({"zone"}), is_endless=True),
    Scenario("cached external", external, frozenset({"external"})),
    Scenario("tcp", internal, frozenset({"zone", "srv", "tcp"}), transport="tcp"),
)
# Not churned: a change in the cluster has nothing to do with what is forwarded each time.
_FORWARDED = Scenario(
    "uncached external", unique_external, frozenset({"external", "unique"}), is_endless=True
)


def every_type(qtype: str) -> Questions:
    """Return a scenario's questions: one type at the names of Services."""

    def questions(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
        for name in rng.sample(cluster.services, len(cluster.services)):
            yield f"{name}.svc.{ZONE}", qtype

    return questions


def aliases(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for the addresses of Services that are another name for one outside."""
    for name in rng.sample(cluster.aliases, len(cluster.aliases)):
        yield f"{name}.svc.{ZONE}", "A"


def upper_case(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for cluster addresses in capitals."""
    for qname, qtype in cluster_addresses(cluster, rng):
        yield qname.upper(), qtype


def respelled(questions: Questions) -> Questions:
    """Return a scenario's questions in another mixture of letters each time (0x20)."""

    def mixed(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
        while True:
            for qname, qtype in questions(cluster, rng):
                bits = rng.getrandbits(len(qname))
                yield "".join(c.upper() if bits >> i & 1 else c for i, c in enumerate(qname)), qtype

    return mixed


def random_of_type(qtype: str) -> Questions:
    """Return a scenario's questions: one type at Services that are not there."""

    def questions(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
        for qname, _ in random_services(cluster, rng):
            yield qname, qtype

    return questions


def random_endpoints(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for endpoints that are not there, of a headless Service that is."""
    while True:
        yield f"{rng.getrandbits(48):012x}.{cluster.headless[0]}.svc.{ZONE}", "A"


def random_ports(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for ports that are not there, of a Service that is."""
    while True:
        yield f"_{rng.getrandbits(48):012x}._tcp.{cluster.services[0]}.svc.{ZONE}", "SRV"


def reverse(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for the names of addresses of Services."""
    for i in range(len(cluster.services)):
        if i % HEADLESS_EVERY != HEADLESS_EVERY - 1:
            yield f"{'.'.join(reversed(_address(_SERVICE_NET, i).split('.')))}.in-addr.arpa", "PTR"


def random_reverse(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for the names of addresses that nothing has, beside those of Services."""
    while True:
        octets = (rng.randrange(256), rng.randrange(256), rng.randrange(100, 200))
        yield f"{octets[0]}.{octets[1]}.{octets[2]}.10.in-addr.arpa", "PTR"


def wildcards(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for wildcards, which CoreDNS has no more, below a Service that is not there."""
    while True:
        yield f"*.*.{rng.getrandbits(48):012x}.{SEARCH[0]}", "A"


def random_pods(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for Pods whose names are no addresses."""
    while True:
        yield f"{rng.getrandbits(48):012x}.default.pod.{ZONE}", "A"


def random_apex(cluster: Cluster, rng: random.Random) -> Iterator[Question]:
    """Ask for names right below the zone."""
    while True:
        yield f"{rng.getrandbits(48):012x}.{ZONE}", "A"


_COOKIE = bytes.fromhex("000a00080011223344556677")
_SUBNET = bytes.fromhex("00080007000118000a0000")
_UNKNOWN = bytes.fromhex("fde900021234")  # option 65001
_FORMS = {
    "with CD": Form(RD | CD),
    "with AD": Form(RD | AD),
    "without RD": Form(0),
    "with OPT of 1232": Form(size=1232),
    "with OPT of 100": Form(size=100),
    "with OPT of 65535": Form(size=65535),
    "with EDNS 1": Form(size=1232, version=1),
    "with DO, CD, a cookie": Form(RD | AD | CD, 1232, 0, DO, _COOKIE),
    "with a subnet": Form(size=1232, options=_SUBNET),
    "with an unknown option": Form(size=1232, options=_UNKNOWN),
    "with an EDNS flag": Form(size=1232, edns_flags=0x4000),
}
_TYPES = ("AAAA", "ANY", "HTTPS", "SVCB", "NS", "SOA", "TXT", "SRV", "MX", "CNAME")


def _ours(title: str, questions: Questions, **more: Any) -> Scenario:
    """Return a scenario that needs a server of the cluster, asked in whole packets."""
    needs = frozenset({"zone", "form"})
    return Scenario(title, questions, needs, **{"options": (BINARY,), "form": Form()} | more)


# What forwarders, dig and resolvers against forgers make of a question; all types at names that
# exist; dictionary attacks on what is known.
FORMS = (
    Scenario("a with DO", cluster_addresses, frozenset({"zone"}), options=("-D",)),
    Scenario(
        "a with a cookie", cluster_addresses, frozenset({"zone"}),
        options=("-e", "-E", "10:0011223344556677"),
    ),
    Scenario(
        "a in mixed case", respelled(cluster_addresses), frozenset({"zone"}), is_endless=True
    ),
    Scenario("first asked", pod_addresses, frozenset({"zone", "pods"}), is_endless=True),
    Scenario("random services", random_services, frozenset({"zone"}), is_endless=True),
    *(_ours(f"a {title}", cluster_addresses, form=form) for title, form in _FORMS.items()),
    _ours("a in capitals", upper_case),
    *(_ours(f"{qtype} at services", every_type(qtype)) for qtype in _TYPES),
    _ours("srv in mixed case", respelled(ports), is_endless=True),
    _ours("alias", aliases),
    _ours("alias in mixed case", respelled(aliases), is_endless=True),
    _ours("search in mixed case", respelled(search_path), is_endless=True),
    _ours("reverse", reverse),
    *(
        _ours(f"random services, {qtype}", random_of_type(qtype), is_endless=True)
        for qtype in ("AAAA", "HTTPS", "SRV", "TXT", "SOA", "ANY")
    ),
    _ours("random services in mixed case", respelled(random_services), is_endless=True),
    _ours("random wildcards", wildcards, is_endless=True),
    _ours("random endpoints", random_endpoints, is_endless=True),
    _ours("random ports", random_ports, is_endless=True),
    _ours("random reverse", random_reverse, is_endless=True),
    _ours("random pods", random_pods, is_endless=True),
    _ours("random apex", random_apex, is_endless=True),
    _ours("internal over tcp with DO", internal, transport="tcp", form=Form(size=1232, edns_flags=DO)),
)  # fmt: skip


def _churned(scenario: Scenario) -> Scenario:
    return scenario._replace(
        title=scenario.title + CHURN, needs=scenario.needs | {"api"}, is_churned=True
    )


# What must be asked upstream each time, besides addresses: of the types that clients ask for, and
# replies with all sections.
FORWARDED = tuple(
    _FORWARDED._replace(title=f"uncached {title}", questions=questions)
    for title, questions in (
        ("HTTPS", unique_of_type("HTTPS")), ("PTR", unique_reverse), ("with name servers", unique_ns),
    )
)  # fmt: skip
SCENARIOS = (*_STATIC, _FORWARDED, *map(_churned, _STATIC))


def scenario(title: str) -> Scenario:
    """Return a scenario by its title."""
    return next(one for one in (*SCENARIOS, *FORWARDED, *FORMS) if one.title == title)
