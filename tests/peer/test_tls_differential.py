"""DNS over TLS beside a real CoreDNS: replies, clients' certificates, log lines, refusals."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import socket
import struct
import urllib.request
from pathlib import Path

import beside
import certificates
import compare
import dns.message
import oddqueries
import peers
import pytest

pytestmark = pytest.mark.peer

COREFILE = """. {{
    whoami
}}
tls://.:{port} {{
    tls server.pem server.key ca.pem {{
        client_auth {mode}
    }}
    prometheus 127.0.0.1:{metrics}
    log
    hosts {{
        192.0.2.1 www.test
        fallthrough
    }}
    erratic {{
        drop 0
        delay 0
    }}
}}
"""


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    return certificates.make(tmp_path_factory.mktemp("certs"))


def replies(port: int, certs: Path, who: str, asked: list[bytes]) -> list[bytes | None]:
    """Return the replies to queries on one connection, None for one that is refused."""
    context = certificates.client_context(certs / "ca.pem")
    if who:
        context.load_cert_chain(certs / f"{who}.pem", certs / f"{who}.key")
    try:
        with (
            socket.create_connection(("127.0.0.1", port), 5) as sock,
            context.wrap_socket(sock, server_hostname="dns.test") as secure,
        ):
            found = []
            for each in asked:
                secure.sendall(struct.pack("!H", len(each)) + each)
                found.append(peers.read_frame(secure))
            return found
    except OSError:
        return [None]


def without_id(wire: bytes) -> str:
    message = dns.message.from_wire(wire)
    message.id = 0
    return message.to_text()


@pytest.mark.parametrize("mode", ["nocert", "verify_if_given", "require_and_verify"])
def test_replies_and_clients(mode, certs):
    """Both answer alike, let the same clients in, and log and count alike."""
    asked = [*beside.queries("www.test"), *beside.queries("Other.Test", "A", "AAAA", "TXT")]
    found = []
    for run in (peers.clusterdns, peers.coredns):
        port, metrics = peers.free_port(), peers.free_port()
        text = COREFILE.format(port=port, mode=mode, metrics=metrics)
        with run(text, certs) as server:
            got = [replies(port, certs, who, asked) for who in ("", "client", "stranger")]
            with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=5) as page:
                lines = page.read().decode().replace(str(port), "PORT").splitlines()
            lines = [line.removesuffix(".0") for line in lines]
            counts = sorted(x for x in lines if x.startswith("coredns_dns_requests_total{"))
            logged = [line for line in server.output.splitlines() if " IN " in line]
            logged = [re.sub(r"^.*?\d+ - ", "", line).rpartition(" ")[0] for line in logged]
        decided = [[each and without_id(each) for each in some] for some in got]
        logged.sort()  # a line may be written behind the next query's
        found.append((decided, counts, logged, f"tls://.:{port}" in server.output))
    ours, theirs = found
    assert any(each for some in theirs[0] for each in some)
    assert theirs == ours


GENERATED = """. {{
    whoami
}}
tls://.:{port} {{
    tls server.pem server.key
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
    chaos
    forward . 127.0.0.1:1 {{
        max_connect_attempts 1
    }}
}}
"""


BATCH = 25
QUIET_S = 0.4  # without a reply: there will be none


def streamed(port: int, certs: Path, packets: list[bytes]) -> dict[bytes, list[bytes]]:
    """Return the replies to some packets by their ID; a batch goes over one connection."""
    context = certificates.client_context(certs / "ca.pem")
    found: dict[bytes, list[bytes]] = {packet[:2]: [] for packet in packets}
    for start in range(0, len(packets), BATCH):
        with (
            socket.create_connection(("127.0.0.1", port), 5) as sock,
            context.wrap_socket(sock, server_hostname="dns.test") as secure,
        ):
            batch = packets[start : start + BATCH]
            secure.sendall(b"".join(struct.pack("!H", len(each)) + each for each in batch))
            secure.settimeout(QUIET_S)
            with contextlib.suppress(TimeoutError):
                while reply := peers.read_frame(secure):
                    found[reply[:2]].append(reply)
    return found


def is_stricter(address: tuple[str, int], packet: bytes, ours: list[bytes]) -> bool:
    """Tell whether our gate refuses a packet over UDP as well, see malformed.py."""
    over_udp = peers.ask_udp(address, packet, 0.5)
    return [each[3] & 15 for each in ours] == [1] and bool(over_udp) and over_udp[3] & 15 == 1


def differing(packet: bytes, theirs: list[bytes], ours: list[bytes]) -> list[str]:
    if len(theirs) != len(ours):
        return [f"{packet!r}: theirs {theirs}, ours {ours}"]
    said = [
        compare.difference(packet, *pair, beside.STRICT)
        for pair in zip(theirs, ours, strict=True)
        if pair[0] != pair[1]
    ]
    return [f"{packet!r}: {each}" for each in said if each]


@pytest.mark.parametrize("seed", range(2))
def test_generated_queries(seed, certs):
    """Replies to queries in all manners, and to what is none, are equal; so is silence."""
    (certs / "db.example.org").write_text(oddqueries.ZONE)
    source = oddqueries.messages(random.Random(seed))
    packets = [
        number.to_bytes(2, "big") + packet[2:]
        for number, packet in enumerate(itertools.islice(source, 300))
        if len(packet) > 2
    ]
    with contextlib.ExitStack() as stack:
        ports = [peers.free_port(), peers.free_port()]
        server, _ = (
            stack.enter_context(run(GENERATED.format(port=port), certs))
            for run, port in zip((peers.clusterdns, peers.coredns), ports, strict=True)
        )
        ours, theirs = (streamed(port, certs, packets) for port in ports)
        found = []
        for packet in packets:
            one, other = ours[packet[:2]], theirs[packet[:2]]
            if one != other and not is_stricter(server.address, packet, one):
                found += differing(packet, other, one)
    assert not found, f"{len(found)} differences; " + "\n\n".join(x[:1500] for x in found[:4])
    assert sum(len(each) for each in ours.values()) > 200


MISTAKES = (
    "tls a", "tls a b c d", "tls none.pem server.key", "tls server.pem none.key",
    "tls server.pem other.key", "tls server.ext server.key",
    "tls server.pem server.key none.pem", "tls server.pem server.key {\nclient_auth\n}",
    "tls server.pem server.key {\nclient_auth x\n}", "tls server.pem server.key {\nx\n}",
    "tls server.pem server.key\ntls server.pem server.key a b",
)  # fmt: skip


@pytest.mark.parametrize("line", MISTAKES)
def test_both_refuse(line, certs):
    text = f"tls://.:{{PORT}} {{\n{line}\nwhoami\n}}\n"
    for server in beside.start(text, certs):
        assert server, line


def test_conflicts_have_one_text(certs):
    blocks = [
        f"tls://{zone}:{{PORT}} {{\ntls {each}.pem {each}.key\nwhoami\n}}\n"
        for zone, each in (("a.test", "server"), ("b.test", "other"))
    ]
    texts = []
    for said in beside.start("".join(blocks), certs):
        found = re.search(r"conflicting TLS.*differ", said)
        assert found, said
        texts.append(re.sub(r":\d+", "", found[0]))
    assert texts[0] == texts[1]
