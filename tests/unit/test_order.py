"""Plugins in any order: made in whichever order, a Corefile comes to the same."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from clusterdns.authority.transfers import Transfers
from clusterdns.chain.plugin import Plugin
from clusterdns.chain.view import View
from clusterdns.config import compile
from clusterdns.corefile.files import DiskFiles
from clusterdns.corefile.parser import ServerBlock, parse
from clusterdns.forwarding.outside import Outside
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question

COREFILES = Path(__file__).resolve().parents[1] / "peer" / "corefiles"
SHUFFLES = 5
BLOCKS = {
    "paths": "example.org {\n root {tmp}\n file db\n transfer {\n to *\n }\n auto {\n"
    " directory zones\n }\n hosts names\n}",
    "addresses": ". {\n bind 127.0.0.1\n forward . 127.0.0.1\n dns64\n debug\n multisocket 3\n}",
    "cluster": "cluster.local {\n transfer {\n to *\n }\n file {tmp}/db\n autopath @kubernetes\n"
    " search\n k8s_external ext.example\n private\n families ipv4\n kubernetes {\n"
    " endpoint http://127.0.0.1:9\n }\n erratic\n}",
    "views": "example.org {\n view one {\n expr true\n }\n acl {\n allow net 127.0.0.0/8\n }\n"
    " timeouts {\n read 3s\n }\n cache\n template ANY ANY {\n rcode NXDOMAIN\n }\n}",
}
NAMES = ("example.org", "www.example.org", "w.cluster.local", "1.0.0.127.in-addr.arpa", "a.b.test")


def blocks_of(text: str, tmp_path: Path) -> list[ServerBlock]:
    (tmp_path / "zones").mkdir(exist_ok=True)
    (tmp_path / "db").write_text("@ 60 SOA ns hostmaster 1 2 3 4 5\n@ NS ns\nwww A 192.0.2.9\n")
    (tmp_path / "names").write_text("192.0.2.8 a.example.org\n")
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    text = text.replace("{tmp}", str(tmp_path)).replace("/etc/coredns/NodeHosts", "/dev/null")
    text = text.replace("/etc/resolv.conf", str(tmp_path / "resolv.conf"))
    text = text.replace("CLUSTER_DNS", "127.0.0.1")
    text = re.sub(r"(kubernetes .*\{)$", r"\1\nendpoint http://127.0.0.1:9", text, flags=re.M)
    return parse(text, "Corefile", environ={}, files=DiskFiles(), warn=lambda _: None)


def come_to(blocks: list[ServerBlock], classes: Sequence[type[Plugin]]) -> list[object]:
    """Return what the blocks come to: their settings, their chains, what they say and transfer."""
    random.seed(1)  # `reload` and `loop` draw numbers
    views = compile._views(blocks, 53, classes)
    compile._routers(views)
    return [part for view in views for part in (settings(view), *said(view))]


def settings(view: View) -> object:
    shaped = {k: v for k, v in vars(view.block).items() if isinstance(v, (str, int, list, tuple))}
    return shaped, str(view.block.root), [(each.name, each.order) for each in view.plugins]


def said(view: View) -> list[object]:
    found: list[object] = [sorted(view.block.shared(Outside).upstreams)]
    for text in NAMES:
        qname = name.parse(text)
        for qtype in (rr.A, rr.SOA, rr.PTR):
            found.append(view.answer(Question(qname, name.fold(qname), qtype)))
    for zone in view.block.zones:
        try:
            records = view.block.shared(Transfers).records(zone)
        except LookupError as error:
            found.append(str(error))
        else:
            found.append(None if records is None else [*records])
    return found


@pytest.mark.parametrize(
    "key", [*BLOCKS, *sorted(each.stem for each in COREFILES.glob("*.corefile"))]
)
def test_the_order_in_which_plugins_are_made_does_not_matter(key, tmp_path):
    text = BLOCKS.get(key) or (COREFILES / f"{key}.corefile").read_text()
    blocks = blocks_of(text, tmp_path)
    classes = compile._classes(blocks)
    usual = come_to(blocks, classes)
    assert come_to(blocks, classes[::-1]) == usual
    for seed in range(SHUFFLES):
        assert come_to(blocks, random.Random(seed).sample(classes, len(classes))) == usual


def test_plugins_may_stand_beside_plugins_that_are_not_of_coredns(tmp_path):
    (view,) = compile._views(
        blocks := blocks_of(BLOCKS["cluster"], tmp_path), 53, compile._classes(blocks)
    )
    words = [each.name for each in view.plugins]
    assert words.index("autopath") + 1 == words.index("search")
    assert words.index("private") + 1 == words.index("families")
    assert words.index("k8s_external") < words.index("private") < words.index("erratic")
