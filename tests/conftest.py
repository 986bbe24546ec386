"""Options of the test command, the peer it needs, and the lab."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peers
import pytest
import scoreboard

import clusterdns

SKIPPED_IN_CI = 20  # no status of pytest's: again.py tries only what has failed
# Rows whose tests wait for a quarter of an hour, and use no processor: at full size they run beside
# the others (`--dist loadgroup`), which run one by one.
IDLE = frozenset(("K2", "K3"))
FULL_TIMEOUT_S = 8000  # of a test of the scoreboard at full size: two hours and more
ZONES = Path(__file__).resolve().parent.parent / "zones"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[peers.Server]:
    """The lab of zones/, served by the real binary at ports of its own."""
    text = (ZONES / "Corefile").read_text()
    for port in ("18080", "18181", "19153"):  # a lab may be running on this machine
        text = text.replace(port, str(peers.free_port()))
    text = text.replace(". {", f". {{\n    root {ZONES}", 1)
    with peers.clusterdns(text, tmp_path_factory.mktemp("lab")) as server:
        yield server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--record", action="store_true", help="write the golden headers of a peer anew"
    )
    parser.addoption("--figures", metavar="FILE", help="keep the figures of the scoreboard's rows")
    parser.addoption("--rows", help="only tests of these rows of the scoreboard: W1,K7 or all")


def pytest_configure(config: pytest.Config) -> None:
    """Keep figures if that is wanted; with xdist, where the reports come together."""
    # A shell ignores it for what it starts in the background, and so would all that tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    file = config.getoption("--figures")
    if file and not hasattr(config, "workerinput"):
        config.pluginmanager.register(scoreboard.Recorder(Path(file)))


def rows_of(item: pytest.Item) -> list[str]:
    """Return the rows of the scoreboard that a test is of."""
    return [row for mark in item.iter_markers("row") for row in mark.args]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Record what a test of a row measured: ``figure("K7", "synced in {s:.1f} s", s=2.5)``.

    Of the numbers of a test's parameters the largest counts, or their sum (``total_...``);
    ``{runs}`` is how many there were.
    """

    def record(row: str, text: str, **numbers: float) -> None:
        assert row in rows_of(request.node), f"not marked as a test of {row}"
        print(f"{row}:", text.format(runs=1, **numbers))
        found = {"row": row, "text": text, "numbers": numbers}
        request.node.user_properties.append(("figure", found))
        request.node.user_properties.append(("load", os.getloadavg()[0]))

    return record


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of other rows, and of something that only a person can give."""
    wanted = set((config.getoption("--rows") or "").replace(",", " ").split())
    if "all" in wanted:
        wanted = set(scoreboard.TARGETS)
    absent = [
        item
        for item in items
        if any(not os.environ.get(mark.args[0]) for mark in item.iter_markers("given"))
        or (wanted and not wanted & set(rows_of(item)))
    ]
    for item in items:
        if rows := rows_of(item):
            item.user_properties.append(("rows", rows))
            if scoreboard.IS_FULL:
                item.add_marker(pytest.mark.timeout(FULL_TIMEOUT_S), append=False)
                group = "idle" if IDLE.intersection(rows) else "one by one"
                item.add_marker(pytest.mark.xdist_group(group))
    if absent:
        config.hook.pytest_deselected(items=absent)
        items[:] = [item for item in items if item not in absent]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that skips has failed: the script that runs CI installs every program."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = SKIPPED_IN_CI


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get the peer before the first test: no test's time limit is meant for a build."""
    if not session.config.option.collectonly and any(
        item.get_closest_marker("peer") for item in session.items
    ):
        peers.build_coredns()


@pytest.fixture
def installed(tmp_path) -> Path:
    """Return a copy of the package; the server finds it first, since it is where that starts."""
    copy = tmp_path / "clusterdns"
    shutil.copytree(Path(clusterdns.__file__).parent, copy, ignore=shutil.ignore_patterns("*.pyc"))
    return copy
