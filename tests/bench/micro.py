"""What the steps of a query cost: ``python tests/bench/micro.py [--seconds S] [--step TEXT]``.

Prints a JSON line with the nanoseconds of each: the least of several runs, since noise only adds.
No sockets: what the kernel takes is in run.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from itertools import count, cycle

from clusterdns.cluster.objects import NAMESPACES, SERVICES, SLICES
from clusterdns.cluster.source import Source
from clusterdns.cluster.store import Store
from clusterdns.config.compile import Configuration, compile_text
from clusterdns.serving.server import Listener
from clusterdns.serving.table import AnswerTable
from clusterdns.wire import message, name, reading, rr
from clusterdns.wire.message import Edns, Query, Question
from clusterdns.wire.response import Response, render, render_reply
from clusterdns.wire.rr import RR

RUNS = 7
NOW = 1000.0
KINDS = (NAMESPACES, SERVICES, SLICES)
QNAME = "my-service.my-namespace.svc.cluster.local."
COREFILE = """.:53 {{
    errors
    prometheus
    cache 30
    loadbalance
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        manifests {directory}
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
        ttl 30
    }}
    forward . 127.0.0.1:9
}}
"""

Step = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.3, help="of each run")
    parser.add_argument("--step", default="", help="only those whose name contains this")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        steps = {**table_steps(), **message_steps(), **store_steps(), **server_steps(directory)}
        for title, step in steps.items():
            if options.step in title:
                found = round(nanoseconds(step, options.seconds), 1)
                print(json.dumps({"step": title, "ns": found}), flush=True)


def nanoseconds(step: Step, seconds: float) -> float:
    """Return what one call takes: the least of several runs of ``seconds`` together."""
    calls = 1
    while (took := _run(step, calls)) < seconds / RUNS / 2:
        calls = calls * 2 if took < 1e-4 else int(calls * min(10, seconds / RUNS / took)) + 1
    return min(_run(step, calls) for _ in range(RUNS)) / calls * 1e9


def _run(step: Step, calls: int) -> float:
    began = time.perf_counter()
    for _ in range(calls):
        step()
    return time.perf_counter() - began


def packet(question: Question, edns: Edns | None = None) -> bytes:
    return message.write_query(4711, message.RD, question, edns)


def asked(text: str, qtype: int = rr.A) -> Question:
    qname = name.parse(text)
    return Question(qname, name.fold(qname), qtype)


def positive(question: Question, records: int) -> Response:
    answer = tuple(RR(question.qname, rr.A, 30, bytes((10, 0, 0, i))) for i in range(records))
    return Response(answer=answer, facts=(("service", "my-namespace", "my-service"),))


def negative() -> Response:
    zone = name.parse("cluster.local.")
    rdata = rr.soa_rdata(b"\x02ns\x03dns" + zone, b"\x0ahostmaster" + zone, 1, 30)
    return Response(rr.NXDOMAIN, authority=(RR(zone, rr.SOA, 30, rdata),), facts=(("x",),))


def table_steps() -> dict[str, Step]:
    """Return hits and misses of a table of 10,000 answers."""
    table, hits = AnswerTable(), [0] * 4
    for i in range(10_000):
        question = asked(f"service-{i}.my-namespace.svc.cluster.local.")
        table.remember(question, positive(question, 1), NOW, lambda: 0)
    question = asked(QNAME)
    for one in (question, question._replace(do=True)):
        response = positive(question, 1)._replace(follows_case=True)
        table.remember(one, response, NOW, lambda: 0)
    mixed = asked("My-serVice.my-NAMEspace.sVc.cluster.lOcal.")
    cookie = b"\0\x0a\0\x08abcdefgh"
    absent = asked("www.example.com.my-namespace.svc.cluster.local.")
    for _ in range(2):
        table.remember(absent, negative(), NOW, lambda: 0)
    packets = {
        "reply, hit": packet(question),
        "reply, hit with OPT": packet(question, Edns(1232, 0, 0)),
        "reply, hit with DO": packet(question, Edns(1232, 0, message.EDNS_DO)),
        "reply, hit with a cookie": packet(question, Edns(1232, 0, 0, cookie)),
        "reply, hit in mixed case": packet(mixed),
        "reply, hit of a name error": packet(absent),
        "reply, miss": packet(asked("nothing.example.com.")),
    }
    for title, one in packets.items():
        if (table.reply(one, NOW, hits) is None) != title.endswith("miss"):
            raise AssertionError(title)
    return {title: lambda one=one: table.reply(one, NOW, hits) for title, one in packets.items()}


def message_steps() -> dict[str, Step]:
    """Return the reading of queries and the rendering of replies."""
    question = asked(QNAME)
    plain, with_opt = packet(question), packet(question, Edns(1232, 0, 0))
    one, ten, absent = positive(question, 1), positive(question, 10), negative()
    query = reading.read_query(plain)
    if not isinstance(query, Query):
        raise AssertionError("the query does not pass the gate")
    return {
        "read_query": lambda: reading.read_query(plain),
        "read_query with OPT": lambda: reading.read_query(with_opt),
        "render, 1 record": lambda: render(question.qname, one.sections, 512),
        "render, 10 records": lambda: render(question.qname, ten.sections, 512),
        "render, name error": lambda: render(question.qname, absent.sections, 512),
        "render_reply, 1 record": lambda: render_reply(query, one, 512),
        "render_reply, name error": lambda: render_reply(query, absent, 512),
    }


def store_steps() -> dict[str, Step]:
    """Return events that change something, in a store of 10,000 Services."""
    store = filled(10_000)
    number = count()

    def move_service() -> None:
        address = f"10.9.0.{next(number) & 255}"
        ports = (("http", "TCP", 80),)
        value = ("ClusterIP", (address,), ports, "", ())
        store.apply((SERVICES, ("my-namespace", "my-service"), value), 1)

    def move_endpoint() -> None:
        i = next(number)
        endpoints = tuple((f"10.8.{i & 1}.{n}", "", "") for n in range(100))
        value = ("my-service", endpoints, (("http", "TCP", 80),))
        store.apply((SLICES, ("my-namespace", "my-service-1"), value), 1)

    return {
        "Store.apply, Service": move_service,
        "Store.apply, slice of 100 endpoints": move_endpoint,
    }


def filled(services: int) -> Store:
    """Return a store of so many Services with an address, and one of each other kind."""
    store, ports = Store(KINDS), (("http", "TCP", 80),)
    store.apply((NAMESPACES, ("", "my-namespace"), ()), 1)
    for i, label in enumerate(("my-service", *(f"service-{i}" for i in range(services)))):
        value = ("ClusterIP", (cluster_address(i),), ports, "", ())
        store.apply((SERVICES, ("my-namespace", label), value), 1)
    for i in range(services // 10):
        key = ("my-namespace", f"headless-{i}")
        store.apply((SERVICES, key, ("ClusterIP", ("None",), ports, "", ())), 1)
        endpoints = tuple((f"10.{200 + n}.{i >> 8}.{i & 255}", "", "") for n in range(10))
        store.apply((SLICES, (key[0], f"{key[1]}-1"), (key[1], endpoints, ports)), 1)
        key, target = ("my-namespace", f"alias-{i}"), "service-1.my-namespace.svc.cluster.local"
        store.apply((SERVICES, key, ("ExternalName", ("",), (("", "", -1),), target, ())), 1)
    for kind in KINDS:
        store.synced(kind)
    return store


def cluster_address(i: int) -> str:
    return f"10.1.{i >> 8}.{i & 255}"


class Lender:
    """The worker that plugins see here: a store that is filled, a clock that stands."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def now(self) -> float:
        return NOW

    async def store(self, source: Source, timeout_s: float) -> Store:
        return self._store

    def forget_all(self) -> None:
        pass


def server_steps(directory: str) -> dict[str, Step]:
    """Return whole queries that the table has missed, answered by the chain from memory."""
    text = COREFILE.format(directory=directory)
    configuration = compile_text(text, "Corefile", port=53, environ={}, warn=print)
    asyncio.run(_start(configuration))
    router = next(iter(configuration.routers.values()))
    server = Listener(router, "dns://:53", lambda: NOW)
    hits, number = server.tally.transport("udp", "1"), count()

    def resolve(one: bytes) -> bytes | None:
        return server.resolve(one, ("127.0.0.1", 5353), "udp", hits, lambda _: None)

    def first_asked(packets: list[bytes]) -> Step:
        """Return a step that asks for the next name, as if for the first time."""
        turns = cycle((i == 0, one) for i, one in enumerate(packets))

        def ask() -> bytes | None:
            is_first, one = next(turns)
            if is_first:
                server.table.clear()
            return resolve(one)

        return ask

    zone = name.parse("my-namespace.svc.cluster.local.")

    def absent() -> bytes | None:
        qname = b"\x03www\x08%08x\x03com" % next(number) + zone
        one = packet(Question(qname, name.WireName(qname), rr.A))
        return server.table.reply(one, NOW, hits) or resolve(one)

    known = packet(asked(QNAME))
    steps = {title: first_asked(packets) for title, packets in first_packets().items()}
    return {
        "resolve, cluster address": lambda: resolve(known),
        "search path, not repeated": absent,
        **steps,
    }


def first_packets() -> dict[str, list[bytes]]:
    """Return queries for names that the chain answers from memory, by what they are."""
    below, some = "my-namespace.svc.cluster.local.", range(1000)
    opt = Edns(1232, 0, 0)
    return {
        f"first asked, {title}": [
            packet(
                asked(form.format(f"{i & 255}.{i >> 8}" if qtype == rr.PTR else i, below), qtype),
                opt,
            )
            for i in some
        ]
        for title, form, qtype in (
            ("A", "service-{0}.{1}", rr.A),
            ("AAAA", "service-{0}.{1}", rr.AAAA),
            ("SRV", "_http._tcp.service-{0}.{1}", rr.SRV),
            ("headless A", "headless-{0}.{1}", rr.A),
            ("headless SRV", "_http._tcp.headless-{0}.{1}", rr.SRV),
            ("PTR", "{0}.1.10.in-addr.arpa.", rr.PTR),
            ("Pod", "10-9-8-{0}.my-namespace.pod.cluster.local.", rr.A),
            ("alias", "alias-{0}.{1}", rr.A),
            ("name error", "absent-{0}.{1}", rr.A),
            ("search path", "www.example.{0}.{1}", rr.A),
        )
    }


async def _start(configuration: Configuration) -> None:
    lender = Lender(filled(10_000))
    for plugin in configuration.plugins:
        if plugin.sources():
            await plugin.start(lender)


if __name__ == "__main__":
    main()
