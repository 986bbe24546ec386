"""An upstream server that does, name by name, what upstream servers and forgers do wrong.

``FaultyUpstream`` serves one loopback port over UDP and TCP from a thread of its own. Every name has an
address, made of the name (``address_of``), so that a wrong answer shows; every bad reply says ``EVIL``.
A ``Fault`` is a function that gets an ``Asked`` and replies, late, more than once, or never; ``fault``
may be changed at any time, ``by_suffix`` sets another one for the names below some suffix. Counted:
queries by name and type, source ports and IDs of those over UDP, how many came over TCP.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import random
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterable

from peers import bind_pair

A, SOA, HINFO = 1, 6, 13
QR, AA, TC, RD, RA = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080
SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = 2, 3, 4, 5
EVIL = bytes((6, 6, 6, 6))
TTL = 3600  # longer than any test
MAX_SEEN = 200_000  # source ports and IDs that are remembered, the latest ones
_HEADER = struct.Struct("!HHHHHH")
_SOA = struct.pack("!HHHIH", 0xC00C, SOA, 1, TTL, 22) + b"\0\0" + struct.pack("!5I", 1, 2, 3, 4, 60)
_OPT = struct.pack("!BHHIH", 0, 41, 1232, 0, 0)

Fault = Callable[["Asked"], None]


class Asked:
    """One query that came, and the ways to reply to it."""

    def __init__(
        self, wire: bytes, upstream: FaultyUpstream, client: tuple[str, int], proto: str
    ) -> None:
        self.wire, self.upstream, self.client, self.proto = wire, upstream, client, proto
        self.ident, self.flags = struct.unpack_from("!HH", wire)
        end = 12
        while wire[end]:
            end += 1 + wire[end]
        self.question = wire[12 : end + 5]
        self.qtype = int.from_bytes(wire[end + 1 : end + 3])
        self.has_edns = bool(wire[11])
        self.writer: asyncio.StreamWriter | None = None

    @property
    def qname(self) -> str:
        """The name asked for, as text in lower case; labels here are plain letters."""
        return _text(self.question[:-4])

    def reply(self, octets: bytes, *, after_s: float = 0) -> None:
        """Send octets to the client from the port that was asked."""
        if after_s:
            asyncio.get_running_loop().call_later(after_s, self._send, octets)
        else:
            self._send(octets)

    def reply_from(self, sock: socket.socket, octets: bytes) -> None:
        """Send octets to the client from another socket; nothing over TCP."""
        if self.writer is None:
            with contextlib.suppress(OSError):
                sock.sendto(octets, self.client)

    def _send(self, octets: bytes) -> None:
        if self.writer is not None:
            self.writer.write(struct.pack("!H", len(octets)) + octets)
            return
        with contextlib.suppress(OSError):  # a full buffer is the network's loss
            self.upstream.udp.sendto(octets, self.client)

    def message(
        self,
        *,
        ident: int | None = None,
        flags: int = QR | RD | RA,
        question: bytes | None = None,
        questions: int = 1,
        answer: bytes | None = None,
        extra: Iterable[bytes] = (),
    ) -> bytes:
        """Return a reply: the address of the name, unless ``answer`` is another, or is empty."""
        records, authority = [], b""
        if answer is None and self.qtype == A:
            answer = address_of(self.qname)
        if answer:
            records.append(address_record(answer))
        elif answer is None:
            authority = _SOA
        records += extra
        asked = (self.question if question is None else question) * questions
        counts = (questions, len(records), bool(authority), self.has_edns)
        head = _HEADER.pack(self.ident if ident is None else ident, flags, *counts)
        return head + asked + b"".join(records) + authority + (_OPT if self.has_edns else b"")


class FaultyUpstream:
    """Started on construction. ``tcp`` is ``as udp``, ``good`` or ``refused``."""

    def __init__(self, fault: Fault, *, tcp: str = "good", port: int = 0) -> None:
        self.fault = fault
        self.by_suffix: dict[str, Fault] = {}
        self.queries: collections.Counter[tuple[str, int]] = collections.Counter()
        self.seen: collections.deque[tuple[int, int]] = collections.deque(maxlen=MAX_SEEN)
        self.total = self.over_tcp = 0
        self._tcp_mode = tcp
        self.udp, self._tcp = bind_pair(port)
        if tcp != "refused":  # a socket that is bound and does not listen refuses
            self._tcp.listen(128)  # here: who asks at once must not come before it
        self.udp.setblocking(False)
        self.elsewhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)  # another port
        self.elsewhere.bind(("127.0.0.1", 0))
        self.port = int(self.udp.getsockname()[1])
        self.address = f"127.0.0.1:{self.port}"
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_running = threading.Event()  # before that, `stop` would break the start
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._is_running.wait(5)

    def __enter__(self) -> FaultyUpstream:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def asked(self, qname: str, qtype: int = A) -> int:
        """Return how many queries of this name and type have come."""
        return self.queries[qname.lower(), qtype]

    def stop(self) -> None:
        """Close everything and wait for the thread."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        for sock in (self.udp, self._tcp, self.elsewhere):
            sock.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.add_reader(self.udp, self._drain)
        server = None
        if self._tcp_mode != "refused":
            server = self._loop.run_until_complete(asyncio.start_server(self._talk, sock=self._tcp))
        self._loop.call_soon(self._is_running.set)
        self._loop.run_forever()
        if server is not None:
            server.close()
        pending = asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))  # for the transports to close
        self._loop.close()

    def _drain(self) -> None:
        for _ in range(64):
            try:
                wire, client = self.udp.recvfrom(65535)
            except OSError:
                return
            if len(wire) >= 17:
                asked = Asked(wire, self, client, "udp")
                self.seen.append((asked.ident, client[1]))
                self._answer(asked)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    (length,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = await reader.readexactly(length)
                    asked = Asked(wire, self, writer.get_extra_info("peername"), "tcp")
                    asked.writer = writer
                    self.over_tcp += 1
                    self._answer(asked)
        finally:
            writer.close()

    def _answer(self, asked: Asked) -> None:
        qname = asked.qname
        self.total += 1
        self.queries[qname, asked.qtype] += 1
        fault = self.fault
        for suffix, other in self.by_suffix.items():
            if qname.endswith(suffix):
                fault = other
        if asked.proto == "tcp" and self._tcp_mode == "good":
            fault = good
        fault(asked)

    def keep(self, work: asyncio.Task[None]) -> None:
        """Hold a task that a fault has begun until it is done."""
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)


# ---- what may be wrong with a server


def good(asked: Asked) -> None:
    """Answer as one should."""
    asked.reply(asked.message())


def silent(asked: Asked) -> None:
    """Say nothing: a black hole."""


def late(delay_s: float) -> Fault:
    """Return the fault of a server that takes its time."""
    return lambda asked: asked.reply(asked.message(), after_s=delay_s)


def lossy(share: float, seed: int = 1) -> Fault:
    """Return the fault of a server of whose replies a share is lost."""
    rng = random.Random(seed)
    return lambda asked: None if rng.random() < share else good(asked)


def says(rcode: int) -> Fault:
    """Return the fault of a server that has only a return code to offer."""
    return lambda asked: asked.reply(asked.message(flags=QR | RD | RA | rcode, answer=b""))


def without_edns(*, has_question: bool) -> Fault:
    """Return the fault of a server of the last century: FORMERR to an OPT record."""

    def act(asked: Asked) -> None:
        if not asked.has_edns:
            good(asked)
            return
        head = _HEADER.pack(asked.ident, QR | RD | 1, int(has_question), 0, 0, 0)
        asked.reply(head + (asked.question if has_question else b""))

    return act


def long(addresses: int) -> Fault:
    """Return the fault of a server with so many addresses, cut to what is allowed over UDP."""

    def act(asked: Asked) -> None:
        whole = asked.message(extra=[address_record(EVIL)] * (addresses - 1))
        limit = int.from_bytes(asked.wire[-8:-6]) if asked.has_edns else 512
        if asked.proto == "udp" and len(whole) > limit:
            whole = asked.message(flags=QR | RD | RA | TC, answer=b"")
        asked.reply(whole)

    return act


def truncated(asked: Asked) -> None:
    """Say TC and nothing else over UDP."""
    if asked.proto == "udp":
        asked.reply(asked.message(flags=QR | RD | RA | TC, answer=b""))
    else:
        good(asked)


def garbage(asked: Asked) -> None:
    """Reply with octets that are no message, under the right ID."""
    asked.reply(asked.wire[:2] + random.Random(asked.ident).randbytes(60))


def with_strangers(name: str) -> Fault:
    """Return the fault of a server that adds an address of a name that nobody asked for."""
    owner = _wire(name)
    stranger = owner + struct.pack("!HHIH", A, 1, TTL, 4) + EVIL
    return lambda asked: asked.reply(asked.message(extra=[stranger]))


def relay(address: tuple[str, int]) -> Fault:
    """Return the fault of a server that asks another one everything, and is blamed for nothing."""

    async def pass_on(asked: Asked) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(type=socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.setblocking(False)
            sock.connect(address)
            sock.send(asked.wire)
            async with asyncio.timeout(6):
                asked.reply(await loop.sock_recv(sock, 65535))

    async def quietly(asked: Asked) -> None:
        with contextlib.suppress(TimeoutError):
            await pass_on(asked)

    return lambda asked: asked.upstream.keep(asyncio.ensure_future(quietly(asked)))


# ---- what a forger sends: every reply says EVIL, and none must be believed

Forgery = Callable[[Asked], bytes | None]  # None: it has sent its own


def _elsewhere(asked: Asked) -> None:
    asked.reply_from(asked.upstream.elsewhere, asked.message(answer=EVIL))


def _other(asked: Asked, qname: str) -> bytes:
    return asked.message(question=_wire(qname) + asked.question[-4:], answer=EVIL)


def _with_tail(asked: Asked, tail: bytes) -> bytes:
    return asked.message(question=asked.question[:-4] + tail, answer=EVIL)


FORGERIES: dict[str, Forgery] = {
    "another ID": lambda asked: asked.message(ident=asked.ident ^ 0x0101, answer=EVIL),
    "another name": lambda asked: _other(asked, "evil.test."),
    "another opcode": lambda asked: asked.message(flags=QR | 0x2000 | RD | RA, answer=EVIL),
    "another type": lambda asked: _with_tail(asked, b"\0\x1c\0\1"),
    "another class": lambda asked: _with_tail(asked, b"\0\1\0\3"),
    "two questions": lambda asked: asked.message(questions=2, answer=EVIL),
    "no question": lambda asked: asked.message(questions=0, answer=EVIL),
    "QR 0": lambda asked: asked.message(flags=RD | RA, answer=EVIL),
    "another port": _elsewhere,
    "header only": lambda asked: asked.wire[:2] + b"\x81\x80" + bytes(8),
    "shorter than a header": lambda asked: asked.wire[:2] + b"\x81\x80\0\1\0\1",
    "garbage": lambda asked: asked.wire[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + b"\xff" * 30,
}


def forge(asked: Asked, kinds: Iterable[str], count: int) -> None:
    """Send ``count`` forgeries, one kind after the other."""
    made = [FORGERIES[kind] for kind in kinds]
    for i in range(count):
        octets = made[i % len(made)](asked)
        if octets is not None:
            asked.reply(octets)


def forged(count: int, then_after_s: float, kinds: Iterable[str] = tuple(FORGERIES)) -> Fault:
    """Return the fault of a path on which forgers are faster than the server."""
    kinds = tuple(kinds)

    def act(asked: Asked) -> None:
        if asked.qtype == A and asked.proto == "udp":
            forge(asked, kinds, count)
        asked.reply(asked.message(), after_s=then_after_s)

    return act


# ---- octets


def address_of(qname: str) -> bytes:
    """Return the one right address of a name, within 10.0.0.0/8."""
    return b"\x0a" + struct.pack("!I", zlib.crc32(qname.lower().encode()))[1:]


def address_record(address: bytes, ttl: int = TTL) -> bytes:
    """Return an A record of the name that is asked."""
    return struct.pack("!HHHIH", 0xC00C, A, 1, ttl, 4) + address


def question_of(qname: str, qtype: int = A) -> bytes:
    """Return the octets of a question."""
    return _wire(qname) + struct.pack("!HH", qtype, 1)


def query(qname: str, ident: int, qtype: int = A) -> bytes:
    """Return the octets of a plain query."""
    return _HEADER.pack(ident, RD, 1, 0, 0, 0) + question_of(qname, qtype)


def addresses(reply: bytes) -> list[bytes]:
    """Return the RDATA of the A records in a reply's answer section, whoever owns them."""
    end = reply.index(b"\0", 12) + 5
    found = []
    for _ in range(int.from_bytes(reply[6:8])):
        while 0 < reply[end] < 0xC0:
            end += 1 + reply[end]
        end -= not reply[end]  # the root is one octet where a pointer has two
        rtype, length = struct.unpack_from("!H6xH", reply, end + 2)
        if rtype == A:
            found.append(reply[end + 12 : end + 12 + length])
        end += 12 + length
    return found


def _wire(qname: str) -> bytes:
    labels = qname.rstrip(".").split(".") if qname.rstrip(".") else []
    return b"".join(bytes((len(label),)) + label.encode() for label in labels) + b"\0"


def _text(wire: bytes) -> str:
    labels, i = [], 0
    while wire[i]:
        labels.append(wire[i + 1 : i + 1 + wire[i]].decode("latin-1").lower())
        i += 1 + wire[i]
    return ".".join([*labels, ""])
