"""`edns0` rules: the EDNS options of a query.

(CoreDNS: plugin/rewrite/edns0.go)

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import functools
import ipaddress
import re
import struct
from collections.abc import Callable

from clusterdns.rewriting.matching import RuleError
from clusterdns.rewriting.replies import Revert, RewrittenRecord, RewrittenReply
from clusterdns.rewriting.rule import NeedsQueryError, Relayed, RewriteRule, State
from clusterdns.wire import message, name
from clusterdns.wire.message import Edns, Query, Question, is_label
from clusterdns.wire.name import WireName

_ACTIONS = ("append", "replace", "set", "unset")
_NSID, _SUBNET = 3, 8
_OPT_OCTETS = 4096  # of the OPT a query gets (CoreDNS: edns0.go setupEdns0Opt)
# Options with a type of their own in miekg/dns, which `edns0 local` ignores.
_KNOWN_OPTIONS = frozenset((1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15))
_VARIABLES = frozenset(
    ("qname", "qtype", "client_ip", "client_port", "protocol", "server_ip", "server_port")
)


class OptionRule(RewriteRule):
    """`edns0`: ``data`` returns the data of the option, None for no option."""

    def __init__(self, args: list[str]) -> None:
        if len(args) < 2:
            raise RuleError("too few arguments for an EDNS0 rule")
        what, self._action, *rest = (args[0].lower(), args[1].lower(), *args[2:])
        if self._action not in _ACTIONS:
            raise RuleError("invalid action", args[1])
        is_unset = self._action == "unset"
        self._reverts = not is_unset and rest[-1:] == ["revert"]
        if self._reverts:
            del rest[-1]
        takes = {"local": 1 if is_unset else 2, "nsid": 0, "subnet": 0 if is_unset else 2}
        if what not in takes:
            raise RuleError("invalid rule type", args[0])
        if len(rest) != takes[what]:
            raise RuleError(f"EDNS0 {what} {self._action} takes {takes[what]} arguments")
        self.code = 0
        self.adds = not is_unset
        self.echoes: int | None = None
        self._is_variable = False
        self._data: Callable[[State], bytes | None] = lambda state: b""
        match what:
            case "local":
                self.echoes = self.code = _uint16(rest[0])
                if not is_unset:
                    self._read_data(rest[1])
            case "nsid":
                self.code = _NSID
            case "subnet":
                self.code = _SUBNET
                if not is_unset:
                    bits = [_uint16(word) for word in rest]
                    if bits[0] > 32 or bits[1] > 128:
                        raise RuleError("invalid bit mask length", " ".join(rest))
                    self._data = functools.partial(_subnet, bits[0], bits[1])

    def _read_data(self, text: str) -> None:
        """Parse the DATA of a local option. Raises RuleError."""
        if text.startswith("{") and text.endswith("}"):
            variable = text[1:-1]
            if variable not in _VARIABLES and not is_label(variable):
                raise RuleError("unsupported variable name", text)
            self._is_variable = True
            self._data = functools.partial(_variable, variable)
            return
        octets = text.encode()
        if text.startswith("0x"):
            if not re.fullmatch("(?:[0-9a-fA-F]{2})*", text[2:]):
                raise RuleError("no hexadecimal digits", text)
            octets = bytes.fromhex(text[2:])
        self._data = lambda state: octets

    def apply(self, state: State) -> bool:
        """Change the options of the query."""
        if state.query is None:
            if self._action in ("set", "unset") and self.echoes is None:
                return True
            raise NeedsQueryError
        data = self._data(state)
        if self._is_variable and data is None:
            return False
        edns = state.edns or Edns(_OPT_OCTETS, 0, 0)
        options = options_of(edns)
        state.edns = edns
        if self._action == "unset":
            kept = [each for each in options if each[0] != self.code]
            state.edns = edns._replace(options=octets_of(kept))
            return True
        if data is None:
            return False
        at = next((i for i, each in enumerate(options) if self._is_mine(each[0])), None)
        old = None if at is None else options[at][1]
        if at is not None and self._action in ("replace", "set"):
            options[at] = (self.code, data)
        elif self._action == "replace" or (at is not None and self._ends_at_its_own):
            return False
        else:
            options.append((self.code, data))
            old = None
        state.edns = edns._replace(options=octets_of(options))
        if self._reverts:
            state.reverts.append(Option(self.code, old))
        return True

    def _is_mine(self, code: int) -> bool:
        return code == self.code and (self.echoes is None or code not in _KNOWN_OPTIONS)

    @property
    def _ends_at_its_own(self) -> bool:
        """Whether `append` does nothing where there is one already (CoreDNS: edns0.go)."""
        return self.code == _SUBNET or self._is_variable

    def relay(self, route: Relayed) -> bool:
        """Disable the relay: options differ between queries."""
        return False

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: names do not matter."""
        return True


def _uint16(word: str) -> int:
    """Return a 16-bit number as parsed by Go's ParseUint with base 0. Raises RuleError."""
    try:
        digits = word.replace("_", "x") if "_" in word else word
        old_octal = re.fullmatch("0[0-7]+", digits)
        found = int(digits, 8 if old_octal else 0) if digits.isalnum() else -1
    except ValueError:
        found = -1
    if not 0 <= found < 1 << 16:
        raise RuleError("wants a number of at most 65535", word)
    return found


def _packed(address: str, family: int) -> bytes | None:
    """Return the octets of an address in a family, None if impossible (Go: To4, To16)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and family == 4:
        ip = ip.ipv4_mapped or ip
        return ip.packed if ip.version == 4 else None
    if family == 6 and ip.version == 4:
        return bytes(10) + b"\xff\xff" + ip.packed
    return ip.packed


def _family(query: Query) -> int:
    canonical = name.canonical_address(query.client[0]) or ""
    return 6 if ":" in canonical else 4


def _subnet(bits4: int, bits6: int, state: State) -> bytes | None:
    """Return a client subnet option (RFC 7871 section 6) of the client's address."""
    assert state.query is not None
    family = _family(state.query)
    octets, bits = _packed(state.query.client[0], family), bits4 if family == 4 else bits6
    if octets is None:
        return None
    network = ipaddress.ip_network((octets, bits), strict=False)
    shown = network.network_address.packed[: (bits + 7) // 8]
    return struct.pack("!HBB", 1 if family == 4 else 2, bits, 0) + shown


def _variable(variable: str, state: State) -> bytes | None:
    """Return the value of a variable, None if it has none."""
    query = state.query
    assert query is not None
    match variable:
        case "qname":
            return name.text(state.question.qname).encode()
        case "qtype":
            return struct.pack("!H", state.question.qtype)
        case "client_ip":
            return _packed(query.client[0], _family(query))
        case "client_port":
            return struct.pack("!H", query.client[1])
        case "protocol":
            return query.transport.encode()
        case "server_ip":
            return _packed(query.server[0], _family(query))
        case "server_port":
            return struct.pack("!H", query.server[1])
    return query.label(variable).encode() or None


class Option(Revert):
    """Removes our option from the reply, or restores the client's."""

    def __init__(self, code: int, data: bytes | None) -> None:
        self._code, self._data = code, data

    def change(self, reply: RewrittenReply, record: RewrittenRecord | None) -> Question | None:
        """Change the options of the reply."""
        if reply.edns is not None:
            options = octets_of(self.options(options_of(reply.edns)))
            reply.edns = reply.edns._replace(options=options)
        return None

    def options(self, options: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Return options without ours, or with the client's."""
        i = next((i for i, each in enumerate(options) if each[0] == self._code), None)
        if i is None:
            return options
        mine = [] if self._data is None else [(self._code, self._data)]
        return options[:i] + mine + options[i + 1 :]


def options_of(edns: Edns) -> list[tuple[int, bytes]]:
    """Return the options of an OPT record, codes and data (RFC 6891 section 6.1.2)."""
    found, i, octets = [], 0, edns.options
    while i + 4 <= len(octets):
        code, length = struct.unpack_from("!HH", octets, i)
        found.append((code, octets[i + 4 : i + 4 + length]))
        i += 4 + length
    return found


def octets_of(options: list[tuple[int, bytes]]) -> bytes:
    """Return options as octets of an OPT record."""
    return b"".join(message.write_option(code, data) for code, data in options)
