"""`lookup`: the questions of a Pod's resolver, through the real program and the lab."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import beside
import dns.message
import dns.rcode
import pytest

from clusterdns.commands import podsettings, stub
from clusterdns.errors import ClusterDNSError
from clusterdns.host import resolvconf
from clusterdns.host.resolvconf import ResolvConf, SearchOutcome

TIME = re.compile(r"\d+\.\d ms")
AS_UIT = ("--as", "uit")
POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: uit}
spec:
  hostNetwork: true
  dnsPolicy: ClusterFirstWithHostNet
  dnsConfig:
    nameservers: [192.0.2.1]
    searches: [example.com, uit.svc.cluster.local]
    options: [{name: ndots, value: "2"}, {name: edns0}, {name: attempts, value: "1"}]
"""


def run(*arguments: str):
    return beside.run([*arguments], Path.cwd())


def looked_up(lab, *arguments: str):
    server = f"{lab.address[0]}:{lab.address[1]}"
    done = run("lookup", *arguments, "--server", server)
    return done.returncode, TIME.sub("N ms", done.stdout.replace(server, "LAB"))


def test_a_name_outside_takes_every_search_domain(lab):
    expected = """\
www.example.com as a Pod of uit, by glibc, asked of LAB
search uit.svc.cluster.local svc.cluster.local cluster.local, ndots:5
  1  www.example.com.uit.svc.cluster.local.  A     NXDOMAIN  (N ms, 2 packets)
                                             AAAA  NXDOMAIN  (N ms, 2 packets)
  2  www.example.com.svc.cluster.local.      A     NXDOMAIN  (N ms, 2 packets)
                                             AAAA  NXDOMAIN  (N ms, 2 packets)
  3  www.example.com.cluster.local.          A     NXDOMAIN  (N ms, 2 packets)
                                             AAAA  NXDOMAIN  (N ms, 2 packets)
  4  www.example.com.                        A     192.0.2.80 ttl 30  (N ms, 2 packets)
                                             AAAA  2001:db8::80 ttl 30  (N ms, 2 packets)
the program gets 192.0.2.80, 2001:db8::80 from www.example.com. (name 4 of 4 asked; 16 packets, N ms)
with ndots:1: the same after 4 packets, not 16
with a trailing dot: the same after 4 packets, not 16
"""
    assert (0, expected) == looked_up(lab, "www.example.com", *AS_UIT)


def test_a_short_name_needs_its_search_path(lab):
    expected = """\
web as a Pod of uit, by musl, asked of LAB
search uit.svc.cluster.local svc.cluster.local cluster.local, ndots:5
  1  web.uit.svc.cluster.local.  A  10.96.1.1 ttl 30  (N ms, 2 packets)
the program gets 10.96.1.1 from web.uit.svc.cluster.local. (the only name asked; 2 packets, N ms)
with a trailing dot: the program would get nothing, after 2 packets
"""
    assert (0, expected) == looked_up(lab, "web", *AS_UIT, "--libc", "musl", "A")


def test_a_name_that_nobody_has(lab):
    code, text = looked_up(lab, "nope.uit", *AS_UIT)
    assert (1, True) == (code, "the program gets nothing (16 packets, N ms)" in text)
    assert "with ndots:1: the same after 16 packets: nothing saved" in text


def test_an_alias_is_shown_with_its_target(lab):
    code, text = looked_up(lab, "website", "A", *AS_UIT)
    assert 0 == code
    assert "CNAME www.example.com. ttl 30, 192.0.2.80 ttl 30" in text
    assert "the program gets 192.0.2.80 from website.uit.svc.cluster.local." in text


def test_as_json(lab):
    code, text = looked_up(lab, "web", "A", *AS_UIT, "--json")
    found = json.loads(text)
    assert (0, ["10.96.1.1"], 2) == (code, found["found"], found["packets"])
    assert "answer" == found["exchanges"][0]["outcome"]
    assert {"found": [], "by": "", "packets": 2} == found["with"]["a trailing dot"]


def test_a_file_with_settings(lab, tmp_path):
    path = tmp_path / "resolv.conf"
    path.write_text("search example.com\nnameserver 192.0.2.1\noptions ndots:1\n")
    code, text = looked_up(lab, "www", "A", "--resolv-conf", str(path))
    assert (0, True) == (code, "the program gets 192.0.2.80 from www.example.com." in text)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("web", "BOGUS", *AS_UIT), 2, "'BOGUS' is no type of record"),
        (("a..b.", *AS_UIT, "--server", "127.0.0.1:1"), 1, "a..b.: "),
        (("web", *AS_UIT, "--server", "127.0.0.1:x"), 1, "'x' is no valid port"),
        (("web", "--as", "uit/web"), 1, "--manifests"),
        (("web", "--resolv-conf", "/nowhere"), 1, "clusterdns: /nowhere: no such file"),
        (("web", "--as", "Uit"), 1, "'Uit': a namespace has lower-case letters"),
        (("web", "--as", "uit/web", "--manifests", "/nowhere"), 1, "--manifests /nowhere: no such"),
        (("web", *AS_UIT, "--server", "dns.example"), 1, "server dns.example: "),
        (("10.96.1.1", *AS_UIT), 1, "10.96.1.1 is an address"),
        (("", *AS_UIT), 1, "no name"),
    ],
)
def test_mistakes_are_said(arguments, code, said):
    done = run("lookup", *arguments)
    assert (code, "", True) == (done.returncode, done.stdout, said in done.stderr), done.stderr


def test_nobody_answers():
    with socket.socket(type=socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    done = run("lookup", "web", *AS_UIT, "--server", address)
    assert (3, True) == (done.returncode, "Connection refused" in done.stdout)
    assert "the program gets nothing" in done.stdout


@contextlib.contextmanager
def failing(rcode: dns.rcode.Rcode) -> Iterator[str]:
    """A server that gives one RCODE to all; the address of it."""
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))

        def loop() -> None:
            while True:
                packet, client = sock.recvfrom(512)
                if packet == b"x":
                    return
                reply = dns.message.make_response(dns.message.from_wire(packet))
                reply.set_rcode(rcode)
                sock.sendto(reply.to_wire(), client)

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield f"127.0.0.1:{sock.getsockname()[1]}"
        finally:
            with socket.socket(type=socket.SOCK_DGRAM) as waker:
                waker.sendto(b"x", sock.getsockname())
            thread.join()


@pytest.mark.parametrize(
    ("resolver", "rcode", "messages"),
    [
        ("glibc", dns.rcode.SERVFAIL, 2 * 2 * 2),  # two servers, two attempts, query and reply
        ("go", dns.rcode.REFUSED, 2 * 2 * 2),
        ("musl", dns.rcode.SERVFAIL, (2 + 2) * 2),
        ("glibc", dns.rcode.NXDOMAIN, 2),
    ],
)
def test_a_failure_is_asked_again(resolver, rcode, messages):
    with failing(rcode) as one, failing(rcode) as other:
        found = stub.Stub(ResolvConf((one, other)), resolver).ask("web.", "A")
    assert (messages, ()) == (found.messages, found.records)
    assert dns.rcode.to_text(rcode) == found.text
    assert found.outcome is not SearchOutcome.ANSWER


def test_the_manifest_of_a_pod_decides(tmp_path, monkeypatch):
    (tmp_path / "pod.yaml").write_text(POD)
    conf = podsettings.of_pod("uit/web", manifests=tmp_path)
    expected = ResolvConf(
        ("10.96.0.10", "192.0.2.1"),
        ("uit.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"),
        ndots=2, attempts=1, options=("edns0",),
    )  # fmt: skip
    assert expected == conf
    assert resolvconf.parse(resolvconf.text(conf)) == conf
    with pytest.raises(ClusterDNSError, match="no Pod 'other'"):
        podsettings.of_pod("uit/other", manifests=tmp_path)
    node = tmp_path / "node"
    node.write_text("nameserver 192.0.2.53\n")
    monkeypatch.setattr(podsettings, "NODE", Path(node))
    (tmp_path / "pod.yaml").write_text(POD.replace("ClusterFirstWithHostNet", "ClusterFirst"))
    conf = podsettings.of_pod("uit/web", manifests=tmp_path)
    assert ("192.0.2.53", "192.0.2.1") == conf.nameservers
    (tmp_path / "pod.yaml").write_text(POD.replace("ClusterFirstWithHostNet", "None"))
    conf = podsettings.of_pod("uit/web", manifests=tmp_path)
    assert ("192.0.2.1",) == conf.nameservers
    assert ("example.com", "uit.svc.cluster.local") == conf.search
