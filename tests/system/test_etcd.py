"""etcd: members that fail, users and certificates, what a question may cost, and mistakes."""

from __future__ import annotations

import asyncio
import time

import beside
import certificates
import dns.exception
import dns.message
import dns.rcode
import etcdserver
import peers
import pytest

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError, UpstreamError
from clusterdns.skydns import gateway, records, services
from clusterdns.skydns.gateway import Endpoint, Etcd
from clusterdns.skydns.records import Get, MissingError, Zone
from clusterdns.wire import name, rr
from clusterdns.wire.message import Question

COREFILE = """sky.test {
    errors
    prometheus 127.0.0.1:METRICS
    etcd {
        OPTIONS
    }
}
"""


def corefile(*options: str) -> str:
    text = COREFILE.replace("OPTIONS", "\n".join(options))
    return text.replace("METRICS", str(peers.free_port()))


def failures(text: str) -> float:
    port = int(text.partition("127.0.0.1:")[2].split()[0])
    return sum(beside.samples(port, "clusterdns_etcd_failures_total").values())


def ask(server: peers.Server, qname: str = "web.sky.test", qtype: str = "A"):
    """Return the reply, and how long it took."""
    began = time.monotonic()
    reply = peers.ask_udp(server.address, beside.query(qname, qtype), 8)
    assert reply is not None
    return dns.message.from_wire(reply), time.monotonic() - began


def test_a_member_that_is_down_costs_one_query_at_most(tmp_path):
    with etcdserver.running(tmp_path) as etcd:
        etcd.put("/skydns/test/sky/web", {"host": "10.0.0.1"})
        text = corefile(f"endpoint http://127.0.0.1:{peers.free_port()} {etcd.url}")
        with peers.clusterdns(text, tmp_path) as server:
            for _ in range(5):
                reply, seconds = ask(server)
                assert len(reply.answer) == 1 and seconds < 1
            assert failures(text) == 1


def test_etcd_goes_and_comes_back(tmp_path):
    port = peers.free_port()
    text = corefile(f"endpoint http://127.0.0.1:{port}")
    with peers.clusterdns(text, tmp_path) as server:
        for _ in range(3):
            reply, seconds = ask(server)
            assert (dns.rcode.SERVFAIL, 1) == (reply.rcode(), len(reply.authority))
            assert seconds < 1
        assert "connection refused" in server.output
        for host in ("10.0.0.1", "10.0.0.2"):  # the second one finds connections that are dead
            with etcdserver.running(tmp_path, port=port) as etcd:
                etcd.put("/skydns/test/sky/web", {"host": host})
                deadline = time.monotonic() + 10
                while not (reply := ask(server)[0]).answer:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
                assert host == reply.answer[0][0].address
        assert ask(server)[1] < 1


def test_who_stalls_is_given_up_and_others_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(gateway, "MEMBER_TIMEOUT_S", 0.2)

    async def main() -> None:
        async def stall(reader, writer) -> None:
            await reader.read()
            writer.close()

        stalling = await asyncio.start_server(stall, "127.0.0.1", 0)
        port = stalling.sockets[0].getsockname()[1]
        with etcdserver.running(tmp_path) as server:
            etcd = Etcd([Endpoint("127.0.0.1", port), Endpoint("127.0.0.1", server.port)], None)
            assert [] == await etcd.range("/none", is_prefix=True)
            assert 1 == etcd.failures
            etcd.close()
            alone = Etcd([Endpoint("127.0.0.1", port)], None)
            for patience_s in (1, 0.1):
                began = time.monotonic()
                with pytest.raises(UpstreamError, match="timeout"):
                    await alone.range("/none", is_prefix=True)
                assert time.monotonic() - began < patience_s
        stalling.close()
        await asyncio.sleep(0.05)

    asyncio.run(main())


REPLIES = [
    b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    b"HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n", b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{]}",
    b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"kvs":[7]}'[:-1],
    b'HTTP/1.1 200 OK\r\nContent-Length: 21\r\n\r\n{"kvs":[{"key":"\xff!"}]}',
    b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"kvs": 12}',
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"ffff\r\n" + b"[" * 0xFFFF + b"\r\n0\r\n\r\n",
    b'HTTP/1.1 401 x\r\nContent-Length: 29\r\n\r\n{"error": "no", "code": null}',
]  # fmt: skip


@pytest.mark.parametrize("said", REPLIES)
def test_what_is_no_reply_of_etcd_is_an_error(said, monkeypatch):
    monkeypatch.setattr(gateway, "MAX_REPLY_OCTETS", 70_000)

    async def main() -> None:
        async def answer(reader, writer) -> None:
            await reader.readuntil(b"}")
            writer.write(said)
            writer.write_eof()
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        etcd = Etcd([Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])], None)
        with pytest.raises(UpstreamError):
            await etcd.range("/a", is_prefix=False)
        etcd.close()
        server.close()
        await asyncio.sleep(0.05)

    asyncio.run(main())


def test_a_user_with_a_password(tmp_path):
    with etcdserver.running(tmp_path, "--auth-token-ttl", "1") as etcd:
        etcd.put("/skydns/test/sky/web", {"host": "10.0.0.1"})
        etcd.post("/v3/auth/role/add", {"name": "root"})
        etcd.post("/v3/auth/user/add", {"name": "root", "password": "secret"})
        etcd.post("/v3/auth/user/grant", {"user": "root", "role": "root"})
        etcd.post("/v3/auth/enable", {})
        url = f"endpoint {etcd.url}"
        with peers.clusterdns(corefile(url, "credentials root secret"), tmp_path) as server:
            assert ask(server)[0].answer
            time.sleep(2.5)  # the token has ended
            assert ask(server)[0].answer
        for options in (("credentials root wrong",), ()):
            with peers.clusterdns(corefile(url, *options), tmp_path) as server:
                assert dns.rcode.SERVFAIL == ask(server)[0].rcode()
                assert "authentication failed" in server.output or "user name is empty" in (
                    server.output
                )


def test_certificates_of_both_sides(tmp_path):
    files = certificates.make(tmp_path)
    flags = (
        "--cert-file", str(files / "server.pem"), "--key-file", str(files / "server.key"),
        "--trusted-ca-file", str(files / "ca.pem"), "--client-cert-auth",
    )  # fmt: skip
    with etcdserver.running(tmp_path, *flags) as etcd:
        url = f"endpoint https://127.0.0.1:{etcd.port}"
        good = corefile(url, "tls client.pem client.key ca.pem")
        with peers.clusterdns(good, tmp_path) as server:
            assert dns.rcode.NXDOMAIN == ask(server)[0].rcode()
        with peers.clusterdns(corefile(url), tmp_path) as server:
            assert dns.rcode.SERVFAIL == ask(server)[0].rcode()
            assert "certificate verify failed" in server.output


def test_a_label_does_not_lead_out_of_its_key(tmp_path):
    with etcdserver.running(tmp_path) as etcd:
        etcd.put("/secret/web", {"host": "10.0.0.9"})
        etcd.put("/skydns/test/sky/a/b", {"host": "10.0.0.1"})
        with peers.clusterdns(corefile(f"endpoint {etcd.url}"), tmp_path) as server:
            for qname, rcode in (
                ("../../../secret/web.sky.test", dns.rcode.NXDOMAIN),
                (r"\.\./\.\./\.\./secret/web.sky.test", dns.rcode.NXDOMAIN),
                ("a/b.sky.test", dns.rcode.NOERROR),
                ("./a/b.sky.test", dns.rcode.NOERROR),
            ):
                try:
                    assert rcode == ask(server, qname)[0].rcode(), qname
                except dns.exception.DNSException:
                    continue


def test_one_question_causes_a_bounded_number_of_lookups():
    """Each alias leads to ten others, and so on: CoreDNS would look up ten billion."""
    zone = name.fold(name.parse("sky.test"))
    question = Question(name.parse("a0.sky.test"), name.fold(name.parse("a0.sky.test")), rr.A)
    steps, gets = Zone(zone, 1).respond(question), 0
    said = None
    try:
        while True:
            wanted = steps.send(said)
            assert isinstance(wanted, Get)
            gets += 1
            said = [services.Service(host=f"a{gets}x{i}.sky.test", key="/a") for i in range(10)]
    except StopIteration as done:
        assert records.MAX_GETS == gets
        assert done.value is not None


def test_errors_of_etcd_are_told_and_a_missing_name_is_none():
    zone = name.fold(name.parse("sky.test"))
    for error, rcode in ((UpstreamError("down"), rr.SERVFAIL), (MissingError(), None)):
        steps = Zone(zone, 1).respond(Question(zone, zone, rr.NS))
        next(steps)
        with pytest.raises(StopIteration) as done:
            steps.throw(error)
        found = done.value.value
        assert rcode == (found.rcode if found else None)


@pytest.mark.parametrize("qtype", [rr.A, rr.AAAA, 65])
def test_the_apex_is_looked_for_elsewhere_only_if_it_is_not_in_its_place(qtype):
    """An error of etcd does not say that `dns/apex` is missing."""
    zone = name.fold(name.parse("sky.test"))
    steps = Zone(zone, 1).respond(Question(zone, zone, qtype))
    assert b"\4apex\3dns" + zone == next(steps).qname
    assert zone == steps.throw(MissingError()).qname
    steps = Zone(zone, 1).respond(Question(zone, zone, qtype))
    next(steps)
    with pytest.raises(StopIteration) as done:
        steps.throw(UpstreamError("down"))
    assert rr.SERVFAIL == done.value.value.rcode


def test_groups():
    def of(*pairs: tuple[str, str]) -> list[str]:
        some = [services.Service(key=key, group=group) for key, group in pairs]
        return [each.key for each in services.grouped(some)]

    assert ["/a/b", "/a/c"] == of(("/a/b", "g1"), ("/a/c", "g1"))
    assert ["/a/b", "/a/c"] == of(("/a/b", "g1"), ("/a/c", "g2"))  # they disagree
    assert ["/a/b/x", "/a/c"] == of(("/a/b/x", "g1"), ("/a/c", "g1"), ("/a/d/y", "g2"))
    assert ["/a/b/x", "/a/c"] == of(("/a/b/x", ""), ("/a/c", "g1"), ("/a/d/y", "g2"))
    assert [] == of()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("path", "takes one argument"),
        ("path a b", "takes one argument"),
        ("endpoint", "needs an argument"),
        ("endpoint ftp://x", "wants http://HOST:PORT"),
        ("endpoint http://", "wants http://HOST:PORT"),
        ("endpoint http://a:99999", "out of range"),
        ("endpoint http://a/b", "wants http://HOST:PORT"),
        ("credentials root", "wants USERNAME PASSWORD"),
        ("tls a b c d", "wants"),
        ("tls missing.pem", "missing.pem"),
        ("min-lease-ttl", "takes one argument"),
        ("min-lease-ttl -3s", "positive"),
        ("max-lease-ttl 4294967296", "from 0 to"),
        ("max-lease-ttl 1200000h", "is more than"),
        ("max-lease-ttl soon", "is no duration"),
        ("no_apex_fallback 1", "takes no argument"),
        ("pathh x", "path"),
    ],
)
def test_mistakes_have_a_line(line, says):
    text = f"sky.test {{\n etcd {{\n {line}\n }}\n}}\n"
    with pytest.raises(ConfigError, match=says) as caught:
        compile_text(text, "Corefile", port=53, environ={}, warn=print)
    assert 3 == caught.value.line


def test_what_means_nothing_is_taken(caplog):
    text = "sky.test {\n etcd {\n stubzones\n upstream /etc/resolv.conf\n debug\n }\n}\n"
    compile_text(text, "Corefile", port=53, environ={}, warn=print)
    assert [3, 4, 5] == [int(each.args[1]) for each in caplog.records]


def test_endpoints_of_all_kinds():
    from clusterdns.plugins.etcd import _endpoint

    context = certificates.client_context()
    for text, expected in (
        ("http://a:1", Endpoint("a", 1)), ("a:2", Endpoint("a", 2, context)),
        ("https://a", Endpoint("a", 2379, context)), ("[::1]:3", Endpoint("::1", 3, context)),
    ):  # fmt: skip
        assert expected == _endpoint(text, None, context)
