"""A fake API server with faults: everything that a watcher must live with.

``FaultyApi`` is a ``FakeApi`` that can be down and up again on the same port, answer with errors,
fall silent, cut connections in the middle of an event, lose, repeat and disorder events, forget
its history, go back in time, ask for tokens, and say whatever octets a test likes. It notes when
each request came.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import fakeapi
from fakeapi import FakeApi, Manifest, event_of

ALL = "*"


class FaultyApi(FakeApi):
    """See above. Faults by resource are kept under its name, or under ``ALL``."""

    def __init__(
        self, objects: Iterable[Manifest] = (), *, certificate: Path | None = None, seed: int = 0
    ) -> None:
        super().__init__(objects)
        self.times: list[float] = []  # monotonic, of each request
        self.statuses: dict[str, tuple[int, dict[str, str]]] = {}  # answer these instead
        self.pages: dict[str, str] = {}  # answer 200 with this body of text/html
        self.tokens: set[str] | None = None  # those that are let in
        self.refused_tokens = 0
        self.streams_lists = True  # sendInitialEvents is known; None: taken and ignored
        self.sends_bookmarks_s = 0.0  # how often
        self.expires_pages = 0  # how many continue tokens are refused
        self.is_silent = False  # nothing is sent any more, and nothing closed
        self.ends_at_once = False  # watches end cleanly as they begin
        self.loses = 0.0  # share of events that are not sent
        self.lost = 0
        self.repeats = 0.0  # share of events followed by an old one
        self.cuts = 0.0  # share of events that end the connection in their middle
        self.errors = 0.0  # share of requests that fail with a status at random
        self.random = random.Random(seed)
        self.injected: list[tuple[str, bytes]] = []  # resource, octets for its watches
        self.connections: set[socket.socket] = set()
        self._server.RequestHandlerClass = _Handler
        self._tls: ssl.SSLContext | None = None
        if certificate is not None:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
            self.url = self.url.replace("http:", "https:")
        self.port = self._server.server_address[1]

    def down(self) -> None:
        """Refuse connections, and end those there are."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        self.reset_connections()

    def up(self) -> None:
        """Listen again where it was."""
        self._server = fakeapi._Server(("127.0.0.1", self.port), _Handler)
        self._server.api = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), daemon=True
        )
        self._thread.start()

    def reset_connections(self) -> None:
        """End all connections with a reset."""
        for sock in list(self.connections):
            reset(sock)

    def inject(self, resource: str, octets: bytes) -> None:
        """Send octets to every watch of a resource."""
        with self.changed:
            self.injected.append((resource, octets))
            self.changed.notify_all()

    def lose(self, manifest: Manifest) -> None:
        """Apply a change that no watch is told of."""
        share, self.loses = self.loses, 0.0
        with self.changed:
            self.apply(manifest)
            self.history.pop()
        self.loses = share

    def save(self) -> tuple[int, dict[str, dict[tuple[str, str], Manifest]]]:
        """Return a backup."""
        with self.changed:
            return self.version, {r: dict(found) for r, found in self.objects.items()}

    def restore(self, backup: tuple[int, dict[str, dict[tuple[str, str], Manifest]]]) -> None:
        """Go back to a backup, as an etcd that is restored does."""
        with self.changed:
            self.version, objects = backup
            self.objects = {resource: dict(found) for resource, found in objects.items()}
            self.history.clear()
            self.oldest = 0
        self.reset_connections()

    def busiest(self, seconds: float = 5) -> float:
        """Return the most requests a second over any stretch of so many seconds."""
        times = list(self.times)
        return max((sum(t <= u < t + seconds for u in times) for t in times), default=0) / seconds


def reset(sock: socket.socket) -> None:
    """End a connection with RST."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)


class _Handler(fakeapi._Handler):
    def setup(self) -> None:
        super().setup()
        self.server.api.connections.add(self.connection)

    def finish(self) -> None:
        self.server.api.connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        api: Any = self.server.api
        api.times.append(time.monotonic())
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query))
        resource = url.path.rpartition("/")[2]
        self.wait_while_silent()
        if self.answers_fault(resource, query):
            api.requests.append(self.path)
            return
        if query.get("sendInitialEvents") and api.streams_lists is None:
            self.path = self.path.replace("sendInitialEvents=true", "")
        with contextlib.suppress(OSError):
            super().do_GET()

    def answers_fault(self, resource: str, query: Mapping[str, str]) -> bool:
        """Tell whether a fault has been answered."""
        api: Any = self.server.api
        words = self.headers.get("Authorization", "").split(" ", 1)
        if api.tokens is not None and words[-1] not in api.tokens:
            api.refused_tokens += 1
            return self.fail(401)
        if api.errors and api.random.random() < api.errors:
            return self.fail(
                api.random.choice((401, 403, 410, 429, 500, 503)), {"Retry-After": "1"}
            )
        if found := api.statuses.get(resource) or api.statuses.get(ALL):
            return self.fail(*found)
        if page := api.pages.get(resource):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page.encode())
            return True
        if query.get("sendInitialEvents") and api.streams_lists is False:
            return self.fail(422)
        if query.get("continue") and api.expires_pages:
            api.expires_pages -= 1
            return self.fail(410)
        asked, now = int(query.get("resourceVersion") or 0), api.version
        if query.get("watch") and asked > now:
            status = fakeapi._status(
                504, "Timeout", f"Too large resource version: {asked}, current: {now}"
            )
            self._send(504, status)
            return True
        return False

    def fail(self, code: int, headers: Mapping[str, str] | None = None) -> bool:
        octets = json.dumps(fakeapi._status(code, "Fault", f"fault {code}")).encode()
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(octets)))
        self.end_headers()
        self.wfile.write(octets)
        return True

    def wait_while_silent(self) -> None:
        api: Any = self.server.api
        while api.is_silent and not api.is_closing:
            time.sleep(0.02)

    def _follow(self, resource: str, query: Mapping[str, str], at: int) -> None:
        api: Any = self.server.api
        heard = len(api.injected)
        until = time.monotonic() + float(query.get("timeoutSeconds", "3600"))
        bookmark_at = time.monotonic() + api.sends_bookmarks_s
        while not (api.is_closing or api.ends_at_once) and time.monotonic() < until:
            with api.changed:
                if at < api.oldest:
                    self._chunk({"type": "ERROR", "object": fakeapi._status(410, "Expired", "old")})
                    break
                news = [entry for entry in api.history if entry[0] > at]
                said, heard = api.injected[heard:], len(api.injected)
                if not news and not said:
                    api.changed.wait(0.2)
            for target, octets in said:
                if target == resource:
                    self.write_chunk(octets)
            for version, kind, before, after in news:
                at = version
                event = event_of(before, after, version, query) if kind == resource else None
                if event is not None:
                    self.send_event(event)
            if api.sends_bookmarks_s and time.monotonic() > bookmark_at:
                bookmark_at = time.monotonic() + api.sends_bookmarks_s
                self._chunk(fakeapi._bookmark(resource, at, is_end=False))
        self.wfile.write(b"0\r\n\r\n")

    def send_event(self, event: Manifest) -> None:
        api: Any = self.server.api
        if api.random.random() < api.loses:
            api.lost += 1
            return
        if api.random.random() < api.cuts:
            octets = json.dumps(event).encode()
            self.write_chunk(octets[: api.random.randrange(len(octets))])
            reset(self.connection)
            raise OSError("cut")
        self._chunk(event)
        if api.random.random() < api.repeats:
            self._chunk(event)

    def write_chunk(self, octets: bytes) -> None:
        self.wait_while_silent()
        if octets:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(octets), octets))
            self.wfile.flush()

    def _chunk(self, event: Manifest) -> None:
        self.write_chunk(json.dumps(event).encode() + b"\n")
