"""A reader of dnstap messages: Frame Streams over a socket, decoded by the package `protobuf`.

``Reader`` listens, as CoreDNS's receivers do, or connects to a server that listens. It keeps the
messages of all connections in ``messages``.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

CONTENT = b"protobuf:dnstap.Dnstap"
ACCEPT, START, STOP, READY, FINISH = range(1, 6)
KINDS = {
    5: "CLIENT_QUERY", 6: "CLIENT_RESPONSE", 7: "FORWARDER_QUERY", 8: "FORWARDER_RESPONSE",
}  # fmt: skip
# dnstap.proto: name, number, type, for Dnstap and its Message.
_FIELDS = {
    "Dnstap": [("identity", 1, "BYTES"), ("version", 2, "BYTES"), ("extra", 3, "BYTES"),
               ("message", 14, "MESSAGE"), ("type", 15, "UINT32")],
    "Message": [("type", 1, "UINT32"), ("socket_family", 2, "UINT32"),
                ("socket_protocol", 3, "UINT32"), ("query_address", 4, "BYTES"),
                ("response_address", 5, "BYTES"), ("query_port", 6, "UINT32"),
                ("response_port", 7, "UINT32"), ("query_time_sec", 8, "UINT64"),
                ("query_time_nsec", 9, "FIXED32"), ("query_message", 10, "BYTES"),
                ("query_zone", 11, "BYTES"), ("response_time_sec", 12, "UINT64"),
                ("response_time_nsec", 13, "FIXED32"), ("response_message", 14, "BYTES")],
}  # fmt: skip


def _dnstap_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="dnstap.proto", package="dnstap", syntax="proto2"
    )
    kinds = descriptor_pb2.FieldDescriptorProto
    for word, fields in _FIELDS.items():
        made = file.message_type.add(name=word)
        for name, number, kind in fields:
            field = made.field.add(
                name=name, number=number, label=kinds.LABEL_OPTIONAL,
                type=getattr(kinds, f"TYPE_{kind}"),
            )  # fmt: skip
            if kind == "MESSAGE":
                field.type_name = ".dnstap.Message"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("dnstap.Dnstap"))


Dnstap = _dnstap_class()


class Told(NamedTuple):
    """One dnstap message; fields that it lacks are None."""

    kind: str
    family: int | None
    protocol: int | None
    query_address: bytes | None
    query_port: int | None
    response_address: bytes | None
    response_port: int | None
    query_time: float
    response_time: float | None
    query: bytes | None
    response: bytes | None
    identity: bytes | None
    version: bytes | None
    extra: bytes | None


def told(octets: bytes) -> Told:
    """Return what a data frame says; raises if it is no dnstap message, or has unknown fields."""
    whole = Dnstap.FromString(octets)
    assert whole.type == 1, "not MESSAGE"
    said = whole.message
    assert whole.SerializeToString(deterministic=True) == _known(whole)

    def field(of: Any, name: str) -> Any:
        return getattr(of, name) if of.HasField(name) else None

    times = [
        None if not said.HasField(f"{each}_time_sec")
        else getattr(said, f"{each}_time_sec") + getattr(said, f"{each}_time_nsec") / 1e9
        for each in ("query", "response")
    ]  # fmt: skip
    assert times[0] is not None
    return Told(
        KINDS[said.type], field(said, "socket_family"), field(said, "socket_protocol"),
        field(said, "query_address"), field(said, "query_port"), field(said, "response_address"),
        field(said, "response_port"), times[0], times[1], field(said, "query_message"),
        field(said, "response_message"), field(whole, "identity"), field(whole, "version"),
        field(whole, "extra"),
    )  # fmt: skip


def _known(whole: Any) -> bytes:
    copy = Dnstap()
    copy.CopyFrom(whole)
    copy.DiscardUnknownFields()
    return copy.SerializeToString(deterministic=True)


class Reader:
    """Reads from whoever connects to ``place``, or from ``place``, in threads of its own.

    ``place`` is a path or a port of loopback; ``stalls`` keeps it from reading data frames.
    """

    def __init__(
        self, place: Path | int, *, tls: ssl.SSLContext | None = None, connects: bool = False,
        stalls: bool = False,
    ) -> None:  # fmt: skip
        self.messages: list[Told] = []
        self.errors: list[BaseException] = []
        self.connections = self.finished = 0
        self._tls, self._stalls = tls, stalls
        self._place = place
        self._sockets: list[socket.socket] = []
        self._is_closed = False
        family = socket.AF_UNIX if isinstance(place, Path) else socket.AF_INET
        self._sock = socket.socket(family)
        self._address = str(place) if isinstance(place, Path) else ("127.0.0.1", place)
        if connects:
            self._sock.connect(self._address)
            threading.Thread(target=self._read, args=(self._sock,), daemon=True).start()
        else:
            if family == socket.AF_INET:
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._sock.bind(self._address)
            self._sock.listen()
            threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._sock.getsockname()[1])

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._is_closed = True
        for sock in (self._sock, *self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        if isinstance(self._place, Path):
            self._place.unlink(missing_ok=True)

    def wait(self, until: Callable[[list[Told]], object], timeout_s: float = 10) -> list[Told]:
        """Return the messages as soon as ``until`` holds for them."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = self.messages[:]
            if until(found):
                assert not self.errors, self.errors
                return found
            time.sleep(0.01)
        raise AssertionError(f"only {len(self.messages)} messages came: {self.messages[-3:]}")

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._sock.accept()
                self._sockets.append(sock)
                threading.Thread(target=self._read, args=(sock,), daemon=True).start()

    def _read(self, sock: socket.socket) -> None:
        try:
            if self._tls is not None:
                sock = self._tls.wrap_socket(sock, server_side=True)
                self._sockets.append(sock)
            with sock.makefile("rwb") as stream:
                assert self._control(stream) == (READY, [CONTENT])
                self._say(stream, ACCEPT, CONTENT)
                assert self._control(stream) == (START, [CONTENT])
                self.connections += 1
                while self._stalls and not self._is_closed:
                    time.sleep(0.01)
                while (size := struct.unpack("!I", stream.read(4))[0]) != 0:
                    self.messages.append(told(stream.read(size)))
                assert self._control(stream, escaped=True) == (STOP, [])
                self._say(stream, FINISH)
                self.finished += 1
        except (OSError, struct.error):
            pass  # the server has gone without a farewell
        except BaseException as error:
            self.errors.append(error)

    @staticmethod
    def _control(stream: Any, *, escaped: bool = False) -> tuple[int, list[bytes]]:
        if not escaped:
            assert stream.read(4) == bytes(4)
        (size,) = struct.unpack("!I", stream.read(4))
        octets = stream.read(size)
        contents, i = [], 4
        while i < size:
            field, length = struct.unpack_from("!II", octets, i)
            assert field == 1
            contents.append(octets[i + 8 : i + 8 + length])
            i += 8 + length
        return int.from_bytes(octets[:4], "big"), contents

    @staticmethod
    def _say(stream: Any, kind: int, *contents: bytes) -> None:
        fields = b"".join(struct.pack("!II", 1, len(each)) + each for each in contents)
        stream.write(struct.pack("!III", 0, 4 + len(fields), kind) + fields)
        stream.flush()
