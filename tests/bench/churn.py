"""The API server of one measured server, in a process of its own, and 100 changes a second in it.

``api_process`` serves the cluster that ``inputs.generate`` wrote. Half of the changes give a Service
another address, half replace an endpoint, in all Services in turn.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))

import inputs
import measure
from fakeapi import FakeApi

PER_S = 100
HISTORY = 1000  # changes that are kept for watchers; the API server looks through them each time
START_TIMEOUT_S = 60.0


class Api(NamedTuple):
    """A running API server."""

    url: str
    process: subprocess.Popen[str]

    @contextlib.contextmanager
    def churning(self) -> Iterator[None]:
        """Have the cluster change meanwhile."""
        self._tell("start")
        try:
            yield
        finally:
            self._tell("stop")

    def _tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def api_process(directory: Path) -> Iterator[Api]:
    """Serve the cluster in a directory from the core of the load."""
    with measure.pinned(measure.LOAD_CORE):
        process = subprocess.Popen(
            [sys.executable, __file__, str(directory)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"{process.args} did not start")
        yield Api(url, process)
    finally:
        process.kill()
        process.communicate()


def serve(directory: Path) -> None:
    """Be the API server: print the URL, then change things between ``start`` and ``stop``."""
    items = inputs.objects(directory)
    is_on = threading.Event()
    with FakeApi(items) as api:
        api.compact()
        threading.Thread(target=_change, args=(api, items, is_on), daemon=True).start()
        print(api.url, flush=True)
        for line in sys.stdin:
            (is_on.set if line.strip() == "start" else is_on.clear)()


def _change(api: FakeApi, items: list[dict[str, Any]], is_on: threading.Event) -> None:
    due = time.monotonic()
    for manifest in changes(items):
        if not is_on.is_set():
            is_on.wait()
            due = time.monotonic()
        due += 1 / PER_S
        time.sleep(max(0.0, due - time.monotonic()))
        api.apply(manifest)
        with api.changed:
            if len(api.history) > HISTORY:
                del api.history[: -HISTORY // 2]
                api.oldest = api.history[0][0] - 1


def changes(items: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield objects with something changed, without end; each turn gives other addresses."""
    services = [i for i in items if i["kind"] == "Service" and "clusterIP" in i["spec"]]
    slices = [item for item in items if item["kind"] == "EndpointSlice"]
    turn = 0
    while True:
        turn += 1
        for i, (service, endpoint_slice) in enumerate(zip(services, slices, strict=True)):
            yield _readdressed(service, f"10.{230 + turn % 20}.{i >> 8 & 255}.{i & 255}")
            yield _replaced(endpoint_slice, f"10.{130 + turn % 50}.{i >> 8 & 255}.{i & 255}")


def _readdressed(service: dict[str, Any], address: str) -> dict[str, Any]:
    if service["spec"]["clusterIP"] == "None":  # has no address: another port instead
        port = {**service["spec"]["ports"][0], "port": 80 + int(address.split(".")[1]) % 20}
        return {**service, "spec": {**service["spec"], "ports": [port]}}
    return {**service, "spec": {**service["spec"], "clusterIP": address, "clusterIPs": [address]}}


def _replaced(endpoint_slice: dict[str, Any], address: str) -> dict[str, Any]:
    first, *rest = endpoint_slice["endpoints"]
    return {**endpoint_slice, "endpoints": [*rest, {**first, "addresses": [address]}]}


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
