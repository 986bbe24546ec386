"""The judge of the chaos runs can tell right from wrong: without that, 30 quiet minutes say nothing."""

from __future__ import annotations

import dns.message
import dns.rcode
import dns.rrset
import pytest
from actions import KINDS
from chaos import plan
from judge import Judge, Question
from load import AGAIN, ECHO
from model import STALE_S, Model

NAME = "c0.a.svc.cluster.local."
OLD, NEW = "10.98.0.1", "10.98.0.2"
CHANGED = 1000.0


def reply(*addresses: str, rcode: int = dns.rcode.NOERROR) -> bytes:
    found = dns.message.make_response(dns.message.make_query(NAME, "A"))
    found.set_rcode(rcode)
    if addresses:
        found.answer.append(dns.rrset.from_text(NAME, 5, "IN", "A", *addresses))
    return found.to_wire()


@pytest.fixture
def judge() -> Judge:
    model = Model()
    model.put(NAME, frozenset({OLD}), 0.0)
    model.put(NAME, frozenset({NEW}), CHANGED)
    model.put("x.ext.test.", frozenset({OLD}), 0.0)
    found = Judge(
        model, [Question.make(NAME, "A", "api"), Question.make("x.ext.test.", "A", "upstream")]
    )
    found.started = 0.0
    return found


def looked(judge: Judge, after_s: float, octets: bytes, number: int = 0, flags: int = 0) -> int:
    judge.look(CHANGED + after_s, CHANGED + after_s + 0.001, number, flags, octets)
    return len(judge.violations)


def test_a_state_counts_from_its_change_and_a_little_longer(judge):
    assert 0 == looked(judge, -5, reply(OLD))
    assert 1 == looked(judge, -5, reply(NEW)), "nobody can know it yet"
    assert 1 == looked(judge, STALE_S / 2, reply(OLD))
    assert 1 == looked(judge, STALE_S / 2, reply(NEW))
    assert 2 == looked(judge, STALE_S + 0.1, reply(OLD))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        reply(),
        reply(OLD, NEW),
        reply("192.0.2.1"),
        reply(rcode=dns.rcode.NXDOMAIN),
        reply(rcode=dns.rcode.SERVFAIL),
        reply(rcode=dns.rcode.REFUSED),
        reply(NEW)[:-2],
    ],
    ids=["none", "empty", "both", "other", "nxdomain", "servfail", "refused", "cut"],
)
def test_all_else_is_wrong_or_lost(judge, octets):
    assert 1 == looked(judge, 10, octets)


def test_an_outage_lets_old_states_live_until_it_is_healed(judge):
    blind = judge._model.blind["api"]
    blind.add(CHANGED - 1, float("inf"), "api-down")
    assert 0 == looked(judge, 60, reply(OLD))
    blind.close(CHANGED - 1, CHANGED + 70, "api-down")
    blind.add(CHANGED + 65, CHANGED + 80, "api-410")
    assert 0 == looked(judge, 79, reply(OLD)), "two outages without a gap are one"
    assert 1 == looked(judge, 80 + STALE_S + 0.1, reply(OLD))


def test_names_outside_may_fail_while_upstream_servers_do(judge):
    judge.outside_windows.add(CHANGED, CHANGED + 5, "upstream-fault")
    failed = reply(rcode=dns.rcode.SERVFAIL)
    assert 0 == looked(judge, 1, failed, 1)
    assert 1 == looked(judge, 1, reply(NEW), 1), "but never be wrong"
    assert 2 == looked(judge, 6, failed, 1)


def test_what_a_fault_may_cost_is_not_counted_as_latency(judge):
    judge.slow_windows.add(CHANGED, CHANGED + 5, "kill-worker")
    looked(judge, 1, reply(NEW), flags=AGAIN)
    looked(judge, 1, reply(NEW), ECHO)
    assert (0, 0, 1) == (len(judge.latencies), len(judge.echoes), judge.again)
    looked(judge, 6, reply(NEW))
    looked(judge, 6, reply(NEW), ECHO)
    assert (1, 1, []) == (len(judge.latencies), len(judge.echoes), judge.violations)


def test_a_plan_is_made_of_its_seed_and_has_everything():
    assert plan(600, 7) == plan(600, 7) != plan(600, 8)
    made = [*plan(3600, 1), *plan(3600, 1, is_real=True)]
    assert set(KINDS) == {action.kind for action in made}
    assert all(action.at_s + action.seconds <= 600 for action in plan(600, 7))
    for kind in KINDS.values():
        assert kind.lane != "attack" or (kind.blind_s, kind.slow_s) == (None, None)
