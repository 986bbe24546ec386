"""Which plugins there are: found without importing, or searching, what nobody uses."""

from __future__ import annotations

import json
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


# kubeadm's, and what it names.
KUBEADM = """
import json, sys
import clusterdns.__main__
from clusterdns.config.compile import compile_text
from clusterdns.processes import supervisor, worker

text = \"\"\".:53 {
    errors
    health { lameduck 5s }
    ready
    kubernetes cluster.local in-addr.arpa ip6.arpa {
        endpoint http://127.0.0.1:1
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }
    prometheus :9153
    forward . 192.0.2.1 { max_concurrent 1000 }
    cache 30
    loop
    reload
    loadbalance
}\"\"\".replace("{ lameduck 5s }", "{\\nlameduck 5s\\n}").replace("{ max", "{\\nmax").replace("1000 }", "1000\\n}")
compile_text(text, "C", port=53, environ={}, warn=print)
print(json.dumps(sorted(sys.modules)))
"""


def test_a_plugin_that_is_not_named_and_its_packages_are_not_imported():
    done = subprocess.run(
        [sys.executable, "-c", KUBEADM], check=True, timeout=60, stdout=subprocess.PIPE, text=True
    )
    loaded = json.loads(done.stdout)
    plugins = {each.removeprefix("clusterdns.plugins.") for each in loaded if ".plugins." in each}
    named = "errors health ready kubernetes prometheus forward cache loop reload loadbalance"
    assert set(named.split()) == plugins
    packages = {each.partition(".")[0] for each in loaded} - sys.stdlib_module_names
    # _distutils_hack is what setuptools, if it is there, has each Python import.
    known = ("clusterdns", "__editable__", "__main__", "_distutils_hack")
    ours = {each for each in packages if each.startswith(known)}
    assert {"cachetools"} == packages - ours
    folders = {each.split(".")[1] for each in loaded if each.startswith("clusterdns.")}
    assert not folders & {"doh", "rewriting", "signing", "skydns", "templating"}


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
