"""Explanations: their replies are those of the wire, and each says what decided.

Every question of the case files is explained in place of being answered, so the reply of an
explanation is held against the case, and the explanation of each path against what must be in it.
Random questions about the lab are answered and explained, and both replies are equal to the octet.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import casefile
import dns.message
import explanations
import pytest
import signedzones
import test_cases
import yaml
from inprocess import CLIENT, InProcess
from scriptedupstream import ScriptedUpstream

from clusterdns.chain.watched import PASSES
from clusterdns.serving import batch
from clusterdns.serving.explaining import explain
from clusterdns.wire import message, name, rr, trace
from clusterdns.wire.message import Edns, Question
from clusterdns.wire.response import Response

ZONES = Path(__file__).resolve().parents[2] / "zones"
IDENT = 0x1234


GOLDEN = Path(__file__).parent / "cases" / "explained"


@pytest.mark.parametrize("case", test_cases.NOW, ids=test_cases.ids)
def test_an_explanation_has_the_reply_and_the_path_that_led_to_it(case, tmp_path, request):
    told = list[str]()
    with test_cases.upstream_of(case) as upstream:
        corefile = test_cases.fill(case, f"manifests {tmp_path}", upstream)
        failures = asyncio.run(explained(case, corefile, upstream, told))
    assert not failures, "\n\n".join(failures)
    golden = GOLDEN / Path(case.path).stem / f"{test_cases.ids(case)}.txt"
    text = "".join(f"{each}\n" for each in told).replace(
        test_cases.LOCAL[0], casefile.LOCAL_ADDRESS
    )
    text = re.sub(r"serial 1\d{9}", "serial NOW", text)  # Unix seconds
    if request.config.getoption("--record"):
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text)
    assert golden.read_text() == text


def test_every_golden_file_belongs_to_a_case():
    wanted = {f"{Path(case.path).stem}/{test_cases.ids(case)}.txt" for case in test_cases.NOW}
    assert wanted == {str(path.relative_to(GOLDEN)) for path in GOLDEN.rglob("*.txt")}
    assert len(test_cases.NOW) == len(wanted)


async def explained(
    case: casefile.Case, corefile: str, upstream: Any, told: list[str]
) -> test_cases.Failures:
    failures = test_cases.Failures()
    objects = test_cases.all_objects(case)
    async with InProcess(corefile, objects, unlisted=case.unsynced) as server:
        for step in case.steps:
            if step.verb == "ask":
                await explain_step(case, step, server, failures, told)
            elif step.verb == "asked":
                failures += filter(None, [test_cases.hold_asked(case, step, upstream)])
            elif step.verb == "time":
                server.skipped_s += int(step.words[0])
            elif step.verb == "apply":
                for manifest in test_cases.objects(step.words[0]):
                    server.apply(manifest)
            elif step.verb == "delete":
                for manifest in test_cases.found(case, step):
                    server.apply(manifest, is_gone=True)
    return failures


async def explain_step(
    case: casefile.Case,
    step: casefile.Step,
    server: InProcess,
    failures: test_cases.Failures,
    told: list[str],
) -> None:
    assert step.question is not None
    transport = step.question.transport or "udp"
    packet = casefile.to_wire(step.question, IDENT)
    if transport == "udp":
        packet = packet[: batch.RECEIVE_OCTETS]
    found, reply = await explain(server.server, packet, CLIENT, transport)
    failures.check(case, step, "clusterdns", reply, "explanation")
    failures += [f"{case.path}:{step.line}: {fault}" for fault in explanations.faults(found, reply)]
    told.append(explanations.text(found, reply))


# ---- the lab, at random ------------------------------------------------------------------------

LABELS = [
    "web", "six", "db", "website", "storefront", "printer", "uit", "kube-system", "default",
    "kubernetes", "kube-dns", "svc", "pod", "ns", "dns", "hostmaster", "dns-version", "_http",
    "_tcp", "_udp", "10-244-1-10", "www", "example", "com", "org", "nope", "WEB", "cluster", "local",
]  # fmt: skip
ENDS = [
    "cluster.local", "svc.cluster.local", "uit.svc.cluster.local", "example.com", "example.org",
    "96.10.in-addr.arpa", "1.96.10.in-addr.arpa", "ip6.arpa", ".",
    "web.uit.svc.cluster.local", "website.uit.svc.cluster.local", "www.example.com",
    "_http._tcp.web.uit.svc.cluster.local", "1.1.96.10.in-addr.arpa",
]  # fmt: skip
TYPES = [rr.A, rr.AAAA, rr.SRV, rr.PTR, rr.NS, rr.SOA, rr.TXT, rr.CNAME, rr.ANY, rr.DS, rr.AXFR]


def random_packet(rng: random.Random) -> bytes:
    labels = rng.choices([*LABELS, "1", "10"], k=rng.choice((0, 0, 1, 2, 3)))
    qname = name.parse(".".join([*labels, rng.choice(ENDS)]).removesuffix("..") or ".")
    question = Question(qname, name.fold(qname), rng.choice(TYPES))
    opt = Edns(rng.choice((512, 1232, 4096)), 0, rng.choice((0, message.EDNS_DO)))
    flags = rng.choice((0, message.RD, message.RD | message.CD))
    return message.write_query(rng.randrange(65536), flags, question, rng.choice((None, opt)))


def lab_objects() -> list[Any]:
    return [
        manifest
        for path in sorted((ZONES / "cluster").glob("*.yaml"))
        for manifest in yaml.safe_load_all(path.read_text())
        if manifest
    ]


def test_explanations_of_random_questions_have_the_reply_of_the_chain(monkeypatch):
    monkeypatch.chdir(ZONES)
    corefile = (ZONES / "Corefile").read_text().replace("    loadbalance\n", "")  # it is random

    async def main() -> int:
        rng, answers = random.Random(19), 0
        async with InProcess(corefile, lab_objects()) as server:
            for _ in range(1500):
                packet = random_packet(rng)
                transport = rng.choice(("udp", "tcp"))
                found, reply = await explain(server.server, packet, CLIENT, transport)
                assert await server.ask_anew(packet, transport) == reply, found
                assert [] == explanations.faults(found, reply)
                answers += bool(reply and reply[7])
        return answers

    assert asyncio.run(main()) > 100  # not all of them are denials


# ---- every plugin that decides or changes replies, at random ----------------------------------

POD = {
    "kind": "Pod",
    "metadata": {"name": "client", "namespace": "uit"},
    "status": {"podIP": CLIENT[0], "podIPs": [{"ip": CLIENT[0]}]},
}
CHAINS = {
    "acl": "acl {\n block type AAAA net 127.0.0.0/8\n filter type SRV net *\n drop type TXT\n}",
    "any": "any",
    "autopath": "autopath @kubernetes",
    "autopath of a file": "autopath resolv.conf",
    "bufsize": "bufsize 512",
    "cache": "cache 5",
    "cancel": "cancel",
    "cookie": "cookie",
    "dns64": "dns64 {\n allow_ipv4\n}",
    "dns64 of all": "dns64 {\n translate_all\n allow_ipv4\n}",
    "dnssec": "dnssec cluster.local {\n key file KEY\n}",
    "etcd": "etcd skydns.test {\n endpoint http://127.0.0.1:1\n fallthrough\n}",
    "families": "families ipv4",
    "header": "header {\n response set ra\n response clear aa\n}",
    "header of a query": "header {\n query set rd\n response clear rd\n}",
    "hosts": "hosts {\n 192.0.2.7 www.example.com web.uit.svc.cluster.local\n"
             " 2001:db8::7 nope.example.org\n fallthrough example.com\n}",
    "k8s_external": "k8s_external example.org {\n headless\n fallthrough\n}",
    "loadbalance": "loadbalance",
    "local": "local",
    "log and errors": "log\nerrors",
    "minimal": "minimal",
    "nsid": "nsid x",
    "private": "private",
    "ratelimit": "ratelimit 1000000",
    "rewrite of names": "rewrite name regex (.*)\\.example\\.com {1}.uit.svc.cluster.local answer auto\n"
                        "rewrite name suffix .nope .example.org",
    "rewrite of types": "rewrite type AAAA A\nrewrite ttl regex (.*) 7",
    "rewrite of aliases": "rewrite cname exact www.example.com. web.uit.svc.cluster.local.\n"
                          "rewrite continue name www.example.org www.example.com\n"
                          "rewrite edns0 local set 0xfff0 abc",
    "search": "search cluster.local",
    "siit": "siit {\n ipv6_prefix 2001:db8::/96\n}",
    "template": "template IN A example.com {\n match ^w\n answer \"{{ .Name }} 60 IN A 192.0.2.9\"\n"
                " fallthrough\n}\n"
                "template IN ANY example.org {\n rcode NXDOMAIN\n}",
    "template of aliases": "template IN A nope {\n answer \"{{ .Name }} 5 IN CNAME web.uit.svc.cluster.local.\"\n}",
    "transfer": "transfer {\n to *\n}",
    "tsig": "tsig {\n secret a.key. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=\n require TXT\n}",
    "view": "view some {\n expr type() in ['A', 'SRV']\n}",
}  # fmt: skip
# What chance would seldom ask.
PROBES = [
    "web.uit.svc.cluster.local A", "web.uit.svc.cluster.local AAAA", "six.uit.svc.cluster.local A",
    "web.uit.svc.cluster.local A do", "wbe.uit.svc.cluster.local A do", "localhost A",
    "www.example.com A", "www.example.com AAAA", "www.example.org AAAA", "www.example.org A",
    "x.skydns.test A", "www.example.com.uit.svc.cluster.local A", "web.uit.uit.svc.cluster.local A",
    "workers.uit.svc.cluster.local A", "nope A", "nope AAAA", "single A", "10.in-addr.arpa PTR", "1.1.168.192.in-addr.arpa PTR",
    "web.uit.example.org A", "example.org SOA", "uit.example.org A",
]  # fmt: skip
CHAIN = """.:53 {
    SOME
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        manifests cluster
        pods verified
        fallthrough in-addr.arpa ip6.arpa
    }
    file db.example.com example.com
    forward . UPSTREAM
}
"""
FROM_UPSTREAM = [
    casefile.Scripted("www.example.org", "answer", 60, rr.CLASS_IN, rr.A, "192.0.2.1"),
    casefile.Scripted("www.example.org", "answer", 60, rr.CLASS_IN, rr.A, "192.0.2.2"),
    casefile.Scripted("nope", "servfail"),
]


# These do nothing that a client sees, or only for queries that a random one is not.
PASSIVE = {"bufsize", "cancel", "cookie", "log and errors", "nsid", "ratelimit", "view"}


class Still(InProcess):
    """A server whose clock stands still, so that no TTL falls between two answers."""

    def now(self) -> float:
        return 1000.0


def seen(reply: bytes | None) -> tuple[Any, ...] | None:
    """A reply without the order of its records, which `loadbalance` draws."""
    if reply is None:
        return None
    found = dns.message.from_wire(reply, one_rr_per_rrset=True)
    sections = (sorted(map(str, section)) for section in found.sections)
    return (found.id, found.flags, found.rcode(), found.options, *sections)


@pytest.mark.parametrize("chain", CHAINS)
def test_what_changes_replies_is_explained_with_the_reply_of_the_wire(chain, tmp_path, monkeypatch):
    monkeypatch.chdir(ZONES)
    some = CHAINS[chain].replace(
        "KEY", str(tmp_path / signedzones.key_files(tmp_path, "cluster.local.")[0])
    )
    upstream = ScriptedUpstream(FROM_UPSTREAM)
    corefile = CHAIN.replace("SOME", some).replace("UPSTREAM", upstream.address)
    acted = set[str]()

    async def main() -> None:
        rng = random.Random(chain)
        async with Still(corefile, [*lab_objects(), POD]) as server:
            for packet in [*map(about, PROBES), *(random_packet(rng) for _ in range(150))]:
                transport = rng.choice(("udp", "tcp"))
                await server.ask_anew(packet, transport)  # the first reply may be kept
                found, reply = await explain(server.server, packet, CLIENT, transport)
                assert seen(await server.ask_anew(packet, transport)) == seen(reply), found
                assert [] == explanations.faults(found, reply)
                acted.update(acting(found))

    try:
        asyncio.run(main())
    finally:
        upstream.stop()
    assert {"kubernetes", "forward", "file"} <= acted or chain == "view"
    if chain not in PASSIVE:
        assert chain.split()[0] in acted


def about(probe: str) -> bytes:
    words = probe.split()
    qname = name.parse(words[0])
    qtype = next(number for number, text in rr.TYPE_TEXT.items() if text == words[1])
    do = message.EDNS_DO if "do" in words else 0
    question = Question(qname, name.fold(qname), qtype)
    return message.write_query(7, 0, question, Edns(1232, 0, do))


def acting(run: dict[str, Any]) -> Iterator[str]:
    """Yield the plugins that did more than to pass the question on."""
    for step in run.get("steps", ()):
        if step["verdict"] != PASSES or step["notes"]:
            yield step["plugin"]
        for inner in step["questions"]:
            yield from acting(inner)


# ---- sentences ---------------------------------------------------------------------------------

CLUSTER = """.:53 {
    acl {
        block type A net 192.0.2.0/24
    }
    rewrite name old.uit.svc.cluster.local web.uit.svc.cluster.local
    template IN A example.net {
        match ^x
        answer "{{ .Name }} 60 IN A 192.0.2.1"
        fallthrough
    }
    hosts {
        192.0.2.7 named.example
        fallthrough
    }
    kubernetes cluster.local in-addr.arpa {
        pods verified
        namespaces uit default
        manifests MANIFESTS
    }
}
"""
SENTENCES = [
    ("web.uit.svc.cluster.local", "A", "Service uit/web has the cluster addresses 10.96.1.1"),
    ("wbe.uit.svc.cluster.local", "A", 'there is no Service uit/wbe, did you mean "web"?'),
    ("web.default.svc.cluster.local", "A", "Services of this name are in the namespaces uit"),
    ("kube-dns.kube-system.svc.cluster.local", "A", "the namespace kube-system is hidden"),
    ("web.uit.svc.cluster.local", "AAAA", "no record of type AAAA"),
    ("_nope._tcp.web.uit.svc.cluster.local", "SRV", "uit/web has no port nope/tcp; it has http/TCP"),
    ("x.web.uit.svc.cluster.local", "A", "no ready endpoint of uit/web has the host name x"),
    ("website.uit.svc.cluster.local", "A", "is an alias of www.example.com"),
    ("a.b.cluster.local", "A", "no object has such a name"),
    ("1-2-3-4.uit.pod.cluster.local", "A", "Pods at 1.2.3.4: none"),
    ("1.1.96.10.in-addr.arpa", "PTR", "10.96.1.1 is a cluster address of uit/web"),
    ("10.1.244.10.in-addr.arpa", "PTR", "10.244.1.10 is a ready endpoint of"),
    ("old.uit.svc.cluster.local", "A", "becomes web.uit.svc.cluster.local. A"),
    ("x.example.net", "A", "the rule for example.net. matches"),
    ("y.example.net", "A", "the rule for example.net. does not match"),
    ("named.example", "A", "the entries of the Corefile know the name: 1 of type A"),
]  # fmt: skip


BIG = ".:53 {\n hosts {\n" + "".join(f"  192.0.2.{i} big.test\n" for i in range(99)) + " }\n}\n"


def explain_one(corefile: str, qname: str, qtype: int, client: str = "127.0.0.1") -> Any:
    wire = name.parse(qname)
    packet = message.write_query(1, message.RD, Question(wire, name.fold(wire), qtype), None)

    async def main() -> Any:
        async with InProcess(corefile, lab_objects()) as server:
            return (await explain(server.server, packet, (client, 4000))).found

    return asyncio.run(main())


@pytest.mark.parametrize(("qname", "qtype", "sentence"), SENTENCES)
def test_what_decided_is_said(qname, qtype, sentence, tmp_path):
    number = next(k for k, v in rr.TYPE_TEXT.items() if v == qtype)
    found = explain_one(CLUSTER.replace("MANIFESTS", str(tmp_path)), qname, number)
    texts = [note["text"] for note in explanations.notes(found)]
    assert any(sentence in text for text in texts), texts


def test_a_rule_is_named_with_its_line(tmp_path):
    corefile = CLUSTER.replace("MANIFESTS", str(tmp_path))
    found = explain_one(corefile, "web.uit.svc.cluster.local", rr.A, "192.0.2.9")
    (note,) = [each for each in explanations.notes(found) if "block" in each["text"]]
    assert ("Corefile:3", True) == (note["place"], note["is_cause"])
    assert "192.0.2.9" in note["text"]
    assert found["verdict"].startswith("REFUSED")
    found = explain_one(corefile, "old.uit.svc.cluster.local", rr.A)
    places = {each["place"] for each in explanations.notes(found) if "place" in each}
    assert {"Corefile:1", "Corefile:5"} <= places


def test_the_table_and_a_cut_reply_are_told(monkeypatch):
    monkeypatch.chdir(ZONES)
    corefile = (ZONES / "Corefile").read_text()
    packet = about("web.uit.svc.cluster.local A")

    async def main() -> None:
        async with InProcess(corefile, lab_objects()) as server:
            before = (await explain(server.server, packet, CLIENT)).found
            hits = [*server.server.tally.transport("udp", "1")]
            await server.ask_chain(packet, "udp")
            await server.ask_chain(packet, "udp")
            counted = [*server.server.tally.transport("udp", "1")]
            after = (await explain(server.server, packet, CLIENT)).found
            assert (False, True) == (before["table"], after["table"])
            assert hits != counted == [*server.server.tally.transport("udp", "1")]

    asyncio.run(main())
    found = explain_one(BIG, "big.test", rr.A)
    assert any("the reply is cut" in note["text"] for note in explanations.notes(found))


def test_notes_are_bounded():
    budget = trace.Budget()
    question = Question(b"\0", name.ROOT, rr.A)
    run = trace.Run(question, budget)
    for _ in range(2 * trace.MAX_NOTES):
        run.note("x")
    assert trace.MAX_NOTES == len(run.notes)
    with trace.noted_by(trace.Step(run, "x", (), question)):
        assert trace.begin(question) is None
    budget.left, budget.is_over = 1, True
    run.note("late")
    assert trace.MAX_NOTES == len(run.notes)


def test_nobody_takes_notes_of_other_queries():
    assert trace.scribe() is None
    question = Question(b"\0", name.ROOT, rr.A)
    assert trace.begin(question) is None
    assert "NOERROR without records" == trace.response_text(Response())
