"""forward over HTTPS beside a real CoreDNS: each asks each, and both say the same."""

from __future__ import annotations

import contextlib
import random
import re
from pathlib import Path

import beside
import certificates
import compare
import peers
import pytest

pytestmark = pytest.mark.peer

UPSTREAM = """. {{
    whoami
}}
https://.:{port} {{
    tls server.pem server.key
    log
    hosts {{
        192.0.2.1 www.test
        2001:db8::1 www.test
        fallthrough
    }}
    file db.example.org example.org
    erratic {{
        drop 0
        delay 0
        truncate 3
    }}
}}
"""
FORWARDER = """. {{
    errors
    prometheus 127.0.0.1:{metrics}
    forward . https://127.0.0.1:{port} {{
        tls ca.pem
        tls_servername dns.test
        {more}
    }}
}}
"""
ZONE = """$ORIGIN example.org.
@ 3600 IN SOA ns hostmaster 1 7200 900 1209600 86400
@ 7200 IN NS ns
ns 300 IN A 192.0.2.53
www 60 IN A 192.0.2.80
alias 20 IN CNAME www
big 30 IN TXT {texts}
""".replace("{texts}", " ".join(f'"{i:0>250}"' for i in range(200)))
NAMES = ("www.test", "WwW.Test", "www.example.org", "alias.example.org", "big.example.org",
         "none.example.org", "example.org")  # fmt: skip


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    made = certificates.make(tmp_path_factory.mktemp("certs"))
    (made / "db.example.org").write_text(ZONE)
    return made


def packets(seed: int, times: int) -> list[bytes]:
    source = random.Random(seed)
    return [
        beside.query(
            source.choice(NAMES), source.choice(("A", "AAAA", "TXT", "MX", "SOA", "ANY", "DS")),
            edns=source.choice((None, 512, 1232, 4096)), do=source.random() < 0.3,
            flags=source.choice((0x100, 0x100, 0, 0x110, 0x120)),
        )
        for _ in range(times)
    ]  # fmt: skip


def counted(metrics: int, known: dict[object, float]) -> dict[object, float]:
    """Return how many queries have been sent upstream by RCODE, but for those that are known."""
    found = beside.samples(metrics, "coredns_proxy_request_duration_seconds_count")
    return {key: value - known.get(key, 0) for key, value in found.items()}


@pytest.mark.parametrize("upstream", [peers.clusterdns, peers.coredns])
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_each_asks_each(upstream, method, certs):
    """Both forward to either server; replies, upstream counts and what upstream logs are equal."""
    port = peers.free_port()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(upstream(UPSTREAM.format(port=port), certs))
        runs, found = [], []
        for run in (peers.clusterdns, peers.coredns):
            metrics = peers.free_port()
            text = FORWARDER.format(port=port, metrics=metrics, more=f"doh_method {method}")
            runs.append((stack.enter_context(run(text, certs)), metrics))
        before = [counted(metrics, {}) for _, metrics in runs]
        for packet in packets(1, 100):
            for ask in (peers.ask_udp, peers.ask_tcp):
                ours, theirs = (ask(each.address, packet) for each, _ in runs)
                rules = beside.STRICT._replace(is_outside=True)
                if said := compare.difference(packet, theirs, ours, rules):
                    found.append(said)
        assert not found, f"{len(found)} differences; " + "\n\n".join(found[:4])
        counts = [counted(metrics, known) for (_, metrics), known in zip(runs, before, strict=True)]
        assert counts[0] == counts[1]
        assert counts[0]
        assert not beside.samples(runs[0][1], "coredns_proxy_conn")
        asked = [re.sub(r"^.*? - ", "", x) for x in server.output.splitlines() if " IN " in x]
        assert {each.split()[0] for each in asked} == {"0"}  # the IDs, see RFC 8484 section 4.1


TAKEN = (
    "https://127.0.0.1", "https://127.0.0.1:8443", "https://[::1]", "https://[::1]:8443",
    "https://127.0.0.1 {\ndoh_method GET\n}", "https://127.0.0.1%dns.test",
    "https://127.0.0.1 tls://127.0.0.1 127.0.0.1:5", "https://[::1%dns.test]:8443",
)  # fmt: skip
REFUSED = (
    "https://127.0.0.1/dns-query", "https://127.0.0.1:443/", "https://",
    "https://127.0.0.1 {\ndoh_method PUT\n}", "https://127.0.0.1 {\ndoh_method\n}",
    "https://127.0.0.1 {\ndoh_method get\n}", "grpc://127.0.0.1",
)  # fmt: skip


@pytest.mark.parametrize("text", [*TAKEN, *REFUSED])
def test_both_take_or_refuse(text, certs):
    corefile = f". {{\nforward example.org {text}\nwhoami\n}}\n"
    refused = beside.start(corefile, certs)
    assert [bool(each) for each in refused] == [text in REFUSED] * 2, refused
