"""The case files: by the table and the chain in process, and over UDP and TCP by real servers.

``--subject HOST:PORT`` asks the questions of a server that runs already, with the Corefile at the head
of ``cases/clusterip.case`` and the objects of ``cases/objects/fixtures.yaml``. Files under ``cases/later`` are of features clusterdns has not got
yet; they are held against CoreDNS only, so that they are right when their time comes. Those under
``cases/own`` are of directives that CoreDNS has not got.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import struct
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import casecheck
import casefile
import caseparser
import dns.edns
import dns.message
import dns.rdatatype
import peers
import pytest
import yaml
from fakeapi import RESOURCES, FakeApi
from inprocess import InProcess
from scriptedupstream import ScriptedUpstream

from clusterdns.host import interfaces
from clusterdns.serving import batch

CASES = Path(__file__).parent / "cases"
LOCAL = interfaces.non_loopback() or (casefile.LOCAL_ADDRESS,)


def load(directory: Path) -> list[casefile.Case]:
    """Return the cases of all files of a directory."""
    return [
        case
        for path in sorted(directory.glob("*.case"))
        for case in caseparser.load(path, local_addresses=LOCAL)
    ]


COMMON, OWN, LATER = load(CASES), load(CASES / "own"), load(CASES / "later")
NOW = [*COMMON, *OWN]
MANY_SECONDS = 4  # of waiting: with two transports, and a server to start for each, it is slow
IDENT = 0x1234
AA = 0x0400


def objects(name: str) -> list[dict[str, Any]]:
    """Return the manifests of one file, the host's own address in them."""
    text = (CASES / "objects" / name).read_text().replace(casefile.LOCAL_ADDRESS, LOCAL[0])
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def all_objects(case: casefile.Case) -> list[dict[str, Any]]:
    return [manifest for name in case.objects for manifest in objects(name)]


def ids(case: casefile.Case) -> str:
    return re.sub(r"\W+", "-", case.name)


def in_real_time(cases: list[casefile.Case]) -> list[Any]:
    """Return cases as parameters, those that wait for long marked as slow."""
    waits = (sum(int(s.words[0]) for s in case.steps if s.verb == "time") for case in cases)
    return [
        pytest.param(case, marks=[pytest.mark.slow] if wait_s > MANY_SECONDS else [])
        for case, wait_s in zip(cases, waits, strict=True)
    ]


class Failures(list):
    """What did not hold in one case, with file and line."""

    def check(
        self, case: casefile.Case, step: casefile.Step, subject: str, wire: bytes | None, how: str
    ) -> None:
        difference = casecheck.check_any(step.expected(subject), wire)
        if difference is None and wire is not None and len(wire) > 12:
            difference = casecheck.second_opinion(wire)
        if difference is not None:
            self.append(f"{case.path}:{step.line}: {step.question} by {how}\n{difference}")


@contextlib.contextmanager
def upstream_of(case: casefile.Case) -> Iterator[ScriptedUpstream]:
    made = ScriptedUpstream(case.upstream)
    try:
        yield made
    finally:
        made.stop()


def hold_asked(case: casefile.Case, step: casefile.Step, upstream: ScriptedUpstream) -> str:
    """Return "" if the upstream was asked as often as a step says."""
    qname, rtype, count = step.words
    asked = upstream.asked(qname, dns.rdatatype.from_text(rtype))
    holds = asked >= int(count[2:]) if count.startswith(">=") else asked == int(count)
    return "" if holds else f"{case.path}:{step.line}: asked {asked} times, not {count}"


# ---- in process ------------------------------------------------------------------------------


@pytest.mark.parametrize("case", NOW, ids=ids)
def test_table_and_chain(case, tmp_path):
    """Each question three times: what the table repeats is what the chain said, to the octet."""
    with upstream_of(case) as upstream:
        corefile = fill(case, f"manifests {tmp_path}", upstream)
        failures = asyncio.run(in_process(case, corefile, upstream))
    assert not failures, "\n\n".join(failures)


async def in_process(case: casefile.Case, corefile: str, upstream: ScriptedUpstream) -> Failures:
    failures = Failures()
    async with InProcess(corefile, all_objects(case), unlisted=case.unsynced) as server:
        for step in case.steps:
            if step.verb == "ask":
                await ask_in_process(case, step, server, failures)
            elif step.verb == "asked":
                failures += filter(None, [hold_asked(case, step, upstream)])
            elif step.verb == "time":
                server.skipped_s += int(step.words[0])
            elif step.verb == "apply":
                for manifest in objects(step.words[0]):
                    server.apply(manifest)
            elif step.verb == "delete":
                for manifest in found(case, step):
                    server.apply(manifest, is_gone=True)
        if not case.is_stateful:
            failures += [await hold_remembered(case, server, key) for key in keys_of(server)]
    return Failures(filter(None, failures))


def keys_of(server: InProcess) -> list[bytes]:
    return server.server.table.questions()


async def hold_remembered(case: casefile.Case, server: InProcess, key: bytes) -> str:
    """Return "" if the table still says to a remembered key what the chain says."""
    packet = struct.pack("!HHHHHH", IDENT, 0x0100, 1, 0, 0, 0) + key
    table, chain = server.ask_table(packet, "tcp"), await server.ask_anew(packet, "tcp")
    same = table is not None and table == chain
    return "" if same else f"{case.path}:{case.line}: {key!r}: table {table!r}, chain {chain!r}"


async def ask_in_process(
    case: casefile.Case, step: casefile.Step, server: InProcess, failures: Failures
) -> None:
    assert step.question is not None
    transport = step.question.transport or "udp"
    packet = casefile.to_wire(step.question, IDENT)
    if transport == "udp":
        packet = packet[: batch.RECEIVE_OCTETS]
    chain = await server.ask_anew(packet, transport)
    failures.check(case, step, "clusterdns", chain, "chain")
    if case.is_stateful:
        return
    for _ in range(2):  # what passes is remembered at the second sighting
        await server.ask_chain(packet, transport)
    table = server.ask_table(packet, transport)
    is_known = is_known_from_memory(case, step) and not await gives_reason(step, server)
    if table != chain and (table is not None or is_known):
        failures.append(
            f"{case.path}:{step.line}: table {table and table.hex()}, chain {chain and chain.hex()}"
        )


async def gives_reason(step: casefile.Step, server: InProcess) -> bool:
    """Tell whether clients with EDNS get an extended error: then the table has no answer."""
    assert step.question is not None
    packet = casefile.to_wire(step.question._replace(edns=1232), IDENT)
    reply = await server.ask_anew(packet, "tcp")
    options = dns.message.from_wire(reply).options if reply else ()
    return any(option.otype == dns.edns.OptionType.EDE for option in options)


def is_known_from_memory(case: casefile.Case, step: casefile.Step) -> bool:
    """Tell whether the table must have it: a plain question, answered by the cluster alone."""
    asked, expectation = step.question, step.expected("clusterdns")[0]
    assert asked is not None
    is_plain = asked.raw is None and asked.opcode == 0 and asked.qclass == 1
    is_plain &= not (asked.do or asked.cd or asked.options or asked.version)
    is_plain &= asked.qtype not in (dns.rdatatype.AXFR, dns.rdatatype.IXFR)
    is_ours = not case.upstream and bool(expectation.flags & AA)
    return is_plain and is_ours and expectation.rcode in (0, 3)


def found(case: casefile.Case, step: casefile.Step) -> list[dict[str, Any]]:
    """Return the object that a `delete KIND NAMESPACE/NAME` step is about."""
    kind, name = step.words
    namespace, _, name = name.rpartition("/")
    names = [name for other in case.steps if other.verb == "apply" for name in other.words]
    everything = [m for file in (*case.objects, *names) for m in objects(file)]
    matching = [
        m
        for m in everything
        if m["kind"] == kind
        and m["metadata"]["name"] == name
        and m["metadata"].get("namespace", "") == namespace
    ]
    return matching[-1:]


# ---- over the network ------------------------------------------------------------------------


def fill(case: casefile.Case, source: str, upstream: ScriptedUpstream, metrics: int = 0) -> str:
    """Return a case's Corefile with its places filled."""
    text = case.corefile.replace("{manifests}", source).replace("{upstream}", upstream.address)
    text = text.replace("{metrics}", f"127.0.0.1:{metrics or peers.free_port()}")
    return text.replace("{port}", "53") if not metrics else text.replace("{port}", "{PORT}")


def ask(address: tuple[str, int], question: casefile.Question, transport: str) -> bytes | None:
    packet = casefile.to_wire(question, IDENT)
    timeout_s = 8 if question.raw is None else 0.5
    if transport == "tcp":
        return peers.ask_tcp(address, packet, timeout_s)
    return peers.ask_udp(address, packet, timeout_s)


class Subject:
    """A running server, and how its objects are changed."""

    def __init__(self, name: str, server: peers.Server, metrics: int) -> None:
        self.name, self.server, self.metrics = name, server, metrics
        self.put: Any = None
        self.remove: Any = None

    def run(
        self, case: casefile.Case, upstream: ScriptedUpstream, transports: tuple[str, ...]
    ) -> Failures:
        failures = Failures()
        before = {s: self.metric(s.words[0]) for s in case.steps if s.verb == "metric"}
        for step in case.steps:
            if step.verb == "ask":
                assert step.question is not None
                for transport in transports:
                    if step.question.transport in ("", transport):
                        wire = ask(self.server.address, step.question, transport)
                        failures.check(case, step, self.name, wire, f"{self.name} over {transport}")
            elif step.verb == "asked":
                failures += filter(None, [hold_asked(case, step, upstream)])
            elif step.verb == "metric":
                count = self.metric(step.words[0]) - before[step]
                if count != float(step.words[1]):
                    failures.append(f"{case.path}:{step.line}: {step.words[0]} rose by {count}")
            elif step.verb == "time":
                time.sleep(int(step.words[0]))
            elif step.verb == "apply":
                for manifest in objects(step.words[0]):
                    self.put(manifest)
                time.sleep(1)  # until the change has arrived
            else:
                for manifest in found(case, step):
                    self.remove(manifest)
                time.sleep(2.5)  # a manifest that takes objects away counts when it stays like that
        return failures

    def metric(self, text: str) -> float:
        """Return the sum of the samples that `name{label="value"...}` stands for."""
        name, _, labels = text.partition("{")
        wanted = [label for label in labels.removesuffix("}").split(",") if label]
        url = f"http://127.0.0.1:{self.metrics}/metrics"
        with urllib.request.urlopen(url, timeout=5) as response:
            lines = response.read().decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in lines
            if re.match(rf"{name}[{{ ]", line) and all(label in line for label in wanted)
        )


def transports(case: casefile.Case) -> list[tuple[str, ...]]:
    """Return which transports one server is asked over; a server with a memory, over one only."""
    return [("udp",), ("tcp",)] if case.is_stateful else [("udp", "tcp")]


@pytest.mark.parametrize("case", in_real_time([case for case in NOW if not case.unsynced]), ids=ids)
def test_clusterdns(case, tmp_path):
    failures = Failures()
    for i, some in enumerate(transports(case)):
        place = tmp_path / str(i)
        place.mkdir()
        failures += run_clusterdns(case, place, some)
    assert not failures, "\n\n".join(failures)


def run_clusterdns(case: casefile.Case, place: Path, some: tuple[str, ...]) -> Failures:
    directory, metrics = place / "cluster", peers.free_port()
    directory.mkdir()

    def path(manifest: dict[str, Any]) -> Path:
        metadata = manifest["metadata"]
        name = f"{manifest['kind']}-{metadata.get('namespace', '')}-{metadata['name']}.yaml"
        return directory / name

    for manifest in all_objects(case):
        path(manifest).write_text(yaml.safe_dump(manifest))
    with upstream_of(case) as upstream:
        corefile = fill(case, f"manifests {directory}", upstream, metrics)
        with peers.clusterdns(corefile, place) as server:
            subject = Subject("clusterdns", server, metrics)
            subject.put = lambda manifest: path(manifest).write_text(yaml.safe_dump(manifest))
            subject.remove = lambda manifest: path(manifest).unlink()
            return subject.run(case, upstream, some)


@pytest.mark.peer
@pytest.mark.parametrize("case", in_real_time([*COMMON, *LATER]), ids=ids)
def test_coredns(case, tmp_path):
    """What the case files say of CoreDNS is what a real one does."""
    failures = Failures()
    for i, some in enumerate(transports(case)):
        place = tmp_path / str(i)
        place.mkdir()
        metrics = peers.free_port()
        with upstream_of(case) as upstream, FakeApi(all_objects(case)) as api:
            resources = {kind: resource for resource, (_, _, kind) in RESOURCES.items()}
            api.never_list.update(resources[kind] for kind in case.unsynced)
            corefile = fill(case, f"endpoint {api.url}", upstream, metrics)
            with peers.coredns(corefile, place) as server:
                subject = Subject("coredns", server, metrics)
                subject.put = api.apply
                subject.remove = lambda m, api=api: api.delete(
                    m["kind"], m["metadata"]["name"], m["metadata"].get("namespace", "")
                )
                failures += subject.run(case, upstream, some)
    assert not failures, "\n\n".join(failures)


@pytest.mark.given("SUBJECT")
def test_foreign_subject():
    """Ask a server somewhere else what the standard Corefile and fixtures.yaml decide."""
    where = os.environ["SUBJECT"]
    host, _, port = where.rpartition(":")
    failures = Failures()
    for case in standard_cases():
        for step in case.steps:
            assert step.question is not None
            wire = ask((host, int(port)), step.question, step.question.transport or "udp")
            failures.check(case, step, "clusterdns", wire, where)
    assert not failures, "\n\n".join(failures)


def standard_cases() -> list[casefile.Case]:
    """Return the cases of the Corefile that most files begin with, fixtures.yaml, no upstream."""
    standard = next(case.corefile for case in NOW if case.path.stem == "clusterip")
    return [
        case
        for case in NOW
        if (case.corefile, case.objects) == (standard, ("fixtures.yaml",))
        and not case.is_stateful
        and not case.upstream
    ]


def test_a_foreign_server_is_asked_enough():
    assert len([step for case in standard_cases() for step in case.steps]) > 100
