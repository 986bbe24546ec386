"""Zones signed by dnspython, a validating resolver in front of a server, and what it makes of replies.

``signed`` signs a master file; ``unbound`` runs an Unbound that asks one server about zones and trusts
their keys, so that each reply is secure, insecure or bogus by an independent reading of RFC 4035.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import dns.dnssec
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.zone
import peers
import pytest
import realupstreams
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from dns.dnssectypes import Algorithm
from dns.rdtypes.ANY.DNSKEY import DNSKEY

Address = tuple[str, int]
LIFETIME_S = 14 * 86400
ALGORITHMS = (
    Algorithm.ECDSAP256SHA256, Algorithm.ECDSAP384SHA384, Algorithm.ED25519, Algorithm.RSASHA256,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Signed:
    """A signed zone as a master file, and the keys that a validator has to trust."""

    text: str
    keys: tuple[str, ...]


def private_key(algorithm: Algorithm):
    """Return a new private key."""
    match algorithm:
        case Algorithm.ECDSAP256SHA256:
            return ec.generate_private_key(ec.SECP256R1())
        case Algorithm.ECDSAP384SHA384:
            return ec.generate_private_key(ec.SECP384R1())
        case Algorithm.ED25519:
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(65537, 2048)


def dnskey(private, algorithm: Algorithm, *, is_ksk: bool = True) -> DNSKEY:
    return dns.dnssec.make_dnskey(private.public_key(), algorithm, flags=257 if is_ksk else 256)


def signed(text: str, apex: str, algorithm: Algorithm = Algorithm.ECDSAP256SHA256) -> Signed:
    """Return a zone signed with one key, with NSEC records."""
    zone = dns.zone.from_text(text, apex, relativize=False)
    private = private_key(algorithm)
    key = dnskey(private, algorithm)
    dns.dnssec.sign_zone(zone, keys=[(private, key)], lifetime=LIFETIME_S, add_dnskey=True)
    return Signed(zone.to_text(relativize=False), (f"{apex} IN DNSKEY {key.to_text()}",))


@contextlib.contextmanager
def unbound(
    directory: Path, server: Address, trusted: Mapping[str, tuple[str, ...]], insecure: tuple[str, ...] = ()
) -> Iterator[Address]:  # fmt: skip
    """Run an Unbound that asks ``server`` about the zones ``trusted``, by apex, and ``insecure``.

    It proves each answer anew: it makes none of the denials of others.
    """
    if realupstreams.program("unbound") is None:
        pytest.skip("needs unbound: apt-get install unbound")
    directory.mkdir(exist_ok=True)
    (directory / "anchors").write_text(
        "".join(f"{key}\n" for keys in trusted.values() for key in keys)
    )
    port = peers.free_port()
    zones = [*trusted, *insecure]
    stubs = "".join(
        f"stub-zone:\n name: {zone}\n stub-addr: {server[0]}@{server[1]}\n stub-no-cache: yes\n"
        for zone in zones
    )
    domains = "".join(f' domain-insecure: "{zone}"\n' for zone in insecure)
    locals_ = "".join(f' local-zone: "{zone}" nodefault\n' for zone in ("test.", *zones))
    (directory / "unbound.conf").write_text(f"""
server:
 interface: 127.0.0.1@{port}
 do-daemonize: no
 use-syslog: no
 username: ""
 chroot: ""
 directory: "{directory}"
 pidfile: ""
 module-config: "validator iterator"
 trust-anchor-file: "{directory}/anchors"
 access-control: 127.0.0.0/8 allow
 do-not-query-localhost: no
 aggressive-nsec: no
 qname-minimisation: no
 harden-below-nxdomain: no
 val-log-level: 2
 num-threads: 1
{domains}{locals_}
remote-control:
 control-enable: no
{stubs}""")
    command = [str(realupstreams.program("unbound")), "-d", "-c", str(directory / "unbound.conf")]
    probe = dns.message.make_query(next(iter(trusted)), "SOA").to_wire()
    with realupstreams.serving(
        command, directory, "unbound", ("127.0.0.1", port), probe
    ) as address:
        yield address


def verdict(resolver: Address, qname: str, qtype: str) -> tuple[str, dns.message.Message]:
    """Return "secure", "insecure" or "bogus", and the reply of the validating resolver."""
    query = dns.message.make_query(qname, qtype, want_dnssec=True, payload=4096)
    deadline = time.monotonic() + 10
    reply = None
    while reply is None and time.monotonic() < deadline:
        reply = peers.ask_tcp(resolver, query.to_wire(), 8)
    assert reply is not None, f"{qname} {qtype}: silence"
    message = dns.message.from_wire(reply)
    if message.rcode() == dns.rcode.SERVFAIL:
        return "bogus", message
    return ("secure" if message.flags & dns.flags.AD else "insecure"), message


def expectation(
    server, qname: str, qtype: str, apex: str, cuts: list[str]
) -> tuple[str, ...] | None:
    """Return what a validator may say; None where it would have to ask other servers, or refuses to."""
    if qtype in ("RRSIG", "ANY", "NSEC"):  # resolvers differ in what they make of these
        return None
    name = dns.name.from_text(qname)
    if qtype == "DS" and name == dns.name.from_text(apex):
        return None  # which the parent knows
    for cut in cuts:
        if name.is_subdomain(dns.name.from_text(f"{cut}.{apex}")) and qtype != "DS":
            return None
    packet = dns.message.make_query(qname, qtype, want_dnssec=True).to_wire()
    reply = peers.ask_tcp(server, packet)
    assert reply is not None
    message = dns.message.from_wire(reply)
    if message.rcode() not in (0, 3) or not message.flags & dns.flags.AA:
        return None  # a circle, or a referral
    targets = [
        item.target
        for each in message.answer
        if each.rdtype == dns.rdatatype.CNAME
        for item in each
    ]
    delegated = [dns.name.from_text(f"{cut}.{apex}") for cut in cuts]
    if any(target.is_subdomain(cut) for target in targets for cut in delegated):
        return None
    has_dname = any(each.rdtype == dns.rdatatype.DNAME for each in message.answer)
    if has_dname and qtype in ("CNAME", "DNAME", "DS"):
        return None  # Unbound wants a signature of the alias that it makes itself for other types
    has_referral = message.answer and any(
        each.rdtype == dns.rdatatype.NS and each.name != dns.name.from_text(apex)
        for each in message.authority
    )
    if has_referral:
        return None
    leads_out = "outside.test." in message.to_text() and message.answer
    return ("secure", "insecure") if leads_out else ("secure",)


def unexpected(
    directory: Path,
    corefile: str,
    trusted: Mapping[str, tuple[str, ...]],
    zones: Iterable[tuple[str, str, Iterable[tuple[str, str]]]],
) -> list[str]:
    """Return what a validating resolver says of our replies and should not.

    ``zones`` are the apex, the text and the questions of each.
    """
    found = []
    with (
        peers.clusterdns(corefile, directory) as server,
        unbound(directory / "unbound", server.address, trusted, ("outside.test.",)) as resolver,
    ):
        for apex, text, questions in zones:
            cuts = re.findall(r"^(\S+) NS ns1\.", text, re.MULTILINE)
            for name, qtype in questions:
                expected = expectation(server.address, name, qtype, apex, cuts)
                if expected is None:
                    continue
                said, reply = verdict(resolver, name, qtype)
                if said not in expected:
                    found.append(f"{name} {qtype}: {said}\n{reply}")
    if not found:
        return []
    log = (directory / "unbound" / "unbound.log").read_text()
    failures = [line for line in log.splitlines() if "validation failure" in line]
    return [f"{len(found)} failures", *found[:6], *failures[:6], str(directory)]


def key_files(
    directory: Path, owner: str, algorithm: Algorithm = Algorithm.ECDSAP256SHA256, *, is_ksk: bool = True
) -> tuple[str, str]:  # fmt: skip
    """Write a pair of files as `dnssec-keygen` does; return their name and the DNSKEY record."""
    private = private_key(algorithm)
    key = dnskey(private, algorithm, is_ksk=is_ksk)
    base = f"K{owner}+{int(algorithm):03d}+{dns.dnssec.key_id(key):05d}"
    record = f"{owner} IN DNSKEY {key.to_text()}"
    (directory / f"{base}.key").write_text(
        f"; This is a key, keyid {dns.dnssec.key_id(key)}\n{record}\n"
    )
    lines = ["Private-key-format: v1.3", f"Algorithm: {int(algorithm)} ({algorithm.name})"]
    lines += [f"{word}: {value}" for word, value in _numbers(private)]
    lines += ["Created: 20260101000000", "Publish: 20260101000000"]
    (directory / f"{base}.private").write_text("\n".join(lines) + "\n")
    return base, record


def _numbers(private) -> Iterator[tuple[str, str]]:
    if isinstance(private, rsa.RSAPrivateKey):
        numbers = private.private_numbers()
        yield "Modulus", _base64(numbers.public_numbers.n)
        yield "PublicExponent", _base64(numbers.public_numbers.e)
        yield "PrivateExponent", _base64(numbers.d)
        yield "Prime1", _base64(numbers.p)
        yield "Prime2", _base64(numbers.q)
        yield "Exponent1", _base64(numbers.dmp1)
        yield "Exponent2", _base64(numbers.dmq1)
        yield "Coefficient", _base64(numbers.iqmp)
    elif isinstance(private, ec.EllipticCurvePrivateKey):
        yield (
            "PrivateKey",
            _base64(private.private_numbers().private_value, private.curve.key_size // 8),
        )
    else:
        yield "PrivateKey", base64.b64encode(private.private_bytes_raw()).decode()


def _base64(number: int, size: int = 0) -> str:
    return base64.b64encode(number.to_bytes(size or (number.bit_length() + 7) // 8, "big")).decode()
