"""policy: who may see what, over every transport, warm and cold, and what must not leak.

The model in `Model` is a second opinion: it knows nothing of the plugin but its manual. What a client
may see is what the server without rules says; what it may not see is what that server says about
names that do not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import json
import random
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import certificates
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.rrset
import etcdserver
import peers
import pytest
from inprocess import InProcess, in_packet_loop
from manifests import made, pod, service
from scriptedupstream import ScriptedUpstream

from clusterdns.chain.classes import NOBODY
from clusterdns.cluster.published import CLIENTS
from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.serving import classes as serving_classes
from clusterdns.serving.server import LATER

ZONE = "cluster.local."
NAMESPACES = ("kube-system", "shared", "dev", "team-a", "vault", "shop")
CLIENT_OF = {
    "kube-system": "127.0.1.1",
    "dev": "127.0.1.2",
    "team-a": "127.0.1.3",
    "vault": "127.0.1.4",
    "shop": "127.0.1.5",
    "a node": "127.0.1.6",
    "nobody": "127.0.1.7",
    "a network": "127.0.2.1",
}
# Of the namespaces that are hidden from some.
SECRETS = (b"crown", b"\x0a\x4d")  # a Service, and the first octets of its addresses
RULES = """
    allow from namespace kube-system
    allow to own
    refuse from net 127.0.2.0/24 to namespace vault type A AAAA SRV
    rewrite fake.shared.svc.cluster.local from namespace shop to zone crown.vault.svc.cluster.local
    nxdomain from namespace dev team-* shop to namespace vault shop
    nxdomain from unknown to namespace vault
"""
HIDDEN = {  # from whom, and what of it
    "dev": {"vault", "shop"},
    "team-a": {"vault", "shop"},
    "shop": {"vault"},
    "a node": {"vault"},
    "nobody": {"vault"},
    "a network": {"vault"},
}


def manifests() -> list[dict[str, Any]]:
    """Return a cluster: in each namespace a Service, a headless one, and in some a Pod."""
    found: list[dict[str, Any]] = []
    for i, namespace in enumerate(NAMESPACES):
        network = "10.77" if namespace == "vault" else f"10.{i}"
        web = "crown" if namespace == "vault" else "web"
        found.append(made("Namespace", "", namespace))
        for name, address in ((web, f"{network}.0.1"), ("fake", f"{network}.0.2")):
            found.append(service(namespace, name, address))
        found.append(service(namespace, "hl", "None"))
        found.append(_slice(namespace, "hl", f"{network}.1.1", web))
    for number, (whose, address) in enumerate(CLIENT_OF.items()):
        if whose in NAMESPACES:
            found.append(pod(whose, f"p{number}", address))
    found.append(pod("dev", "host", CLIENT_OF["a node"], hostNetwork=True))
    for namespace, address, ip in (
        ("shop", "10.5.0.9", "192.0.2.5"),
        ("vault", "10.77.0.9", "10.77.9.9"),
    ):
        found.append(service(namespace, "gate", address, type="LoadBalancer", externalIPs=[ip]))
    spec = {"type": "ExternalName", "externalName": "crown.vault.svc.cluster.local"}
    return [*found, made("Service", "shared", "alias", spec=spec)]


def _slice(namespace: str, of: str, address: str, host: str) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    endpoints = [{"addresses": [address], "hostname": host}]
    found = made(
        "EndpointSlice", namespace, f"{of}-1", version="discovery.k8s.io/v1",
        addressType="IPv4", endpoints=endpoints, ports=ports,
    )  # fmt: skip
    found["metadata"]["labels"] = {"kubernetes.io/service-name": of}
    return found


ZONE_FILE = """$ORIGIN example.org.
@ 60 SOA ns.example.org. root.example.org. 1 60 60 60 60
@ 60 NS ns
ns 60 A 192.0.2.1
www 60 CNAME crown.vault.svc.cluster.local.
two 60 CNAME www
mail 60 MX 10 crown.vault.svc.cluster.local.
mail 60 MX 20 ns
_x._tcp 60 SRV 0 0 80 crown.vault.svc.cluster.local.
far 60 CNAME chain.example.com.
*.wild 60 CNAME crown.vault.svc.cluster.local.
"""


class Upstream(ScriptedUpstream):
    """Answers each name outside with an address; `chain` and `into` by way of a hidden one."""

    def answer(self, wire: bytes, *, is_udp: bool) -> bytes | None:
        query = dns.message.from_wire(wire)
        name = query.question[0].name
        reply = dns.message.make_response(query, recursion_available=True)
        rrset = dns.rrset.from_text
        if str(name).startswith("chain."):
            reply.answer.append(rrset(name, 60, "IN", "CNAME", "x.evil.test."))
            name = reply.answer[0][0].target
        if str(name).startswith("into"):
            reply.answer.append(rrset(name, 60, "IN", "CNAME", "Crown.VAULT.svc.cluster.Local."))
            name = reply.answer[0][0].target
        if query.question[0].rdtype == dns.rdatatype.SRV:
            reply.answer.append(rrset(name, 60, "IN", "SRV", f"0 0 80 crown.vault.svc.{ZONE}"))
        if query.question[0].rdtype == dns.rdatatype.A:
            reply.answer.append(rrset(name, 60, "IN", "A", "192.0.2.99"))
        return reply.to_wire()


def corefile(rules: str, upstream: str, *, search: bool = False, extra: str = "") -> str:
    """Return a Corefile with the rules, and much that might leak."""
    walker = f"search {ZONE}" if search else ""
    policy = f"policy {{\n{rules}\n}}" if rules else ""
    return f"""{extra}.:{{PORT}} {{
    errors
    log
    {walker}
    {policy}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        manifests {{MANIFESTS}}
        pods verified
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
    k8s_external ext.test {{
        headless
    }}
    file {{ZONES}}/example.org example.org
    transfer cluster.local example.org ext.test {{
        to *
    }}
    cache 30
    forward . {upstream}
}}
"""


class Asked(NamedTuple):
    """A question and who sees it as it is."""

    name: str
    rtype: str
    home: str  # the namespace of the name, "" for none


def questions() -> list[Asked]:
    """Return questions about every namespace, and about names that lead to one."""
    types = ("A", "AAAA", "SRV", "TXT", "ANY", "PTR")
    found = []
    for namespace in NAMESPACES:
        web = "crown" if namespace == "vault" else "web"
        network = "10.77" if namespace == "vault" else f"10.{NAMESPACES.index(namespace)}"
        dashed = network.replace(".", "-") + "-1-1"
        for name in (
            f"{web}.{namespace}.svc", f"WEB.{namespace}.svc", f"_http._tcp.{web}.{namespace}.svc",
            f"_tcp.{web}.{namespace}.svc", f"hl.{namespace}.svc", f"{web}.hl.{namespace}.svc",
            f"{namespace}.svc", f"{namespace}.pod", f"{dashed}.{namespace}.pod",
            f"no.{namespace}.svc", f"fake.{namespace}.svc", f"*.{namespace}.svc", f"a.b.c.{namespace}.svc",
        ):  # fmt: skip
            found += [Asked(f"{name}.{ZONE}", rtype, namespace) for rtype in types]
        for name in (
            f"gate.{namespace}",
            namespace,
            f"_http._tcp.gate.{namespace}",
            f"hl.{namespace}",
        ):
            found += [Asked(f"{name}.ext.test.", rtype, namespace) for rtype in types]
    return found


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    found = Upstream([])
    yield found
    found.stop()


@contextlib.contextmanager
def serving(directory: Path, text: str, *flags: str) -> Iterator[peers.Server]:
    """Run the real binary with the cluster and the zone."""
    objects, zones = directory / "cluster", directory / "zones"
    objects.mkdir(exist_ok=True)
    zones.mkdir(exist_ok=True)
    (objects / "all.json").write_text(
        json.dumps({"kind": "List", "apiVersion": "v1", "items": manifests()})
    )
    (zones / "example.org").write_text(ZONE_FILE)
    text = text.replace("{MANIFESTS}", str(objects)).replace("{ZONES}", str(zones))
    with peers.clusterdns(text, directory, *flags) as server:
        yield server


def ask(server: peers.Server, client: str, asked: Asked, how: str = "udp") -> dns.message.Message:
    """Ask from an address."""
    return dns.message.from_wire(over(how, client, server.port, query_of(asked).to_wire()))


def query_of(asked: Asked) -> dns.message.Message:
    return dns.message.make_query(asked.name, asked.rtype, use_edns=0, payload=4000)


def over(how: str, client: str, port: int, packet: bytes) -> bytes:
    """Ask over a transport from an address."""
    if how == "udp":
        return over_udp(client, port, packet)
    if how == "https":
        return over_https(client, port, packet)
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10, (client, 0)))
        if how == "tls":
            sock = stack.enter_context(_unverified().wrap_socket(sock))
        sock.sendall(len(packet).to_bytes(2, "big") + packet)
        reply = peers.read_frame(sock)
    assert reply is not None
    return reply


def _unverified() -> ssl.SSLContext:
    context = certificates.client_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def over_udp(client: str, port: int, packet: bytes) -> bytes:
    """Ask over UDP from an address; a lost query is asked again."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind((client, 0))
        sock.connect(("127.0.0.1", port))
        sock.settimeout(5)
        for _ in range(3):
            sock.send(packet)
            with contextlib.suppress(TimeoutError):
                return sock.recv(65536)
    raise AssertionError("no reply")


def over_https(client: str, port: int, packet: bytes) -> bytes:
    """Ask over HTTPS, from an address."""
    head = (
        f"POST /dns-query HTTP/1.1\r\nHost: x\r\nContent-Type: application/dns-message\r\n"
        f"Content-Length: {len(packet)}\r\nConnection: close\r\n\r\n"
    )
    with (
        socket.create_connection(("127.0.0.1", port), 10, (client, 0)) as plain,
        _unverified().wrap_socket(plain) as sock,
    ):
        sock.sendall(head.encode() + packet)
        reply = b"".join(iter(lambda: sock.recv(65536), b""))
    return reply.partition(b"\r\n\r\n")[2]


def content(reply: dns.message.Message) -> tuple[Any, ...]:
    """Return what a reply says, whatever its question, the order of records, and TTLs."""
    sections = [
        sorted(
            " ".join((line.split()[0], *line.split()[2:]))
            for each in section
            for line in str(each).splitlines()
        )
        for section in reply.sections[1:]
    ]
    return reply.rcode(), reply.flags & 0xFEF0, *sections  # without RD and the RCODE


def leaks(reply: dns.message.Message) -> bool:
    """Tell whether a reply has a secret besides its question."""
    wire = reply.to_wire()
    text = "\n".join(str(each) for section in reply.sections[1:] for each in section).lower()
    question = str(reply.question[0].name).lower() if reply.question else ""
    behind = wire[12 + len(question) + 5 :]
    return "crown" in text.replace(question, "") or b"\x0a\x4d" in behind or "10.77." in text


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("search", [False, True])
def test_every_client_every_name_every_type_every_transport(
    tmp_path: Path, upstream: ScriptedUpstream, search: bool
) -> None:
    everyone = [(whose, asked) for whose in CLIENT_OF for asked in questions()]
    compare_all(tmp_path, upstream, everyone, search=search)


@pytest.mark.parametrize("pure", ["", "1"])
def test_some_clients_with_and_without_c(
    tmp_path: Path, upstream: ScriptedUpstream, pure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLUSTERDNS_PURE", pure)
    everyone = [(whose, asked) for whose in CLIENT_OF for asked in questions()]
    some = random.Random(1).sample(everyone, 400)
    compare_all(tmp_path, upstream, some, search=True)


def compare_all(
    directory: Path,
    upstream: ScriptedUpstream,
    everyone: list[tuple[str, Asked]],
    *,
    search: bool,
) -> None:
    """Ask all in random order: cold, remembered, from the table, and over a stream."""
    certificates.make(directory)
    tls, https = peers.free_port(), peers.free_port()
    text = corefile(RULES, upstream.address, search=search).replace(
        ".:{PORT} {",
        f".:{{PORT}} tls://.:{tls} https://.:{https} {{\n    tls server.pem server.key",
    )
    ports, rng = {"tls": tls, "https": https}, random.Random(search)
    with serving(directory, text) as server:
        seen = {
            asked: content(ask(server, CLIENT_OF["kube-system"], asked)) for asked in questions()
        }
        missing = {}
        for asked in questions():
            other = asked._replace(name=f"nothing-{asked.rtype}.{zone_of(asked)}")
            missing[zone_of(asked), asked.rtype] = content(
                ask(server, CLIENT_OF["kube-system"], other)
            )
        rng.shuffle(everyone)
        for whose, asked in everyone:
            expected = expectation(whose, asked, seen, missing)
            packet, last = query_of(asked).to_wire(), b""
            for how in ("udp", "udp", "udp", rng.choice(("tcp",) * 18 + ("tls", "https"))):
                reply = over(how, CLIENT_OF[whose], ports.get(how, server.port), packet)
                if reply == last:  # most are: reading them takes longer than asking
                    continue
                last = reply
                found = dns.message.from_wire(reply)
                assert content(found) == expected, (whose, asked, how)
                if "vault" in HIDDEN.get(whose, ()):
                    assert not leaks(found), (whose, asked, how)
        assert "panic" not in server.output


def zone_of(asked: Asked) -> str:
    """Return the zone whose denials a question gets."""
    return "ext.test." if asked.name.endswith("ext.test.") else f"svc.{ZONE}"


def expectation(
    whose: str, asked: Asked, seen: dict[Asked, Any], missing: dict[tuple[str, str], Any]
) -> Any:
    """Return what a client may be told."""
    if asked.home not in HIDDEN.get(whose, ()):
        return seen[asked]
    if whose == "a network" and asked.rtype in ("A", "AAAA", "SRV", "ANY"):
        return (dns.rcode.REFUSED, dns.flags.QR, [], [], [])
    crown = f"crown.vault.svc.{ZONE}"
    if whose == "shop" and (asked.name == crown or asked.name.endswith(f".{crown}")):
        fake = f"fake.shared.svc.{ZONE}"
        rcode, flags, answer, *rest = seen[Asked(fake, asked.rtype, "shared")]
        return (rcode, flags, sorted([f"{asked.name} IN CNAME {fake}", *answer]), *rest)
    return missing[zone_of(asked), asked.rtype]


LEADING = (
    Asked("www.example.org.", "A", ""), Asked("two.example.org.", "A", ""),
    Asked("mail.example.org.", "MX", ""), Asked("_x._tcp.example.org.", "SRV", ""),
    Asked("any.wild.example.org.", "A", ""), Asked("a.b.wild.example.org.", "AAAA", ""),
    Asked(f"alias.shared.svc.{ZONE}", "A", ""), Asked(f"alias.shared.svc.{ZONE}", "CNAME", ""),
    Asked("1.0.77.10.in-addr.arpa.", "PTR", ""), Asked("1.1.77.10.in-addr.arpa.", "PTR", ""),
    Asked("9.9.77.10.in-addr.arpa.", "PTR", ""), Asked("77.10.in-addr.arpa.", "PTR", ""),
    Asked("0.77.10.in-addr.arpa.", "ANY", ""), Asked(ZONE, "ANY", ""), Asked(ZONE, "NS", ""),
    Asked(f"svc.{ZONE}", "ANY", ""), Asked(f"pod.{ZONE}", "A", ""), Asked("ext.test.", "ANY", ""),
    Asked(f"web.vault.svc.{ZONE}", "DS", ""), Asked(f"vault.svc.{ZONE}", "DNSKEY", ""),
)  # fmt: skip


@pytest.mark.parametrize("how", ["udp", "tcp"])
@pytest.mark.parametrize("first", ["kube-system", "dev"])
def test_nothing_leads_to_what_is_hidden(
    tmp_path: Path, upstream: ScriptedUpstream, first: str, how: str
) -> None:
    """Aliases, wildcards, records that name it, reverse names, apexes: whoever has asked before."""
    with serving(tmp_path, corefile(RULES, upstream.address)) as server:
        whole = {}
        for whose in (first, "kube-system", "dev", "nobody", "dev", "kube-system"):
            for _, asked in itertools.product(range(3), LEADING):
                reply = ask(server, CLIENT_OF[whose], asked, how)
                if whose == "kube-system":
                    assert whole.setdefault(asked, content(reply)) == content(reply), asked
                else:
                    assert not leaks(reply), (whose, asked)
        for asked in LEADING[:10]:
            assert leaks_at_all(whole[asked]), asked
        mail = ask(server, CLIENT_OF["dev"], LEADING[2], how)
        assert [str(each) for each in mail.answer] == ["mail.example.org. 60 IN MX 20 ns"] or (
            "ns.example.org." in str(mail.answer[0])
        )
        for asked in LEADING[:2]:
            assert ask(server, CLIENT_OF["dev"], asked, how).rcode() == dns.rcode.NXDOMAIN, asked
        nothing = Asked("1.0.78.10.in-addr.arpa.", "PTR", "")  # what the upstream says of it
        hidden, none = (ask(server, CLIENT_OF["dev"], each, how) for each in (LEADING[8], nothing))
        assert content(hidden) == content(none)


def leaks_at_all(found: tuple[Any, ...]) -> bool:
    return "crown" in str(found) or "10.77." in str(found)


def test_whole_zones_are_refused_where_a_name_is_hidden(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    with serving(tmp_path, corefile(RULES, upstream.address)) as server:
        for zone in (ZONE, "ext.test."):
            query = dns.message.make_query(zone, "AXFR", use_edns=0)
            for whose in ("dev", "nobody", "a node"):
                reply = dns.query.tcp(query, "127.0.0.1", 10, server.port, CLIENT_OF[whose])
                assert reply.rcode() == dns.rcode.REFUSED, (zone, whose)
                assert not leaks(reply)
            reply = dns.query.tcp(query, "127.0.0.1", 10, server.port, CLIENT_OF["kube-system"])
            assert reply.rcode() == dns.rcode.NOERROR, zone
            assert reply.answer or zone == "ext.test.", zone  # which has no whole zone to send
        reply = dns.query.tcp(
            dns.message.make_query("example.org.", "AXFR"), "127.0.0.1", 10, server.port,
            CLIENT_OF["dev"],
        )  # fmt: skip
        assert reply.rcode() == dns.rcode.NOERROR  # no rule is about that zone


def test_names_outside_on_the_way_of_any_reply(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    rules = "nxdomain from namespace dev to zone evil.test\nrefuse from namespace shop to zone evil.test"
    names = [
        Asked(f"{name}.", "A", "")
        for name in ("chain.example.com", "far.example.org", "x.evil.test")
    ]
    with serving(tmp_path, corefile(rules, upstream.address)) as server:
        for _ in range(3):
            for whose, rcode in (
                ("dev", dns.rcode.NXDOMAIN), ("team-a", dns.rcode.NOERROR),
                ("shop", dns.rcode.REFUSED), ("nobody", dns.rcode.NOERROR),
            ):  # fmt: skip
                for asked in names:
                    reply = ask(server, CLIENT_OF[whose], asked)
                    # An alias whose target is refused is all that there is, as with any server.
                    is_alias = asked is names[1] and rcode == dns.rcode.REFUSED
                    assert reply.rcode() == (0 if is_alias else rcode), (whose, asked)
                    said = " ".join(map(str, reply.answer))
                    assert ("evil" in said) == ("192.0.2.99" in said) == (rcode == 0), said


@pytest.mark.parametrize(
    "what", ["namespace vault", "zone vault.svc.cluster.local", "own namespace vault"]
)
def test_names_inside_on_the_way_of_a_reply_from_outside(
    tmp_path: Path, upstream: ScriptedUpstream, what: str
) -> None:
    """The first reply would be relayed in C, the others are kept."""
    rules = f"allow from namespace kube-system\nnxdomain to {what}"
    with serving(tmp_path, corefile(rules, upstream.address)) as server:
        for whose, is_shown in (("team-a", False), ("kube-system", True), ("nobody", False)):
            for rtype in ("A", "AAAA", "SRV"):
                asked = Asked(f"into-{whose}.example.com.", rtype, "")
                for _ in range(3):
                    reply = ask(server, CLIENT_OF[whose], asked)
                    said = " ".join(map(str, reply.answer)).lower()
                    assert ("crown" in said) == is_shown, (whose, rtype, said)
                    assert ("10.77" in said or "192.0.2.99" in said) == (is_shown and rtype == "A")


def test_pods_come_go_and_move(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    asked = Asked(f"crown.vault.svc.{ZONE}", "A", "vault")
    with serving(tmp_path, corefile(RULES, upstream.address)) as server:
        client = "127.0.1.40"

        def becomes(name: str, objects: list[dict[str, Any]], rcode: dns.rcode.Rcode) -> None:
            (tmp_path / "cluster" / name).write_text(
                "\n---\n".join(json.dumps(each) for each in objects) or "# none\n"
            )
            for _ in range(200):
                if ask(server, client, asked).rcode() == rcode:
                    break
                time.sleep(0.05)
            for how in ("udp", "udp", "tcp"):
                assert ask(server, client, asked, how).rcode() == rcode

        for _ in range(3):
            assert ask(server, client, asked).rcode() == dns.rcode.NXDOMAIN  # unknown
        becomes("more.yaml", [pod("vault", "new", client)], dns.rcode.NOERROR)
        becomes("more.yaml", [pod("dev", "new", client)], dns.rcode.NXDOMAIN)
        becomes("more.yaml", [pod("vault", "new", client)], dns.rcode.NOERROR)
        both = [pod("vault", "new", client), pod("dev", "newer", client)]
        becomes("more.yaml", both, dns.rcode.NXDOMAIN)  # two at one address: nobody


def test_metrics_log_and_explanation(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    metrics = peers.free_port()
    text = corefile(RULES, upstream.address).replace(
        "errors\n", f"errors\n    prometheus 127.0.0.1:{metrics}\n"
    )
    asked = Asked(f"crown.vault.svc.{ZONE}", "A", "vault")
    with serving(tmp_path, text) as server:
        for _ in range(5):
            assert ask(server, CLIENT_OF["dev"], asked).rcode() == dns.rcode.NXDOMAIN
            assert ask(server, CLIENT_OF["kube-system"], asked).rcode() == dns.rcode.NOERROR
        page = urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics").read().decode()
        lines = [
            line
            for line in page.splitlines()
            if line.startswith("clusterdns_policy_queries_total{")
        ]
        path = next(tmp_path.glob("Corefile-*"))
        lines_of = path.read_text().splitlines()
        place = {
            rule: f"{path}:{next(i for i, line in enumerate(lines_of, 1) if rule in line)}"
            for rule in ("nxdomain from namespace", "allow from namespace")
        }
        for rule in place.values():
            (line,) = [line for line in lines if f'rule="{rule}"' in line]
            assert float(line.rpartition(" ")[2]) >= 5, lines
        said = server.output
        assert f'"A IN crown.vault.svc.{ZONE} udp' in said
        assert "NXDOMAIN" in said
        done = subprocess.run(
            [sys.executable, "-m", "clusterdns", "explain", asked.name, "--corefile", str(path),
             "--manifests", str(tmp_path / "cluster"), "--client", CLIENT_OF["dev"]],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert place["nxdomain from namespace"] in done.stdout, done.stdout + done.stderr
        assert "decides about crown.vault.svc.cluster.local." in done.stdout


def test_check_names_rules_that_never_decide(tmp_path: Path) -> None:
    path = tmp_path / "Corefile"
    path.write_text(
        """. {
    policy {
        nxdomain from namespace dev to namespace v* type A
        refuse from namespace dev to namespace vault type A
        refuse from namespace dev to namespace vault
        allow from net 127.0.0.0/8
        nxdomain from net 127.0.0.0/8 to own
        nxdomain to zone a.example.org
        refuse to zone b.a.example.org type A
        refuse to zone example.org
        nxdomain to namespace *
        allow to own
        allow from unknown to namespace v*
    }
    kubernetes cluster.local {
        manifests .
    }
    forward . 192.0.2.1
}
"""
    )
    done = subprocess.run(
        [sys.executable, "-m", "clusterdns", "check", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    said = [line for line in done.stdout.splitlines() if "never decides" in line]
    never = [line.split(":")[1] for line in said]
    assert never == ["4", "7", "9", "12", "13"], done.stdout + done.stderr
    before = (3, 6, 8, 11, 11)
    assert all(f"is decided by {path}:{line}" in said[i] for i, line in enumerate(before))
    assert f"the rule of {path}:8 is about names outside" in done.stdout


def test_the_example_of_the_documentation(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    page = (Path(__file__).parents[2] / "docs" / "policy.md").read_text("utf-8")
    text = page.partition("```corefile\n")[2].partition("```")[0]
    text = text.replace(". {\n", ".:{PORT} {\n", 1).replace("/etc/resolv.conf", upstream.address)
    text = text.replace("pods insecure", f"manifests {tmp_path / 'cluster'}\n        pods insecure")
    for word in ("health", "ready", "prometheus :9153"):
        text = text.replace(
            f"    {word}\n", f"    {word.split()[0]} 127.0.0.1:{peers.free_port()}\n"
        )
    names = ("monitoring", "shop", "vault", "shared-tools", "shared-fakes", "test-1")
    objects = [made("Namespace", "", each) for each in names]
    objects += [
        service("shop", "web", "10.1.0.1"), service("shop", "pay", "10.1.0.2"),
        service("vault", "web", "10.1.0.3"), service("shared-tools", "cache", "10.1.0.4"),
        service("shared-fakes", "pay", "10.1.0.5"), pod("monitoring", "p", "127.0.1.1"),
        pod("shop", "p", "127.0.1.2"), pod("test-1", "p", "127.0.1.3"),
    ]  # fmt: skip
    (tmp_path / "cluster").mkdir()
    (tmp_path / "cluster" / "all.json").write_text(
        json.dumps({"kind": "List", "apiVersion": "v1", "items": objects})
    )
    hidden = "NXDOMAIN"
    with peers.clusterdns(text, tmp_path) as server:
        for _, (client, name, said) in itertools.product(
            range(3),
            (
                ("127.0.1.1", f"web.shop.svc.{ZONE}", "10.1.0.1"),
                ("127.0.1.2", f"web.shop.svc.{ZONE}", "10.1.0.1"),
                ("127.0.1.2", f"cache.shared-tools.svc.{ZONE}", "10.1.0.4"),
                ("127.0.1.2", f"web.vault.svc.{ZONE}", hidden),
                ("127.0.1.2", f"vault.svc.{ZONE}", hidden),
                ("127.0.1.2", "3.0.1.10.in-addr.arpa.", ""),
                ("127.0.1.3", f"pay.shop.svc.{ZONE}", "10.1.0.5"),
                ("127.0.1.3", "api.bank.example.", "REFUSED"),
                ("127.0.1.2", "api.bank.example.", "192.0.2.99"),
                ("127.0.1.9", f"web.shop.svc.{ZONE}", hidden),
            ),
        ):
            rtype = "PTR" if name.endswith("arpa.") else "A"
            reply = ask(server, client, Asked(name, rtype, ""))
            found = f"{dns.rcode.to_text(reply.rcode())} {' '.join(map(str, reply.answer))}"
            assert said in found, (client, name, found)
            assert "vault" not in found


# ---- without a process


def block(rules: str) -> str:
    """Return a Corefile with rules, or without `policy` if there are none."""
    policy = f"policy {{\n{rules}\n}}\n" if rules else ""
    return ". {\n" + policy + "kubernetes cluster.local {\nmanifests /\n}\n}\n"


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ("allow from label app=x", "labels of Pods are not supported"),
        ("forward 192.0.2.1 to own", "a server block with `view` can forward"),
        ("deny to own", "unknown property"),
        ("allow from", "nothing behind 'from'"),
        ("allow from namespace", "nothing behind 'namespace'"),
        ("allow from somebody", "wants one of namespace, net, unknown"),
        ("allow to zone", "nothing behind 'zone'"),
        ("allow to own too", "got 'too' behind 'own'"),
        ("allow from unknown dev", "got 'dev' behind 'unknown'"),
        ("allow from net 10.0.0.0/33", "10.0.0.0/33"),
        ("allow type B", "no type of records"),
        ("allow dev", "wants one of from, to, type"),
        ("rewrite to own", "wants the name that it leads to"),
        ("rewrite a..b to own", "no name"),
        ("unsynced never", "unsynced"),
        ("nxdomain from namespace dev, test", "'dev,' is no name of a namespace"),
        ("nxdomain from namespace Dev", "'Dev' is no name of a namespace"),
        ("nxdomain to namespace a_b", "'a_b' is no name of a namespace"),
        ("nxdomain to namespace a namespace b", "'namespace' stands there twice"),
        ("nxdomain to zone a to zone b", "'to' stands there twice"),
        ("unsynced allow", "has no rule"),
    ],
)
def test_mistakes(rules: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_text(block(rules), "Corefile", port=53, environ={}, warn=print)
    assert reason in str(caught.value)
    assert str(caught.value).startswith(("Corefile:3: ", "Corefile:2: "))


@pytest.mark.parametrize("rule", ["allow from unknown", "nxdomain to own", "refuse to namespace a"])
def test_namespaces_need_a_cluster(rule: str) -> None:
    with pytest.raises(ConfigError, match="need the kubernetes plugin"):
        compile_text(". {\npolicy {\n" + rule + "\n}\nwhoami\n}\n", "Corefile", port=53,
                     environ={}, warn=print)  # fmt: skip


@pytest.mark.parametrize(
    ("option", "of_a_namespace", "of_unknown"),
    [("", "SERVFAIL", "SERVFAIL"), ("unsynced allow", "NOERROR", "NOERROR"),
     ("unsynced unknown", "NOERROR", "REFUSED")],
)  # fmt: skip
def test_before_the_pods_are_listed(
    option: str, of_a_namespace: str, of_unknown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clusterdns.plugins.policy.START_TIMEOUT_S", 0.05)
    in_packet_loop(_before_the_pods(option, of_a_namespace, of_unknown))


async def _before_the_pods(option: str, of_a_namespace: str, of_unknown: str) -> None:
    rules = "nxdomain from namespace dev to namespace shop\nrefuse from unknown to namespace dev\n"
    async with InProcess(block(rules + option), manifests(), unlisted=("Pod",)) as server:
        policy = next(each for each in server.configuration.plugins if each.name == "policy")
        assert not policy.is_ready

        async def rcode(name: str) -> str:
            packet = dns.message.make_query(name, "A").to_wire()
            for _ in range(3):
                reply = await asked_by(server, packet, CLIENT_OF["dev"])
            return dns.rcode.to_text(dns.message.from_wire(reply).rcode())

        assert await rcode(f"web.shop.svc.{ZONE}") == of_a_namespace
        assert await rcode(f"web.dev.svc.{ZONE}") == of_unknown
        assert await rcode(f"web.shared.svc.{ZONE}") == "NOERROR"
        (store,) = server._stores.values()
        for each in manifests():
            if each["kind"] == "Pod" and not each["spec"].get("hostNetwork"):
                key = (each["metadata"]["namespace"], each["metadata"]["name"])
                store.apply((CLIENTS, key, ((each["status"]["podIP"],),)), 1)
        store.synced(CLIENTS)
        assert policy.is_ready
        assert await rcode(f"web.shop.svc.{ZONE}") == "NXDOMAIN"
        assert await rcode(f"web.dev.svc.{ZONE}") == "NOERROR"


def test_more_classes_than_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving_classes, "MAX_CLASSES", 3)
    monkeypatch.setattr(serving_classes, "MAX_CLIENTS", 5)
    in_packet_loop(_more_classes())


async def _more_classes() -> None:
    """Tables and clients are bounded; who has no table gets the same answers."""
    names = [f"n{i}" for i in range(20)]
    objects = [made("Namespace", "", each) for each in names]
    objects += [service(each, "web", f"10.1.0.{i}") for i, each in enumerate(names)]
    objects += [pod(each, "p", f"127.0.3.{i}") for i, each in enumerate(names)]
    async with InProcess(block("allow to own\nnxdomain to namespace *"), objects) as server:
        for round in range(4):
            for i, j in itertools.product(range(20), range(20)):
                packet = dns.message.make_query(f"web.n{j}.svc.{ZONE}", "A").to_wire()
                reply = dns.message.from_wire(await asked_by(server, packet, f"127.0.3.{i}"))
                assert reply.rcode() == (dns.rcode.NOERROR if i == j else dns.rcode.NXDOMAIN)
                tables = server.server.classes
                assert tables is not None
                assert len(tables._tables) <= 3
                assert len(tables._askers) <= 5
                assert len(tables.by_address) <= 5
            server.skipped_s += serving_classes.RESTART_S * (round + 1)


def test_most_clients_have_the_table_of_the_listener() -> None:
    in_packet_loop(_most_clients())


async def _most_clients() -> None:
    async with InProcess(
        block("nxdomain from namespace dev to namespace vault"), manifests()
    ) as server:
        tables = server.server.classes
        assert tables is not None
        assert tables.asker(CLIENT_OF["vault"]) == NOBODY == tables.asker("::ffff:127.0.9.9")
        assert (
            tables.asker(CLIENT_OF["dev"]) == tables.asker(f"::ffff:{CLIENT_OF['dev']}") != NOBODY
        )
        assert tables.table(NOBODY) is server.server.table
        unruled = InProcess(block(""), [])
        assert unruled.server.classes is None
        assert unruled.server.front is unruled.server.table


class Model:
    """What the rules say, read again from their text: a small second opinion."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = [line.split() for line in lines]

    def action(
        self, client: str, namespace: str | None, home: str | None, name: str, rtype: str
    ) -> str:
        """Return the action for a name asked by a client; ``home`` is the name's namespace."""
        for words in self.lines:
            if self._from(words, client, namespace) and self._to(words, namespace, home, name):
                types = self._behind(words, "type", ())
                if not types or rtype in types or (rtype == "ANY" and words[0] != "allow"):
                    return words[0]
        return "allow"

    def _behind(self, words: list[str], section: str, others: tuple[str, ...]) -> list[str]:
        if section not in words:
            return []
        found = []
        for word in words[words.index(section) + 1 :]:
            if word in ("from", "to", "type", "unknown", "own", "net", "zone", "namespace"):
                break
            found.append(word)
        return found

    def _from(self, words: list[str], client: str, namespace: str | None) -> bool:
        if "from" not in words:
            return True
        part = words[words.index("from") :]
        part = part[: part.index("to")] if "to" in part else part
        part = part[: part.index("type")] if "type" in part else part
        if "unknown" in part and namespace is None:
            return True
        if namespace is not None and any(
            _like(namespace, w) for w in self._behind(part, "namespace", ())
        ):
            return True
        address = ipaddress.ip_address(client)
        return any(address in ipaddress.ip_network(net) for net in self._behind(part, "net", ()))

    def _to(self, words: list[str], namespace: str | None, home: str | None, name: str) -> bool:
        if "to" not in words:
            return True
        part = words[words.index("to") :]
        part = part[: part.index("type")] if "type" in part else part
        if "own" in part and home is not None and home == namespace:
            return True
        if home is not None and any(_like(home, w) for w in self._behind(part, "namespace", ())):
            return True
        return any(f".{name}".endswith(f".{zone}.") for zone in self._behind(part, "zone", ()))


def _like(text: str, pattern: str) -> bool:
    head, star, tail = pattern.partition("*")
    return (
        text == head
        if not star
        else text.startswith(head) and text.endswith(tail) and len(text) >= len(head + tail)
    )


def random_rules(rng: random.Random) -> list[str]:
    """Return some rules."""
    found = []
    for _ in range(rng.randint(1, 7)):
        whom = rng.choice((
            "", "", "from namespace " + " ".join(rng.sample(NAMESPACES, 2)), "from namespace team-*",
            "from unknown", "from net 127.0.2.0/24", "from namespace dev net 127.0.1.4/30 unknown",
        ))  # fmt: skip
        what = rng.choice((
            "to own", "to namespace " + rng.choice(NAMESPACES), "to namespace *", "to namespace sha* own",
            "to zone web.shop.svc.cluster.local", "to zone vault.svc.cluster.local shop.svc.cluster.local",
            "to namespace dev zone crown.vault.svc.cluster.local", "to zone svc.cluster.local",
        ))  # fmt: skip
        types = rng.choice(("", "", "type A", "type AAAA SRV", "type TXT A"))
        found.append(" ".join((rng.choice(("allow", "nxdomain", "refuse")), whom, what, types)))
    return found


@pytest.mark.parametrize("seed", range(12))
def test_random_rules_against_the_model(seed: int) -> None:
    in_packet_loop(_random_rules(seed))


async def _random_rules(seed: int) -> None:
    rng = random.Random(seed)
    lines = random_rules(rng)
    model = Model(lines)
    homes: dict[str, str | None] = {"nothing.cluster.local.": None, "svc.cluster.local.": None}
    for asked in questions():
        if asked.name.endswith(ZONE):
            homes[asked.name.lower()] = asked.home
    async with (
        InProcess(block("\n".join(lines)), manifests()) as server,
        InProcess(block(""), manifests()) as unruled,
    ):
        for _ in range(1500):
            name = rng.choice(sorted(homes))
            rtype = rng.choice(("A", "AAAA", "SRV", "TXT", "ANY"))
            whose = rng.choice(sorted(CLIENT_OF))
            packet = dns.message.make_query(name, rtype, id=rng.randrange(65536)).to_wire()
            namespace = whose if whose in NAMESPACES else None
            action = model.action(CLIENT_OF[whose], namespace, homes[name], name, rtype)
            reply = dns.message.from_wire(await asked_by(server, packet, CLIENT_OF[whose]))
            whole = dns.message.from_wire(await asked_by(unruled, packet, CLIENT_OF[whose]))
            why = (lines, whose, name, rtype, action)

            def is_hidden(record: str, asked: str = name, who: str = whose) -> bool:
                owner, _, kind, *data = record.split()
                named = {owner} - {asked} | ({data[-1]} if kind == "SRV" else set())
                where, of = CLIENT_OF[who], who if who in NAMESPACES else None
                return kind != "SOA" and any(
                    model.action(where, of, home_of(each), each, "A") in ("nxdomain", "refuse")
                    for each in named
                )

            if action == "allow":
                rcode, flags, *sections = content(whole)
                shown = [[each for each in part if not is_hidden(each)] for part in sections]
                assert content(reply) == (rcode, flags, *shown), why
            elif action == "refuse":
                assert reply.rcode() == dns.rcode.REFUSED, why
                assert not any(reply.sections[1:]), why
            else:
                assert reply.rcode() == dns.rcode.NXDOMAIN, why
                other = dns.message.make_query("nothing.svc.cluster.local.", rtype).to_wire()
                denial = await asked_by(unruled, other, CLIENT_OF[whose])
                assert content(reply) == content(dns.message.from_wire(denial)), why


def home_of(name: str) -> str | None:
    """Return the namespace of a name."""
    labels = name.split(".")
    return labels[-5] if labels[-4:-1] == ["svc", "cluster", "local"] and len(labels) > 4 else None


async def asked_by(server: InProcess, packet: bytes, client: str) -> bytes:
    """Ask as a transport does: the table of the client, then the listener."""
    hits = server.server.tally.transport("udp", "1")
    reply = server.server.front.reply(packet, server.now(), hits, False, None, lambda: client)
    if reply is None:
        done: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        reply = server.server.resolve(packet, (client, 4000), "udp", hits, done.set_result)
        if reply == LATER:
            reply = await done
    assert reply
    return reply


def test_what_etcd_leads_to_is_kept_for_nobody_else(tmp_path: Path) -> None:
    """An alias in etcd leads to a name that clients see differently: `cache` must not mix them."""
    rules = f"""
        rewrite fake.shared.svc.{ZONE} from namespace shop to zone crown.vault.svc.{ZONE}
        nxdomain from namespace dev to namespace vault
    """
    with etcdserver.running(tmp_path) as etcd:
        etcd.put("/skydns/test/sky/www", {"host": f"crown.vault.svc.{ZONE}"})
        text = corefile(rules, "192.0.2.1")
        text = text.replace("cache 30", f"etcd sky.test {{\nendpoint {etcd.url}\n}}\ncache 30")
        asked = Asked("www.sky.test.", "A", "")
        for first in ("shop", "dev", "vault"):
            with serving(tmp_path, text) as server:
                for whose in (first, "shop", "vault", "dev", "vault", "shop"):
                    found = " ".join(map(str, ask(server, CLIENT_OF[whose], asked).answer))
                    is_there = [address in found for address in ("10.77.0.1", "10.1.0.2")]
                    assert is_there == [whose == "vault", whose == "shop"], (first, whose, found)
