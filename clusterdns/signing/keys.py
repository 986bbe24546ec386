"""DNSSEC keys from the pairs of files that `dnssec-keygen` writes.

``Kexample.org.+013+45330.key`` is a master file with the DNSKEY record, and
``Kexample.org.+013+45330.private`` has the numbers of the private key, one a line. `read` checks
that they belong together: signatures of a wrong pair would be bogus.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from clusterdns.errors import ClusterDNSError
from clusterdns.formats import masterfile
from clusterdns.wire import canonical, name, rr
from clusterdns.wire.name import WireName
from clusterdns.wire.rr import RR

MAX_OCTETS = 64 * 1024  # of a file: an RSA key of 4096 bits takes 3 KiB
ZONE_KEY, SEP = 0x0100, 0x0001  # flags (RFC 4034 section 2.1.1)
_PROTOCOL = 3
_FORMATS = ("v1.2", "v1.3")
# IANA "DNS Security Algorithm Numbers": RSASHA1, RSASHA1-NSEC3-SHA1, RSASHA256, RSASHA512.
_RSA: dict[int, hashes.HashAlgorithm] = {
    5: hashes.SHA1(),
    7: hashes.SHA1(),
    8: hashes.SHA256(),
    10: hashes.SHA512(),
}
# ECDSAP256SHA256, ECDSAP384SHA384.
_ECDSA: dict[int, tuple[ec.EllipticCurve, hashes.HashAlgorithm]] = {
    13: (ec.SECP256R1(), hashes.SHA256()),
    14: (ec.SECP384R1(), hashes.SHA384()),
}
_ED25519 = 15

Sign = Callable[[bytes], bytes]


class KeyFileError(ClusterDNSError):
    """An invalid key file; the message names it."""


class Key(NamedTuple):
    """A DNSKEY, as its file has it, and the function that signs octets with it."""

    record: RR
    tag: int
    sign: Sign

    @property
    def algorithm(self) -> int:
        """The algorithm, by its IANA number."""
        return self.record.rdata[3]

    @property
    def is_zone_key(self) -> bool:
        """Whether it may sign the records of a zone."""
        return bool(self._flags & ZONE_KEY)

    @property
    def is_ksk(self) -> bool:
        """Whether it is a zone key with the SEP flag, which signs keys."""
        return self.is_zone_key and bool(self._flags & SEP)

    @property
    def is_zsk(self) -> bool:
        """Whether it is a zone key without the SEP flag, which signs all other records."""
        return self.is_zone_key and not self._flags & SEP

    @property
    def _flags(self) -> int:
        return int.from_bytes(self.record.rdata[:2], "big")

    def __str__(self) -> str:
        """Return its owner and its tag, for logs and errors."""
        return f"{name.text(self.record.owner)} (keyid: {self.tag})"

    def at(self, owner: WireName, ttl: int) -> RR:
        """Return its DNSKEY record at the apex of a zone."""
        return self.record._replace(owner=owner, ttl=ttl)


def read(path: Path) -> Key:
    """Return the key of a pair of files; ``path`` may end in .key, .private or neither.

    Raises:
        KeyFileError: one of them cannot be read or is invalid.
    """
    base = str(path).removesuffix(".key").removesuffix(".private")
    record = _dnskey(base + ".key")
    file = base + ".private"
    numbers = _numbers(_text(file), file)
    try:
        public, sign = _signer(record.rdata[3], numbers)
        sign(b"")  # raises if a modulus is too short for the digest
    except KeyError as error:
        raise KeyFileError(f"{file}: has no {error.args[0]}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{file}: is no private key: {error}") from error
    if public != record.rdata[4:]:
        raise KeyFileError(f"{file}: is not the private key of {base}.key")
    return Key(record, canonical.key_tag(record.rdata), sign)


def _dnskey(file: str) -> RR:
    """Return the DNSKEY record of a file."""
    try:
        record = masterfile.record(_text(file))
    except masterfile.MasterFileError as error:
        raise KeyFileError(f"{file}: {error}") from error
    if record is None or record.rtype != rr.DNSKEY or len(record.rdata) <= 4:
        raise KeyFileError(f"{file}: has no DNSKEY record")
    if record.rdata[2] != _PROTOCOL:
        raise KeyFileError(f"{file}: protocol {record.rdata[2]}, which is not {_PROTOCOL}")
    return record


def _text(file: str) -> str:
    try:
        # Opening a FIFO without a writer would block.
        number = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(number, "rb") as opened:  # noqa: PTH123 - a descriptor
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise KeyFileError(f"{file}: is no regular file")
            octets = opened.read(MAX_OCTETS + 1)
    except OSError as error:
        raise KeyFileError(f"{file}: {error.strerror}") from error
    if len(octets) > MAX_OCTETS:
        raise KeyFileError(f"{file}: larger than {MAX_OCTETS} octets")
    return octets.decode("utf-8", "replace")


def _numbers(text: str, file: str) -> dict[str, bytes]:
    """Return the fields of a private key by their names, those in base64 as octets."""
    fields = {}
    for line in text.splitlines():
        word, colon, value = line.partition(":")
        if colon:
            fields[word.strip()] = value.strip()
    if fields.get("Private-key-format") not in _FORMATS:
        raise KeyFileError(f"{file}: has no Private-key-format {' or '.join(_FORMATS)}")
    found = {"Algorithm": fields.get("Algorithm", "").partition(" ")[0].encode()}
    for word in _IN_BASE64 & fields.keys():
        try:
            found[word] = base64.b64decode(fields[word], validate=True)
        except binascii.Error as error:
            raise KeyFileError(f"{file}: {word} is not in base64") from error
    return found


_IN_BASE64 = {
    "PrivateKey", "Modulus", "PublicExponent", "PrivateExponent", "Prime1", "Prime2",
}  # fmt: skip


def _signer(algorithm: int, numbers: dict[str, bytes]) -> tuple[bytes, Sign]:
    """Return the public key as in a DNSKEY, and the function that signs octets.

    Raises:
        KeyError: a number is missing.
        ValueError, UnsupportedAlgorithm: the numbers are invalid or the algorithm is unknown.
    """
    if numbers["Algorithm"] != str(algorithm).encode():
        said = numbers["Algorithm"].decode() or "none"
        raise ValueError(f"algorithm {said}, that of the DNSKEY is {algorithm}")
    if algorithm in _RSA:
        return _rsa(numbers, _RSA[algorithm])
    if algorithm in _ECDSA:
        return _ecdsa(numbers, *_ECDSA[algorithm])
    if algorithm == _ED25519:
        key = ed25519.Ed25519PrivateKey.from_private_bytes(numbers["PrivateKey"])
        return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), key.sign
    raise ValueError(f"algorithm {algorithm} is not known")


def _rsa(numbers: dict[str, bytes], digest: hashes.HashAlgorithm) -> tuple[bytes, Sign]:
    """Return an RSA key (RFC 3110, RFC 5702)."""
    n, e, d, p, q = (
        int.from_bytes(numbers[word], "big")
        for word in ("Modulus", "PublicExponent", "PrivateExponent", "Prime1", "Prime2")
    )
    if p < 2 or q < 2 or p * q != n:
        raise ValueError("the modulus is not the product of the primes")
    made = rsa.RSAPrivateNumbers(
        p, q, d, rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q),
        rsa.RSAPublicNumbers(e, n),
    ).private_key()  # fmt: skip
    exponent = e.to_bytes((e.bit_length() + 7) // 8, "big")
    length = bytes((len(exponent),))
    if len(exponent) > 255:
        length = b"\0" + len(exponent).to_bytes(2, "big")
    public = length + exponent + n.to_bytes((n.bit_length() + 7) // 8, "big")
    return public, lambda octets: made.sign(octets, padding.PKCS1v15(), digest)


def _ecdsa(
    numbers: dict[str, bytes], curve: ec.EllipticCurve, digest: hashes.HashAlgorithm
) -> tuple[bytes, Sign]:
    """Return an ECDSA key (RFC 6605)."""
    made = ec.derive_private_key(int.from_bytes(numbers["PrivateKey"], "big"), curve)
    point = made.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    size = (curve.key_size + 7) // 8

    def sign(octets: bytes) -> bytes:
        r, s = decode_dss_signature(made.sign(octets, ec.ECDSA(digest)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    return point[1:], sign  # without the octet that says "uncompressed"
