"""DNS over gRPC beside CoreDNS 1.15.0: server blocks `grpc://`, and the plugin `grpc`.

An independent client (the package grpcio) asks both servers the same, and each `grpc` asks each
server. ``GRPC_SEED`` picks other messages.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import beside
import certificates
import compare
import grpc
import oddqueries
import peers
import pytest

from clusterdns.wire import reading

pytestmark = pytest.mark.peer

SEED = int(os.environ.get("GRPC_SEED", "1"))
TIMES = 300
METHOD = "/coredns.dns.DnsService/Query"
COREFILE = """. {{
    whoami
}}
grpc://.:{port} {{
    {tls}
    hosts {{
        192.0.2.1 www.test
        192.0.2.2 www.test
        2001:db8::1 www.test
        fallthrough
    }}
    file db.example.org example.org
    chaos
}}
"""


@pytest.fixture(scope="module")
def certs(tmp_path_factory) -> Path:
    made = certificates.make(tmp_path_factory.mktemp("certs"))
    (made / "db.example.org").write_text(oddqueries.ZONE)
    return made


@contextlib.contextmanager
def serving(run, certs: Path, tls: str) -> Iterator[tuple[peers.Server, int]]:
    port = peers.free_port()
    with run(COREFILE.format(port=port, tls=tls), certs) as server:
        yield server, port


@contextlib.contextmanager
def calling(port: int, certs: Path, tls: str) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """Yield the call of a server, which takes and returns the octets of a DnsPacket."""
    if tls:
        trusted = grpc.ssl_channel_credentials((certs / "ca.pem").read_bytes())
        channel = grpc.secure_channel(f"127.0.0.1:{port}", trusted)
    else:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
    with channel:
        yield channel.unary_unary(METHOD)


def wrapped(packet: bytes) -> bytes:
    length = len(packet)
    size = bytes([length & 127 | 128, length >> 7]) if length > 127 else bytes([length])
    return b"\x0a" + size + packet


def unwrapped(message: bytes) -> bytes:
    if not message:
        return b""
    assert message[0] == 10
    octets, at, shift = 0, 1, 0
    while True:
        octets |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if message[at - 1] < 128:
            assert at + octets == len(message)
            return message[at:]


def called(call: grpc.UnaryUnaryMultiCallable, body: bytes) -> bytes | str:
    """Return the DNS message that a server returns, or the status of the call."""
    try:
        return unwrapped(call(body, timeout=5))
    except grpc.RpcError as error:
        return str(error.code())


@pytest.mark.parametrize("tls", ["", "tls server.pem server.key"])
def test_generated_messages_have_the_same_results(certs, tls):
    source, found, seen = random.Random(SEED), [], set()
    packets = oddqueries.messages(source)
    with contextlib.ExitStack() as stack:
        calls = []
        for run in (peers.clusterdns, peers.coredns):
            _, port = stack.enter_context(serving(run, certs, tls))
            calls.append(stack.enter_context(calling(port, certs, tls)))
        for _ in range(TIMES):
            packet = next(packets)
            body = wrapped(packet)
            if source.random() < 0.05:  # what a DnsPacket may have besides
                body = source.choice((b"\x10\x05", b"\x1a\x02ab", b"\x21" + bytes(8))) + body
            ours, theirs = (called(call, body) for call in calls)
            seen.add("message" if isinstance(ours, bytes) else ours)
            if ours == theirs or is_stricter(packet, theirs, ours):
                continue
            if isinstance(ours, str) or isinstance(theirs, str):
                found.append(f"{packet.hex()}: theirs {theirs!r}, ours {ours!r}")
            elif said := compare.difference(packet, theirs, ours, beside.STRICT):
                found.append(said)
        for body in (b"\xff", b"\x0a\x05a", b"\x0a", b"\x08", b"\x02\x01"):
            assert isinstance(called(calls[0], body), str), body
    assert {"message", "StatusCode.UNKNOWN"} <= seen
    assert not found, f"{len(found)} differences: " + "\n".join(found[:5])


def is_stricter(packet: bytes, theirs: bytes | str, ours: bytes | str) -> bool:
    """Tell whether we refuse what the gate of all transports refuses, see malformed.py."""
    refused = not isinstance(reading.read_query(packet), reading.Query)
    return refused and isinstance(ours, str) and isinstance(theirs, bytes)


ASKING = """. {{
    prometheus 127.0.0.1:{metrics}
    grpc . 127.0.0.1:{dead} 127.0.0.1:{port} {{
        {tls}
        policy sequential
        except b.test
    }}
    erratic {{
        drop 0
        delay 0
    }}
}}
"""


@pytest.mark.parametrize("tls", ["", "tls server.pem server.key"])
@pytest.mark.parametrize("upstream", [peers.clusterdns, peers.coredns], ids=["ours", "theirs"])
def test_both_ask_both_alike(certs, tmp_path, tls, upstream):
    trusted = f"tls {certs}/ca.pem\n tls_servername dns.test" if tls else ""
    with contextlib.ExitStack() as stack:
        _, port = stack.enter_context(serving(upstream, certs, tls))
        places = [(peers.free_port(), peers.free_port()) for _ in range(2)]
        ours, theirs = (
            stack.enter_context(
                run(ASKING.format(metrics=metrics, dead=dead, port=port, tls=trusted), tmp_path)
            )
            for run, (metrics, dead) in zip((peers.clusterdns, peers.coredns), places, strict=True)
        )
        asked = 0
        for qname in (
            "www.test",
            "example.org",
            "alias.example.org",
            "x.sub.example.org",
            "a.b.test",
        ):
            for packet in beside.queries(qname, "A", "TXT", "NS"):
                for ask in (peers.ask_udp, peers.ask_tcp):
                    said = compare.difference(
                        packet,
                        ask(theirs.address, packet),
                        ask(ours.address, packet),
                        beside.UNORDERED,
                    )
                    assert not said, said
                    asked += "b.test" not in qname
        # The question that tells whether a server is up is REFUSED, once or more.
        counts = [
            {
                str(key).replace(str(port), "PORT"): value
                for key, value in beside.samples(metrics, "coredns_grpc_responses").items()
                if "REFUSED" not in str(key)
            }
            for metrics, _ in places
        ]
        assert counts[0] == counts[1]
        assert asked == sum(counts[0].values())
        for metrics, _ in places:
            for name in ("requests_total", "request_duration_seconds_count"):
                (count,) = beside.samples(metrics, f"coredns_grpc_{name}").values()
                assert count > asked


class Backend(grpc.GenericRpcHandler):
    """A server of our own that says what a test wants: a status, or the message made odd."""

    def __init__(self) -> None:
        self.status = grpc.StatusCode.OK
        self.change = lambda packet: packet

    def service(self, details):
        def answer(request, context):
            if self.status is not grpc.StatusCode.OK:
                context.abort(self.status, "as asked")
            packet = bytearray(unwrapped(request))
            packet[2] |= 0x80
            return wrapped(self.change(bytes(packet)))

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.parametrize(
    ("status", "through"),
    [
        (status, through)
        for status in ("OK", "NOT_FOUND", "UNAVAILABLE", "INTERNAL")
        for through in (0, 1)
    ],
)
def test_statuses_are_read_alike(tmp_path, status, through):
    from concurrent.futures import ThreadPoolExecutor

    backend = Backend()
    backend.status = getattr(grpc.StatusCode, status)
    server = grpc.server(ThreadPoolExecutor(2), handlers=(backend,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    block = "fallthrough a.test" if through else "policy round_robin"
    corefile = f". {{\n grpc . 127.0.0.1:{port} {{\n {block}\n }}\n erratic {{\n drop 0\n delay 0\n }}\n}}\n"
    try:
        packets = [beside.query(qname, "TXT", edns=1232) for qname in ("www.a.test", "www.b.test")]
        assert not beside.differences(corefile, packets, tmp_path, beside.UNORDERED)
    finally:
        server.stop(0)


LINES = (
    "grpc . 127.0.0.1", "grpc . 127.0.0.1:53 [::1]:54", "grpc a.test ::1 {\nexcept b.a.test c.a.test\n}",
    "grpc . 127.0.0.1 {\npolicy random\n}", "grpc . 127.0.0.1 {\ntls\n}",
    "grpc . 127.0.0.1 {\ntls ca.pem\ntls_servername a\n}", "grpc . 127.0.0.1 {\nfallthrough\n}",
    "grpc . servers", "grpc . " + "127.0.0.1 " * 15, "grpc . grpc://127.0.0.1",
)  # fmt: skip
MISTAKES = (
    "grpc", "grpc .", "grpc . nonsense", "grpc . 127.0.0.1 {\npolicy fastest\n}",
    "grpc . 127.0.0.1 {\npolicy\n}", "grpc . 127.0.0.1 {\nexcept\n}", "grpc . 127.0.0.1 {\nx\n}",
    "grpc . 127.0.0.1 {\ntls none.pem\n}", "grpc . 127.0.0.1 {\ntls a b c d\n}",
    "grpc . 127.0.0.1\ngrpc . 127.0.0.1", "grpc . " + "127.0.0.1 " * 16,
    "grpc_server x", "grpc_server {\nmax_streams -1\n}", "grpc_server {\nmax_streams\n}",
    "grpc_server {\nmax_streams 1\nmax_streams 1\n}", "grpc_server {\nx\n}",
)  # fmt: skip


@pytest.mark.parametrize(
    "line", [*LINES, *MISTAKES, "grpc_server {\nmax_streams 0\nmax_connections 3\n}"]
)
def test_both_take_or_refuse(line, certs):
    (certs / "servers").write_text("nameserver 127.0.0.1\n")
    refused = beside.start(f". {{\n{line}\nwhoami\n}}\n", certs)
    assert [bool(each) for each in refused] == [line in MISTAKES] * 2, refused


def test_connections_beyond_the_limit_make_room(certs, tmp_path):
    """A client that opens many connections has the quiet ones closed, and is answered on the last."""
    port = peers.free_port()
    text = f"grpc://.:{port} {{\n grpc_server {{\n max_connections 2\n }}\n whoami\n}}\n. {{\n whoami\n}}\n"
    with peers.clusterdns(text, tmp_path), contextlib.ExitStack() as stack:
        for number in range(4):
            option = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", option))
            reply = channel.unary_unary(METHOD)(wrapped(beside.query("a.test")), timeout=5)
            assert struct.unpack_from("!H", unwrapped(reply), 6)[0] == 0
