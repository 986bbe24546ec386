"""Random questions about a cluster, and random manners of asking them.

``questions`` are about what is there, what almost is, and what is not; ``packet`` writes one as a
query with the header flags and the OPT record of a ``Manner``.
"""

from __future__ import annotations

import ipaddress
import random
import struct
from typing import NamedTuple

import dns.name
from clusters import IMPORTED, OUTSIDE, Cluster

A, NS, CNAME, SOA, PTR, HINFO, MX, TXT, AAAA, SRV, DS, AXFR, IXFR, ANY, HTTPS = (
    1, 2, 5, 6, 12, 13, 15, 16, 28, 33, 43, 252, 251, 255, 65,
)  # fmt: skip
COMMON_TYPES = (A, A, A, AAAA, AAAA, SRV, SRV, PTR, NS, SOA, TXT, CNAME, MX, ANY, HTTPS, HINFO, DS)
RARE_TYPES = (AXFR, IXFR, 0, 48, 64, 257, 65280)

RD, AD, CD, Z = 0x0100, 0x0020, 0x0010, 0x0040
SIZES = (0, 256, 511, 512, 513, 700, 1000, 1220, 1232, 1452, 1480, 1481, 4096, 65535)
COOKIE, NSID, SUBNET, PADDING, PRIVATE = (
    struct.pack("!HH8s", 10, 8, b"12345678"),
    struct.pack("!HH", 3, 0),
    struct.pack("!HHHBB3s", 8, 7, 1, 24, 0, b"\xc6\x33\x64"),
    struct.pack("!HH16s", 12, 16, b""),
    struct.pack("!HH2s", 65001, 2, b"hi"),
)


class Asked(NamedTuple):
    """One question: a name as text with its letter case, a type and a class."""

    qname: str
    qtype: int
    qclass: int = 1


class Manner(NamedTuple):
    """How a question is asked: header flags, and the OPT record's octets, if there is one."""

    flags: int = RD
    opt: bytes = b""


def plain(source: random.Random) -> Manner:
    """Return a manner without EDNS."""
    flags = RD if source.random() < 0.9 else 0
    for flag, chance in ((AD, 0.15), (CD, 0.1), (Z, 0.03)):
        flags |= flag if source.random() < chance else 0
    return Manner(flags)


def extended(source: random.Random) -> Manner:
    """Return a manner with EDNS: any size, DO or not, now and then options or another version."""
    flags = 0x8000 if source.random() < 0.3 else 0
    flags |= source.getrandbits(15) if source.random() < 0.05 else 0
    version = 1 if source.random() < 0.02 else 0
    known = (COOKIE, NSID, SUBNET, PADDING, PRIVATE)
    options = source.sample(known, source.randint(1, 2)) if source.random() < 0.2 else []
    octets = b"".join(options)
    opt = struct.pack("!BHHBBHH", 0, 41, source.choice(SIZES), 0, version, flags, len(octets))
    return Manner(plain(source).flags, opt + octets)


def packet(asked: Asked, ident: int, manner: Manner) -> bytes:
    """Return a query; its ID is its place among the questions."""
    qname = dns.name.from_text(asked.qname).to_wire()
    head = struct.pack("!HHHHHH", ident, manner.flags, 1, 0, 0, 1 if manner.opt else 0)
    return head + qname + struct.pack("!HH", asked.qtype, asked.qclass) + manner.opt


def questions(cluster: Cluster, count: int) -> list[Asked]:
    """Return ``count`` different questions about a cluster."""
    return _Questions(cluster).some(count)


class _Questions:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.random = cluster.random

    def some(self, count: int) -> list[Asked]:
        found: dict[tuple[str, int, int], Asked] = {}
        while len(found) < count:
            asked = self._question()
            found.setdefault((asked.qname.lower(), asked.qtype, asked.qclass), asked)
        return list(found.values())

    def _question(self) -> Asked:
        qname = self._cased(self._qname())
        qtype = self.random.choice(COMMON_TYPES)
        if qname.lower().endswith(".arpa.") and self.random.random() < 0.7:
            qtype = PTR
        elif self.random.random() < 0.02 and qname.lower().endswith(".cluster.local."):
            qtype = self.random.choice(RARE_TYPES)
        qclass = 1 if self.random.random() < 0.97 else self.random.choice([3, 4, 255, 7])
        return Asked(qname, qtype, qclass)

    def _cased(self, qname: str) -> str:
        if self.random.random() < 0.85 or "\\" in qname:
            return qname
        return "".join(self.random.choice([c.lower(), c.upper()]) for c in qname)

    def _qname(self) -> str:
        roll, choice = self.random.random(), self.random.choice
        zones = [zone for zone in self._cluster.zones if zone[-1].isalpha() and "arpa" not in zone]
        usual = 0.6 if IMPORTED in zones else 0.9
        zone = "cluster.local." if self.random.random() < usual else f"{choice(zones)}."
        if roll < 0.45:
            return f"{choice(self._cluster.names)}.{zone}"
        if roll < 0.6:
            return f"{self._near_miss(choice(self._cluster.names))}.{zone}"
        if roll < 0.7:
            return self._reverse()
        if roll < 0.78:
            outside = choice(OUTSIDE).name
            if self.random.random() < 0.5:
                return outside
            return f"{outside}{choice(self._cluster.namespaces)}.svc.{zone}"
        if roll < 0.8:  # what a search list makes of a name in the cluster
            return f"{choice(self._cluster.names)}.cluster.local.{choice(['svc.', ''])}{zone}"
        if roll < 0.91:
            return choice(self._specials(zone))
        return (
            f"{self._cluster.name()}.{choice(['', 'svc.', 'pod.', 'example.com.', 'com.'])}{zone}"
        )

    def _near_miss(self, below: str) -> str:
        labels = below.split(".")
        roll = self.random.randrange(6)
        i = self.random.randrange(len(labels))
        if roll == 0:
            labels[i] = self._cluster.name()
        elif roll == 1:
            del labels[i]
        elif roll == 2:
            labels.insert(
                i, self.random.choice(["x", "_http", "_tcp", "_", "__", "*", "any", "_udp", "tcp"])
            )
        elif roll == 3:
            labels[0] = labels[0].lstrip("_") or "x"
        elif roll == 4:
            labels[i] = self.random.choice(["_", "-", "0"]) + labels[i]
        else:
            labels[-1] = self.random.choice(["svc", "pod", "svcs", "endpoints"])
        return ".".join(label for label in labels if label) or "x"

    def _reverse(self) -> str:
        address = self.random.choice(
            [*self._cluster.addresses, "10.9.9.9", "192.0.2.1", "fd00::ffff", "::ffff:10.1.1.1"]
        )
        pointer = ipaddress.ip_address(address).reverse_pointer + "."
        roll = self.random.random()
        if roll < 0.1:
            return "x." + pointer
        if roll < 0.2:
            return pointer.partition(".")[2]
        if roll < 0.25 and ":" not in address:  # an IPv4 address in its IPv6 form
            return ipaddress.ip_address(f"::ffff:{address}").reverse_pointer + "."
        if roll < 0.28:
            return f"0{pointer}"
        return pointer

    def _specials(self, zone: str) -> list[str]:
        namespace = self.random.choice(self._cluster.namespaces)
        return [
            zone, f"svc.{zone}", f"pod.{zone}", f"{namespace}.svc.{zone}", f"{namespace}.pod.{zone}",
            f"dns-version.{zone}", f"ns.dns.{zone}", f"dns.{zone}", f"x.dns-version.{zone}",
            "in-addr.arpa.", "ip6.arpa.", "10.in-addr.arpa.", f"{namespace}.{zone}", "local.", ".",
            f"_http._tcp.{zone}", f"hostmaster.{zone}", f"ns.dns.{zone}{zone}", "svc.in-addr.arpa.",
            f"1-2-3-4.{namespace}.pod.{zone}", f"fd00--1.{namespace}.pod.{zone}",
            "x.svc.10.in-addr.arpa.", f"{namespace}.svc.in-addr.arpa.", f"a.ns.dns.{zone}",
            f"1-2-3.{namespace}.pod.{zone}", f"a.b.1-2-3-4.{namespace}.pod.{zone}",
            f"--ffff-a01-101.{namespace}.pod.{zone}", f"01-2-3-4.{namespace}.pod.{zone}",
            f"fe80--1%eth0.{namespace}.pod.{zone}", f"1.2.3.4.{namespace}.pod.{zone}",
            f"\\000.{namespace}.svc.{zone}", f"a\\.b.{namespace}.svc.{zone}",
            f"{'l' * 63}.{namespace}.svc.{zone}", f"\\195\\164.{namespace}.pod.{zone}",
            f"{'.'.join(['a' * 60] * 3)}.{namespace}.svc.{zone}", "ns.dns.in-addr.arpa.",
            f"apex.dns.{zone}", f"{namespace}\\032.svc.{zone}", f"*.{zone}", f"*.*.svc.{zone}",
            "4.3.2.1.in-addr.arpa.", "1.1.1.1.10.in-addr.arpa.", "256.1.1.10.in-addr.arpa.",
        ]  # fmt: skip
