"""dnstap: readers that come, go, stall and lie; what they are told is what the clients got."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import ssl
import struct
import subprocess
import time

import beside
import certificates
import dns.message
import peers
import pytest
import tapreader
from inprocess import InProcess, in_packet_loop

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.serving import native, tcp
from clusterdns.serving.udp import Engine
from clusterdns.tapping import outlets, payload

COREFILE = """. {
    dnstap SOCKET
    log . {
        class denial
    }
    prometheus 127.0.0.1:METRICS
    loadbalance
    hosts {
        10.0.0.1 a.test
        10.0.0.2 a.test
        10.0.0.3 b.test
    }
}
"""


def corefile(place: object) -> str:
    return COREFILE.replace("SOCKET", str(place)).replace("METRICS", str(peers.free_port()))


def dropped(text: str) -> float:
    port = int(text.partition("127.0.0.1:")[2].split()[0])
    return sum(beside.samples(port, "clusterdns_dnstap_dropped_total").values())


def about(messages, qname: str):
    """Return the messages about a name."""
    octets = dns.message.make_query(qname, "A").question[0].name.to_wire()
    return [each for each in messages if octets in (each.query or each.response or b"")]


def ask(server: peers.Server, qname: str) -> bytes:
    reply = peers.ask_udp(server.address, beside.query(qname, edns=1232))
    assert reply is not None
    return reply


def responses(messages, qname="a.test."):
    return [each for each in about(messages, qname) if each.response]


def test_what_is_told_are_the_octets_that_clients_got(tmp_path):
    place = tmp_path / "tap"
    with (
        tapreader.Reader(place) as reader,
        peers.clusterdns(corefile(f"unix://{place} full"), tmp_path) as server,
    ):
        packets = [beside.query("a.test.", edns=1232) for _ in range(8)]
        got = [peers.ask_udp(server.address, packet) for packet in packets]
        got += [peers.ask_tcp(server.address, packet) for packet in packets]
        told = reader.wait(lambda messages: len(responses(messages)) == 16)
        assert sorted(got) == sorted(each.response for each in responses(told))
        asked = [each.query for each in about(told, "a.test.") if each.query]
        assert sorted(packets * 2) == sorted(asked)
        assert len({reply[12:] for reply in got}) == 2  # loadbalance
        assert abs(time.time() - told[-1].query_time) < 5


def test_a_farewell_is_said_and_nothing_is_lost_at_the_end(tmp_path):
    place = tmp_path / "tap"
    with tapreader.Reader(place) as reader:
        with peers.clusterdns(corefile(f"{place} full"), tmp_path) as server:
            reader.wait(lambda _: reader.connections)
            for _ in range(30):
                ask(server, "a.test.")
        reader.wait(lambda _: reader.finished == 1)
        assert 30 == len(responses(reader.messages))
        assert not reader.errors


def test_a_reader_may_come_late_and_go_and_come_back(tmp_path):
    place = tmp_path / "tap"
    text = corefile(f"{place} full")
    with peers.clusterdns(text, tmp_path) as server:
        ask(server, "a.test.")
        for qname in ("a.test.", "b.test."):
            with tapreader.Reader(place) as reader:
                ask(server, "b.test.")
                reader.wait(lambda messages, qname=qname: responses(messages, qname), 15)
        assert "No connection to dnstap endpoint" in server.output
        assert dropped(text) == 0


def test_no_query_waits_for_a_reader_that_stalls(tmp_path):
    place, most = tmp_path / "tap", 12_000
    text = corefile(f"{place} full")
    with (
        tapreader.Reader(place, stalls=True) as reader,
        peers.clusterdns(text, tmp_path) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
    ):
        reader.wait(lambda _: reader.connections)
        sock.connect(server.address)
        sock.settimeout(2)
        packet = beside.query("a.test.", edns=1232)
        longest = 0.0
        for _ in range(most):
            began = time.monotonic()
            sock.send(packet)
            assert sock.recv(4096)
            longest = max(longest, time.monotonic() - began)
        assert longest < 1
        deadline = time.monotonic() + 5
        while dropped(text) == 0:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert "Dropped dnstap messages" in server.output or dropped(text) < 2 * most


def test_over_tls_and_only_who_has_proved_its_name(tmp_path):
    files = certificates.make(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files / "server.pem", files / "server.key")
    with tapreader.Reader(0, tls=context) as reader:
        skip = corefile(f"tls://127.0.0.1:{reader.port} full {{\n skipverify\n }}")
        with peers.clusterdns(skip, tmp_path) as server:
            ask(server, "a.test.")
            reader.wait(responses)
    with tapreader.Reader(0, tls=context) as reader:
        strict = corefile(f"tls://127.0.0.1:{reader.port} full")
        with peers.clusterdns(strict, tmp_path) as server:
            ask(server, "a.test.")
            deadline = time.monotonic() + 5
            while "certificate verify failed" not in server.output:
                assert time.monotonic() < deadline, server.output
                time.sleep(0.05)
        assert not reader.messages


@pytest.mark.parametrize("scheme", ["unix", "tcp"])
def test_readers_may_connect(tmp_path, scheme):
    place = tmp_path / "hub" if scheme == "unix" else peers.free_port()
    where = f"unix://{place}" if scheme == "unix" else f"tcp://127.0.0.1:{place}"
    with (
        peers.clusterdns(corefile(f"listen {where} full"), tmp_path) as server,
        tapreader.Reader(place, connects=True) as one,
        tapreader.Reader(place, connects=True) as other,
    ):
        for reader in (one, other):
            reader.wait(lambda _, reader=reader: reader.connections)
        ask(server, "a.test.")
        for reader in (one, other):
            reader.wait(responses)


def test_the_reference_reader_understands(tmp_path):
    program = shutil.which("dnstap")
    if program is None:
        pytest.skip("needs dnstap: go install github.com/dnstap/golang-dnstap/dnstap@latest")
    place = tmp_path / "tap"
    with (tmp_path / "told").open("w") as output:
        reader = subprocess.Popen([program, "-u", str(place), "-j"], stdout=output)
        try:
            while not place.exists():
                time.sleep(0.01)
            with peers.clusterdns(corefile(f"{place} full"), tmp_path) as server:
                for _ in range(3):
                    ask(server, "a.test.")
                time.sleep(0.5)
        finally:
            reader.terminate()
            reader.wait(5)
    told = [json.loads(line) for line in (tmp_path / "told").read_text().splitlines()]
    of_a = [each["message"] for each in told if "a.test." in json.dumps(each)]
    assert ["CLIENT_QUERY", "CLIENT_RESPONSE"] * 3 == [each["type"] for each in of_a]
    assert {"127.0.0.1"} == {each["query_address"] for each in of_a}
    assert {"UDP"} == {each["socket_protocol"] for each in of_a}


@pytest.mark.parametrize("is_compiled", [True, False])
def test_with_and_without_c_the_same_is_told(monkeypatch, is_compiled):
    if is_compiled and native.compiled is None:
        pytest.skip("not compiled")
    if not is_compiled:
        monkeypatch.setattr(native, "compiled", None)
    frames: list[bytes] = []

    async def main() -> list[bytes]:
        text = ". {\n dnstap /none full\n log\n hosts {\n 10.0.0.1 a.test\n }\n}"
        async with InProcess(text, []) as inside:
            plugin = inside.configuration.plugins
            tap = next(each for each in plugin if each.name == "dnstap")
            monkeypatch.setattr(tap._outlet, "put", frames.extend)
            sock, stream = peers.bind_pair()
            sock.setblocking(False)
            engine = Engine(inside.server, sock)
            streams = tcp.Streams(inside.server, stream)
            engine.start()
            await streams.start()
            packet = beside.query("a.test.", edns=1232)
            replies = []
            for ask_one in (peers.ask_udp, peers.ask_tcp) * 2:
                replies.append(await asyncio.to_thread(ask_one, sock.getsockname(), packet))
            await asyncio.sleep(0.1)
            engine.stop()
            streams.stop()
            streams.abort()
            sock.close()
            return replies

    found: list[list[bytes]] = []

    async def run() -> None:
        found.append(await main())

    in_packet_loop(run())
    told = [tapreader.told(frame[4:]) for frame in frames]
    assert sorted(found[0]) == sorted(each.response for each in told if each.response)
    assert [1, 1, 2, 2] == sorted(each.protocol for each in told if each.response)


def test_a_reader_that_speaks_something_else_is_left(monkeypatch):
    monkeypatch.setattr(outlets, "PATIENCE_S", 0.2)
    lines = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", bytes(4) + struct.pack("!II", 600, 1),
        struct.pack("!III", 0, 4, 5), struct.pack("!IIIII", 0, 13, 1, 1, 1) + b"x", None,
    ]  # fmt: skip

    async def main() -> None:
        for said in lines:
            gone = asyncio.Event()

            async def answer(reader, writer, said=said, gone=gone) -> None:
                if said is not None:
                    writer.write(said)
                    writer.write_eof()
                with contextlib.suppress(OSError):
                    await reader.read()
                    await reader.read(1)
                writer.close()
                gone.set()

            server = await asyncio.start_server(answer, "127.0.0.1", 0)
            port = server.sockets[0].getsockname()[1]
            caller = outlets.Caller(outlets.Place(host="127.0.0.1", port=port))
            await caller.start()
            caller.put([b"x" * 100] * 20)
            await asyncio.sleep(0.3)
            assert 20 == len(caller._queue._frames)
            await caller.stop()
            await gone.wait()
            server.close()

    asyncio.run(main())


def test_the_queue_is_bounded_in_frames_and_in_octets():
    queue = outlets.Queue(2)
    queue.put([b"x"] * (2 * outlets.QUEUE_FRAMES + 5))
    assert 5 == queue.dropped
    octets = 0
    while queue.has_some.is_set():
        some, _ = queue.take()
        octets += len(some)
    assert 2 * outlets.QUEUE_FRAMES == octets
    queue.put([bytes(60_000)] * 1000)
    assert 1000 + 5 - queue.dropped == 2 * outlets.QUEUE_OCTETS // 60_000


def test_addresses_of_all_kinds():
    for text, octets in (
        ("192.0.2.1", b"\xc0\0\2\1"), ("::ffff:192.0.2.1", b"\xc0\0\2\1"),
        ("fe80::1%lo", b"\xfe\x80" + bytes(13) + b"\1"),
    ):  # fmt: skip
        made = payload.frame(
            payload.origin(b"", b"v" * 200), payload.FORWARDER_RESPONSE,
            payload.Socket("tcp-tls", (text, 65535), (text, 53)),
            payload.Moments(1_700_000_000_999_999_999, 1_700_000_001_000_000_001), b"r" * 300, b"e",
        )  # fmt: skip
        told = tapreader.told(made[4:])
        assert (octets, octets, 65535, 53, 2) == (
            told.query_address, told.response_address, told.query_port, told.response_port,
            told.protocol,
        )  # fmt: skip
        assert (b"r" * 300, b"v" * 200, b"e") == (told.response, told.version, told.extra)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("dnstap", "wants a SOCKET"),
        ("dnstap listen", "wants a SOCKET"),
        ("dnstap unix://", "has no path"),
        ("dnstap http://x:1", "is no path"),
        ("dnstap tcp://127.0.0.1", "wants tcp://HOST:PORT"),
        ("dnstap tcp://127.0.0.1:99999", "out of range"),
        ("dnstap /x full 0", "from 1 to 1024"),
        ("dnstap /x full 1 4097", "from 1 to 4096"),
        ("dnstap /x {\n identity\n }", "takes one argument"),
        ("dnstap /x {\n extra a b\n }", "takes one argument"),
        ("dnstap /x {\n skipverify 1\n }", "takes no argument"),
        ("dnstap /x {\n tls a b\n }", "for readers that connect here"),
        ("dnstap listen tls://:1 {\n tls a\n }", "wants CERT KEY"),
        ("dnstap listen tls://:1", "wants a line tls CERT KEY"),
        ("dnstap listen tls://:1 {\n tls a b\n }", "a"),
        ("dnstap /x {\n identidy x\n }", "identity"),
        ("multisocket 2\n dnstap listen /x", "needs a single worker"),
    ],
)
def test_mistakes_have_a_line(line, says):
    with pytest.raises(ConfigError, match=says) as caught:
        compile_text(f". {{\n {line}\n}}\n", "Corefile", port=53, environ={}, warn=print)
    assert caught.value.line >= 2
