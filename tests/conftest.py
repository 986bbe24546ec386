"""Options of the test command, the peer it needs, and the lab."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peers
import pytest

SKIPPED_IN_CI = 20  # no status of pytest's: again.py tries only what has failed
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests of something that only a person can give, by an environment variable."""
    absent = [
        item
        for item in items
        if any(not os.environ.get(mark.args[0]) for mark in item.iter_markers("given"))
    ]
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
