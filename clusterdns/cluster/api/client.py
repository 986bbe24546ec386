"""Requests to a Kubernetes API server, and its replies.

The connections are urllib3's (access.py); retries, redirects and pauses are ours. ``ApiClient.get``
returns a ``ApiReply`` to be read in chunks, or raises ``ApiError``, which says what kind of trouble
it is.
"""

from __future__ import annotations

import contextlib
import json
import logging
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
MAX_RETRY_AFTER_S = 60.0  # a server may ask for an hour, which would be an outage
_MAX_STATUS_OCTETS = 64 * 1024
_CHUNK_OCTETS = 64 * 1024
_JSON = "application/json"
_log = logging.getLogger("kubernetes")


class ApiReply:
    """A successful reply, read in chunks as they arrive."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self._response = response

    def chunks(self) -> Iterator[bytes]:
        """Yield octets as they arrive, until the end. Raises ApiError."""
        try:
            is_encoded = "content-encoding" in self._response.headers  # though not requested
            while octets := self._response.read1(_CHUNK_OCTETS, decode_content=is_encoded):
                yield octets
        except (urllib3.exceptions.HTTPError, OSError, ValueError, AttributeError) as error:
            # ValueError and AttributeError: another thread has shut down the connection.
            lost = ApiError(f"connection lost: {_reason(error)}")
            lost.is_silence = _is_silence(error)
            raise lost from error

    def limit_silence(self, seconds: float) -> None:
        """Make ``chunks`` raise ApiError when nothing arrives for ``seconds``."""
        connection = self._response.connection
        sock = getattr(connection, "sock", None)
        if sock is not None:
            sock.settimeout(seconds)

    def abort(self) -> None:
        """End the read of another thread; callable from any thread."""
        with contextlib.suppress(Exception):  # it may be closed already
            self._response.shutdown()

    def close(self) -> None:
        """Close the connection; it is not used again."""
        with contextlib.suppress(Exception):
            self._response.close()


class ApiClient:
    """The API server of one source."""

    def __init__(self, source: Source, service_account: Path = SERVICE_ACCOUNT) -> None:
        self.requests: Counter[tuple[str, str, str]] = Counter()  # code, method, host
        self.durations = Histogram(DEFAULT_S)
        self._source = source
        self._service_account = service_account
        self._lock = threading.Lock()
        self._access: Access | None = None
        self._complaint = ""  # why it could not be read again
        self._throttle = Throttle(source.qps, source.burst)

    @property
    def host(self) -> str:
        """The server's host and port, as in the metrics."""
        return _host(self._access) if self._access else ""

    def get(
        self, path: str, query: Mapping[str, str], *, read_timeout_s: float, accept: str = _JSON
    ) -> ApiReply:
        """Request ``path`` and return the reply once its header is read.

        If the server refuses our token, it is read again; if it differs, the request is repeated
        once.

        Raises:
            ApiError: there is no connection, or the status is not 200.
        """
        found, headers = self._connect()
        try:
            return self._get(found, headers, path, query, read_timeout_s, accept)
        except ApiError as error:
            if error.code != 401:
                raise
            again, others = self._connect(refused=found)
            if again is found or (others == headers and again.identity == found.identity):
                raise
            return self._get(again, others, path, query, read_timeout_s, accept)

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

    def _connect(self, refused: Access | None = None) -> tuple[Access, Mapping[str, str]]:
        """Return the access to the server and our credentials.

        They are read again when a file has changed, or the server has ``refused`` them; if that
        fails, the last good ones are kept.

        Raises:
            ApiError: there never were any.
        """
        with self._lock:
            found = self._access
            if found is not None and found is not refused and not found.has_changed():
                return found, found.credentials()
            try:
                again = access.find(self._source, self._service_account)
                headers = again.credentials()
            except Exception as error:  # the libraries raise errors of other libraries
                text = str(error) if isinstance(error, ApiError) else _reason(error)
                if found is None:
                    raise ApiError(f"configuration: {text}") from error
                if text != self._complaint:
                    _log.error("plugin/kubernetes: the last good credentials are kept: %s", text)
                self._complaint = text
                return found, found.credentials()
            self._access, self._complaint = again, ""
            return again, headers


class Throttle:
    """Limits requests to ``qps`` a second after a burst of ``burst``; a qps of 0 is no limit."""

    def __init__(self, qps: float, burst: int) -> None:
        self._qps = qps
        self._burst = max(1, burst or 10)  # 10: client-go's default
        self._left = float(self._burst)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Block until the next request may be sent."""
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
    """Return the reply to a request with status 200. Raises ApiError for any other."""
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
    """Return the message of a Status, or the first characters of any other body."""
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
    """Return the seconds of a Retry-After header, bounded; 0 for its date form."""
    return min(float(text), MAX_RETRY_AFTER_S) if text.isascii() and text.isdigit() else 0.0


def _is_silence(error: BaseException) -> bool:
    """Tell whether our time limit expired, rather than the kernel's (ETIMEDOUT: a dead peer)."""
    bottom = _bottom(error)
    return isinstance(bottom, TimeoutError) and bottom.errno is None


def _bottom(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _reason(error: BaseException) -> str:
    """Return the type and first line of the innermost cause of an error."""
    error = _bottom(error)
    text = str(error).split("\n", 1)[0]
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


def status_error(status: object) -> ApiError:
    """Return the error that the Status in an ERROR event of a watch describes."""
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
    """Yield the items of a list as they arrive. Raises ApiError or StreamError."""
    try:
        for octets in reply.chunks():
            if found := list(items.feed(octets)):
                yield found
        yield list(items.end())
    finally:
        reply.close()
