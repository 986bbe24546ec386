"""A minute of chaos in the real binary; `make chaos` has more. See ``chaos/chaos.py``.

How fast answers are is a matter of `make chaos`: here other tests have the machine, too.
"""

from __future__ import annotations

import pytest
from chaos import plan, run

SECONDS = 70
RATE = 200.0  # the test shares the machine


@pytest.mark.slow
@pytest.mark.parametrize("seed", [16])
def test_whatever_happens_no_answer_is_wrong_and_none_is_lost(seed):
    figures = run(SECONDS, seed, None, RATE)
    shown = "\n".join([*map(str, plan(SECONDS, seed)), *figures["violations"]])
    assert not figures["violations"], f"{shown}\nmake chaos T={SECONDS} SEED={seed}"
    assert figures["actions"] == len(plan(SECONDS, seed))
    assert figures["asked"] > SECONDS * RATE / 2
