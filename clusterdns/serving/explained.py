"""An explanation as people read it: with the reply, the objects behind it, and why in one line.

``query`` makes the packet to explain. ``complete`` adds to what ``explaining`` has found: the reply
as the client sees it, sentences about what is behind it (``behind``), and in one sentence why there
is no record. ``report`` prints all of that.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from clusterdns.chain.watched import PASSES
from clusterdns.errors import ClusterDNSError, FormError
from clusterdns.wire import message, name
from clusterdns.wire.message import Edns, Question

if TYPE_CHECKING:
    from clusterdns.serving.behind import Sources

SHORT_DOTS = 2  # a name with fewer may be one of a Service, to be completed by a search path
PAYLOAD_OCTETS = 1232  # DNS flag day 2020
Plain = dict[str, Any]


def query(qname: str, qtype: str, client: str, *, do: bool = False) -> bytes:
    """Return the query to explain, asked by ``client``.

    The type is A, if it is empty; for an address it is PTR, and asks for its name.

    Raises:
        ClusterDNSError: name, type or client cannot be read.
    """
    import dns.exception
    import dns.rdatatype

    if not qname:
        raise ClusterDNSError("an empty name; the root is written as a dot")
    if qtype in ("", "PTR") and name.ip_address(qname) is not None:
        qname, qtype = ipaddress.ip_address(qname).reverse_pointer, "PTR"
    try:
        parsed = name.parse(qname)
    except FormError as error:
        raise ClusterDNSError(f"{qname!r} is no domain name: {error.reason}") from error
    try:
        number = int(dns.rdatatype.from_text(qtype or "A"))
    except (dns.exception.DNSException, ValueError):
        raise ClusterDNSError(f"{qtype!r} is no type of record") from None
    if name.canonical_address(client) is None:
        raise ClusterDNSError(f"client {client}: not an IP address")
    question = Question(parsed, name.fold(parsed), number)
    edns = Edns(PAYLOAD_OCTETS, 0, message.EDNS_DO if do else 0)
    return message.write_query(0, message.RD, question, edns)


def complete(found: Plain, reply: bytes | None, sources: Sources | None) -> Plain:
    """Return an explanation with the reply, the evidence behind it, and why.

    ``sources`` are those of the plugins' objects; without any, files are read nevertheless, but
    nothing is read if it is None.
    """
    found = _with_reply(found, reply)
    if sources is not None:
        from clusterdns.serving import behind  # and with it dnspython

        behind.add_evidence(found, sources)
    found["why"] = why(found)
    return found


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
    if server := found.get("server"):
        files, where = " ".join(server.get("files", ())), server.get("directory", "")
        told = f": {files or 'no Corefile'} in {where}" if where else ""
        yield f"server process {server['pid']}{told}"
    yield from _run_lines(found, "")
    yield from _reply_lines(found)
    for line in found.get("watch", ()):
        yield f"watch: {line}"
    for plugin in found.get("not_ready", ()):
        yield f"not ready: {plugin}"
    if found["why"] and (hint := _hint(found)):
        yield hint
    if found["why"]:
        yield f"why: {found['why']}"


def _hint(found: Plain) -> str:
    """Return how a short name that does not exist is asked by a Pod, "" for other names."""
    qname = found["question"].split()[0].removesuffix(".")
    is_short = bool(qname) and (qname.count(".") < SHORT_DOTS or qname.endswith(".svc"))
    if not is_short or found.get("message", {}).get("rcode") != "NXDOMAIN":
        return ""
    return f"a Pod also asks for it below its search path: clusterdns lookup {qname} --as NAMESPACE"


def _run_lines(run: Plain, indent: str) -> Iterator[str]:
    """Yield the lines of a run: its server block, then each plugin in order."""
    block = run["server_block"]
    if block["place"]:
        yield f"{indent}server block {block['place']} ({block['zones']})"
    for note in run["notes"]:
        yield f"{indent}  {note['text']}"
    silent: list[str] = []
    for step in run["steps"]:
        if step["verdict"] == PASSES and not step["notes"] and not step["questions"]:
            passing = f"{step['plugin']} {_places(step)}".strip()
            if not step["reason"]:
                silent.append(passing)
                continue
            if silent:
                yield f"{indent}  passed on by {', '.join(silent)}"
                silent.clear()
            yield f"{indent}  passed on by {passing}: {step['reason']}"
            continue
        if silent:
            yield f"{indent}  passed on by {', '.join(silent)}"
            silent.clear()
        of = f" ({step['question']})" if step["question"] else ""
        yield f"{indent}  {step['plugin']} {_places(step)}{of}: {step['verdict']}"
        for note in step["notes"]:
            at = f" ({note['place']})" if note.get("place") else ""
            yield f"{indent}    {note['text']}{at}"
            yield from (f"{indent}      {line}" for line in note.get("evidence", ()))
        for inner in step["questions"]:
            yield f"{indent}    asks for {inner['question']}: {inner['verdict']}"
            yield from _run_lines(inner, indent + "      ")
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
    if found.get("table"):
        yield "the answer table has this answer: the plugins are not asked until it ends there"
    lifetime_s, facts = reply.get("lifetime_s", 0), reply.get("facts", ())
    if lifetime_s is None and facts:
        yield f"the answer table repeats it until one of these changes: {', '.join(facts)}"
    elif lifetime_s:
        yield f"the answer table may repeat it for {lifetime_s:.1f} s"
