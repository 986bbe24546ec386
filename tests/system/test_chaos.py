"""A minute of chaos in the real binary; `make chaos` has more. See ``chaos/chaos.py``.

How fast answers are is a matter of `make chaos`: here other tests have the machine, too.
"""

from __future__ import annotations

import controlplane
import pytest
from actions import KINDS
from chaos import plan, run

SECONDS = 62
RATE = 200.0  # the test shares the machine


@pytest.mark.slow
@pytest.mark.parametrize("seed", [16])
def test_whatever_happens_no_answer_is_wrong_and_none_is_lost(seed):
    figures = run(SECONDS, seed, None, RATE)
    shown = "\n".join([*map(str, plan(SECONDS, seed)), *figures["violations"]])
    assert not figures["violations"], f"{shown}\nmake chaos T={SECONDS} SEED={seed}"
    assert figures["actions"] == len(plan(SECONDS, seed))
    assert figures["asked"] > SECONDS * RATE / 2


@pytest.mark.slow
def test_with_a_real_api_server():
    controlplane.binaries()  # or skip
    seconds, seed = 45, 16
    figures = run(seconds, seed, None, RATE, is_real=True)
    whole = plan(seconds, seed, is_real=True)
    shown = "\n".join([*map(str, whole), *figures["violations"]])
    assert not figures["violations"], f"{shown}\nAPI=real make chaos T={seconds} SEED={seed}"
    assert figures["actions"] == len(whole)
    assert {"control-plane"} <= {KINDS[action.kind].lane for action in whole}


def test_a_plan_is_the_same_for_the_same_seed_and_has_every_kind():
    whole = plan(1800, 7)
    assert whole == plan(1800, 7)
    assert whole != plan(1800, 8)
    kinds = {action.kind for action in [*whole, *plan(1800, 7, is_real=True)]}
    assert set(KINDS) == kinds
    assert all(kind.recovers_s <= max(kind.costs.values()) for kind in KINDS.values())
