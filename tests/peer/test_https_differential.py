"""DNS over HTTPS beside a real CoreDNS: replies, statuses, headers, counts, log lines, refusals."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import beside
import certificates
import compare
import oddqueries
import peers
import pytest
import webclient
from webclient import HTTP1, HTTP2, Request

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("HTTPS_SEED", "1"))
TIMES = int(os.environ.get("HTTPS_TIMES", "400"))
COREFILE = """. {{
    whoami
}}
https://.:{port} {{
    tls server.pem server.key
    prometheus 127.0.0.1:{metrics}
    log
    errors
    acl {{
        drop type LOC
        allow
    }}
    hosts {{
        192.0.2.1 www.test
        192.0.2.2 www.test
        2001:db8::1 www.test
        ttl 77
        fallthrough
    }}
    file db.example.org example.org
    transfer example.org {{
        to *
    }}
    chaos
    forward . 127.0.0.1:1 {{
        max_connect_attempts 1
    }}
}}
"""


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    made = certificates.make(tmp_path_factory.mktemp("certs"))
    (made / "db.example.org").write_text(oddqueries.ZONE)
    return made


@contextlib.contextmanager
def servers(certs: Path, text: str = COREFILE) -> Iterator[list[tuple[peers.Server, int, int]]]:
    """Yield clusterdns and CoreDNS with one Corefile, and their ports of HTTPS and of metrics."""
    with contextlib.ExitStack() as stack:
        found = []
        for run in (peers.clusterdns, peers.coredns):
            port, metrics = peers.free_port(), peers.free_port()
            server = stack.enter_context(run(text.format(port=port, metrics=metrics), certs))
            found.append((server, port, metrics))
        yield found


def carried(source: random.Random, packet: bytes) -> Request:
    """Return a request that carries a message, most often as it should."""
    text = base64.urlsafe_b64encode(packet).rstrip(b"=")
    kind = source.random()
    if kind < 0.3:
        return webclient.get(packet)
    if kind < 0.6:
        return webclient.post(packet)
    path = b"/dns-query"
    targets = (
        b"/", b"/dns-query/", b"/DNS-QUERY", b"/dns-query%2F", b"//dns-query", b"/dns%2Dquery",
        b"/dns-quer%79", b"/./dns-query", path + b"?", path + b"?dns", path + b"?dns=",
        path + b"?dns=" + text + b"=", path + b"?dns=" + text + b"==", path + b"?dns=*" + text,
        path + b"?dns=" + text + b"&dns=" + text, path + b"?dns=" + text + b"&a=b&&c",
        path + b"?a=%20&d%6Es=" + text, path + b"?dns=" + text + b";a=b",
        path + b"?dns=" + text + b"&a;b=c", path + b"?dns=" + text + b"&a=%zz",
        path + b"?dns=%0A" + text + b"%0d", path + b"?dns=" + text + b"+",
        path + b"?Dns=" + text, path + b"?dns=" + base64.b64encode(packet),
        path + b"?dns=" + text[:-1], path + b"?dns=" + text + b"A", path + b"?ct&dns=" + text,
        path + b"?dns=" + text + b"%", path + b"?dns=" + text + b"/",
    )  # fmt: skip
    method = source.choice((b"GET", b"GET", b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"get"))
    if source.random() < 0.2:
        headers = source.choice((
            (), ((b"content-type", b"text/plain"),), ((b"accept", b"text/html"),),
            ((b"content-type", b"application/dns-message"), (b"accept", b"*/*")),
        ))  # fmt: skip
        return Request(source.choice((b"POST", b"PUT", b"PATCH")), path, packet, headers)
    return Request(method, source.choice(targets))


def said(reply: webclient.Reply) -> tuple[object, ...]:
    """Return what must be equal, but for the DNS message."""
    headers = {k: v for k, v in reply.headers.items() if k not in ("date", "content-length")}
    body = b"" if reply.status == 200 else reply.body
    return (reply.status, sorted(headers.items()), body)


def is_allowed(
    request: Request,
    packet: bytes,
    theirs: webclient.Reply,
    ours: webclient.Reply,
    address: tuple[str, int],
) -> bool:
    """Tell whether a difference is a known one.

    They are header fields of more octets than we take, which is 431, or the end of the connection;
    and messages that the gate of all transports is stricter with, see malformed.py and README.
    """
    if len(request.target) > 8000:
        return ours.status in (0, 431)
    reply = peers.ask_udp(address, packet)
    is_formerr = reply is not None and reply[3] & 15 == 1
    return (theirs.status, ours.status) == (200, 400) and is_formerr


def differing(
    request: Request,
    packet: bytes,
    theirs: webclient.Reply,
    ours: webclient.Reply,
    address: tuple[str, int],
) -> list[str]:
    """Return how the replies to a request differ, if they do."""
    if said(ours) != said(theirs):
        if is_allowed(request, packet, theirs, ours, address):
            return []
        return [f"{request}\ntheirs {theirs}\nours   {ours}"]
    if ours.status != 200 or ours.body == theirs.body:
        return []
    text = compare.difference(packet, theirs.body, ours.body, beside.STRICT)
    return [f"{request}: {text}"] if text else []


@pytest.mark.parametrize("version", [HTTP1, HTTP2])
def test_generated_requests(version, certs):
    """Statuses, headers and messages are equal, and each server counts what it has said."""
    source, found, statuses = random.Random(SEED), [], [Counter[int](), Counter[int]()]
    packets = oddqueries.messages(source)
    with servers(certs) as both, contextlib.ExitStack() as stack:
        webs = [
            stack.enter_context(webclient.Web(port, certs / "ca.pem", version))
            for _, port, _ in both
        ]
        for _ in range(TIMES):
            packet = next(packets)
            request = carried(source, packet)
            ours, theirs = (web.ask(request) for web in webs)
            for each, count in zip((ours, theirs), statuses, strict=True):
                count[each.status] += 1
            found += differing(request, packet, theirs, ours, both[0][0].address)
        assert not found, f"{len(found)} differences; " + "\n\n".join(x[:2000] for x in found[:5])
        for (_, port, metrics), count in zip(both, statuses, strict=True):
            samples = beside.samples(metrics, "coredns_dns_https_responses_total")
            assert {dict(key[1:])["server"] for key in samples} == {f"https://:{port}"}
            counted = {int(dict(key[1:])["status"]): value for key, value in samples.items()}
            assert counted == {k: v for k, v in count.items() if k not in (0, 431)}
    assert min(statuses[0][k] for k in (200, 400, 404, 500)) > TIMES / 100, statuses
    assert sum(each != statuses[1] for each in statuses) <= TIMES / 20


def test_metrics_and_log_lines(certs):
    """A query is counted and logged as one over TCP."""
    found = []
    with servers(certs) as both:
        for server, port, metrics in both:
            with webclient.Web(port, certs / "ca.pem") as web:
                for packet in beside.queries("www.test", "A", "AAAA", "TXT"):
                    assert web.ask(webclient.post(packet)).status == 200
            samples = {
                key: value
                for key, value in beside.samples(metrics, "coredns_dns_").items()
                if "seconds" not in str(key[0])
            }
            logged = [line for line in server.output.splitlines() if " IN " in line]
            logged = [re.sub(r"^.*?\d+ - \d+ ", "", line).rpartition(" ")[0] for line in logged]
            text = str(sorted(samples.items(), key=str)).replace(".0)", ")")
            found.append((text.replace(str(port), "PORT"), sorted(logged)))
            assert f"https://.:{port}" in server.output
    assert "tcp" in found[0][0] and len(found[0][1]) == 9
    assert found[0] == found[1]


LINES = (
    "https", "https {\n}", "https {\nmax_connections 7\nmax_streams 8\n}",
    "https {\nmax_connections 0\nmax_streams 0\n}", "https {\nmax_streams 4294967295\n}",
    "https {\nmax_streams 1\n}\nhttps {\nmax_streams 2\n}", "https\nhttps x",
)  # fmt: skip
MISTAKES = (
    "https x", "https {\nmax_connections\n}", "https {\nmax_connections a\n}",
    "https {\nmax_connections -1\n}", "https {\nmax_connections 1 2\n}",
    "https {\nmax_connections 1\nmax_connections 1\n}", "https {\nmax_streams -1\n}",
    "https {\nmax_streams 4294967296\n}", "https {\nmax_streams 1\nmax_streams 1\n}",
    "https {\nx\n}",
)  # fmt: skip


@pytest.mark.parametrize("line", [*LINES, *MISTAKES])
def test_both_take_or_refuse(line, certs):
    text = (
        f"https://.:{{PORT}} {{\ntls server.pem server.key\n{line}\nwhoami\n}}\n. {{\nwhoami\n}}\n"
    )
    refused = beside.start(text.replace("{PORT}", str(peers.free_port())), certs)
    assert [bool(each) for each in refused] == [line in MISTAKES] * 2, refused


def test_conflicts_have_one_text(certs):
    blocks = [
        f"https://{zone}:{{PORT}} {{\ntls server.pem server.key\nhttps {{\nmax_streams {most}\n}}\nwhoami\n}}\n"
        for zone, most in (("a.test", 5), ("b.test", 6))
    ]
    texts = []
    for text in beside.start("".join(blocks), certs):
        found = re.search(r"conflicting max_streams.*", text)
        assert found, text
        texts.append(re.sub(r":\d{2,}", "", found[0]))
    assert texts[0] == texts[1]


def test_real_clients(certs):
    """curl and kdig, where they are installed, get the same from both."""
    found = []
    target = webclient.get(beside.query("www.example.org", "TXT")).target.decode()
    with servers(certs) as both:
        for _, port, _ in both:
            url = f"https://dns.test:{port}{target}"
            to = ("--cacert", "ca.pem", "--resolve", f"dns.test:{port}:127.0.0.1", url)
            shown = "%{http_code} %{http_version} %{content_type} %header{cache-control}"
            at = ("@127.0.0.1", "-p", str(port), "+tls-ca=ca.pem", "+tls-hostname=dns.test")
            asked = ("www.example.org", "TXT")
            texts = [
                run(certs, "curl", "-s", version, *words, "-o", "/dev/null", "-w", shown, *to)
                for version in ("--http1.1", "--http2")
                for words in ((), ("-I",))
            ]
            texts += [
                run(certs, "kdig", *at, *words, *asked)
                for words in (["+https"], ["+https-get"], ["+https", "+dnssec", "+bufsize=1232"])
            ]
            varying = r"(?m)^;; (Time|From|Received|TLS|HTTP|->>HEADER).*"
            found.append([re.sub(varying, "", each) for each in texts])
    ours, theirs = found
    assert ours == theirs
    assert not ours[0] or ours[0] == "200 1.1 application/dns-message max-age=40"
    assert all("hello" in each for each in ours[4:] if each)


def run(directory: Path, program: str, *words: str) -> str:
    """Return what a program prints, "" where it is not installed."""
    try:
        done = subprocess.run(
            [program, *words], cwd=directory, capture_output=True, timeout=30, check=True
        )
    except FileNotFoundError:
        return ""
    return done.stdout.decode("latin-1")
