"""Options of the test command, the peer it needs, and the lab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import peers
import pytest

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
    parser.addoption("--subject", default="", help="HOST:PORT of a server to run the cases on")
    parser.addoption(
        "--record", action="store_true", help="write the golden headers of a peer anew"
    )


def pytest_collection_finish(session: pytest.Session) -> None:
    """Get the peer before the first test: no test's time limit is meant for a build."""
    if not session.config.option.collectonly and any(
        item.get_closest_marker("peer") for item in session.items
    ):
        peers.build_coredns()
