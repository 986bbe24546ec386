"""The errors of the project: one root, and whose fault each one is.

``FormError`` is a peer's bytes, ``ConfigError`` the operator's text, ``UpstreamError`` the network.
Any other exception is our own bug: it is answered with SERVFAIL, counted, and logged once.
"""

from __future__ import annotations


class ClusterDNSError(Exception):
    """Root of every error this project raises on purpose."""


class FormError(ClusterDNSError):
    """Octets or text that are no DNS name, question or message.

    ``offset`` is the octet (or character) where reading stopped.
    """

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(f"offset {offset}: {reason}")
        self.offset = offset
        self.reason = reason


class ConfigError(ClusterDNSError):
    """A mistake in an operator's file; prints as ``file:line: word: reason``."""

    def __init__(self, file: str, line: int, word: str, reason: str) -> None:
        super().__init__(f"{file}:{line}: {word}: {reason}" if word else f"{file}:{line}: {reason}")
        self.file = file
        self.line = line
        self.word = word
        self.reason = reason


class UpstreamError(ClusterDNSError):
    """An upstream server did not give a usable reply."""
