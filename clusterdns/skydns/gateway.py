"""An etcd cluster, asked through the JSON gateway of its API, version 3.

A request is a POST of a small object over HTTP/1.1, by the package `h11`, on a connection that is
kept. A member that fails is left out for a pause that doubles each time; while all fail, requests
fail at once. At most ``MAX_CONNECTIONS`` requests are under way, as many again as
``MAX_WAITING`` wait for their turn, and a reply has at most ``MAX_REPLY_OCTETS``. (etcd:
Documentation, "gRPC gateway")
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import json
import ssl
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import h11

from clusterdns import __version__
from clusterdns.errors import UpstreamError
from clusterdns.forwarding.connections import reason_of
from clusterdns.host.addresses import host_and_port

TIMEOUT_S = 5.0  # for one lookup (CoreDNS: etcdTimeout)
MEMBER_TIMEOUT_S = 2.0  # for one member, so that there is time for another
PAUSE_S, MAX_PAUSE_S = 1.0, 8.0  # of a member that failed
IDLE_S = 30.0  # a connection is kept
MAX_CONNECTIONS, MAX_WAITING = 16, 1024
MAX_REPLY_OCTETS = 16 * 2**20
_CHUNK_OCTETS = 64 * 1024
_IN_TROUBLE = (4, 14)  # gRPC's codes: DEADLINE_EXCEEDED and UNAVAILABLE, without a quorum
_UNAUTHENTICATED = 16  # gRPC's code: the token is none, or has ended


class Endpoint(NamedTuple):
    """Where a member of the cluster listens, with TLS if there is a context."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None

    def __str__(self) -> str:
        return host_and_port(self.host, self.port)


class KeyValue(NamedTuple):
    """A key, its value, and its lease, 0 for none."""

    key: str
    value: bytes
    lease: int


class RefusedError(UpstreamError):
    """The cluster has understood the request, and says why it does not do it."""

    code = 0


class _Connection:
    """One connection to a member, which takes one request after another."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.used_at = time.monotonic()
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT)

    @property
    def is_good(self) -> bool:
        """Whether another request may be sent."""
        is_old = time.monotonic() - self.used_at > IDLE_S
        return not is_old and not self._reader.at_eof() and not self._writer.is_closing()

    async def post(self, path: str, headers: list[tuple[str, str]], body: bytes) -> dict[str, Any]:
        """Return the object that is the reply.

        Raises:
            RefusedError: the reply is an error.
            UpstreamError: it is none at all.
            OSError: the connection broke.
        """
        http = self._http
        if http.states[h11.CLIENT] is h11.DONE:
            http.start_next_cycle()
        request = h11.Request(method="POST", target=path, headers=headers)
        octets = [http.send(request), http.send(h11.Data(body)), http.send(h11.EndOfMessage())]
        self._writer.write(b"".join(each or b"" for each in octets))
        await self._writer.drain()
        status, parts = 0, list[bytes]()
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                http.receive_data(await self._reader.read(_CHUNK_OCTETS))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
                if sum(map(len, parts)) > MAX_REPLY_OCTETS:
                    raise UpstreamError(f"a reply of more than {MAX_REPLY_OCTETS} octets")
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("connection closed")
        self.used_at = time.monotonic()
        if http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            self.close()
        return _read(status, b"".join(parts))

    def close(self) -> None:
        """Close the connection, at once."""
        self._writer.transport.abort()


class _Member:
    """One member: its idle connections, and whether it is to be left alone."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.idle: deque[_Connection] = deque()
        self.paused_until = self._pause_s = 0.0

    def failed(self) -> None:
        """Leave it alone for a moment."""
        self._pause_s = min(2 * self._pause_s or PAUSE_S, MAX_PAUSE_S)
        self.paused_until = time.monotonic() + self._pause_s

    def worked(self) -> None:
        """Forget failures."""
        self.paused_until = self._pause_s = 0.0

    async def connection(self) -> tuple[_Connection, bool]:
        """Return a connection, and whether it has been used before."""
        while self.idle:
            kept = self.idle.pop()
            if kept.is_good:
                return kept, True
            kept.close()
        host, port, tls = self.endpoint
        name = host if tls is not None else None
        streams = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name)
        return _Connection(*streams), False

    def close(self) -> None:
        """Close what is idle."""
        while self.idle:
            self.idle.pop().close()


class Etcd:
    """An etcd cluster, asked from one worker."""

    def __init__(self, endpoints: list[Endpoint], credentials: tuple[str, str] | None) -> None:
        self.failures = 0
        self._members = deque(_Member(each) for each in endpoints)
        self._credentials = credentials
        self._token = ""
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._waiting = 0
        self._error = "nothing asked yet"

    async def range(self, key: str, *, is_prefix: bool) -> list[KeyValue]:
        """Return what is at a key, or at all keys that begin so, in their order.

        Raises:
            UpstreamError: the cluster does not say.
        """
        start = key.encode()
        asked = {"key": _base64(start)}
        if is_prefix:
            asked["range_end"] = _base64(_end(start))
        reply = await self._ask("/v3/kv/range", asked)
        try:
            return [
                KeyValue(
                    _octets(each["key"]).decode("utf-8", "replace"),
                    _octets(each.get("value", "")),
                    int(each.get("lease", 0)),
                )
                for each in reply.get("kvs", ())
            ]
        except (TypeError, ValueError, KeyError, AttributeError, binascii.Error) as error:
            raise UpstreamError(f"{key}: a reply that cannot be read: {error!r}") from error

    async def seconds_left(self, lease: int) -> int:
        """Return how long a lease still runs, 0 or less if it does not. Raises UpstreamError."""
        reply = await self._ask("/v3/lease/timetolive", {"ID": str(lease)})
        try:
            return int(reply.get("TTL", 0))
        except (TypeError, ValueError, AttributeError) as error:
            raise UpstreamError(f"a lease that cannot be read: {error!r}") from error

    def close(self) -> None:
        """Close all connections that are idle."""
        for member in self._members:
            member.close()

    async def _ask(self, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return the reply of the first member that gives one. Raises UpstreamError."""
        if self._waiting >= MAX_WAITING:
            raise UpstreamError(f"{MAX_WAITING} lookups wait already")
        self._waiting += 1
        try:
            async with asyncio.timeout(TIMEOUT_S), self._room:
                return await self._ask_as_user(path, asked)
        except TimeoutError as error:
            raise UpstreamError(f"no reply in {TIMEOUT_S:g} s: {self._error}") from error
        finally:
            self._waiting -= 1

    async def _ask_as_user(self, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
        if self._credentials is None:
            return await self._ask_members(path, asked)
        if self._token:
            try:
                return await self._ask_members(path, asked)
            except RefusedError as error:
                if error.code != _UNAUTHENTICATED and "auth token" not in str(error):
                    raise
        name, password = self._credentials
        self._token = ""
        said = {"name": name, "password": password}
        reply = await self._ask_members("/v3/auth/authenticate", said)
        self._token = str(reply.get("token", ""))
        return await self._ask_members(path, asked)

    async def _ask_members(self, path: str, asked: Mapping[str, str]) -> dict[str, Any]:
        now, body = time.monotonic(), json.dumps(asked).encode()
        for _ in range(len(self._members)):
            member = self._members[0]
            if member.paused_until <= now:
                try:
                    async with asyncio.timeout(MEMBER_TIMEOUT_S):
                        reply = await self._ask_member(member, path, body)
                except (OSError, UpstreamError, h11.ProtocolError) as error:
                    if isinstance(error, RefusedError) and error.code not in _IN_TROUBLE:
                        member.worked()
                        raise
                    self.failures += 1
                    self._error = f"{member.endpoint}: {_why(error)}"
                    member.failed()
                else:
                    member.worked()
                    return reply
            self._members.rotate(-1)
        raise UpstreamError(self._error)

    async def _ask_member(self, member: _Member, path: str, body: bytes) -> dict[str, Any]:
        headers = [
            ("Host", str(member.endpoint)), ("User-Agent", f"clusterdns/{__version__}"),
            ("Content-Type", "application/json"), ("Content-Length", str(len(body))),
        ]  # fmt: skip
        if self._token:
            headers.append(("Authorization", self._token))
        while True:
            connection, is_kept = await member.connection()
            try:
                reply = await connection.post(path, headers, body)
            except RefusedError:
                self._keep(member, connection)
                raise
            except (OSError, h11.ProtocolError):
                connection.close()
                if not is_kept:  # else the server has closed it meanwhile: that is no failure
                    raise
            except BaseException:
                connection.close()
                raise
            else:
                self._keep(member, connection)
                return reply

    def _keep(self, member: _Member, connection: _Connection) -> None:
        if connection.is_good:
            member.idle.append(connection)


def _read(status: int, body: bytes) -> dict[str, Any]:
    """Return the object in a reply. Raises RefusedError, and UpstreamError for what is none."""
    reply = None
    with contextlib.suppress(ValueError, RecursionError):
        reply = json.loads(body)
    if status == 200 and isinstance(reply, dict):
        return reply
    if isinstance(reply, dict) and ("error" in reply or "message" in reply):
        refused = RefusedError(f"etcd: {reply.get('message') or reply.get('error')}")
        code = reply.get("code")
        refused.code = code if isinstance(code, int) else 0
        raise refused
    raise UpstreamError(f"HTTP status {status}" if status != 200 else "a reply that is no object")


def _why(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "i/o timeout"
    return reason_of(error) if isinstance(error, OSError) else str(error)


def _end(prefix: bytes) -> bytes:
    """Return the first key behind all that begin with a prefix (etcd: client GetPrefixRangeEnd)."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes((kept[-1] + 1,)) if kept else b"\0"


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _octets(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
