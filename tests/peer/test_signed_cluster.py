"""The names of a cluster, signed by `dnssec`: validators find all of them secure, denied ones too."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import dns.rcode
import peers
import pytest
import signedzones
from dns.dnssectypes import Algorithm
from signedzones import ALGORITHMS

CLUSTER = Path(__file__).resolve().parents[2] / "zones" / "cluster"
ZONES = ("cluster.local.", "10.in-addr.arpa.")
COREFILE = """.:{{PORT}} {{
    errors
    prometheus 127.0.0.1:0
    dnssec {zones} {{
        key file {keys}
    }}
    kubernetes cluster.local 10.in-addr.arpa {{
        manifests {cluster}
        pods insecure
    }}
    cache 30
    loadbalance
}}
"""
# Name, type, and whether there are records.
QUESTIONS = (
    ("web.uit.svc.cluster.local.", "A", True),
    ("web.uit.svc.cluster.local.", "AAAA", False),
    ("web.uit.svc.cluster.local.", "MX", False),
    ("WEB.uit.SVC.cluster.local.", "A", True),
    ("_http._tcp.web.uit.svc.cluster.local.", "SRV", True),
    ("nowhere.uit.svc.cluster.local.", "A", False),
    ("a.b.nowhere.uit.svc.cluster.local.", "AAAA", False),
    ("nowhere.nowhere.svc.cluster.local.", "A", False),
    ("www.example.com.uit.svc.cluster.local.", "A", False),
    ("uit.svc.cluster.local.", "A", False),
    ("svc.cluster.local.", "A", False),
    ("cluster.local.", "SOA", True),
    ("cluster.local.", "NS", True),
    ("cluster.local.", "DNSKEY", True),
    ("cluster.local.", "A", False),
    ("web.uit.svc.cluster.local.", "DS", False),
    ("dns-version.cluster.local.", "TXT", True),
    ("10-1-2-3.uit.pod.cluster.local.", "A", True),
    ("nowhere.10.in-addr.arpa.", "PTR", False),
    ("x" * 63 + "." + "y" * 63 + "." + "z" * 63 + "." + "w" * 47 + ".cluster.local.", "A", False),
    ("x" * 63 + "." + "y" * 63 + "." + "z" * 63 + "." + "w" * 45 + ".cluster.local.", "A", False),
)


@pytest.mark.parametrize(
    "algorithm", [*ALGORITHMS, Algorithm.RSASHA512], ids=lambda each: each.name
)
def test_a_validator_finds_the_names_of_a_cluster_secure(tmp_path, algorithm):
    made = [signedzones.key_files(tmp_path, zone, algorithm) for zone in (".",)]
    keys = {
        zone: tuple(record.replace(". IN", f"{zone} IN", 1) for _, record in made) for zone in ZONES
    }
    corefile = COREFILE.format(
        zones=" ".join(ZONES), keys=" ".join(base for base, _ in made), cluster=CLUSTER
    )
    with (
        peers.clusterdns(corefile, tmp_path) as server,
        signedzones.unbound(tmp_path / "unbound", server.address, keys) as resolver,
    ):
        for _ in range(2):  # from the chain, then from the table
            for qname, qtype, has_records in QUESTIONS:
                verdict, reply = signedzones.verdict(resolver, qname, qtype)
                assert verdict == "secure", reply
                assert reply.rcode() == dns.rcode.NOERROR
                assert has_records == bool(reply.answer), reply
        assert "panic" not in server.output


def test_delv_validates(tmp_path):
    delv = shutil.which("delv")
    if delv is None:
        pytest.skip("needs delv: apt-get install bind9-dnsutils")
    base, record = signedzones.key_files(tmp_path, "cluster.local.")
    words = record.split()
    anchor = f'trust-anchors {{ cluster.local. static-key {" ".join(words[3:6])} "{"".join(words[6:])}"; }};\n'
    (tmp_path / "anchor").write_text(anchor)
    corefile = COREFILE.format(zones="cluster.local", keys=base, cluster=CLUSTER)
    with peers.clusterdns(corefile, tmp_path) as server:
        for qname, qtype, said in (
            ("web.uit.svc.cluster.local", "A", "; fully validated"),
            ("nowhere.uit.svc.cluster.local", "A", "; negative response, fully validated"),
            ("web.uit.svc.cluster.local", "TXT", "; negative response, fully validated"),
        ):
            done = subprocess.run(
                [delv, "@127.0.0.1", "-p", str(server.port), "-a", "anchor", "+root=cluster.local", qname, qtype],
                cwd=tmp_path, capture_output=True, text=True, check=False, timeout=20,
            )  # fmt: skip
            assert said in done.stdout, done.stdout + done.stderr
