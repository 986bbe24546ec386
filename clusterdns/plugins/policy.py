"""policy - decide which clients may see which names.

Syntax:

    policy {
        allow|nxdomain|refuse|rewrite NAME [from WHO...] [to WHAT...] [type TYPES...]
        unsynced servfail|unknown|allow
    }

The first line that matches the client, the name and the type decides; if none does, the query is
allowed. `allow` asks the next plugins. `nxdomain` says that the name does not exist, as for one
that does not; `refuse` replies REFUSED. `rewrite` makes the name an alias of NAME, which is looked
up in its stead. A line without `from`, `to` or `type` is about all clients, names or types.

WHO, any of:

* `namespace NAMESPACES...`: Pods in these namespaces; `*` in a name stands for any letters.
* `net NETWORKS...`: addresses in these networks, whatever their namespace.
* `unknown`: clients whose namespace is not known: addresses of no Pod, Pods with `hostNetwork`,
  whose address is that of the node, and what a node or a proxy asks in the name of a Pod. So is a
  new Pod until the API server has told its address.

WHAT, any of:

* `namespace NAMESPACES...`: names of these namespaces, in all zones of `kubernetes` and
  `k8s_external`; also the namespace itself, whether it exists or not.
* `own`: names of the client's namespace.
* `zone ZONES...`: these names, and those below.

Namespaces need `kubernetes` in the same server block, whose cluster they are of. Its Pods are then
watched, and only their namespaces and addresses kept. Until they have been listed, a query that
needs the client's namespace gets SERVFAIL and the server is not ready. With `unsynced unknown` all
clients are unknown until then; with `unsynced allow` such a query is allowed.

Each name counts: those that a search path leads to, each alias in an answer, whoever has followed
it, and the names in PTR, SRV, MX, NS and NSEC records, which are left out if an address of the name
would be hidden. Whole zones (AXFR, IXFR) are refused to clients from whom a name in them is hidden;
what their records lead to does not count. The class of a question does not matter, and NOTIFY is
treated as a query; for updates, see `dynupdate`.
A server block without `policy` has no rules: where blocks have the same names, also those in PTR
records, name it in each. `check` tells which block lacks it.

Examples:

    cluster.local in-addr.arpa ip6.arpa {
        policy {
            allow from namespace kube-system monitoring
            allow to own
            allow to namespace kube-system shared-*
            refuse from namespace batch to zone db.shop.svc.cluster.local type A AAAA
            rewrite pay.test.svc.cluster.local from namespace test to zone pay.a.svc.cluster.local
            nxdomain from namespace team-* test to namespace *
            nxdomain from unknown to namespace shop type SRV
        }
        kubernetes {
            manifests cluster
        }
    }

This needs the verbs `list` and `watch` for `pods`, which the ClusterRole of CoreDNS has.

Metrics: `clusterdns_policy_queries_total{server, rule, action}` counts the names that a line has
decided about, by FILE:LINE.

Speed: replies from the table stay on the fast path, also in C. Clients for whom the same lines
count share a table; there are up to 64 such tables besides the one of clients without any line, and
`own` makes a class of each namespace. Clients of further classes take the chain. Names outside are
relayed in C only if no line but `allow` is about names outside of the cluster, and a reply that has
a name of the cluster is left to the chain. With one line and a client that it means, hits took 1.07
times what they take without `policy`, and first questions 1.2 times. 1,000 Pods took 2.5 MiB in all
processes, with one worker and Pods in manifests.

Limits: this is not in CoreDNS. It hides names, and does not protect what they lead to: use
NetworkPolicies for that. The plugin `rewrite` comes before: the names that count are those that it
makes. While the API server cannot be reached, the last known Pods count, also those of a
`snapshot`. Where clients can forge addresses, or share one (SNAT, NodeLocal DNSCache), their
namespace is not theirs. `rewrite` and `nxdomain` of signed names have no signatures. `nxdomain` of
a name outside of the cluster has an SOA record of its own, by which it differs from that of a name
that does not exist. Labels of Pods, and rules that forward, are not supported: a server block with
`view` can forward.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Generator, Hashable, Iterable, Mapping, Sequence
from typing import ClassVar, Final

from clusterdns.addressing.networks import Networks
from clusterdns.authority.answering import longest
from clusterdns.chain.asking import Steps, answer_by, from_memory, handle_by, waiting
from clusterdns.chain.block import Block
from clusterdns.chain.classes import Asker
from clusterdns.chain.plugin import DROP, AnswerNext, HandleNext, Plugin, Worker
from clusterdns.chain.route import Route
from clusterdns.cluster.clients import Clients
from clusterdns.cluster.inside import Inside
from clusterdns.cluster.published import CLIENTS
from clusterdns.cluster.respond import UNLISTED
from clusterdns.cluster.settings import START_TIMEOUT_S
from clusterdns.cluster.source import Source
from clusterdns.cluster.store import Store
from clusterdns.corefile import arguments
from clusterdns.corefile.parser import Directive
from clusterdns.errors import FormError
from clusterdns.host.logs import plugin_logger
from clusterdns.metrics.family import Family
from clusterdns.metrics.tally import Sample
from clusterdns.ruling import visible
from clusterdns.ruling.rules import (
    ALLOW,
    NXDOMAIN,
    REFUSE,
    REWRITE,
    SERVFAIL,
    Patterns,
    Rule,
    Rules,
    Target,
    Verdict,
    Whom,
)
from clusterdns.wire import name, rr, trace
from clusterdns.wire.message import Query, Question
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Response
from clusterdns.wire.rr import RR

QUERIES = "clusterdns_policy_queries_total"
TTL_S: Final = 30  # of denials of names outside, and of aliases: changed rules count soon
_ACTIONS = (ALLOW, NXDOMAIN, REFUSE, REWRITE)
_SECTIONS = ("from", "to", "type")
_UNSYNCED_ACTIONS = (SERVFAIL, "unknown", ALLOW)
_ADDRESSES = (rr.A, rr.AAAA)
_TRANSFERS = frozenset((rr.AXFR, rr.IXFR))
# A label (RFC 1123), in which `*` stands for any letters.
_NAMESPACE: Final = re.compile(r"(?!-)[a-z0-9*-]{1,63}(?<!-)")
# No namespace and no address has this label: names in it or below do not exist.
_IMPOSSIBLE = b"\x01-"
_NOBODY = b"\x06nobody\x07invalid\0"  # the mailbox of an empty zone, as RFC 6303 section 3
_REFUSED: Final = Response(rr.REFUSED, flags=0)
_log = plugin_logger("policy")


class Policy(Plugin):
    """The rules of a server block."""

    families: ClassVar = {
        QUERIES: Family(
            "Counter of names that a rule has decided about.", ("server", "rule", "action")
        ),
    }
    after = "acl"

    def __init__(self, directive: Directive, block: Block) -> None:
        self._block = block
        self._inside = inside = block.shared(Inside)
        self._early = SERVFAIL
        rules, whoms = list[Rule](), dict[str, Whom]()
        for line in directive.block:
            if line.name == "unsynced":
                self._early = arguments.word(line, *_UNSYNCED_ACTIONS)
            else:
                rules.append(_rule(line, whoms))
        if directive.args:
            raise directive.error(f"takes no argument, got {directive.args[0]!r}")
        if not rules:
            raise directive.error("has no rule")
        self._rules = Rules(rules, inside.namespace_of)
        has_homes = any(rule.target and rule.target.has_namespaces for rule in rules)
        if (self._rules.needs_namespaces or has_homes) and inside.source is None:
            raise directive.error(
                "rules by namespace need the kubernetes plugin in the same server block"
            )
        self._source = inside.source if self._rules.needs_namespaces else None
        if self._source is not None:
            inside.published.add(CLIENTS)
        self._clients = Clients(self._note_listed)
        self._is_listed = self._source is None
        self._filled = asyncio.Event()
        self._store: Store | None = None
        self._worker: Worker | None = None
        self._counts: Counter[tuple[str, ...]] = Counter()
        if self._rules.whoms or self._rules.has_own:
            self.classes = self

    # ---- clients

    def sources(self) -> Mapping[Source, Sequence[WireName]]:
        """Return the source of the Pods, which is that of `kubernetes`."""
        return {} if self._source is None else {self._source(): ()}

    async def start(self, worker: Worker) -> None:
        """Follow the Pods, and wait for the first list, but not for long."""
        self._worker = worker
        if self._source is None:
            return
        store = await worker.store(self._source(), START_TIMEOUT_S)
        store.follow(self._clients, int(time.time()))
        self._store = store
        self._note_listed()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._filled.wait(), START_TIMEOUT_S)
        if not self._is_listed and worker.number == 0:
            _log.warning("the Pods have not been listed yet: clients have no namespace")

    def _note_listed(self) -> None:
        """Let namespaces count from the first list of Pods on."""
        store, kinds = self._store, self._clients.kinds
        if store is None:
            return
        if store.has_settled(kinds):
            self._filled.set()
        if store.has_all(kinds) and not self._is_listed:
            self._is_listed = True
            if self._worker is not None:
                self._worker.forget_all()

    @property
    def is_ready(self) -> bool:
        """Whether the namespaces of clients are known."""
        return self._is_listed

    def holding(self, host: str) -> Iterable[Hashable]:
        """Return the conditions that hold for a client: see ``Classes``."""
        namespace = self._clients.namespace_of(host) if self._is_listed else None
        if self._is_listed or self._early == "unknown":
            yield from (each for each in self._rules.whoms if each.holds(host, namespace))
            if namespace is not None and self._rules.has_own:
                yield self._rules.own(namespace)
            return
        yield self._rules.early
        yield from (each for each in self._rules.whoms if each.has_network(host))

    # ---- questions

    def answer(self, question: Question, next: AnswerNext) -> Response | None:
        """Return the response for the class of the client, None if memory cannot know it."""
        verdict = self._judge(question, question.asker)
        if verdict is None:
            return None
        if verdict.rule is not None and verdict.rule.action == REWRITE:
            steps = self._rewrite(question, verdict.rule)
            found = answer_by(steps, question, self._block.resolver, next)
            return None if found is None else self._decided(verdict, found)
        if verdict.hides:
            hidden = from_memory(self._hidden(question, verdict), next)
            return None if hidden is None else hidden[0]
        response = next(question)
        if response is None or not visible.tells_names(response, question.qname):
            return None if response is None else self._allowed(verdict, question, response)
        done = from_memory(self._visible(question, verdict, question.asker, response), next)
        return None if done is None else done[0]

    async def handle(self, query: Query, next: HandleNext) -> Response:
        """Return the response for the client."""
        question = query.question
        # Of other classes and opcodes some plugins answer, too. An update has rules of its own.
        if question is None or query.changes is not None:
            return await next(query)
        asker = question.asker
        if asker is None:  # a plugin has made the question
            asker = frozenset(self.holding(name.canonical_address(query.client[0]) or ""))
        verdict = self._judge(question, asker)
        assert verdict is not None  # the client is known
        if verdict.rule is not None and verdict.rule.action == REWRITE:
            steps = self._rewrite(question, verdict.rule)
            return self._decided(verdict, await handle_by(steps, query, self._block.resolver, next))

        async def ask(asked: Question) -> Response:
            return await next(query.asking(asked))

        if verdict.hides:
            return await waiting(self._hidden(question, verdict), ask)
        response = await next(query)
        found = await waiting(self._visible(question, verdict, asker, response), ask)
        assert found is not None  # the client is known
        return found

    def _judge(self, question: Question, asker: Asker | None) -> Verdict | None:
        """Return the verdict on a question, None if it depends on a client who is not known."""
        if question.qtype in _TRANSFERS:
            verdict = self._rules.judge_transfer(question.folded, self._inside.zones, asker)
        else:
            verdict = self._rules.judge(question.folded, question.qtype, asker)
        return self._tempered(verdict)

    def _tempered(self, verdict: Verdict | None) -> Verdict | None:
        """Return a verdict, with `unsynced allow` instead of SERVFAIL."""
        is_early = verdict is not None and verdict.rule and verdict.rule.action == SERVFAIL
        if verdict is not None and is_early and self._early == ALLOW:
            return Verdict(None, verdict.depends)
        return verdict

    def _hidden(
        self, question: Question, verdict: Verdict
    ) -> Generator[Question, Response, Response]:
        """Return the response about a name that the client may not see."""
        assert verdict.rule is not None
        self._note(verdict, question)
        return self._decided(verdict, (yield from self._deny(question, verdict.rule)))

    def _allowed(self, verdict: Verdict, question: Question, response: Response) -> Response:
        """Return the response about a name that the client may see."""
        if verdict.rule is not None:
            self._note(verdict, question)
        return self._decided(verdict, response)

    def _visible(
        self, question: Question, verdict: Verdict, asker: Asker | None, response: Response
    ) -> Generator[Question, Response, Response | None]:
        """Return a response of the next plugins without what the client may not see.

        None if that depends on a client who is not known.
        """
        if response is DROP or question.qtype in _TRANSFERS:
            return response
        for target in visible.aliases(response):
            of_target = self._tempered(self._rules.judge(target, question.qtype, asker))
            if of_target is None:
                return None
            verdict = verdict._replace(depends=verdict.depends or of_target.depends)
            rule = of_target.rule
            if rule is not None and of_target.hides and not _has_alias(response, target, rule):
                self._note(of_target, question._replace(folded=target))
                denial = yield from self._deny(question, rule)
                return self._decided(of_target._replace(depends=verdict.depends), denial)
        return (yield from self._shown(question, verdict, asker, response))

    def _shown(
        self, question: Question, verdict: Verdict, asker: Asker | None, response: Response
    ) -> Generator[Question, Response, Response | None]:
        """Return a response without the records that tell of hidden names."""
        judged = dict[WireName, list[Verdict | None]]()

        def denial_of(folded: WireName) -> Rule | None:
            """Return the rule that hides the addresses of a name, or some of them."""
            if folded not in judged:
                found = (self._rules.judge(folded, each, asker) for each in _ADDRESSES)
                judged[folded] = [self._tempered(each) for each in found]
            rules = (each.rule for each in judged[folded] if each is not None)
            return next((rule for rule in rules if _is_denial(rule)), None)

        shown = visible.without(
            response, question.folded, lambda folded: denial_of(folded) is not None
        )
        if any(None in each for each in judged.values()):
            return None
        if any(one is not None and one.depends for each in judged.values() for one in each):
            verdict = verdict._replace(depends=True)
        if shown is not response:
            if (taker := trace.scribe()) is not None:
                hidden = {folded: rule for folded in judged if (rule := denial_of(folded))}
                taker.blame(f"records of {trace.names_text(hidden)} are hidden from the client",
                            place=next(iter(hidden.values())).place)  # fmt: skip
            if not shown.answer and response.answer and question.qtype == rr.PTR:
                shown = yield from self._deny_name(question)
        return self._allowed(verdict, question, shown)

    def _rewrite(self, question: Question, rule: Rule) -> Steps:
        """Ask for the name that a rule leads to; return its response behind an alias."""
        self._note(Verdict(rule, depends=False), question)
        found = yield question._replace(qname=rule.name, folded=name.fold(rule.name))
        alias = RR(question.qname, rr.CNAME, TTL_S, rule.name)
        if found is DROP or found.bare:
            return found
        return found._replace(
            answer=(alias, *found.answer), orders=(), follows_case=False, denies=b"", node=None
        )

    def _deny(self, question: Question, rule: Rule) -> Generator[Question, Response, Response]:
        """Return the response of a rule that hides a name."""
        if rule.action == SERVFAIL:
            return UNLISTED
        if rule.action == REFUSE:
            return _REFUSED
        return (yield from self._deny_name(question))

    def _deny_name(self, question: Question) -> Generator[Question, Response, Response]:
        """Return the denial that a name would get if it did not exist.

        A name of the cluster gets the one of a name beside it that cannot exist, so that it tells
        nothing.
        """
        zone = longest(question.folded, self._inside.zones)
        if zone is not None:
            asked = _beside(question, self._inside.home_of(question.folded))
            found = None if asked is None else (yield asked)
            # A failure, too: of names in no zone of ours it is what the next server says.
            if found is not None and found is not DROP and not found.answer:
                return found._replace(denies=b"", node=None, spared=b"")
        apex = zone or question.folded
        return Response(
            rr.NXDOMAIN, authority=(RR(apex, rr.SOA, TTL_S, rr.soa_rdata(apex, _NOBODY, 1, TTL_S)),)
        )

    def _decided(self, verdict: Verdict, response: Response) -> Response:
        """Return a response that a verdict has led to: counted, and personal if it depends."""
        if response is DROP:
            return response
        rule = verdict.rule
        if rule is not None:
            labels = (self._block.server, rule.place, rule.action)
            self._counts[labels] += 1
            response = response.counted(((QUERIES, labels),))
        return response._replace(personal=True) if verdict.depends else response

    def _note(self, verdict: Verdict, question: Question) -> None:
        """Note for `explain` which rule has decided."""
        rule, taker = verdict.rule, trace.scribe()
        if rule is None or taker is None:
            return
        note = taker.blame if rule.hides else taker.note
        whom = f" {rule.whom.text}" if rule.whom is not None else ""
        early = ", and the Pods have not been listed yet" if rule.action == SERVFAIL else ""
        what = f"`{rule.action}{whom}` decides about {name.text(question.folded)}{early}"
        note(what, place=rule.place)

    def reason(self, question: Question, response: Response, *, is_own: bool) -> str:
        """Return that no rule is about the query, for `explain`."""
        return "" if is_own else "no rule matches, so the query is allowed"

    # ---- what it does to others

    def treats_alike(self, cut: WireName) -> bool:
        """Tell whether each rule is about all names below ``cut``, or about none."""
        targets = [rule.target for rule in self._rules.rules if rule.target is not None]
        if any(name.is_below(zone, cut) for target in targets for zone in target.zones):
            return False
        if not any(target.has_namespaces for target in targets):
            return True
        return not any(name.is_within(home, cut) for home in self._inside.homes)

    def relay(self, route: Route) -> bool:
        """Leave the names of rules to the chain, and replies that tell of one.

        If a rule is about names outside, all take the chain: those may be on the way from any.
        """
        claimed = list[WireName]()
        for rule in self._rules.rules:
            if not rule.hides:
                continue
            zones = () if rule.target is None else rule.target.zones
            is_inside = all(name.is_within_any(zone, self._inside.zones) for zone in zones)
            if rule.target is None or not is_inside:
                return route.refuse(
                    f"the rule of {rule.place} is about names outside of the cluster, which may be "
                    "on the way from any name, so none takes the relay in C"
                )
            claimed += zones
            if rule.target.has_namespaces:
                route.guard(self._inside.homes)
        route.guard(claimed)
        return route.claim(tuple(claimed))

    def remarks(self) -> list[tuple[str, str]]:
        """Return the rules that can never decide."""
        return [
            (rule.place, f"never decides: all that it means is decided by {before.place}")
            for rule, before in self._rules.unreached()
        ]

    def samples(self) -> list[Sample]:
        """Return how many names each rule has decided about."""
        return [(QUERIES, labels, count) for labels, count in self._counts.items()]


def _is_denial(rule: Rule | None) -> bool:
    """Tell whether a rule denies a name: one that leads elsewhere does not hide it."""
    return rule is not None and rule.action not in (ALLOW, REWRITE)


def _has_alias(response: Response, owner: WireName, rule: Rule) -> bool:
    """Tell whether the alias of a rule that rewrites is in a response already."""
    return rule.action == REWRITE and any(
        record.rtype == rr.CNAME
        and name.fold(record.owner) == owner
        and name.fold(record.rdata) == name.fold(rule.name)
        for record in response.answer
    )


def _beside(question: Question, home: WireName | None) -> Question | None:
    """Return the question about a name that cannot exist, None if it would be too long."""
    qname = question.qname if home is None else question.qname[-len(home) :]
    qname = _IMPOSSIBLE + qname
    if len(qname) > name.MAX_NAME_OCTETS:
        return None
    return question._replace(qname=qname, folded=name.fold(qname), do=False)


# ---- the Corefile


def _rule(line: Directive, whoms: dict[str, Whom]) -> Rule:
    """Return the rule of a line; equal clients of several rules are one. Raises ConfigError."""
    if line.name == "forward":
        raise line.error("is not supported: a server block with `view` can forward")
    if line.name not in _ACTIONS:
        raise line.unknown(*_ACTIONS, "unsynced")
    words = list(line.args)
    target = b""
    if line.name == REWRITE:
        if not words or words[0] in _SECTIONS:
            raise line.error("wants the name that it leads to")
        target = _name(words.pop(0), line)
    sections = _sections(words, line, _SECTIONS)
    whom, what = None, None
    if "from" in sections:
        text = " ".join(("from", *sections["from"]))
        whom = whoms.setdefault(text, _whom(sections["from"], line, text))
    if "to" in sections:
        what = _target(sections["to"], line)
    types = frozenset(_type(word, line) for word in sections.get("type", ()))
    return Rule(line.name, whom, what, types or None, f"{line.file}:{line.line}", target)


def _sections(words: Iterable[str], line: Directive, names: Sequence[str]) -> dict[str, list[str]]:
    """Return words by the section word in front of them."""
    found, now = dict[str, list[str]](), ""
    for word in words:
        if word in names:
            if word in found:
                raise line.error(f"{word!r} stands there twice", word)
            now = word
            found[now] = []
        elif not now:
            raise line.error(f"wants one of {', '.join(names)}, got {word!r}", word)
        else:
            found[now].append(word)
    for section, some in found.items():
        if not some and section not in ("unknown", "own"):
            raise line.error(f"nothing behind {section!r}", section)
    return found


def _whom(words: list[str], line: Directive, text: str) -> Whom:
    """Return the clients of a rule."""
    if words[0] in ("label", "labels"):
        raise line.error("labels of Pods are not supported: name namespaces or networks", words[0])
    found = _sections(words, line, ("namespace", "net", "unknown"))
    networks = Networks()
    for word in found.get("net", ()):
        networks.add(arguments.network(word, line))
    if found.get("unknown"):
        raise line.error(f"got {found['unknown'][0]!r} behind 'unknown'", found["unknown"][0])
    namespaces = _patterns(found["namespace"], line) if "namespace" in found else None
    return Whom(namespaces, networks, is_unknown="unknown" in found, text=text)


def _target(words: list[str], line: Directive) -> Target:
    """Return the names of a rule."""
    found = _sections(words, line, ("namespace", "own", "zone"))
    if found.get("own"):
        raise line.error(f"got {found['own'][0]!r} behind 'own'", found["own"][0])
    namespaces = _patterns(found["namespace"], line) if "namespace" in found else None
    zones = arguments.zone_names(found.get("zone", []), line)
    return Target(namespaces, "own" in found, zones)


def _patterns(words: list[str], line: Directive) -> Patterns:
    """Return namespaces: a word that no namespace can match would leave a rule without effect."""
    for word in words:
        if not _NAMESPACE.fullmatch(word):
            raise line.error(f"{word!r} is no name of a namespace", word)
    return Patterns(words)


def _type(word: str, line: Directive) -> int:
    if word.upper() not in rr.TYPES:
        raise line.error(f"{word!r} is no type of records", word)
    return rr.TYPES[word.upper()]


def _name(text: str, line: Directive) -> bytes:
    try:
        return name.parse(text)
    except FormError as error:
        raise line.error(f"{text!r} is no name: {error.reason}", text) from error
