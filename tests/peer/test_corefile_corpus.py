"""Corefiles as people write them, typical and mistaken: both servers take them, or both refuse.

A third word in a row says who takes it alone, and why: `ours` for what CoreDNS refuses, `theirs`
for what it takes.
"""

from __future__ import annotations

import beside
import peers
import pytest

pytestmark = pytest.mark.peer

TAKEN, REFUSED, OURS, THEIRS = "both", "neither", "ours", "theirs"
# directives of one server block, and who takes it
ROWS = (
    # twice in a block
    ("any\nany\nwhoami", TAKEN),
    ("bufsize 1232\nbufsize 512\nwhoami", TAKEN),
    ("cache 30\ncache 20\nwhoami", REFUSED),
    ("cancel\ncancel 1s\nwhoami", TAKEN),
    ("chaos v1\nchaos v2\nwhoami", TAKEN),
    ("debug\ndebug\nwhoami", TAKEN),
    ("dns64\ndns64 64:ff9b::/96\nwhoami", TAKEN),
    ("erratic\nerratic {\n drop 3\n}", TAKEN),
    ("errors\nerrors\nwhoami", REFUSED),
    ("forward . 192.0.2.1\nforward a.example 192.0.2.2", TAKEN),
    ("header {\n response set ra\n}\nheader {\n response clear aa\n}\nwhoami", TAKEN),
    ("health {P1}\nhealth {\n lameduck 0s\n}\nwhoami", TAKEN),
    ("hosts {\n 192.0.2.1 a\n}\nhosts {\n 192.0.2.2 b\n}", REFUSED),
    ("loadbalance\nloadbalance round_robin\nwhoami", TAKEN),
    ("local\nlocal\nwhoami", TAKEN),
    ("log\nlog example.org\nwhoami", TAKEN),
    ("loop\nloop\nwhoami", REFUSED),
    ("metadata\nmetadata\nwhoami", REFUSED),
    ("minimal\nminimal\nwhoami", TAKEN),
    ("multisocket 1\nmultisocket 1\nwhoami", REFUSED),
    ("nsid a\nnsid b\nwhoami", REFUSED),
    ("prometheus {P1}\nprometheus {P2}\nwhoami", REFUSED),
    ("ready {P1}\nready {P2}\nwhoami", REFUSED),
    ("reload\nreload 10s\nwhoami", TAKEN),
    ("rewrite name a b\nrewrite name c d\nwhoami", TAKEN),
    ("root /\nroot /tmp\nwhoami", TAKEN),
    ("siit {\n ipv6_prefix 64:ff9b::/96\n}\nsiit {\n ipv6_prefix 64:ff9b::/96\n}\nwhoami", TAKEN),
    ("timeouts {\n read 5s\n}\ntimeouts {\n idle 6s\n}\nwhoami", TAKEN),
    ("whoami\nwhoami", TAKEN),
    # blocks that say nothing, or on one line
    ("bufsize 1232 {\n some thing\n}\nwhoami", TAKEN),
    ("reload {\n some thing\n}\nwhoami", TAKEN),
    ("cache { }\nwhoami", TAKEN),
    ("errors {\n}\nwhoami", TAKEN),
    ("health {P1} { lameduck 0s }\nwhoami", OURS),  # the brace is no argument; `check` warns
    ("kubernetes {\n pods insecur\n}\nwhoami", REFUSED),
    ("whoami {\n}", OURS),  # an empty block says nothing
    # addresses
    ("health 8080\nwhoami", REFUSED),
    ("ready ::1:8181\nwhoami", REFUSED),
    ("prometheus 127.0.0.1:8o80\nwhoami", THEIRS),  # it serves without metrics
    # words
    ("forwad . 192.0.2.1", REFUSED),
    ("forward . 192.0.2.1 {\n max_concurent 10\n}", REFUSED),
    ("forward .", REFUSED),
    ("forward . no-such-file", REFUSED),
    ("cache 30s\nforward . 192.0.2.1", TAKEN),  # a zone
    ("cache 0\nforward . 192.0.2.1", REFUSED),
    ("cache {\n success 5000 {\n denial 9\n }\n}\nwhoami", REFUSED),
    ("log . {\n class nonsense\n}\nwhoami", REFUSED),
    ("loadbalance random\nwhoami", REFUSED),
    ("template IN A {\n rcode NONSENSE\n}", REFUSED),
    ("rewrite name regex ( b\nwhoami", REFUSED),
    ("import no-such-file\nwhoami", REFUSED),
    ("import no-such-*\nwhoami", TAKEN),
    ("proxy . 192.0.2.1", REFUSED),
)  # fmt: skip


@pytest.mark.parametrize(("directives", "who"), ROWS)
def test_who_takes_it(directives, who, tmp_path):
    for place in ("{P1}", "{P2}"):
        directives = directives.replace(place, f"127.0.0.1:{peers.free_port()}")
    ours, theirs = beside.start(f". {{\n{directives}\n}}\n", tmp_path)
    taken = {
        (True, True): TAKEN,
        (True, False): OURS,
        (False, True): THEIRS,
        (False, False): REFUSED,
    }
    assert who == taken[not ours, not theirs], f"clusterdns: {ours}\nCoreDNS: {theirs}"
