"""The local socket on which commands ask the running server, such as `clusterdns explain`.

A connection has one request, a line of JSON ``{"ask": WORD, ...}``, and one reply, a JSON object,
with ``error`` if it failed. Only processes of the same user, or of root, are answered. Requests,
connections and their time are bounded, so that no command can hold up the supervisor.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from clusterdns.errors import ClusterDNSError
from clusterdns.host import localsocket

MAX_REQUEST_OCTETS = 16 * 1024
MAX_CONNECTIONS = 16
REQUEST_S, REPLY_S = 2.0, 15.0
Plain = dict[str, Any]
Answer = Callable[[Plain], Awaitable[Plain]]
_log = logging.getLogger(__name__)


class InquiryError(ClusterDNSError):
    """A request that cannot be answered; its text is for the command."""


class Inquiries:
    """Answers the requests of commands; ``answers`` has a function for each word."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers
        self._server: asyncio.Server | None = None
        self._open = 0

    async def start(self) -> None:
        """Listen. A failure is logged: the server serves without it."""
        path = localsocket.address(os.getpid())
        try:
            self._server = await asyncio.start_unix_server(
                self._serve, path, limit=MAX_REQUEST_OCTETS
            )
        except OSError as error:
            _log.warning("commands cannot ask this server: %s", error)

    def stop(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            sock = writer.get_extra_info("socket")
            if self._open <= MAX_CONNECTIONS and localsocket.may_ask(localsocket.peer_uid(sock)):
                line = await asyncio.wait_for(reader.readline(), REQUEST_S)
                reply = await asyncio.wait_for(self._reply(line), REPLY_S)
                writer.write(json.dumps(reply).encode() + b"\n")
                await asyncio.wait_for(writer.drain(), REPLY_S)
        except (TimeoutError, OSError, ValueError):
            pass  # the command is too slow, asks too much, or has closed
        except Exception:
            _log.exception("an inquiry cannot be answered")
        finally:
            self._open -= 1
            with contextlib.suppress(OSError):
                writer.close()

    async def _reply(self, line: bytes) -> Plain:
        try:
            request = json.loads(line)
            answer = self._answers[request["ask"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            known = ", ".join(self._answers)
            return {"error": f"the server knows no such question; it knows {known}"}
        try:
            return await answer(request)
        except InquiryError as error:
            return {"error": str(error)}
        except (ValueError, KeyError, TypeError):
            return {"error": "the request lacks a value, or has a wrong one"}
