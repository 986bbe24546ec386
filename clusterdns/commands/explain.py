"""``explain``: why a name is answered as it is, told by the code that answers."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clusterdns.commands.declaration import (
    FAILED,
    OK,
    Command,
    Example,
    Parser,
    add_json,
    add_port,
    rtype,
)
from clusterdns.errors import ClusterDNSError, FormError

if TYPE_CHECKING:
    from clusterdns.cluster.evidence import Reader
    from clusterdns.cluster.source import Source

DEFAULT_PORT = 53
CLIENT = "127.0.0.1"
SOURCE_PORT = 40000  # of the client that is played
PAYLOAD_OCTETS = 1232
_STYLES = {"why: ": "bold yellow", "answer ": "bold green", "server block ": "bold"}
Plain = dict[str, Any]


def _declare(parser: Parser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME", help="name to ask for; it is taken as it is, without search path")
    add("type", metavar="TYPE", nargs="?", default="A", type=rtype, help="type of record (A)")
    add("--client", default=CLIENT, metavar="IP", help=f"address of the client ({CLIENT})")
    add("--corefile", metavar="FILE", default="",
        help="explain a Corefile, or a ConfigMap with one, not the running server")  # fmt: skip
    add("--manifests", type=Path, metavar="DIR",
        help="with --corefile: the objects of the cluster, for `kubernetes`")  # fmt: skip
    add_port(parser, DEFAULT_PORT, f"with --corefile: port of keys without one ({DEFAULT_PORT})")
    add("--pid", type=int, metavar="PID", help="first process of the running server, if several")
    add("--listener", default="", metavar="HOST:PORT", help="listener to ask (the first)")
    add("--tcp", action="store_true", help="as over TCP: long replies are not cut")
    add("--dnssec", action="store_true", help="as from a client that wants signatures (DO)")
    add_json(parser)


def _run(flags: argparse.Namespace) -> int:
    from clusterdns.commands import output

    packet = _packet(flags)
    if flags.corefile:
        found, reader = asyncio.run(_offline(flags, packet))
    else:
        found, reader = _running(flags, packet)
    found["evidence"] = _evidence(found, reader)
    found["why"] = why(found)
    if flags.json:
        output.write_json(found)
    else:
        output.write(output.labeled(line, _STYLES) for line in report(found))
    return FAILED if found["why"] else OK


def _packet(flags: argparse.Namespace) -> bytes:
    """Return the query to explain. Raises ClusterDNSError."""
    import dns.rdatatype

    from clusterdns.wire import message, name
    from clusterdns.wire.message import Edns, Question

    try:
        qname = name.parse(flags.name)
    except FormError as error:
        raise ClusterDNSError(f"{flags.name!r} is no domain name: {error.reason}") from error
    if name.canonical_address(flags.client) is None:
        raise ClusterDNSError(f"--client {flags.client}: not an IP address")
    number = int(dns.rdatatype.from_text(flags.type))
    do = message.EDNS_DO if flags.dnssec else 0
    question = Question(qname, name.fold(qname), number)
    return message.write_query(0, message.RD, question, Edns(PAYLOAD_OCTETS, 0, do))


def _running(flags: argparse.Namespace, packet: bytes) -> tuple[Plain, Reader | None]:
    """Return the explanation by the running server, and the reader of its objects."""
    from clusterdns.commands import running

    request = {
        "packet": packet.hex(),
        "client": flags.client,
        "transport": "tcp" if flags.tcp else "udp",
        "listener": flags.listener,
    }
    found = running.ask("explain", request, flags.pid)
    text = found.pop("packet", None)
    sources = [_source(each) for each in found.pop("sources", ())]
    return _with_reply(found, bytes.fromhex(text) if text else None), _reader(sources)


def _source(fields: Mapping[str, Any]) -> Source:
    """Return a source that came as JSON, whose tuples are lists."""
    from clusterdns.cluster.source import Source

    known = ((word, fields[word]) for word in Source._fields)
    return Source._make(tuple(v) if isinstance(v, list) else v for _, v in known)


async def _offline(flags: argparse.Namespace, packet: bytes) -> tuple[Plain, Reader | None]:
    """Return the explanation by a Corefile, and the reader of its objects."""
    from clusterdns.commands import check, offline
    from clusterdns.serving.explaining import explain

    subject = check.read(flags.corefile)
    configuration = offline.compiled(subject, port=flags.port, directory=flags.manifests)
    async with offline.Offline(configuration) as server:
        listener = _chosen(server.listeners, flags.listener)
        transport = "tcp" if flags.tcp else "udp"
        client = (flags.client, SOURCE_PORT)
        found, reply = await explain(listener, packet, client, transport)
    return _with_reply(found, reply), _reader(configuration.sources)


def _chosen(listeners: Mapping[str, Any], wanted: str) -> Any:  # noqa: ANN401 - a Listener
    """Return the listener with an address, the first one if none is wanted."""
    for label, each in listeners.items():
        if not wanted or label.partition("://")[2] == wanted or label == wanted:
            return each
    known = ", ".join(label.partition("://")[2] for label in listeners)
    raise ClusterDNSError(f"no listener {wanted}; there are {known}")


def _with_reply(found: Plain, reply: bytes | None) -> Plain:
    """Return an explanation with the reply as the client sees it."""
    import dns.flags
    import dns.message
    import dns.rcode

    if reply is None:
        return found
    seen = dns.message.from_wire(reply, one_rr_per_rrset=True)
    sections = zip(("answer", "authority", "additional"), seen.sections[1:], strict=True)
    found["message"] = {
        "rcode": dns.rcode.to_text(seen.rcode()),
        "flags": dns.flags.to_text(seen.flags).lower().split(),
        **{word: [each.to_text() for each in section] for word, section in sections},
    }
    return found


def _reader(sources: list[Source]) -> Reader | None:
    from clusterdns.cluster import evidence

    return evidence.reader(sources[0]) if sources else None


def _evidence(found: Plain, reader: Reader | None) -> dict[str, list[str]]:
    """Return sentences about the objects that the notes are about, by object."""
    from clusterdns.cluster import evidence

    if reader is None:
        return {}
    notes = list(_notes(found))
    about = [tuple(each.split("/", 2)) for note in notes for each in note.get("objects", ())]
    told = evidence.of_objects(((a, b, c) for a, b, c in about), reader)
    for note in notes:
        objects = note.get("objects", ())
        if not note.get("is_cause") or not objects or not objects[0].startswith("services/"):
            continue
        _, namespace, service = objects[0].split("/", 2)
        try:
            reason = evidence.why_empty(namespace, service, reader)
        except (ClusterDNSError, OSError) as error:
            reason = f"the Pods cannot be read: {error}"
        if reason:
            note["text"] += f": {reason}"
    return {"/".join(each): sentences for each, sentences in told.items()}


def _notes(found: Plain) -> Iterator[Plain]:
    """Yield all notes of a run and of the runs below it, in order."""
    yield from found.get("notes", ())
    for step in found.get("steps", ()):
        yield from step["notes"]
        for run in step["questions"]:
            yield from _notes(run)


def why(found: Plain) -> str:
    """Return in one sentence why a client gets no record, "" if it gets one."""
    message = found.get("message")
    if message and message["rcode"] == "NOERROR" and message["answer"]:
        return ""
    causes = [note["text"] for note in _notes(found) if note.get("is_cause")]
    said = found.get("reply", {}).get("error", "")
    return causes[-1] if causes else said or found.get("verdict", "") or "unknown"


def report(found: Plain) -> Iterator[str]:
    """Yield the lines of an explanation."""
    if "question" not in found:
        yield found["verdict"]
        return
    yield f"{found['question']}, asked by {found['client']} of {found['listener']}"
    yield from _run_lines(found, found["evidence"], "")
    yield from _reply_lines(found)
    for line in found.get("watch", ()):
        yield f"watch: {line}"
    if found["why"]:
        yield f"why: {found['why']}"


def _run_lines(run: Plain, evidence: Mapping[str, list[str]], indent: str) -> Iterator[str]:
    """Yield the lines of a run: its server block, then each plugin in order."""
    block = run["server_block"]
    if block["place"]:
        yield f"{indent}server block {block['place']} ({block['zones']})"
    for note in run["notes"]:
        yield f"{indent}  {note['text']}"
    silent: list[str] = []
    for step in run["steps"]:
        if step["verdict"] == "passes the question on" and not step["notes"]:
            silent.append(f"{step['plugin']} {_places(step)}".strip())
            continue
        if silent:
            yield f"{indent}  passed on by {', '.join(silent)}"
            silent.clear()
        of = f" ({step['question']})" if step["question"] else ""
        yield f"{indent}  {step['plugin']} {_places(step)}{of}: {step['verdict']}"
        told = set[str]()
        for note in step["notes"]:
            at = f" ({note['place']})" if note.get("place") else ""
            yield f"{indent}    {note['text']}{at}"
            for each in note.get("objects", ()):
                lines = [] if each in told else evidence.get(each, [])
                told.add(each)
                yield from (f"{indent}      {line}" for line in lines)
        for inner in step["questions"]:
            yield f"{indent}    asks for {inner['question']}: {inner['verdict']}"
            yield from _run_lines(inner, evidence, indent + "      ")
    if silent:
        yield f"{indent}  passed on by {', '.join(silent)}"


def _places(step: Plain) -> str:
    return ", ".join(step["places"])


def _reply_lines(found: Plain) -> Iterator[str]:
    """Yield the reply, and how long it holds."""
    message = found.get("message")
    if message is None:
        yield "answer none: no reply is sent"
        return
    yield f"answer {message['rcode']} {' '.join(message['flags'])}"
    for section in ("answer", "authority", "additional"):
        for record in message[section]:
            yield f"  {record}" if section == "answer" else f"  {section}: {record}"
    reply = found.get("reply", {})
    if reply.get("upstream"):
        yield f"from the upstream server {reply['upstream']}"
    if reply.get("error"):
        yield f"error {reply['error']}"
    lifetime_s, facts = reply.get("lifetime_s", 0), reply.get("facts", ())
    if lifetime_s is None and facts:
        yield f"the answer table repeats it until one of these changes: {', '.join(facts)}"
    elif lifetime_s:
        yield f"the answer table may repeat it for {lifetime_s:.1f} s"


COMMAND = Command(
    "explain",
    "say why a name is answered as it is",
    "Explains the answer to one question: the server block and why it was chosen, what each\n"
    "plugin decided, with file and line, the objects of the cluster behind each record and those\n"
    "that get none, the upstream server, the age of a kept reply. The code that answers tells\n"
    "it. NAME is asked as it is; `clusterdns lookup` walks a search path. The query is sent to\n"
    "upstream servers if a client's would be.",
    _declare,
    _run,
    (
        Example(
            "clusterdns explain web.uit.svc.cluster.local",
            "by the running server of this machine or Pod",
        ),
        Example(
            "clusterdns explain web.uit.svc.cluster.local --corefile Corefile --manifests cluster",
            "by a Corefile and manifests",
        ),
    ),
    {
        0: "a client gets a record",
        1: "a client gets none, and the last line says why; or wrong settings",
        2: "wrong arguments",
    },
)
