"""tsig - check the signatures of requests, and sign the replies.

Syntax:

    tsig [ZONES...] {
        secret NAME KEY
        secrets FILE
        require TYPE...
        require_opcode OPCODE...
    }

A request for a name in ZONES, by default the keys of the server block, that has a TSIG record
(RFC 8945) is answered only if a key NAME is known and its signature and time are right; the reply
is signed, each message of a transfer too. Otherwise the reply is NOTAUTH with BADKEY, BADSIG or
BADTIME. KEY is in base64. FILE, relative to `root`, has keys in BIND's syntax:

    key "transfer.example.org." {
        algorithm hmac-sha256;
        secret "NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=";
    };

Unsigned requests of a TYPE in `require`, or an OPCODE (QUERY, NOTIFY, ...) in `require_opcode`, get
REFUSED; `all` stands for all, `none` for none. The client chooses the algorithm: hmac-sha1, sha224,
sha256, sha384 or sha512.

Examples:

    example.org {
        tsig {
            secret transfer.example.org. NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk=
            require AXFR IXFR
        }
        file db.example.org
        transfer {
            to *
        }
    }

Differences from CoreDNS: a KEY that is not base64 is a mistake. Keys apply to their server block;
their names match in any letter case. A reply leaves room for its TSIG record, and is truncated
if that does not suffice. An unknown algorithm, hmac-md5 too, is BADKEY. `secondary` and NOTIFY are
not signed, and a forwarded request has no TSIG record, as in CoreDNS.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import dns.exception
import dns.name

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, HandleNext, Plugin
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.host.logs import plugin_logger
from clusterdns.wire import name, rr, tsig
from clusterdns.wire.message import OPCODE_QUERY, Query, Question, Signed
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response

MAX_FILE_OCTETS = 2**20
NOTAUTH = 9
_OPCODES = {"QUERY": 0, "IQUERY": 1, "STATUS": 2, "NOTIFY": 4, "UPDATE": 5}
_WORD = re.compile(r'"([^"\n]*)"|([{};])|(?:#|//)[^\n]*|/\*.*?\*/|([^\s{};"]+)', re.DOTALL)
_REFUSED = Response(rr.REFUSED, flags=0)
_log = plugin_logger("tsig")


class Tsig(Plugin):
    """Verifies signed requests, and refuses unsigned ones that must be signed."""

    reads_signatures = True
    secrets: ClassVar = {"secret": 1, "secrets": 1}

    def __init__(self, directive: Directive, block: Block) -> None:
        self._zones = arguments.zone_names(directive.args, directive) or block.zones
        self._keys = dict[dns.name.Name, bytes]()
        self._types = _Required()
        self._opcodes = _Required()
        for line in directive.block:
            match line.name:
                case "secret":
                    if len(line.args) != 2:
                        raise line.error("wants NAME KEY")
                    self._add(*line.args, line)
                case "secrets":
                    for key_name, secret in _keys_in(block.path(arguments.one(line)), line):
                        self._add(key_name, secret, line)
                case "require":
                    self._types.read(line, rr.TYPES, "query type")
                case "require_opcode":
                    self._opcodes.read(line, _OPCODES, "opcode")
                case _:
                    raise line.error("unknown property")

    def _add(self, text: str, secret: str, line: Directive) -> None:
        try:
            key_name = dns.name.from_text(text).canonicalize()
        except (dns.exception.DNSException, UnicodeError) as error:
            raise line.error(f"{text!r} is no name of a key") from error
        if key_name in self._keys:
            raise line.error(f"key {text!r} redefined")
        try:
            self._keys[key_name] = base64.b64decode(secret, validate=True)
        except (binascii.Error, ValueError) as error:
            raise line.error(f"the secret of {text!r} is no base64") from error
        if not self._keys[key_name]:
            raise line.error(f"the secret of {text!r} is empty")

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether no name below ``cut`` requires a signature."""
        if not (self._types or self._opcodes):
            return True
        return not any(name.is_within(z, cut) or name.is_within(cut, z) for z in self._zones)

    def relay(self, route: Route) -> bool:
        """Exclude names that require a signature from the relay."""
        if self._types or self._opcodes:
            return route.claim(tuple(self._zones))
        return True

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin, None if a signature decides."""
        if self._is_required(question, OPCODE_QUERY):
            return _REFUSED
        return next(question)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response; the reply is signed if the query is."""
        question, signed = query.question, query.signed
        if signed is not None and not signed.is_last:  # RFC 8945 section 5.1
            return Response(rr.FORMERR, flags=0, lifetime_s=0)
        if question is None or not name.is_within_any(question.folded, self._zones):
            return await next(query)
        if signed is None:
            if self._is_required(question, query.opcode):
                return _REFUSED
            return await next(query)
        said = self._check(query, signed)
        return said or await next(query)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return why a signature is wanted, for `explain`."""
        return "`require` wants a signature (TSIG) of such queries" if is_own else ""

    def _is_required(self, question: Question, opcode: int) -> bool:
        is_required = question.qtype in self._types or opcode in self._opcodes
        return is_required and name.is_within_any(question.folded, self._zones)

    def _check(self, query: Query, signed: Signed) -> Response | None:
        """Set up signing of the reply; return the error response to an invalid request."""
        try:
            signer = tsig.check(signed, self._keys, int(time.time()))
        except FormError as error:
            _log.debug("%s: %s", query.client[0], error)
            return Response(rr.FORMERR, flags=0, lifetime_s=0)
        query.sign = lambda wire: signer.sign(wire, int(time.time()))
        query.sign_octets = signer.octets
        if not signer.error:
            query.key = WireName(signer.owner.lower())
            return None
        _log.debug("request of %s: %s", query.client[0], _ERRORS[signer.error])
        return Response(NOTAUTH, flags=0, lifetime_s=0)


_ERRORS = {tsig.BADKEY: "BADKEY", tsig.BADSIG: "BADSIG", tsig.BADTIME: "BADTIME"}


class _Required:
    """Types or opcodes that require a signature."""

    def __init__(self) -> None:
        self._some = frozenset[int]()
        self._is_all = False

    def __bool__(self) -> bool:
        return self._is_all or bool(self._some)

    def __contains__(self, number: int) -> bool:
        return self._is_all or number in self._some

    def read(self, line: Directive, numbers: dict[str, int], what: str) -> None:
        """Read the words of a property; the last one wins. Raises ConfigError."""
        words = arguments.some(line)
        self._some = frozenset()
        if words[0] == "all":
            self._is_all = True
        elif words[0] != "none":
            for word in words:
                if word not in numbers:
                    raise line.error(f"unknown {what} {word!r}")
            self._some = frozenset(numbers[word] for word in words)


def _keys_in(path: Path, line: Directive) -> Iterator[tuple[str, str]]:
    """Yield names and secrets of the keys in a file of BIND's syntax. Raises ConfigError."""
    try:
        if not path.is_file():
            raise line.error(f"{path}: no such file")
        with path.open("rb") as file:
            octets = file.read(MAX_FILE_OCTETS + 1)
    except OSError as error:
        raise line.error(f"{path}: {error.strerror or error}") from error
    if len(octets) > MAX_FILE_OCTETS:
        raise line.error(f"{path}: larger than {MAX_FILE_OCTETS} octets")
    text = octets.decode("utf-8", "replace")
    words = [found[found.lastindex] for found in _WORD.finditer(text) if found.lastindex]
    words.append("")  # the end
    i = 0
    while words[i]:
        if words[i] == ";":
            i += 1
            continue
        if words[i] != "key" or not words[i + 1] or words[i + 2 : i + 3] != ["{"]:
            raise line.error(f"{path}: wants key NAME {{, got {words[i]!r}")
        key_name, secret = words[i + 1], ""
        i += 3
        while words[i] not in ("}", ""):
            if words[i] == "secret":
                secret = words[i + 1]
            elif words[i] != "algorithm":
                raise line.error(f"{path}: key {key_name!r}: unexpected {words[i]!r}")
            i += 2 if words[i + 1] else 1
            i += words[i] == ";"
        if not words[i] or secret in ("", ";", "}"):
            raise line.error(f"{path}: key {key_name!r} has no secret")
        yield key_name, secret
        i += 1
