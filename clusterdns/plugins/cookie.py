"""cookie - give clients DNS cookies, which prove that their addresses are not forged (RFC 7873).

Syntax:

    cookie [FILE] {
        rotate DURATION
        require
        tcp [NETWORKS...]
    }

A reply to a query with the EDNS option COOKIE has the server's cookie in it, which the client sends
with later queries (RFC 9018, SipHash-2-4). Without the directive the option is ignored.

FILE has the secrets, one a line, of 32 hexadecimal digits, up to three: new cookies are made with
the first, cookies made with any are accepted. Replicas that share the file accept each other's
cookies. The file is read again when it changes; an unusable one leaves the last secrets in force.
To rotate, put the new secret in the second place, then in the first, then remove the old one.
Without FILE the secrets are random, change every DURATION (`rotate`, by default 24h), and the one
before is accepted, too.

* `require`: a client that sends a cookie of its own, but none of ours, gets BADCOOKIE with one over
  UDP, and asks again with it. Clients that send none are answered.
* `tcp`: clients in NETWORKS, by default all, that send no cookie get TC over UDP, and ask again
  over TCP. Most stub resolvers send none, so name only networks where addresses are forged.

Examples:

    . {
        cookie {
            require
            tcp 192.0.2.0/24 2001:db8::/32
        }
        forward . 192.0.2.53
    }

Metrics: `clusterdns_cookie_queries_total{server, cookie}` counts queries with the option; cookie is
`client_only`, `valid`, `invalid` or `malformed`. The last is answered with FORMERR.

Limits: this is not in CoreDNS. The directive is for all server blocks of a port; the first one
counts. Cookies lift no limit of `ratelimit`, which bounds honest clients, too.

Speed: queries without options are as fast as before. Those with a cookie take Python, also if the
answer is in the table: 38 µs instead of 5. `tcp` takes all queries over UDP there, and the relay
is not used.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
from pathlib import Path
from typing import ClassVar

from clusterdns.addressing.networks import Networks
from clusterdns.chain.block import Block
from clusterdns.chain.plugin import AnswerNext, Worker
from clusterdns.chain.polling import Polling
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host import logs
from clusterdns.host.stamp import Stamp, read_regular
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.wire.cookies import Cookies
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.siphash import KEY_OCTETS

QUERIES = "clusterdns_cookie_queries_total"
MAX_SECRETS = 3
MAX_FILE_OCTETS = 4096
ROTATE_S = 86_400.0
POLL_S = 5.0
_SECRET = re.compile(r"[0-9a-fA-F]{32}")
_log = logs.plugin_logger("cookie")


class Cookie(Polling):
    """The secrets of a listener, which makes the cookies."""

    families: ClassVar = {
        QUERIES: Family("Counter of queries with a DNS cookie.", ("server", "cookie")),
    }
    after = "nsid"

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self.reload_s = 0.0
        self._path: Path | None = None
        self._stamp: Stamp | None = None
        self._complaint = ""
        self._rotate_s = ROTATE_S
        self._secrets: tuple[bytes, ...] = ()
        self._epoch = -1
        is_required, over_tcp = False, None
        for line in directive.block:
            if line.name == "rotate":
                self._rotate_s = arguments.seconds(line, is_positive=True)
            elif line.name == "require":
                is_required = arguments.flag(line)
            elif line.name == "tcp":
                over_tcp = over_tcp or Networks()
                for word in line.args or ("0.0.0.0/0", "::/0"):
                    over_tcp.add(arguments.network(word, line))
            else:
                raise line.unknown("rotate", "require", "tcp")
        if directive.args:
            self._read_file(directive, block.path(arguments.one(directive)))
        self.cookies = Cookies(
            self._in_force, time.time, is_required=is_required, over_tcp=over_tcp
        )

    def _read_file(self, directive: Directive, path: Path) -> None:
        self._path, self.reload_s = path, POLL_S
        try:
            found = read_regular(path, MAX_FILE_OCTETS)
            assert found is not None
            self._stamp, self._secrets = found[0], _read_secrets(found[1])
        except (OSError, ValueError) as error:
            raise directive.error(f"cannot use {path}: {error}") from error

    def _in_force(self) -> tuple[bytes, ...]:
        """Return the secrets, the one for new cookies first."""
        if self._path is None:
            epoch = int(time.time() // self._rotate_s)
            if epoch != self._epoch:
                self._secrets = tuple(_random_secret(each) for each in (epoch, epoch - 1))
                self._epoch = epoch
        return self._secrets

    async def start(self, worker: Worker) -> None:
        """Start to poll the file."""
        self.look_again(worker)

    async def look(self) -> bool:
        """Take up the file if it has changed; no answer depends on it."""
        assert self._path is not None
        try:
            found = read_regular(self._path, MAX_FILE_OCTETS, self._stamp)
            if found is not None:
                self._secrets = _read_secrets(found[1])
                self._stamp = found[0]
            self._complaint = ""
        except (OSError, ValueError) as error:
            if str(error) != self._complaint:  # once for each reason
                _log.error("%s: %s; the last secrets stay in force", self._path, error)
            self._complaint = str(error)
        return False

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin."""
        return next(question)

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: all names are treated alike."""
        return True

    def relay(self, route: Route) -> bool:
        """Return True: queries with options are not relayed."""
        return True

    def samples(self) -> list[Sample]:
        """Return the numbers of queries with cookies."""
        counts = self.cookies.counts if self.cookies is not None else {}
        return [(QUERIES, (self._block.server, word), n) for word, n in counts.items()]


def _read_secrets(octets: bytes) -> tuple[bytes, ...]:
    """Return the secrets in a file. Raises ValueError, which tells no part of them."""
    words = octets.decode("ascii", "replace").split()
    if not 1 <= len(words) <= MAX_SECRETS:
        raise ValueError(f"wants 1 to {MAX_SECRETS} secrets, has {len(words)}")
    for number, word in enumerate(words, 1):
        if not _SECRET.fullmatch(word):
            raise ValueError(f"secret {number} has not 32 hexadecimal digits")
    return tuple(map(bytes.fromhex, words))


@functools.cache
def _seed() -> bytes:
    """Return the seed of random secrets: one for all workers, which are forked, and reloads."""
    return os.urandom(32)


def _random_secret(epoch: int) -> bytes:
    return hashlib.sha256(_seed() + epoch.to_bytes(16, "big", signed=True)).digest()[:KEY_OCTETS]
