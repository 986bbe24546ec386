"""The exposition: what is declared is shown, what is not costs nothing but itself."""

from __future__ import annotations

import pytest

from clusterdns.metrics.exposition import exposition
from clusterdns.metrics.family import Family


@pytest.mark.parametrize(
    "bad",
    [
        ("nobody_declared_total", (), 1),
        ("odd_total", ("one", "two"), 1),
        ("odd_total", ("one",), (1.0, 2.0)),
        ("panics_total", ("one",), 1),
        ("dns_request_duration_seconds", ("a", "b", "c"), (1.0,)),
    ],
)
def test_a_sample_that_is_not_as_declared_leaves_the_others(bad, caplog):
    families = {
        "mine_total": Family("Mine.", ("a",)),
        "odd_total": Family("Odd.", ("a",)),
    }
    page = exposition([("mine_total", ("x",), 3), bad], [], families).decode()
    assert 'coredns_mine_total{a="x"} 3.0\n' in page
    assert "coredns_build_info{" in page
    assert f"metric {bad[0]}: " in caplog.text
    assert page.count("two") == 0
