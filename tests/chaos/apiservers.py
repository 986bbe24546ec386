"""The API servers that the cluster of a run may live in: a fake one that can fail in every way, or a real
one with etcd behind it, to which the server comes through a link that can fail.

``RealServer`` is changed directly, so that changes go on while the link is down; while etcd or the API
server itself is down, nothing can change.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any, Protocol, Self

import controlplane
from faultyapi import FaultyApi, reset

Manifest = dict[str, Any]


class ApiServer(Protocol):
    """What both are for a ``World``; ``access`` is how the Corefile names it."""

    @property
    def access(self) -> str: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def apply(self, manifest: Manifest) -> object: ...
    def remove(self, manifest: Manifest) -> None: ...
    def forget_history(self, kept: int) -> None: ...


class FakeServer(FaultyApi):
    """A fake API server."""

    @property
    def access(self) -> str:
        """The option of `kubernetes` that leads to it."""
        return f"endpoint {self.url}"

    def remove(self, manifest: Manifest) -> None:
        """Delete the object of a manifest."""
        self.delete(
            manifest["kind"], manifest["metadata"]["name"], manifest["metadata"]["namespace"]
        )

    def forget_history(self, kept: int) -> None:
        """Forget changes, now and then, but for the last ``kept``: who is further behind is told 410."""
        with self.changed:
            if len(self.history) > 2 * kept:
                self.oldest = self.history[-kept][0]
                del self.history[:-kept]


class Link:
    """A port that leads to another one, until it is told otherwise."""

    def __init__(self, target: int) -> None:
        self.is_silent = False  # nothing is passed on, and nothing closed
        self._target = target
        self._is_closing = False
        self._socks: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = self._listen()

    def _listen(self) -> threading.Thread:
        thread = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        thread.start()
        return thread

    def down(self) -> None:
        """Refuse connections, and end those there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)
        self.reset_connections()

    def up(self) -> None:
        """Listen again where it was."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._thread = self._listen()

    def reset_connections(self) -> None:
        """End all connections with a reset."""
        for sock in list(self._socks):
            reset(sock)

    def close(self) -> None:
        """End it."""
        self._is_closing = True
        self.down()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target), 5)
                except OSError:
                    reset(client)
                    client.close()
                    continue
                server.settimeout(None)
                self._socks |= {client, server}
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while octets := source.recv(65536):
                while self.is_silent and not self._is_closing:
                    time.sleep(0.02)
                target.sendall(octets)
        for sock in (source, target):
            self._socks.discard(sock)
            reset(sock)
            sock.close()


class RealServer(controlplane.ControlPlane):
    """kube-apiserver and etcd as processes, with the rights that `deploy/` gives."""

    def __init__(self, directory: Path) -> None:
        place = directory / "control-plane"
        place.mkdir()
        super().__init__(place)
        self.link: Link | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        self.link = Link(self.port)
        text = self.dns_kubeconfig.read_text().replace(f":{self.port}", f":{self.link.port}")
        (self.place / "chaos.kubeconfig").write_text(text)
        return self

    def __exit__(self, *error: object) -> None:
        if self.link is not None:
            self.link.close()
        super().__exit__(*error)

    @property
    def access(self) -> str:
        """The option of `kubernetes` that leads to it."""
        return f"kubeconfig {self.place / 'chaos.kubeconfig'}"

    def remove(self, manifest: Manifest) -> None:
        """Delete the object of a manifest. Raises HTTPError."""
        name = manifest["metadata"]["name"]
        self.request("DELETE", f"{controlplane.path_of(manifest)}/{name}")

    def forget_history(self, kept: int) -> None:
        """Do nothing: ``compact`` does."""

    def compact(self) -> None:
        """Let etcd forget all history."""
        found = self._etcd("range", {"key": "AA=="})
        self._etcd("compaction", {"revision": found["header"]["revision"]})

    def _etcd(self, word: str, request: dict[str, Any]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.etcd_port}/v3/kv/{word}"
        with urllib.request.urlopen(url, json.dumps(request).encode(), 10) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def kill(self, name: str) -> None:
        """End one of the processes as a crash would."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to one of the processes."""
        self.processes[name].send_signal(number)

    def wait_until_ready(self) -> None:
        """Return when it takes changes again."""
        self._until(lambda: self.request("GET", "/readyz", raw=True) == "ok", 60)
