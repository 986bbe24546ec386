"""Random zones that are hard to answer from, as master files, and the names to ask for.

Zones have wildcards, delegations with glue, DNAME, chains of aliases, empty non-terminals, records at
the apex, and many types. Some aliases lead to ``OUTSIDE``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

LABELS = ("a", "b", "c", "www", "mail", "_tcp", "ns", "deep", "x-1")
OUTSIDE = """$ORIGIN outside.test.
@ 60 SOA ns h 1 2 3 4 30
@ 60 NS ns
ns 60 A 192.0.2.53
www 60 A 192.0.2.1
www 60 AAAA 2001:db8::1
alias 60 CNAME www
"""


class RandomZone:
    """A zone's master file, and names worth asking for."""

    def __init__(self, apex: str, rng: random.Random) -> None:
        self.apex = apex
        self._rng = rng
        self._owners = dict.fromkeys(self._owner() for _ in range(rng.randrange(4, 16)))
        self._lines = [
            f"$ORIGIN {apex}",
            f"$TTL {rng.choice((30, 300))}",
            f"@ {rng.choice((60, 900))} SOA ns hostmaster {rng.randrange(1, 99)} 7200 1800 86400 30",
            "@ NS ns",
            *(["@ NS ns.outside.test."] if rng.random() < 0.5 else []),
            "ns A 192.0.2.53",
        ]
        self._others = {"ns", "a.sink", "www.sink"}
        self._lines += ["a.sink A 192.0.2.60", "www.sink MX 5 www.sink", "*.www.sink TXT sunk"]
        for kind in rng.sample(("A", "AAAA", "MX", "TXT", "CAA", "HTTPS"), 2):
            self._lines.append(f"@ {self._rdata(kind)}")
        for owner in self._owners:
            self._fill(owner)
        self._lines = list(dict.fromkeys(self._lines))  # of equal ones we tell one

    @property
    def text(self) -> str:
        return "\n".join(self._lines) + "\n"

    def append(self, *lines: str) -> None:
        """Add lines that other records do not touch."""
        self._lines += lines

    def owners(self) -> set[str]:
        """Return the owners of all records."""
        return {
            f"{line.partition(' ')[0]}.{self.apex}".removeprefix("@.") for line in self._lines[2:]
        }

    def names(self) -> Iterator[str]:
        """Yield names in the zone and around it, without end."""
        rng = self._rng
        known = ["@", *self._owners]
        while True:
            name = rng.choice(known).replace("*", rng.choice(("star", "*", "a.b")))
            for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
                name = f"{rng.choice(LABELS)}.{name}"
            for _ in range(rng.choice((0, 0, 0, 1))):
                name = name.partition(".")[2] or "@"
            name = f"{name}.{self.apex}".removeprefix("@.").replace(".@.", ".")
            yield name.upper() if rng.random() < 0.1 else name

    def _owner(self) -> str:
        rng = self._rng
        labels = [rng.choice(LABELS) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
        if rng.random() < 0.25:
            labels[0] = "*"
        return ".".join(labels)

    def _alias(self, owner: str) -> str:
        """Return where an alias leads, never back: of circles we tell more than CoreDNS."""
        owners = list(self._owners)
        later = [other for other in owners[owners.index(owner) + 1 :] if "*" not in other]
        if "*" in owner or not later or self._rng.random() < 0.3:
            return self._rng.choice(
                ("www.outside.test.", "alias.outside.test.", "gone.outside.test.", "ns")
            )
        return self._rng.choice(later)

    def _target(self) -> str:
        """Return a name for RDATA: in the zone, outside of it, or one that does not exist."""
        rng = self._rng
        if rng.random() < 0.25:
            return f"{rng.choice(('www', 'alias', 'gone'))}.outside.test."
        return rng.choice([*self._owners, "ns", "nowhere"]).replace("*", "star")

    def _fill(self, owner: str) -> None:
        rng, draw = self._rng, self._rng.random()
        if owner in self._others:
            return
        self._others.add(owner)
        if draw < 0.25 and owner != "ns":
            self._lines.append(f"{owner} {rng.choice((20, 120))} CNAME {self._alias(owner)}")
        elif draw < 0.35 and "*" not in owner:
            self._lines.append(f"{owner} DNAME {rng.choice(('sink', 'outside.test.'))}")
        elif draw < 0.5 and "*" not in owner:
            self._lines += [f"{owner} NS ns1.{owner}", f"{owner} NS ns.outside.test."]
            self._lines += [f"ns1.{owner} A 192.0.2.9", f"ns1.{owner} AAAA 2001:db8::9"]
            if rng.random() < 0.5:
                self._lines.append(f"{owner} DS 1 8 2 {'ab' * 32}")
        else:
            kinds = ("A", "AAAA", "MX", "TXT", "SRV", "PTR", "HTTPS", "NAPTR", "TYPE65280", "SSHFP")
            for kind in rng.sample(kinds, rng.randrange(1, 4)):
                for _ in range(rng.randrange(1, 3)):
                    self._lines.append(f"{owner} {self._rdata(kind)}")

    def _rdata(self, kind: str) -> str:
        rng = self._rng
        made = {
            "A": f"A 192.0.2.{rng.randrange(1, 255)}",
            "AAAA": f"AAAA 2001:db8::{rng.randrange(1, 9999):x}",
            "MX": f"MX {rng.randrange(9)} {self._target()}",
            "TXT": f'TXT "{rng.randrange(999)}" "second"',
            "SRV": f"SRV 1 2 {rng.randrange(9)} {self._target()}",
            "PTR": f"PTR {self._target()}",
            "CAA": '0 issue "ca.test"',
            "HTTPS": f"HTTPS {rng.randrange(1, 9)} {self._target()} alpn=h2",
            "NAPTR": f'NAPTR {rng.randrange(9)} 1 "u" "E2U" "!^!x!" .',
            "TYPE65280": f"TYPE65280 \\# 1 {rng.randrange(256):02x}",
            "SSHFP": f"SSHFP 1 1 {'cd' * 20}",
        }[kind]
        return f"CAA {made}" if kind == "CAA" else made
