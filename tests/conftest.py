"""Options of the test command."""

from __future__ import annotations

import peers
import pytest


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
