"""The answers of two Corefiles compared: all names of the cluster and of zone files.

The names are those of whole zones, as a transfer has them, in either configuration, with the PTR
names of all addresses. Each listener is asked for all of them; if both configurations have but one,
its address does not matter. Both are asked in this process. Plugins that would ask other servers
are not started: a question that comes to one is left to it, and counts as such.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import dns.message
import dns.rcode

from clusterdns.authority.transfers import Transfers
from clusterdns.commands import offline
from clusterdns.config import advice
from clusterdns.config.configmap import Subject
from clusterdns.errors import ClusterDNSError
from clusterdns.serving.explaining import explain
from clusterdns.serving.server import Listener
from clusterdns.wire import message, name, rr
from clusterdns.wire.message import Edns, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

MAX_QUESTIONS = 100_000
CLIENT = ("127.0.0.1", 40000)
# Plugins that ask other servers.
ASKS_OTHERS = frozenset(("etcd", "forward", "grpc", "secondary"))
_REVERSE = (WireName(b"\x07in-addr\x04arpa\0"), WireName(b"\x03ip6\x04arpa\0"))
_NS_DNS = b"\x02ns\x03dns"  # has the addresses of this machine
_SIZE = 65_000
_ADDRESSES = (rr.A, rr.AAAA)
_LEFT_OUT = frozenset((rr.SOA, rr.NS, rr.RRSIG, rr.DNSKEY))  # each server's own

_NOBODY = "nobody listens there"
_TTL = re.compile(r"(?<=\. )[0-9]+(?= IN )")
Asked = tuple[bytes, int]  # name in wire form, type


class Difference(NamedTuple):
    """How many questions were asked, and those with other answers: question, old, new."""

    asked: int
    is_whole: bool
    changed: list[tuple[str, str, str]]

    def lines(self) -> Iterator[str]:
        """Yield the lines of the report."""
        for question, old, new in self.changed:
            yield from (question, f"- {old}", f"+ {new}")
        limit = "" if self.is_whole else f", of more than {MAX_QUESTIONS}"
        of_ttl = sum(_TTL.sub("", old) == _TTL.sub("", new) for _, old, new in self.changed)
        only = f", {of_ttl} of them in the TTL alone" if of_ttl else ""
        yield f"{len(self.changed)} of {self.asked} answers differ{limit}{only}"

    def as_plain(self) -> dict[str, Any]:
        """Return the difference for JSON."""
        changed = [{"question": q, "old": old, "new": new} for q, old, new in self.changed]
        return {"asked": self.asked, "is_whole": self.is_whole, "changed": changed}


def between(old: Subject, new: Subject, *, port: int, manifests: Path | None) -> Difference:
    """Return the difference between two configurations. Raises ClusterDNSError."""
    return asyncio.run(_between(old, new, port, manifests))


async def _between(old: Subject, new: Subject, port: int, manifests: Path | None) -> Difference:
    one = offline.compiled(old, port=port, directory=manifests)
    other = offline.compiled(new, port=port, directory=manifests)
    async with (
        offline.Offline(one, without=ASKS_OTHERS) as before,
        offline.Offline(other, without=ASKS_OTHERS) as after,
    ):
        pairs = _pairs(before.listeners, after.listeners)
        names = dict.fromkeys((*_questions(before), *_questions(after)))
        count = len(names) * len(pairs)
        asked = [(label, each) for label in pairs for each in names][:MAX_QUESTIONS]
        changed = []
        for label, question in asked:
            answers = [await _answer(x, question) if x else _NOBODY for x in pairs[label]]
            if answers[0] != answers[1]:
                where = f" at {label}" if len(pairs) > 1 else ""
                text = f"{name.text(question[0])} {rr.type_text(question[1])}{where}"
                changed.append((text, answers[0], answers[1]))
    return Difference(len(asked), len(asked) == count, changed)


def _pairs(
    old: Mapping[str, Listener], new: Mapping[str, Listener]
) -> dict[str, tuple[Listener | None, Listener | None]]:
    """Return the listeners to compare, None where one configuration has none, by their label."""
    if len(old) == len(new) == 1:
        return dict.fromkeys(old, (next(iter(old.values())), next(iter(new.values()))))
    return {label: (old.get(label), new.get(label)) for label in (*old, *new)}


def _questions(server: offline.Offline) -> Iterator[Asked]:
    """Yield what may be asked of the whole zones of a configuration."""
    for view in server.configuration.views:
        transfers = view.block.shared(Transfers)
        for zone in dict.fromkeys(zone for plugin in view.chain for zone in advice.claimed(plugin)):
            if name.is_within_any(zone, _REVERSE):
                continue  # their names are those of addresses
            try:
                for record in transfers.records(zone) or ():
                    yield from _of_record(record)
            except LookupError as error:
                raise ClusterDNSError(f"{name.text(zone)}: {error}") from error


def _of_record(record: RR) -> Iterator[Asked]:
    owner = bytes(record.owner).lower()
    if record.rtype in _LEFT_OUT or owner.startswith(_NS_DNS):
        return
    yield owner, record.rtype
    if record.rtype in _ADDRESSES:
        yield from ((owner, each) for each in _ADDRESSES)
        yield name.reverse_name(str(ipaddress.ip_address(record.rdata))), rr.PTR


async def _answer(listener: Listener, asked: Asked) -> str:
    """Return the RCODE and the records of an answer in an order of their own, or who gets it."""
    question = Question(asked[0], name.fold(asked[0]), asked[1])
    packet = message.write_query(0, message.RD, question, Edns(_SIZE, 0, 0))
    found, reply = await explain(listener, packet, CLIENT, "tcp")
    others = (step for step in _steps(found) if step["plugin"] in ASKS_OTHERS)
    left_to = next((s["plugin"] for s in others if s["verdict"].startswith("answers")), "")
    if left_to:
        return f"left to {left_to}"
    if reply is None:
        return "no reply"
    seen = dns.message.from_wire(reply, one_rr_per_rrset=True)
    rcode = dns.rcode.to_text(seen.rcode())
    return ", ".join([rcode, *sorted(each.to_text() for each in seen.answer)])


def _steps(run: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for step in run.get("steps", ()):
        yield step
        for inner in step["questions"]:
            yield from _steps(inner)
