"""`-log-format json`, line by line beside CoreDNS: the same keys in the same order, the same values."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import beside
import peers
import pytest

COREFILE = """.:{PORT} {
    errors
    log . "{name} {rcode}"
    chaos
    whoami
}
drop.test:{PORT} {
    errors
    log
    forward . 127.0.0.1:1 {
        max_fails 0
        read_timeout 100ms
    }
}
"""
QUERIES = [
    beside.query("a.test."),
    beside.query("A.Test.", "TXT", do=True),
    beside.query("b\\.c.test.", "AAAA", edns=1400),
    beside.query("x.drop.test."),
]
OWN = {"time", "client_port", "id", "duration_seconds"}


def lines(server: peers.Server) -> list[dict[str, object]]:
    """Return the objects of a log, in the order of its lines."""
    return [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]


@pytest.mark.peer
def test_queries_and_errors_are_logged_as_coredns_does(tmp_path):
    said = []
    for run in (peers.coredns, peers.clusterdns):
        with run(COREFILE, tmp_path, "-log-format", "json") as server:
            for packet in QUERIES:
                assert peers.ask_udp(server.address, packet) is not None
                assert peers.ask_tcp(server.address, packet) is not None
            time.sleep(0.1)
            said.append(lines(server))
    queries = [  # a line may be written behind the next query's
        sorted(
            (each for each in found if "qname" in each and "probe" not in str(each["qname"])),
            key=lambda each: (each["qname"], each["qtype"], each["protocol"]),
        )
        for found in said
    ]
    assert [2 * len(QUERIES)] * 2 == [len(found) for found in queries]
    for theirs, ours in zip(*queries, strict=True):
        assert list(theirs) == list(ours)
        kept = [{k: v for k, v in each.items() if k not in OWN} for each in (theirs, ours)]
        if theirs["qname"] != "x.drop.test.":
            assert kept[0] == kept[1]
        assert [type(value) for value in theirs.values()] == [
            type(value) for value in ours.values()
        ]
    errors = [[each for each in found if each.get("plugin") == "errors"] for found in said]
    assert errors[0]
    assert errors[1]
    assert list(errors[0][0]) == list(errors[1][0])
    assert "ERROR" == errors[1][0]["level"] == errors[0][0]["level"]


ODD = """acl.test:{PORT} {
    log
    acl {
        drop
    }
    erratic
}
drop.test:{PORT} {
    log
    erratic {
        drop 1
    }
}
odd.test:{PORT} {
    log
    template IN A {
        rcode BADSIG
    }
    template IN TXT {
        rcode BADKEY
    }
    template IN MX {
        rcode NXDOMAIN
    }
    template CH ANY {
        answer "{{ .Name }} 5 CH TXT x"
    }
}
.:{PORT} {
    erratic {
        drop 0
    }
}
"""


def odd_queries():
    """Yield queries that get no reply, one of the core, or that have odd words in them."""
    for qname in ("x.acl.test.", "x.drop.test."):
        yield from (beside.query(qname, qtype) for qtype in ("A", "TXT"))
    for qtype in ("A", "TXT", "MX", "AAAA", "TYPE65280", "ANY", "HTTPS"):
        yield beside.query("odd.test.", qtype)
        yield beside.query('\\000\\".<&>.Odd.test.', qtype, edns=100, do=True)
    yield beside.query("c.odd.test.", "TXT", qclass="CH")
    yield beside.query("c.odd.test.", "TXT", qclass="CLASS9")
    notify = bytearray(beside.query("n.odd.test.", "SOA"))
    notify[2] |= 4 << 3
    yield bytes(notify)


@pytest.mark.peer
def test_what_gets_no_reply_and_what_is_odd_is_logged_as_coredns_does(tmp_path):
    said = []
    for run in (peers.coredns, peers.clusterdns):
        with run(ODD, tmp_path, "-log-format", "json") as server:
            for packet in odd_queries():
                for ask in (peers.ask_udp, peers.ask_tcp):
                    ask(server.address, packet, 0.15)
            time.sleep(0.2)
            found = [each for each in lines(server) if "qname" in each]
        said.append(
            sorted(
                [(k, v) for k, v in each.items() if k not in OWN and k != "msg"] for each in found
            )
        )
    assert said[0] == said[1]
    assert any(("rcode", None) in each for each in said[1])


def test_every_line_is_an_object(tmp_path):
    with peers.clusterdns(COREFILE, tmp_path, "-log-format=json") as server:
        peers.ask_udp(server.address, QUERIES[0])
        time.sleep(0.1)
        found = server.output.splitlines()
        assert len(found) == len(lines(server))
        assert any(json.loads(line)["msg"].startswith("clusterdns-") for line in found)


@pytest.mark.parametrize(
    ("corefile", "flag", "level"),
    [(". {\n  nonsense\n}\n", "json", "FATAL"), (". {\n whoami\n}\n", "xml", "")],
)
def test_a_start_that_fails_says_so_on_standard_error(corefile, flag, level, tmp_path):
    (tmp_path / "Corefile").write_text(corefile)
    done = subprocess.run(
        [sys.executable, "-m", "clusterdns", "-log-format", flag],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (1, "") == (done.returncode, done.stdout)
    if level:
        found = [json.loads(line) for line in done.stderr.splitlines()]
        assert level == found[0]["level"]
        assert "Corefile:2: nonsense: unknown directive" in found[0]["msg"]
    else:
        assert 'unknown log format "xml": expected text or json' in done.stderr
