"""A node for NodeLocal's test: run as the only program of a network namespace, prints what it saw.

    unshare --map-root-user --net python node.py DIRECTORY

DIRECTORY has the overlay's Corefile, the init container's script and a mounted ConfigMap `kube-dns`.
10.96.77.7, on loopback here, is the cluster's DNS: a clusterdns with the Services of zones/.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import dns.message
import dns.rcode
import peers

HERE, CLUSTER = "169.254.20.10", "10.96.77.7"
ZONES = Path(__file__).resolve().parents[2] / "zones"
COREFILE = f"""cluster.local in-addr.arpa ip6.arpa {{
    bind {CLUSTER}
    kubernetes {{
        manifests {ZONES / "cluster"}
    }}
    prometheus {CLUSTER}:9153
}}
acme.local {{
    bind {CLUSTER}
    file db.acme
}}
"""
ZONE = """$ORIGIN acme.local.
@ 60 SOA ns host 1 2 3 4 5
@ 60 NS ns
ns 60 A 192.0.2.53
www 60 A 192.0.2.80
"""


def main(place: Path) -> None:
    add_addresses(place)
    (place / "db.acme").write_text(ZONE)
    (place / "cluster").write_text(COREFILE)
    flags = ["-config-dir", str(place / "kube-dns")]
    cluster = start(place / "cluster", CLUSTER)
    node = start(place / "Corefile", HERE, *flags)
    try:
        print(json.dumps(observations()))
    finally:
        for process in (node, cluster):
            process.terminate()
            process.wait(15)


def add_addresses(place: Path) -> None:
    """Bring up loopback, and run what the init container runs."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "address", "add", f"{CLUSTER}/32", "dev", "lo"], check=True)
    script = (place / "interface.sh").read_text()
    probe = subprocess.run(["ip", "link", "add", "probe", "type", "dummy"], check=False,
                           capture_output=True)  # fmt: skip
    if probe.returncode:  # this kernel has no dummy interfaces; a bridge without ports is like one
        script = script.replace("type dummy", "type bridge")
    for _ in range(2):  # a Pod that starts again finds the interface there
        subprocess.run(["sh", "-ec", script], check=True, stdout=sys.stderr)


def start(corefile: Path, address: str, *flags: str) -> subprocess.Popen[bytes]:
    """Run clusterdns at port 53 until it answers."""
    command = [sys.executable, "-m", "clusterdns", "-conf", str(corefile), *flags]
    environ = {**os.environ, "KUBE_DNS_UPSTREAM_SERVICE_HOST": CLUSTER}
    process = subprocess.Popen(command, cwd=corefile.parent, env=environ, stdout=sys.stderr)
    log = corefile.with_suffix(".log")
    log.write_text("see above")
    peers.wait_until_answering(peers.Server(address, 53, process, log))
    return process


def observations() -> dict[str, object]:
    """Return what is answered at the node's address, and how the cluster's DNS was asked for it."""
    found: dict[str, object] = {}
    for host in ("web.uit.svc.cluster.local.", "nothing.uit.svc.cluster.local.", "www.acme.local."):
        found[host] = ask(host)
    with urllib.request.urlopen(f"http://{HERE}:8080/health", timeout=5) as response:
        found["health"] = response.status
    with urllib.request.urlopen(f"http://{CLUSTER}:9153/metrics", timeout=5) as response:
        text = response.read().decode()
    asked = re.findall(r"^coredns_dns_requests_total{(.*)} (\d+)", text, re.M)
    transports = {
        re.search(r'proto="(\w+)"', labels)[1]
        for labels, _ in asked
        if 'zone="cluster.local."' in labels
    }
    found["transport"] = " ".join(sorted(transports))
    return found


def ask(host: str) -> list[str]:
    """Return the code and the addresses of a reply; asked again while nothing better comes."""
    deadline = time.monotonic() + 10
    while True:
        octets = peers.ask_udp((HERE, 53), dns.message.make_query(host, "A").to_wire())
        if octets is not None:
            reply = dns.message.from_wire(octets)
            code = dns.rcode.to_text(reply.rcode())
            if code != "SERVFAIL" or time.monotonic() > deadline:
                return [code, *(str(item) for rrset in reply.answer for item in rrset)]
        elif time.monotonic() > deadline:
            return ["no reply"]
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
