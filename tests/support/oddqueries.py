"""Random queries about one zone and a hosts file, asked in all manners, and octets that are none.

``ZONE`` is the zone ``example.org``, for the peer tests of encrypted transports.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import beside
import malformed

ZONE = """$ORIGIN example.org.
@ 3600 IN SOA ns hostmaster 1 7200 900 1209600 86400
@ 7200 IN NS ns
ns 300 IN A 192.0.2.53
www 60 IN A 192.0.2.80
www 40 IN TXT "hello"
alias 20 IN CNAME www
zero 0 IN A 192.0.2.90
sub 200 IN NS ns.sub
ns.sub 100 IN A 192.0.2.54
big 30 IN TXT {texts}
""".replace("{texts}", " ".join(f'"{i:0>250}"' for i in range(200)))
NAMES = (
    "www.test", "WWW.Test", "example.org", "www.example.org", "alias.example.org", "ns.example.org",
    "zero.example.org", "none.example.org", "x.sub.example.org", "big.example.org", "other.test",
    ".", "version.bind",
)  # fmt: skip
TYPES = ("A", "A", "A", "AAAA", "TXT", "NS", "SOA", "SRV", "ANY", "DS", "HTTPS", "LOC", "CNAME")


def messages(source: random.Random) -> Iterator[bytes]:
    """Yield queries, in all manners of asking, and what is none."""
    broken = list(malformed.packets().values())
    while True:
        kind = source.random()
        if kind < 0.75:
            qclass = "CH" if source.random() < 0.05 else "IN"
            edns = source.choice((None, None, 0, 512, 1232, 65535))
            yield beside.query(
                source.choice(NAMES), source.choice(TYPES), edns=edns, qclass=qclass,
                do=source.random() < 0.3, flags=source.choice((0x100, 0x100, 0, 0x130)),
            )  # fmt: skip
        elif kind < 0.9:
            yield source.choice(broken)
        else:
            octets = bytearray(beside.query(source.choice(NAMES), edns=1232))
            for _ in range(source.randrange(1, 4)):
                octets[source.randrange(len(octets))] = source.randrange(256)
            yield bytes(octets[: source.randrange(len(octets) + 1)] if kind > 0.97 else octets)
