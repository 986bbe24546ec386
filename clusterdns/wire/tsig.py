"""TSIG (RFC 8945): verifies requests and signs replies.

``check`` reads the TSIG record of a request and returns a ``Signer`` in every case: an error reply
has a TSIG record too. dnspython computes the MACs.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import dns.exception
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.tsig
from dns.rdtypes.ANY.TSIG import TSIG

from clusterdns.errors import FormError
from clusterdns.wire import message
from clusterdns.wire.message import Signed

BADSIG, BADKEY, BADTIME = 16, 17, 18
FUDGE_S = 300  # largest difference of clocks (RFC 8945 section 10)
# Without MD5, which RFC 8945 section 6 forbids (miekg/dns tsig.go), and GSS, which has no shared
# key.
ALGORITHMS = frozenset(
    (
        dns.tsig.HMAC_SHA1, dns.tsig.HMAC_SHA224, dns.tsig.HMAC_SHA256, dns.tsig.HMAC_SHA384,
        dns.tsig.HMAC_SHA512,
    )
)  # fmt: skip
_sign: Callable[..., tuple[TSIG, Any]] = dns.tsig.sign  # without annotations
_validate: Callable[..., Any] = dns.tsig.validate
_RECORD = struct.Struct("!HHIH")


class Signer:
    """Signs the messages of one reply in order; ``error`` is the TSIG error of the request."""

    def __init__(self, key: dns.tsig.Key, request: TSIG, ident: int, error: int, now: int) -> None:
        self.error = error
        self._key = key
        self._request_mac: bytes = request.mac
        self._context: Any = None
        is_late = error == BADTIME
        self._rdata: Any = request.replace(
            fudge=FUDGE_S,
            mac=b"",
            original_id=ident,
            error=dns.rcode.Rcode.make(error),
            # The client's time and ours, so that it sees the difference (section 5.2.3).
            time_signed=request.time_signed if is_late else now,
            other=now.to_bytes(6, "big") if is_late else b"",
        )
        self.owner = key.name.to_wire() or b""  # the name of the key
        size = dns.tsig.mac_sizes.get(key.algorithm, 0) if self._is_signing else 0
        self.octets = len(self.owner) + _RECORD.size + len(self._rdata.to_wire() or b"") + size

    @property
    def _is_signing(self) -> bool:
        """Whether there is a key to sign with (RFC 8945 section 5.3.2)."""
        return self.error not in (BADKEY, BADSIG)

    def sign(self, wire: bytes, now: int) -> bytes:
        """Return a message of the reply with its TSIG record."""
        rdata = self._rdata
        if self._is_signing:
            time = rdata.time_signed if self.error else now
            rdata, self._context = _sign(
                wire, self._key, rdata, time, self._request_mac, self._context, True
            )
        octets = rdata.to_wire() or b""
        count = int.from_bytes(wire[10:12], "big") + 1
        head = self.owner + _RECORD.pack(dns.rdatatype.TSIG, dns.rdataclass.ANY, 0, len(octets))
        return wire[:10] + count.to_bytes(2, "big") + wire[message.HEADER_OCTETS :] + head + octets


def check(signed: Signed, keys: Mapping[dns.name.Name, bytes], now: int) -> Signer:
    """Return the signer of the reply; its ``error`` is 0 if the request is signed correctly.

    ``keys`` are secrets by name, ``now`` is seconds of the epoch.

    Raises:
        FormError: the TSIG record is malformed.
    """
    owner, rdata = _read(signed)
    secret = keys.get(owner)
    algorithm = rdata.algorithm
    key = dns.tsig.Key(owner, secret or b"", algorithm)
    error = 0
    if secret is None or algorithm not in ALGORITHMS:
        error = BADKEY
    else:
        try:
            _validate(signed.packet, key, owner, rdata, now, b"", signed.start)
        except dns.tsig.BadTime:
            error = BADTIME
        except dns.tsig.BadSignature:
            error = BADSIG
        except dns.exception.DNSException as problem:
            raise FormError(signed.start, f"TSIG of a request: {problem}") from problem
    ident = int.from_bytes(signed.packet[:2], "big")
    return Signer(key, rdata, ident, error, now)


def _read(signed: Signed) -> tuple[dns.name.Name, TSIG]:
    """Return the name of the key and the RDATA of a TSIG record. Raises FormError."""
    packet, start, _ = signed
    try:
        owner, octets = dns.name.from_wire(packet, start)
        start += octets
        rtype, rclass, ttl, length = _RECORD.unpack_from(packet, start)
        if (rtype, rclass, ttl) != (dns.rdatatype.TSIG, dns.rdataclass.ANY, 0):
            raise FormError(start, "TSIG record with a class or TTL of its own")
        start += _RECORD.size
        rdata = dns.rdata.from_wire(rclass, rtype, packet, start, length)
    except (dns.exception.DNSException, struct.error, ValueError) as error:
        raise FormError(start, f"TSIG record: {error}") from error
    if not isinstance(rdata, TSIG):
        raise FormError(start, "TSIG record that is none")
    return owner.canonicalize(), rdata
