"""Which plugins there are: found without importing, or searching, what nobody uses."""

from __future__ import annotations

import subprocess
import sys

from clusterdns.chain import registry

USES_OUR_PLUGINS = """
import sys
from clusterdns.config.compile import compile_text

made = compile_text(". {\\n whoami\\n errors\\n}", "C", port=53, environ={}, warn=print)
assert ["errors", "whoami"] == [plugin.name for plugin in made.plugins]
assert "importlib.metadata" not in sys.modules
assert "clusterdns.plugins.forward" not in sys.modules
"""


def test_a_corefile_of_our_plugins_costs_no_search_of_installed_packages():
    subprocess.run([sys.executable, "-c", USES_OUR_PLUGINS], check=True, timeout=60)


def test_who_says_that_metrics_are_always_shown_is_found_without_an_import():
    declared = {word for word in registry.available() if registry.load(word).always_shown}
    assert {"forward", "health", "hosts", "local", "reload"} == declared
    expected = {
        family
        for word in declared
        for family, each in registry.load(word).families.items()
        if not each.labels
    }
    assert expected == registry.always_shown().keys()
