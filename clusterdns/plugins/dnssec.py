"""dnssec - sign replies on the fly.

Syntax:

    dnssec [ZONES...] {
        key file KEY...
        cache_capacity CAPACITY
    }

Replies to queries with DO are signed if the name lies in ZONES, by default the zones of the server
block. A denial is proven by an NSEC record made for the question: it says that the name exists
without the type, and NXDOMAIN becomes NOERROR ("black lies"). DNSKEY of ZONES is answered from the
keys.

KEY is the name of a key pair made by `dnssec-keygen -a ECDSAP256SHA256 ZONE`,
`Kexample.org.+013+45330`, with or without `.key` or `.private`, relative to `root`. Other names
will do, such as `keys/cluster`: those in a Kubernetes Secret may not contain `+`. Files are read at
the start and at a reload. The name of its zone is one of ZONES, or above one. Algorithms are RSA
(5, 7, 8, 10), ECDSA P-256 and P-384, and Ed25519. If one key has the SEP flag (`-f KSK`) and
another has not, those with it sign DNSKEY and the others all else; otherwise every key signs every
RRset. Signatures are valid for 8 days and replaced after 6. The cache holds the signatures of
CAPACITY RRsets, 10000 by default; denials may take half. A signature of ECDSA P-256 takes
0.1 ms of CPU time, one of RSA with 2048 bits 1 ms.

Examples:

    cluster.local {
        kubernetes {
            manifests cluster
        }
        dnssec {
            key file Kcluster.local.+013+45330
        }
    }

Metrics: `coredns_dnssec_cache_entries`, `coredns_dnssec_cache_hits_total` and
`coredns_dnssec_cache_misses_total` count RRsets, as in CoreDNS.

Differences from CoreDNS: `key aws_secretsmanager` is refused, and so is a key whose files do not
belong together. Without any key, replies are not changed. The proof that a delegated zone is not
signed is about the zone cut, not about the name in the question. The denial of a DS has NS in its
types only at a zone cut, so that nobody can pass off names below any other name as unsigned. If the
target of an alias in ZONES is denied, that is proven, too. NS records of zone cuts and glue are not
signed (RFC 4035 section 2.2), nor are zone transfers. The cache takes at most 32 MiB a worker.
"""

from __future__ import annotations

from typing import ClassVar

from clusterdns.chain.block import Block
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin
from clusterdns.chain.route import Route
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.host.logs import plugin_logger
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.signing import keys
from clusterdns.signing.answers import Signing
from clusterdns.signing.keys import Key
from clusterdns.signing.signatures import Signer
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import OPCODE_QUERY, Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.outcome import Outcome, outcome_of
from clusterdns.wire.response import Response

CAPACITY = 10_000  # CoreDNS: plugin/dnssec/dnssec.go defaultCap
_log = plugin_logger("dnssec")


class Dnssec(Plugin):
    """Signs the responses of the next plugins."""

    families: ClassVar = {
        "dnssec_cache_entries": Family(
            "The number of elements in the dnssec cache.", ("server", "type"), is_gauge=True
        ),
        "dnssec_cache_hits_total": Family("The count of cache hits.", ("server",)),
        "dnssec_cache_misses_total": Family("The count of cache misses.", ("server",)),
    }

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._zones = arguments.zone_names(directive.args, directive) or block.zones
        found: list[Key] = []
        capacity = CAPACITY
        for line in directive.block:
            match line.name:
                case "key":
                    found += self._read(line)
                case "cache_capacity":
                    capacity = _capacity(line)
                case _:
                    raise line.unknown("key", "cache_capacity")
        if not found:
            _log.warning("%s:%d: no key: nothing is signed", directive.file, directive.line)
        self._signer = Signer(found, capacity)

    def _read(self, line: Directive) -> list[Key]:
        """Return the keys of a line; each can sign one of the zones."""
        source, *paths = line.args or ("",)
        if source == "aws_secretsmanager":
            raise line.error("aws_secretsmanager is not implemented, wants file")
        if source != "file" or not paths:
            raise line.error("wants file KEY...")
        found = []
        for path in paths:
            try:
                key = keys.read(self._block.path(path))
            except keys.KeyFileError as error:
                raise line.error(str(error)) from error
            owner = name.fold(key.record.owner)
            if not any(name.is_within(zone, owner) for zone in self._zones):
                raise line.error(f"key {key} can not sign any of the zones")
            found.append(key)
        return found

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response of the next plugin, signed."""
        if not self._is_mine(question):
            return next(question)
        if self._is_of_keys(question):
            return self._keys(question)
        response = next(question)
        if response is None or not self._is_to_sign(question, response):
            return response
        cut = None
        if _is_denied_ds(question, response):
            cut = next(_of_cut(question))
            if cut is None:
                return None
        return self._signed(question, response, cut)

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response of the next plugin, signed."""
        question = query.question
        if question is None or query.opcode != OPCODE_QUERY or not self._is_mine(question):
            return await next(query)
        if self._is_of_keys(question):
            return self._keys(question)
        response = await next(query)
        if not self._is_to_sign(question, response):
            return response
        cut = None
        if _is_denied_ds(question, response):
            cut = await next(query.asking(_of_cut(question)))
        return self._signed(question, response, cut)

    def treats_alike(self, cut: WireName) -> bool:
        """Return True: it changes no reply without DO, and a signed denial is about one name."""
        return True

    def relay(self, route: Route) -> bool:
        """Exclude the names of our zones from the relay."""
        return not self._signer.keys or route.claim(tuple(self._zones))

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return what is signed, for `explain`."""
        if is_own:
            return f"{len(self._signer.keys)} keys of the zone"
        if name.is_within_any(question.folded, self._zones):
            return "the query has no DO bit, so nothing is signed" if not question.do else ""
        return f"in none of its zones {trace.names_text(self._zones)}"

    def _is_mine(self, question: Question) -> bool:
        return (
            bool(self._signer.keys)
            and (question.do or question.qtype == rr.DNSKEY)
            and question.qclass == rr.CLASS_IN
            and question.qtype not in (rr.AXFR, rr.IXFR)
            and name.is_within_any(question.folded, self._zones)
        )

    def _is_of_keys(self, question: Question) -> bool:
        return question.qtype == rr.DNSKEY and question.folded in self._zones

    def _is_to_sign(self, question: Question, response: Response) -> bool:
        return question.do and not response.bare and response is not DROP

    def _keys(self, question: Question) -> Response:
        """Return the keys at the apex of a zone, signed if DO is set."""
        ttl = min(key.record.ttl for key in self._signer.keys)
        owner = question.folded  # as CoreDNS spells it
        records = tuple(key.record._replace(owner=owner, ttl=ttl) for key in self._signer.keys)
        response = Response(answer=records)
        return self._signed(question, response, None) if question.do else response

    def _signed(self, question: Question, response: Response, cut: Response | None) -> Response:
        """Return a response signed; ``cut`` is the response about NS if a DS is denied."""
        signer = self._signer
        before = signer.hits + signer.misses
        is_cut = cut is not None and _is_cut(question, cut)
        made = Signing(question, response, self._zones, signer).signed(is_cut=is_cut)
        hit = ("dnssec_cache_hits_total", (self._block.server,))
        counters = (*made.counters, *(hit,) * (signer.hits + signer.misses - before))
        if cut is not None:
            lifetime_s = min(made.lifetime_s, cut.lifetime_s)
            made = made._replace(lifetime_s=lifetime_s, facts=(*made.facts, *cut.facts))
        return made._replace(counters=counters)

    def samples(self) -> list[Sample]:
        """Return the counts of this worker, none before the first signature."""
        server, signer = self._block.server, self._signer
        if not signer.misses:
            return []
        return [
            ("dnssec_cache_entries", (server, "signature"), len(signer)),
            ("dnssec_cache_hits_total", (server,), signer.hits),
            ("dnssec_cache_misses_total", (server,), signer.misses),
        ]


def _capacity(line: Directive) -> int:
    """Return a number of signatures; CoreDNS takes any number."""
    text = arguments.one(line)
    if not text.removeprefix("-").removeprefix("+").isdecimal() or len(text) > 18:
        raise line.error(f"wants a whole number, got {text!r}")
    return int(text)


def _is_denied_ds(question: Question, response: Response) -> bool:
    denied = (Outcome.NODATA, Outcome.NXDOMAIN)
    return question.qtype == rr.DS and outcome_of(question, response) in denied


def _of_cut(question: Question) -> Question:
    """Return the question for NS, which tells whether a name is a zone cut."""
    return question._replace(qtype=rr.NS)


def _is_cut(question: Question, response: Response) -> bool:
    """Tell whether a response has NS records of the name in the question."""
    return any(
        record.rtype == rr.NS and name.fold(record.owner) == question.folded
        for record in (*response.answer, *response.authority)
    )
