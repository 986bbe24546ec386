"""Requests to a Kubernetes API server, and what it answers.

The connections are urllib3's (access.py); retries, redirects and pauses are ours. ``ApiClient.get``
returns a ``ApiReply`` to be read in chunks, or raises ``ApiError``, which says what kind of trouble
it is.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import urllib3

from clusterdns import __version__
from clusterdns.cluster.api import access
from clusterdns.cluster.api.access import SERVICE_ACCOUNT
from clusterdns.cluster.api.jsonstream import Items
from clusterdns.cluster.api.server import Access
from clusterdns.cluster.source import Source
from clusterdns.errors import ApiError
from clusterdns.metrics.histogram import DEFAULT_S, Histogram

CONNECT_TIMEOUT_S = 5.0
MAX_RETRY_AFTER_S = 60.0  # whatever a server asks for: an hour would be an outage of our own
_MAX_STATUS_OCTETS = 64 * 1024
_CHUNK_OCTETS = 64 * 1024
_JSON = "application/json"


class ApiReply:
    """A successful answer, read as it comes."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def chunks(self) -> Iterator[bytes]:
        """Yield octets as soon as they are there, until the end. Raises ApiError."""
        try:
            is_encoded = "content-encoding" in self._response.headers  # nobody has asked for it
            while octets := self._response.read1(_CHUNK_OCTETS, decode_content=is_encoded):
                yield octets
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # Of the latter two: a connection that another thread has shut down under us.
            lost = ApiError(f"connection lost: {_reason(error)}")
            lost.is_silence = _is_silence(error)
            raise lost from error

    def limit_silence(self, seconds: float) -> None:
        """Have ``chunks`` raise when nothing comes for so long."""
        connection = self._response.connection
        sock = getattr(connection, "sock", None)
        if sock is not None:
            sock.settimeout(seconds)

    def abort(self) -> None:
        """Have the thread that reads come back; may be called from any thread."""
        with contextlib.suppress(Exception):  # it is closed already, or closing now
            self._response.shutdown()

    def close(self) -> None:
        """Give the connection up; it is not used again."""
        with contextlib.suppress(Exception):
            self._response.close()


class ApiClient:
    """One API server, as a source says."""

    def __init__(self, source: Source, service_account: Path = SERVICE_ACCOUNT) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()  # code, method, host
        self.durations = Histogram(DEFAULT_S)
        self._source = source
        self._service_account = service_account
        self._lock = threading.Lock()
        self._access: Access | None = None
        self._throttle = Throttle(source.qps, source.burst)

    @property
    def host(self) -> str:
        """The server's host and port, as the metrics name it."""
        return _host(self._access) if self._access else ""

    def get(
        self, path: str, query: Mapping[str, str], *, read_timeout_s: float, accept: str = _JSON
    ) -> ApiReply:
        """Ask for ``path`` and return the reply, once its head is there.

        A refused token is read again and, where it is another, the request repeated once.

        Raises:
            ApiError: there is no connection, or the status is not 200.
        """
        found, headers = self._connect()
        try:
            return self._get(found, headers, path, query, read_timeout_s, accept)
        except ApiError as error:
            if error.code != 401:
                raise
            with self._lock:  # tokens, and the kubeconfig with what it names, are read again
                self._access = None
            found, others = self._connect()
            if others == headers:
                raise
            return self._get(found, others, path, query, read_timeout_s, accept)

    def _get(
        self,
        found: Access,
        headers: Mapping[str, str],
        path: str,
        query: Mapping[str, str],
        read_timeout_s: float,
        accept: str,
    ) -> ApiReply:
        text = urllib.parse.urlencode({key: value for key, value in query.items() if value})
        self._throttle.wait()
        started = time.monotonic()
        code = "<error>"
        try:
            response = found.pool.request(
                "GET",
                f"{found.url}{path}?{text}",
                headers={**headers, "accept": accept, "user-agent": f"clusterdns/{__version__}"},
                preload_content=False,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s),
            )
            code = str(response.status)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiError(f"{found.url}: {_reason(error)}", is_server=True) from error
        finally:
            with self._lock:
                self.requests[code, "GET", _host(found)] += 1
                self.durations.observe(time.monotonic() - started)
        return _checked(response)

    def _connect(self) -> tuple[Access, Mapping[str, str]]:
        """Return the way to the server, and what says who we are. Raises ApiError."""
        with self._lock:
            try:
                if self._access is None:
                    self._access = access.find(self._source, self._service_account)
                return self._access, self._access.credentials()
            except ApiError:
                raise
            except Exception as error:  # the libraries raise what theirs do
                raise ApiError(f"configuration: {_reason(error)}") from error


class Throttle:
    """Lets ``qps`` requests a second pass, after ``burst`` at once; a qps of 0 lets all pass."""

    def __init__(self, qps: float, burst: int) -> None:
        self._qps = qps
        self._burst = max(1, burst or 10)  # 10: client-go's default
        self._left = float(self._burst)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next request may go."""
        if not self._qps:
            return
        with self._lock:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._at) * self._qps) - 1
            self._at = now
            delay_s = -self._left / self._qps
        if delay_s > 0:
            time.sleep(delay_s)


def _host(found: Access) -> str:
    return urllib.parse.urlsplit(found.url).netloc


def _checked(response: urllib3.BaseHTTPResponse) -> ApiReply:
    """Return the reply of a request that went well. Raises ApiError for any other."""
    content_type = response.headers.get("Content-Type", "")
    if response.status == 200 and content_type.startswith(_JSON):
        return ApiReply(response)
    message = _message(response)
    code = response.status
    response.close()
    if code == 200:
        raise ApiError(f"answers with {content_type or 'no type'} instead of {_JSON}", 502)
    raise ApiError(
        f"HTTP {code}: {message}" if message else f"HTTP {code}",
        code,
        is_server=code == 429 or code >= 500,
        retry_after_s=_retry_after_s(response.headers.get("Retry-After", "")),
    )


def _message(response: urllib3.BaseHTTPResponse) -> str:
    """Return what a Status says, or the first characters of any other body."""
    try:
        octets = response.read(_MAX_STATUS_OCTETS)
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        return ""
    with contextlib.suppress(ValueError, RecursionError):
        status = json.loads(octets)
        if isinstance(status, dict):
            return str(status.get("message", ""))[:300]
    return octets[:60].decode("ascii", "replace").strip()


def _retry_after_s(text: str) -> float:
    """Return the seconds of a Retry-After header, bounded; its date form counts as none."""
    return min(float(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def _is_silence(error: BaseException) -> bool:
    """Tell our own time limit from the kernel's finding that the peer is dead (ETIMEDOUT)."""
    bottom = _bottom(error)
    return isinstance(bottom, TimeoutError) and bottom.errno is None


def _bottom(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """Return one line that says what went wrong at the bottom of it."""
    error = _bottom(error)
    text = str(error).split("\n", 1)[0]
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def status_error(status: object) -> ApiError:
    """Return what the Status in an ERROR event of a watch says."""
    found = status if isinstance(status, Mapping) else {}
    code = found.get("code")
    number = code if isinstance(code, int) else 500
    details = found.get("details")
    after = details.get("retryAfterSeconds") if isinstance(details, Mapping) else 0
    error = ApiError(
        f"the watch ended: {found.get('message') or status!r:.200}", number,
        retry_after_s=max(0.0, min(after, MAX_RETRY_AFTER_S)) if isinstance(after, int) else 0.0,
    )  # fmt: skip
    error.is_event = True
    return error


def read_list(reply: ApiReply, items: Items) -> Iterator[list[Mapping[str, Any]]]:
    """Yield the items of a list as they come. Raises ApiError or StreamError."""
    try:
        for octets in reply.chunks():
            if found := list(items.feed(octets)):
                yield found
        yield list(items.end())
    finally:
        reply.close()
