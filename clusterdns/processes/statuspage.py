"""The page of `status` and what it is made of, over HTTP: read only, for this host's browsers.

A request is refused unless its Host is `localhost`, an IP address or the host that the directive
names: a page of another site whose name leads here (DNS rebinding) has that name as its Host. One
that a page of another site sends is refused, too, because an explanation asks upstream servers. The
page has no inline script or style and loads nothing from elsewhere; its Content-Security-Policy
tells the browser so.
"""

from __future__ import annotations

import functools
import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qs

from clusterdns.host import addresses
from clusterdns.processes.inquiry import Answer, InquiryError, Plain
from clusterdns.processes.web import Reply, Request

MOST_EXPLAINED = 4  # at a time
MOST_VALUE_CHARACTERS = 1024  # a name of 255 octets, each escaped as \DDD
DEFAULT_CLIENT = "127.0.0.1"
_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_FOLDER = Path(__file__).parent / "page"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FIELDS = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
_JSON = "application/json"
_TEXT = "text/plain; charset=utf-8"
_PORT = re.compile(r":[0-9]{0,5}")


class StatusPage:
    """The page at one address; ``answers`` are those of the supervisor to inquiries."""

    def __init__(self, address: str, answers: Mapping[str, Answer]) -> None:
        self._named = addresses.split(address)[0].strip("[]").lower()
        self._answers = answers
        self._explaining = 0
        self._routes = {
            "/status.json": self._status,
            "/top": self._top,
            "/tail": self._tail,
            "/explain": self._explain,
        }

    async def respond(self, request: Request) -> Reply:
        """Return the response to a request."""
        if not self.is_host(request.fields.get("host", "")):
            return _refused(421, "this server has another name: ask by localhost or its IP address")
        if request.fields.get("sec-fetch-site") in ("cross-site", "same-site"):
            return _refused(403, "a page of another site may not ask")
        if request.path in _FILES:
            name, content_type = _FILES[request.path]
            return Reply(200, content_type, _file(name), _FIELDS)
        route = self._routes.get(request.path)
        if route is None:
            return _refused(404, "404 page not found")
        try:
            asked = _values(request.query)
            found = await route(asked)
        except InquiryError as error:
            return _as_json(400, {"error": str(error)})
        except (ValueError, KeyError, TypeError):
            return _as_json(400, {"error": "a value is missing, or wrong"})
        return _as_json(503 if "error" in found else 200, found)

    def is_host(self, text: str) -> bool:
        """Tell whether a Host field names this server: the port may be that of a forwarding."""
        host, bracket, rest = text.rpartition("]")
        if not bracket:
            host, _, port = text.partition(":")
            rest = f":{port}" if port else ""
        if rest and not _PORT.fullmatch(rest):
            return False
        host = host.removeprefix("[").lower()
        if not host:
            return False
        return host in ("localhost", self._named) or _is_address(host)

    async def _status(self, asked: Mapping[str, str]) -> Plain:
        return await self._answers["status"]({})

    async def _top(self, asked: Mapping[str, str]) -> Plain:
        return await self._ask("top", {})

    async def _tail(self, asked: Mapping[str, str]) -> Plain:
        numbers = {word: int(asked[word]) for word in ("since", "limit") if word in asked}
        return await self._ask("tail", {**asked, **numbers})

    async def _ask(self, word: str, request: Plain) -> Plain:
        answer = self._answers.get(word)
        return await answer(request) if answer else {"error": f"this server keeps no {word}"}

    async def _explain(self, asked: Mapping[str, str]) -> Plain:
        if self._explaining >= MOST_EXPLAINED:
            return {"error": "other names are being explained, try again soon"}
        self._explaining += 1
        try:
            return await self._answers["explained"](
                {
                    "name": asked["name"],
                    "type": asked.get("type", ""),
                    "client": asked.get("client") or DEFAULT_CLIENT,
                }
            )
        finally:
            self._explaining -= 1


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _values(query: str) -> dict[str, str]:
    """Return the values of a query string. Raises ValueError."""
    found = parse_qs(query, max_num_fields=16, errors="strict", keep_blank_values=True)
    if any(len(some) > 1 or len(some[0]) > MOST_VALUE_CHARACTERS for some in found.values()):
        raise ValueError(query)
    return {key: some[0] for key, some in found.items()}


@functools.cache
def _file(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


def _refused(status: int, text: str) -> Reply:
    return Reply(status, _TEXT, f"{text}\n".encode(), _FIELDS)


def _as_json(status: int, value: Plain) -> Reply:
    return Reply(status, _JSON, json.dumps(value).encode() + b"\n", _FIELDS)
