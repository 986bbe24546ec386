"""dnstap - send every query and response to a reader, as dnstap messages.

Syntax:

    dnstap SOCKET [full] [WRITEBUFFER] [QUEUE] {
        identity IDENTITY
        version VERSION
        extra EXTRA
        skipverify
    }
    dnstap listen SOCKET [full] {
        identity IDENTITY
        version VERSION
        extra EXTRA
        tls CERT KEY [CA]
        skipverify
    }

SOCKET is where the reader listens: a path, `unix://PATH`, `tcp://HOST:PORT` or `tls://HOST:PORT`.
The reader gets CLIENT_QUERY and CLIENT_RESPONSE for each query of a client, and FORWARDER_QUERY and
FORWARDER_RESPONSE for each query of `forward`, with addresses, ports and times; `full` adds the
messages in wire form. IDENTITY is the host's name by default, VERSION the matched version of
CoreDNS. EXTRA is text with tokens as in `log`; `{/plugin/name}` is a label, see `metadata`.
`skipverify` accepts any certificate of a reader.

Queries never wait for a reader. A queue holds up to QUEUE times 10,000 messages and QUEUE times 16
MiB; further messages are dropped, logged, and counted in `clusterdns_dnstap_dropped_total`. If a
reader reads nothing for 4s, the connection is closed and opened again. WRITEBUFFER is the send
buffer of TCP connections in MiB. Each worker of `multisocket` has a connection of its own.

With `listen`, up to 16 readers connect to SOCKET, each with a queue of its own. `tls` has the
certificate for `tls://`. With CA, readers must have a certificate of it; with `skipverify` that is
optional.

The directive may be repeated. The answer table and the relay stay in use, unless EXTRA has a label
or `{local}`; messages about their answers are sent 20 ms later, with the time of the query.

Examples:

    . {
        dnstap /run/dnstap.sock full
        dnstap tcp://127.0.0.1:6000 {
            identity dns-1
            extra "{type} {name}"
        }
        whoami
    }

Metrics:

    clusterdns_dnstap_dropped_total{endpoint}  messages dropped because the reader was too slow

Differences from CoreDNS: messages of a short outage of the reader are sent after it, if the queue
has room for them. A reply that the server makes itself is reported as sent, with its OPT, and a
query to an upstream server as sent, but with the client's ID. Queries over TLS or HTTPS to an
upstream server are reported as TCP. `listen` needs a single worker, and `tcp://` and `tls://` a
port.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from socket import gethostname
from typing import ClassVar
from urllib.parse import urlsplit

from clusterdns import COREDNS_VERSION
from clusterdns.chain import querytext
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import (
    DROP,
    AnswerNext,
    HandleNext,
    Observer,
    Plugin,
    Record,
    Worker,
)
from clusterdns.chain.route import ALL_CLASSES, Relayed, Route
from clusterdns.corefile import arguments
from clusterdns.corefile.lexer import shorten
from clusterdns.corefile.parser import Directive
from clusterdns.forwarding.outside import Outside
from clusterdns.host.encryption import Encryption, client_context
from clusterdns.host.logs import plugin_logger
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.tapping import payload
from clusterdns.tapping.outlets import Caller, Hub, Place
from clusterdns.tapping.payload import (
    CLIENT_QUERY,
    CLIENT_RESPONSE,
    FORWARDER_QUERY,
    FORWARDER_RESPONSE,
    Moments,
    Socket,
)
from clusterdns.tapping.taps import Exchanged, Taps
from clusterdns.wire import message, reading
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Note, Response, render_reply
from clusterdns.wire.rr import RR

MAX_BUFFER_MIB, MAX_QUEUES = 1024, 4096  # CoreDNS: plugin/dnstap/setup.go
_TOLD: Note = ()  # no note is needed
_NS = 1_000_000_000
_log = plugin_logger("dnstap")


class Dnstap(Observer):
    """Makes messages of queries and responses, and puts them into the queues of their reader."""

    acts_alone = True
    families: ClassVar = {
        "clusterdns_dnstap_dropped_total": Family(
            "Counter of dnstap messages dropped because the reader was too slow.", ("endpoint",)
        ),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        words = list(directive.args)
        self._listens = words[:1] == ["listen"]
        if self._listens:
            words.pop(0)
        if not words:
            raise directive.error("wants a SOCKET: a path, unix://, tcp:// or tls://")
        self.wants_replies = words[1:2] == ["full"]
        _warn_of_words(words, directive)
        numbers = [
            arguments.whole(word, directive, least=1, most=most)
            for word, most in zip(words[2:4], (MAX_BUFFER_MIB, MAX_QUEUES), strict=False)
        ]
        self._buffer_mib, self._times, *_ = (*numbers, 1, 1)
        self._extra: tuple[str, ...] = ()
        identity, version = gethostname(), f"CoreDNS-{COREDNS_VERSION}"
        is_verified, files = True, list[str]()
        for line in directive.block:
            match line.name:
                case "identity":
                    identity = arguments.one(line)
                case "version":
                    version = arguments.one(line)
                case "extra":
                    self._extra = querytext.parts(arguments.one(line))
                case "skipverify":
                    is_verified = not arguments.flag(line)
                case "tls" if self._listens:
                    files = [str(block.path(file)) for file in _files(line)]
                case "tls":
                    raise line.error("is for readers that connect here, see listen")
                case _:
                    raise line.unknown("identity", "version", "extra", "skipverify", "tls")
        self._origin = payload.origin(identity.encode(), version.encode())
        self._place = _place(words[0], directive)
        if words[0].startswith("tls://"):
            context = _client_tls(is_verified)
            if self._listens:
                context = _server_tls(files, is_verified, directive)
            self._place = self._place._replace(tls=context)
        if self._listens and block.workers > 1:
            raise directive.error("listen needs a single worker: a reader would get a part only")
        self._outlet: Caller | Hub = self._made_outlet()
        self._now: Callable[[], float] = time.monotonic
        self._varies = querytext.varies(self._extra)
        if self._varies:
            self.slow = "tells of labels, so no answer is repeated from the table"
        block.shared(Taps).all.append(self)
        self._outside = block.shared(Outside)

    @classmethod
    def setup(cls, directives: list[Directive], block: Block) -> list[Plugin]:
        """Return a plugin for each occurrence."""
        return [cls(directive, block) for directive in directives]

    def _made_outlet(self) -> Caller | Hub:
        if self._listens:
            return Hub(self._place)
        return Caller(self._place, times=self._times, buffer_octets=self._buffer_mib << 20)

    async def start(self, worker: Worker) -> None:
        """Connect to the reader, or let readers connect."""
        self._now = worker.now
        if self._listens and worker.workers > 1:
            _log.error("listen needs a single worker, and tells of nothing with %d", worker.workers)
            return
        await self._outlet.start()

    async def stop(self) -> None:
        """Send the rest, and close."""
        await self._outlet.stop()

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin, None if a label is needed."""
        return None if self._varies else next(question)

    wants_exchanges = True

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: it changes no response."""
        return True

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin; send messages about the query and it."""
        if query.question is None:
            return await next(query)
        began_ns = time.time_ns()
        self._tell_of_query(query, began_ns)
        response = await next(query)
        self._tell_of_response(query, response, Moments(began_ns, time.time_ns()))
        if response.following is None:
            return response
        return response._replace(following=self._telling(query, response, began_ns))

    def told(self, query: Query, response: Response, seconds: float) -> None:
        """Send messages about a query answered from memory."""
        if query.question is not None:
            now_ns = time.time_ns()
            began_ns = now_ns - int(seconds * _NS)
            self._tell_of_query(query, began_ns)
            self._tell_of_response(query, response, Moments(began_ns, now_ns))

    def note(self, question: Question, response: Response) -> Note | None:
        """Return an empty note: all responses are reported."""
        return _TOLD

    def tell(
        self, records: Sequence[Record], transport: str, bound: Callable[[Query], None]
    ) -> None:
        """Send messages about queries that the table has answered."""
        frames, shift_ns = list[bytes](), time.time_ns() - int(self._now() * _NS)
        origin, is_full, extra = self._origin, self.wants_replies, b""
        for _, packet, client, seconds, began_s, reply in records:
            began_ns = int(began_s * _NS) + shift_ns
            moments = Moments(began_ns, began_ns + int(seconds * _NS))
            if self._extra or (is_full and packet[11]):  # an OPT, which `bufsize` may change
                query = reading.read_query(packet)
                assert isinstance(query, Query)  # otherwise it had not been a hit
                query.client, query.transport = client[:2], transport
                bound(query)
                extra = self._extra_of(query)
                packet = _octets(query)
            socket = Socket(transport, client[:2])
            asked, said = (packet, reply or b"") if is_full else (b"", b"")
            frames += (
                payload.frame(origin, CLIENT_QUERY, socket, moments, asked, extra),
                payload.frame(origin, CLIENT_RESPONSE, socket, moments, said, extra),
            )
        self._outlet.put(frames)

    def relay(self, route: Route) -> bool:
        """Let the relay report its queries, unless a label is needed."""
        if self._varies:
            return route.refuse("tells of labels, which the relay in C does not know")
        return route.observe(self, ALL_CLASSES)

    def passed(self, records: Sequence[Relayed], servers: Sequence[tuple[str, int]]) -> None:
        """Send messages about queries that the relay has answered, and about its exchanges."""
        shift_ns = time.time_ns() - time.monotonic_ns()
        for packet, client, _, began_s, seconds, *_, server, reply, received, ours in records:
            query = reading.read_query(packet)
            assert isinstance(query, Query)  # otherwise the relay had not taken it
            query.client, query.transport = client[:2], "udp"
            began_ns = int(began_s * _NS) + shift_ns
            moments = Moments(began_ns, began_ns + int(seconds * _NS))
            self._tell_of_query(query, began_ns)
            found = reading.read_reply(received or b"")
            socket = Socket("udp", ours, servers[server])
            sent = self._sent(query)
            self.forwarded(query, Exchanged(socket, sent, found, began_s, seconds))
            said = reply or b"" if self.wants_replies else b""
            self._put(query, CLIENT_RESPONSE, Socket("udp", query.client), moments, said)

    def _sent(self, query: Query) -> bytes:
        """Return what the relay has sent of a query: exchange.Asked."""
        assert query.question is not None
        do = message.EDNS_DO if query.question.do else 0
        flags = query.flags & (message.RD | message.CD) | message.AD
        edns = message.Edns(self._outside.octets, 0, do)
        return message.write_query(query.ident, flags, query.question, edns)

    def forwarded(self, query: Query, exchanged: Exchanged) -> None:
        """Send messages about an exchange with an upstream server."""
        shift_ns = time.time_ns() - time.monotonic_ns()
        began_ns = int(exchanged.began_s * _NS) + shift_ns
        moments = Moments(began_ns, began_ns + int(exchanged.seconds * _NS))
        is_full, reply = self.wants_replies, exchanged.reply
        ident = query.ident.to_bytes(2, "big")
        asked = ident + exchanged.packet[2:] if is_full else b""
        said = ident + _octets_of_reply(reply) if is_full and reply is not None else b""
        self._put(query, FORWARDER_QUERY, exchanged.socket, moments, asked)
        if reply is not None:
            self._put(query, FORWARDER_RESPONSE, exchanged.socket, moments, said)

    def samples(self) -> list[Sample]:
        """Return the number of messages dropped."""
        return [("clusterdns_dnstap_dropped_total", (str(self._place),), self._outlet.dropped)]

    def _tell_of_query(self, query: Query, began_ns: int) -> None:
        octets = _octets(query) if self.wants_replies else b""
        socket = Socket(query.transport, query.client)
        self._put(query, CLIENT_QUERY, socket, Moments(began_ns), octets)

    def _tell_of_response(self, query: Query, response: Response, moments: Moments) -> None:
        if response is DROP:
            return
        octets = b""
        if self.wants_replies:
            orders = response.orders
            sections = orders[(query.ident & 0xFF) % len(orders)] if orders else None
            octets = render_reply(query, response, query.limit, sections)
        self._put(query, CLIENT_RESPONSE, Socket(query.transport, query.client), moments, octets)

    def _telling(self, query: Query, response: Response, began_ns: int) -> Iterator[tuple[RR, ...]]:
        """Yield the further messages of a reply, and report each."""
        for section in response.following or ():
            one = response._replace(answer=section, following=None)
            self._tell_of_response(query, one, Moments(began_ns, time.time_ns()))
            yield section

    def _put(
        self, query: Query, kind: int, socket: Socket, moments: Moments, octets: bytes
    ) -> None:
        extra = self._extra_of(query)
        self._outlet.put([payload.frame(self._origin, kind, socket, moments, octets, extra)])

    def _extra_of(self, query: Query) -> bytes:
        if not self._extra or query.question is None:
            return b""
        return "".join(querytext.value(part, query, None, 0.0) for part in self._extra).encode()


def _octets(query: Query) -> bytes:
    """Return a query in wire form, with the payload size that `bufsize` allows."""
    if query.signed is not None:
        return query.signed.packet
    assert query.question is not None
    return message.write_query(query.ident, query.flags, query.question, query.edns)


def _octets_of_reply(reply: reading.Reply) -> bytes:
    """Return an upstream server's reply in wire form, without its ID."""
    question = Question(reply.questions[0][0], WireName(b"\0"), *reply.questions[0][1:])
    query = Query(0, 0, question, None, 0)
    response = Response(
        reply.rcode, reply.flags & ~15, reply.answer, reply.authority, reply.additional,
        verbatim=True,
    )  # fmt: skip
    octets = render_reply(query, response, message.MAX_OCTETS)
    if reply.edns is None:
        return octets[2:]
    counts = octets[2:10] + (len(reply.additional) + 1).to_bytes(2, "big")
    return counts + octets[12:] + message.write_opt(reply.edns, reply.rcode)


def _place(text: str, directive: Directive) -> Place:
    """Return the address of a reader. Raises ConfigError."""
    scheme, separator, _ = text.partition("://")
    if not separator or scheme == "unix":
        path = text.removeprefix("unix://")
        if not path or "\0" in path:
            raise directive.error(f"{shorten(text)!r} has no path")
        return Place(path)
    if scheme not in ("tcp", "tls"):
        raise directive.error(f"{shorten(text)!r} is no path, unix://, tcp:// or tls://")
    try:
        found = urlsplit(text)
        port = found.port
    except ValueError as error:
        raise directive.error(f"{shorten(text)!r}: {error}") from error
    if not port or not (found.hostname or directive.args[0] == "listen"):
        raise directive.error(f"wants {scheme}://HOST:PORT, got {shorten(text)!r}")
    return Place(host=found.hostname or "", port=port)


def _files(line: Directive) -> tuple[str, ...]:
    if not 2 <= len(line.args) <= 3:
        raise line.error("wants CERT KEY [CA]")
    return line.args


def _client_tls(is_verified: bool) -> ssl.SSLContext:
    context = client_context()
    context.load_default_certs()
    if not is_verified:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _server_tls(files: list[str], is_verified: bool, directive: Directive) -> ssl.SSLContext:
    """Return the TLS of a listener. Raises ConfigError."""
    if not files:
        raise directive.error("listen on tls:// wants a line tls CERT KEY [CA]")
    mode = "nocert"
    if len(files) == 3:
        mode = "require_and_verify" if is_verified else "verify_if_given"
    certificate, key, *authority = files
    try:
        return Encryption(
            Path(certificate), Path(key), Path(authority[0]) if authority else None, mode
        ).context  # fmt: skip
    except ValueError as error:
        raise directive.error(str(error)) from error


def _warn_of_words(words: list[str], directive: Directive) -> None:
    """Warn of arguments that are ignored, as in CoreDNS."""
    unread = [word for word in words[1:2] if word != "full"] + words[4:]
    if unread:
        place = f"{directive.file}:{directive.line}"
        _log.warning("%s: dnstap: %s means nothing here", place, " ".join(map(repr, unread)))
