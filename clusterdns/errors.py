"""The errors of the project: one root, and one class for each cause.

``FormError`` is caused by a peer's octets, ``ConfigError`` by the operator's text,
``UpstreamError`` by the network, ``ApiError`` by a Kubernetes API server. Any other exception is
our own bug: it is answered with SERVFAIL, counted, and logged once.
"""

from __future__ import annotations


class ClusterDNSError(Exception):
    """Root of every error this project raises on purpose."""


def reason(error: OSError) -> str:
    """Return what the system says in words, without the number and the file."""
    return error.strerror.lower() if error.strerror else str(error)


def told(error: Exception) -> str:
    """Return what went wrong as a user is told: of a file with its name in front."""
    if not isinstance(error, OSError):
        return str(error)
    file = error.filename
    if file is None or isinstance(file, int):  # none, or a descriptor
        return reason(error)
    name = file.decode(errors="replace") if isinstance(file, bytes) else str(file)
    return f"{name}: {reason(error)}"


class FormError(ClusterDNSError):
    """Octets or text that are not a DNS name, question or message.

    ``offset`` is the octet (or character) where reading stopped.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class ConfigError(ClusterDNSError):
    """A mistake in an operator's file; prints as ``file:line: word: reason``.

    Line 0 stands for the whole file and is not printed.
    """

    def __init__(self, file: str, line: int, word: str, reason: str) -> None:
        place = file if file.isprintable() else ascii(file)
        place += f":{line}" if line else ""
        super().__init__(f"{place}: {word}: {reason}" if word else f"{place}: {reason}")
        self.file = file
        self.line = line
        self.word = word
        self.reason = reason


class UpstreamError(ClusterDNSError):
    """An upstream server did not give a usable reply."""


class ApiError(ClusterDNSError):
    """A request that failed.

    ``code`` is the HTTP status, 0 without one; ``is_server`` tells that the whole server fails, not
    only this request; ``retry_after_s`` is the pause it asks for; ``is_event`` tells that the error
    came inside a watch; ``is_silence`` that our time limit expired.
    """

    is_event = False
    is_silence = False

    def __init__(
        self, reason: str, code: int = 0, *, is_server: bool = False, retry_after_s: float = 0
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.is_server = is_server
        self.retry_after_s = retry_after_s

    @property
    def is_expired(self) -> bool:
        """Whether the server does not have the requested version or continue token, or not yet."""
        return self.code == 410 or "Too large resource version" in str(self)
