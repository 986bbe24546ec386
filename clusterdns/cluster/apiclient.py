"""Requests to a Kubernetes API server: where it is, who we are, and what it answers.

This is the only importer of the kubernetes package, in a watcher process alone. Of it we use what
is hard to do well: kubeconfig with its contexts and exec plugins, TLS, proxies, and the connection
pool behind. Not its models, watches or informers: they hold lists whole, never page, and ask a
failing server again without a pause. Retries, redirects and tokens are therefore ours.

``ApiClient.get`` returns a ``Reply`` to be read in chunks, or raises ``ApiError``, which says what
kind of trouble it is. (CoreDNS: plugin/kubernetes/kubernetes.go getClientConfig)
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
from kubernetes.client import Configuration, rest
from kubernetes.config import incluster_config, kube_config

from clusterdns import __version__
from clusterdns.cluster.jsonstream import Items
from clusterdns.cluster.store import Source
from clusterdns.errors import ClusterDNSError
from clusterdns.histogram import DEFAULT_S, Histogram

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CONNECT_TIMEOUT_S = 5.0
TOKEN_AGE_S = 50.0  # client-go reads a token again after a minute less ten seconds
MAX_RETRY_AFTER_S = 60.0  # whatever a server asks for: an hour would be an outage of our own
_MAX_STATUS_OCTETS = 64 * 1024
_CHUNK_OCTETS = 64 * 1024
_MAX_CONNECTIONS = 16
_JSON = "application/json"
_log = logging.getLogger("kubernetes")


class ApiError(ClusterDNSError):
    """A request that failed.

    ``code`` is the HTTP status, 0 without one; ``is_server`` says that the server as a whole is in
    trouble, not this request; ``retry_after_s`` is what it asks us to wait; ``is_event`` that it
    came inside a watch.
    """

    is_event = False

    def __init__(
        self, reason: str, code: int = 0, *, is_server: bool = False, retry_after_s: float = 0
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.is_server = is_server
        self.retry_after_s = retry_after_s

    @property
    def is_expired(self) -> bool:
        """Whether the version or continue token asked for is not to be had, or not yet."""
        return self.code == 410 or "Too large resource version" in str(self)


class TokenFile:
    """A token on disk that is written anew now and then; what was good last is kept."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._token = ""
        self._read_at = float("-inf")

    def get(self, now: float) -> str:
        """Return the token, read again when it is old. Raises ApiError if there never was one."""
        if now - self._read_at >= TOKEN_AGE_S:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                # A file being written is empty for a moment; a newline would break the header.
                found = self._path.read_text("ascii").strip()
                if found and found.isprintable():
                    self._token, self._read_at = found, now
        if not self._token:
            raise ApiError(f"{self._path}: no token to be read")
        return self._token

    def forget(self) -> None:
        """Have the file read again at the next request, since the token was refused."""
        self._read_at = float("-inf")


class Reply:
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
            raise ApiError(f"connection lost: {_reason(error)}") from error

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
        self._configuration: Any = None  # the package's classes are not typed
        self._pool: Any = None
        self._token: TokenFile | None = None
        self._throttle = Throttle(source.qps, source.burst)

    @property
    def host(self) -> str:
        """The server's host and port, as the metrics name it."""
        return urllib.parse.urlsplit(self._configuration.host).netloc if self._configuration else ""

    def get(
        self, path: str, query: Mapping[str, str], *, read_timeout_s: float, accept: str = _JSON
    ) -> Reply:
        """Ask for ``path`` and return the reply, once its head is there.

        A refused token is read again and, where it is another, the request repeated once.

        Raises:
            ApiError: there is no connection, or the status is not 200.
        """
        connection = self._connect()
        try:
            return self._get(connection, path, query, read_timeout_s, accept)
        except ApiError as error:
            if error.code != 401:
                raise
            self._forget_credentials()
            again = self._connect()
            if again[2] == connection[2]:
                raise
            return self._get(again, path, query, read_timeout_s, accept)

    def _get(
        self,
        connection: tuple[Any, str, dict[str, str]],
        path: str,
        query: Mapping[str, str],
        read_timeout_s: float,
        accept: str,
    ) -> Reply:
        pool, base, headers = connection
        text = urllib.parse.urlencode({key: value for key, value in query.items() if value})
        self._throttle.wait()
        started = time.monotonic()
        code = "<error>"
        try:
            response = pool.request(
                "GET",
                f"{base}{path}?{text}",
                headers={**headers, "accept": accept, "user-agent": f"clusterdns/{__version__}"},
                preload_content=False,
                retries=False,
                redirect=False,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s),
            )
            code = str(response.status)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ApiError(f"{base}: {_reason(error)}", is_server=True) from error
        finally:
            with self._lock:
                self.requests[code, "GET", self.host] += 1
                self.durations.observe(time.monotonic() - started)
        return _checked(response)

    def _connect(self) -> tuple[Any, str, dict[str, str]]:
        """Return the pool, where the server is, and what says who we are. Raises ApiError."""
        with self._lock:
            try:
                if self._configuration is None:
                    self._configuration = self._configure()
                    if not self._configuration.verify_ssl:  # said once, not at each request
                        _log.warning("plugin/kubernetes: no check of the API server's certificate")
                        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
                    self._pool = rest.RESTClientObject(self._configuration).pool_manager
                headers = {
                    setting["key"]: str(setting["value"]).strip()
                    for setting in self._configuration.auth_settings().values()
                    if setting["in"] == "header" and setting["value"]
                }
            except ApiError:
                raise
            except Exception as error:  # the package raises what its libraries do
                raise ApiError(f"configuration: {_reason(error)}") from error
            if self._token is not None:
                headers["authorization"] = f"Bearer {self._token.get(time.monotonic())}"
            return self._pool, self._configuration.host.rstrip("/"), headers

    def _configure(self) -> Any:  # noqa: ANN401 - the package's classes are not typed
        source = self._source
        found: Any = Configuration()
        from_file: Any = kube_config.load_kube_config
        from_pod: Any = incluster_config.InClusterConfigLoader
        if source.kubeconfig:
            from_file(source.kubeconfig, source.context or None, found, persist_config=False)
        elif source.endpoint:
            found.host = source.endpoint
            if source.tls:
                found.cert_file, found.key_file, found.ssl_ca_cert = source.tls
        else:
            account = self._service_account
            from_pod(
                str(account / "token"), str(account / "ca.crt"), try_refresh_token=False
            ).load_and_set(found)
            found.api_key.clear()  # its token is read once; ours whenever it changes
            self._token = TokenFile(account / "token")
        if urllib.parse.urlsplit(found.host).hostname in ("127.0.0.1", "localhost", "::1"):
            found.proxy = None  # nor does Go ask a proxy for what is on this host
        # Dead peers are noticed in 30 + 9 x 15 s like client-go's even where nothing is read.
        found.keep_alive = True
        found.connection_pool_maxsize = _MAX_CONNECTIONS
        return found

    def _forget_credentials(self) -> None:
        """Have tokens, and the kubeconfig with what it names, read again."""
        with self._lock:
            if self._token is not None:
                self._token.forget()
            elif self._source.kubeconfig:
                self._configuration = None


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


def _checked(response: urllib3.BaseHTTPResponse) -> Reply:
    """Return the reply of a request that went well. Raises ApiError for any other."""
    content_type = response.headers.get("Content-Type", "")
    if response.status == 200 and content_type.startswith(_JSON):
        return Reply(response)
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


def _reason(error: BaseException) -> str:
    """Return one line that says what went wrong at the bottom of it."""
    while error.__cause__ is not None:
        error = error.__cause__
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


def read_list(reply: Reply, items: Items) -> Iterator[list[Mapping[str, Any]]]:
    """Yield the items of a list as they come. Raises ApiError or StreamError."""
    try:
        for octets in reply.chunks():
            if found := list(items.feed(octets)):
                yield found
        yield list(items.end())
    finally:
        reply.close()
