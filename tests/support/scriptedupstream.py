"""An upstream server that answers each name as a case's ``upstream`` entries say, and counts.

UDP and TCP on one loopback port, one thread each. A name without an entry does not exist. Its replies
carry RA, as a resolver's do, and negative ones an SOA of the root unless the entry says ``nosoa``.
"""

from __future__ import annotations

import collections
import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Iterable

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from casefile import Scripted
from peers import bind_pair

_SOA = ". 300 IN SOA a.root-servers.net. nstld.verisign-grs.com. 1 1800 900 604800 300"


class ScriptedUpstream:
    """Started on construction; ``address`` is ``127.0.0.1:PORT``."""

    def __init__(self, entries: Iterable[Scripted]) -> None:
        self.entries: dict[str, list[Scripted]] = collections.defaultdict(list)
        for entry in entries:
            self.entries[entry.name.lower()].append(entry)
        self.queries: collections.Counter[tuple[str, int]] = collections.Counter()
        self._udp, self._tcp = bind_pair()
        self._tcp.listen(64)
        self.address = f"127.0.0.1:{self._udp.getsockname()[1]}"
        self._tcp_server = _TCPServer(self._tcp, self)
        self._threads = [
            threading.Thread(target=self._serve_udp, daemon=True),
            threading.Thread(target=self._tcp_server.serve_forever, args=(0.05,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def asked(self, qname: str, qtype: int) -> int:
        """Return how many queries of this name and type have come."""
        return self.queries[qname.lower(), qtype]

    def stop(self) -> None:
        """Close both sockets and wait for the threads."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wake:
            wake.sendto(b"", self._udp.getsockname())
        self._tcp_server.shutdown()
        self._tcp_server.server_close()
        for thread in self._threads:
            thread.join(5)
        self._udp.close()

    def answer(self, wire: bytes, *, is_udp: bool) -> bytes | None:
        """Return the reply to one query, None for silence."""
        try:
            query = dns.message.from_wire(wire)
            question = query.question[0]
        except (dns.exception.DNSException, IndexError):
            return None
        name, qtype = str(question.name).lower(), int(question.rdtype)
        self.queries[name, qtype] += 1
        entries = self.entries.get(name, [Scripted(name, "nxdomain")])
        outcomes = {entry.outcome: entry for entry in entries}
        if "timeout" in outcomes:
            return None
        reply = dns.message.make_response(query, recursion_available=True)
        records = [
            entry
            for entry in entries
            if entry.outcome == "answer"
            and (entry.rtype, entry.rclass) == (qtype, int(question.rdclass))
        ]
        if is_udp and records and "truncated" in outcomes:
            reply.flags |= dns.flags.TC
            records = records[: outcomes["truncated"].keep]
        for entry in records:
            rtype, rclass = dns.rdatatype.to_text(entry.rtype), entry.rclass
            reply.answer.append(
                dns.rrset.from_text(question.name, entry.ttl, rclass, rtype, entry.rdata)
            )
        negative = outcomes.get("nxdomain") or outcomes.get("nodata")
        if "servfail" in outcomes:
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif not records:
            if "nxdomain" in outcomes:
                reply.set_rcode(dns.rcode.NXDOMAIN)
            if negative is None or negative.has_soa:
                reply.authority.append(dns.rrset.from_text(*_SOA.split(" ", 4)))
        wire = reply.to_wire(max_size=65535)
        if is_udp and len(wire) > max(512, query.payload):  # as servers do (RFC 2181 section 9)
            reply.flags |= dns.flags.TC
            reply.answer.clear()
            wire = reply.to_wire(max_size=65535)
        return wire

    def _serve_udp(self) -> None:
        while True:
            wire, client = self._udp.recvfrom(65535)
            if not wire:
                return
            reply = self.answer(wire, is_udp=True)
            if reply is not None:
                self._udp.sendto(reply, client)


class _TCPServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, upstream: ScriptedUpstream) -> None:
        super().__init__(listener.getsockname(), _TCPHandler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.upstream = listener, upstream

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that goes away is no news here."""


class _TCPHandler(socketserver.StreamRequestHandler):
    server: _TCPServer

    def handle(self) -> None:
        while length := self.rfile.read(2):
            wire = self.rfile.read(struct.unpack("!H", length)[0])
            reply = self.server.upstream.answer(wire, is_udp=False)
            if reply is not None:
                self.wfile.write(struct.pack("!H", len(reply)) + reply)
