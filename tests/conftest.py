"""Options of the test command."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--subject", default="", help="HOST:PORT of a server to run the cases on")
    parser.addoption(
        "--record", action="store_true", help="write the golden headers of a peer anew"
    )
