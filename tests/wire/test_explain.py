"""Explanations: their replies are those of the wire, and each says what decided.

Every question of the case files is explained in place of being answered, so the reply of an
explanation is held against the case, and the explanation of each path against what must be in it.
Random questions about the lab are answered and explained, and both replies are equal to the octet.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import casefile
import pytest
import test_cases
import yaml
from inprocess import CLIENT, InProcess

from clusterdns.serving import batch
from clusterdns.serving.explaining import explain
from clusterdns.wire import message, name, rr, trace
from clusterdns.wire.message import Edns, Question
from clusterdns.wire.response import Response

ZONES = Path(__file__).resolve().parents[2] / "zones"
IDENT = 0x1234


def notes_of(run: dict[str, Any]) -> list[dict[str, Any]]:
    """All notes of a run, with those of the questions it led to."""
    found = list(run.get("notes", ()))
    for step in run.get("steps", ()):
        found += step["notes"]
        for inner in step["questions"]:
            found += notes_of(inner)
    return found


def faults_of(run: dict[str, Any]) -> list[str]:
    """What an explanation lacks: a decision, its line, or its reasons."""
    if "question" not in run:  # refused at the gate
        return [] if run["verdict"] else ["no verdict"]
    found = [] if run["verdict"] else [f"{run['question']}: no verdict"]
    if not run["steps"]:
        return found if run["notes"] else [*found, f"{run['question']}: no reason without a step"]
    if not run["server_block"]["place"].startswith("Corefile:"):
        found.append(f"{run['question']}: server block without a line")
    if not run["notes"]:
        found.append(f"{run['question']}: no reason for the server block")
    for step in run["steps"]:
        if not step["verdict"]:
            found.append(f"{run['question']}: {step['plugin']} has no verdict")
        if not all(each.startswith("Corefile:") for each in step["places"]) or not step["places"]:
            found.append(f"{run['question']}: {step['plugin']} has no line")
        decides = step["verdict"].startswith("answers")
        if step["plugin"] == "kubernetes" and decides and "REFUSED" not in step["verdict"]:
            found += [] if step["notes"] else [f"{run['question']}: kubernetes gives no reason"]
        for inner in step["questions"]:
            found += faults_of(inner)
    return found


@pytest.mark.parametrize("case", test_cases.NOW, ids=test_cases.ids)
def test_an_explanation_has_the_reply_and_the_reasons(case, tmp_path):
    with test_cases.upstream_of(case) as upstream:
        corefile = test_cases.fill(case, f"manifests {tmp_path}", upstream)
        failures = asyncio.run(explained(case, corefile, upstream))
    assert not failures, "\n\n".join(failures)


async def explained(case: casefile.Case, corefile: str, upstream: Any) -> test_cases.Failures:
    failures = test_cases.Failures()
    objects = test_cases.all_objects(case)
    async with InProcess(corefile, objects, unlisted=case.unsynced) as server:
        for step in case.steps:
            if step.verb == "ask":
                await explain_step(case, step, server, failures)
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
    case: casefile.Case, step: casefile.Step, server: InProcess, failures: test_cases.Failures
) -> None:
    assert step.question is not None
    transport = step.question.transport or "udp"
    packet = casefile.to_wire(step.question, IDENT)
    if transport == "udp":
        packet = packet[: batch.RECEIVE_OCTETS]
    found, reply = await explain(server.server, packet, CLIENT, transport)
    failures.check(case, step, "clusterdns", reply, "explanation")
    failures += [f"{case.path}:{step.line}: {fault}" for fault in faults_of(found)]


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
                assert [] == faults_of(found)
                answers += bool(reply and reply[7])
        return answers

    assert asyncio.run(main()) > 100  # not all of them are denials


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
    texts = [note["text"] for note in notes_of(found)]
    assert any(sentence in text for text in texts), texts


def test_a_rule_is_named_with_its_line(tmp_path):
    corefile = CLUSTER.replace("MANIFESTS", str(tmp_path))
    found = explain_one(corefile, "web.uit.svc.cluster.local", rr.A, "192.0.2.9")
    (note,) = [each for each in notes_of(found) if "block" in each["text"]]
    assert ("Corefile:3", True) == (note["place"], note["is_cause"])
    assert "192.0.2.9" in note["text"]
    assert found["verdict"].startswith("REFUSED")
    found = explain_one(corefile, "old.uit.svc.cluster.local", rr.A)
    places = {each["place"] for each in notes_of(found) if "place" in each}
    assert {"Corefile:1", "Corefile:5"} <= places


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
