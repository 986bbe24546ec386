"""`cookie`: the cookies of RFC 9018, the secrets and their files, and the real server with them."""

from __future__ import annotations

import asyncio
import struct
from pathlib import Path

import beside
import dns.message
import peers
import pytest
from faultyupstream import FaultyUpstream, good
from inprocess import InProcess

from clusterdns.config.compile import compile_text
from clusterdns.errors import ConfigError
from clusterdns.plugins import cookie as plugin
from clusterdns.serving import native
from clusterdns.wire import cookies, message
from clusterdns.wire.cookies import CLIENT_ONLY, INVALID, MALFORMED, NONE, VALID, Cookies
from clusterdns.wire.message import Edns
from clusterdns.wire.siphash import siphash

OLD, NEW = "dd3bdf9344b678b185a6f5cb60fca715", "445536bcd2513298075a5d379663c962"
SECRET = "e5e973e5a6b2a43f48e7dc849e37bfcf"
BADCOOKIE, FORMERR = 23, 1
CLIENT = bytes.fromhex("2464c4abcf10c957")


def option(data: bytes) -> Edns:
    return Edns(1232, 0, 0, message.write_option(cookies.COOKIE, data))


def made(now: float, *secrets: str, **options: object) -> Cookies:
    octets = [bytes.fromhex(each) for each in secrets]
    return Cookies(lambda: octets, lambda: now, **options)


def test_siphash_of_its_authors():
    """The vectors of the paper's reference code: lengths 0, 1, 8, 15, 63."""
    key = bytes(range(16))
    for length, expected in (
        (0, "310e0edd47db6f72"), (1, "fd67dc93c539f874"), (8, "6224939a79f5f593"),
        (15, "e545be4961ca29a1"), (63, "724506eb4c328a95"),
    ):  # fmt: skip
        assert expected == siphash(key, bytes(range(length))).hex(), length
    if native.compiled is not None:
        for length in range(70):
            octets = bytes(range(100, 100 + length))
            assert siphash(key, octets) == native.compiled.siphash(key, octets)
        with pytest.raises(ValueError, match="16 octets"):
            native.compiled.siphash(b"short", b"")


# Address, time, what the client sends, the secrets, the option of the reply: RFC 9018 appendix A.
RFC_9018 = [
    ("198.51.100.100", 1559731985, "2464c4abcf10c957", (SECRET,),
     "2464c4abcf10c957010000005cf79f111f8130c3eee29480", CLIENT_ONLY),
    ("198.51.100.100", 1559734385, "2464c4abcf10c957010000005cf79f111f8130c3eee29480", (SECRET,),
     "2464c4abcf10c957010000005cf7a871d4a564a1442aca77", VALID),
    ("203.0.113.203", 1559734700, "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5", (SECRET,),
     "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e", INVALID),
    ("2001:db8:220:1:59de:d0f4:8769:82b8", 1559741961,
     "22681ab97d52c298010000005cf7c57926556bd0934c72f8", (NEW, OLD),
     "22681ab97d52c298010000005cf7c609a6bb79d16625507a", VALID),
]  # fmt: skip


@pytest.mark.parametrize(("host", "now", "sent", "secrets", "reply", "said"), RFC_9018)
def test_the_examples_of_the_rfc(host, now, sent, secrets, reply, said):
    found = made(now, *secrets)
    assert (said, option(bytes.fromhex(reply)).options) == found.judge(
        option(bytes.fromhex(sent)), host
    )


def test_reserved_octets_are_hashed_and_not_judged():
    """The third example of RFC 9018 again, within the hour of its time."""
    sent = bytes.fromhex("fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5")
    assert VALID == made(1559728000, SECRET).judge(option(sent), "203.0.113.203")[0]


def test_what_is_accepted():
    now = 2_000_000_000
    _, whole = made(now, SECRET).judge(option(CLIENT), "10.0.0.1")
    data = whole[4:]

    def said(octets: bytes, at: float = now, host: str = "10.0.0.1", *more: str) -> str:
        return made(at, *(more or (SECRET,))).judge(option(octets), host)[0]

    assert VALID == said(data)
    assert VALID == said(data, now, "10.0.0.1", NEW, SECRET)
    for octets, at, host, *more in (
        (data, now, "10.0.0.2"), (data, now + 3601, "10.0.0.1"), (data, now - 301, "10.0.0.1"),
        (data, now, "10.0.0.1", NEW), (bytes(8) + data[8:], now, "10.0.0.1"),
        (data[:8] + b"\2" + data[9:], now, "10.0.0.1"), (data[:-1], now, "10.0.0.1"),
        (data + bytes(16), now, "10.0.0.1"), (CLIENT + bytes(8), now, "10.0.0.1"),
    ):  # fmt: skip
        assert INVALID == said(octets, at, host, *more)
    for length in (*range(8), *range(9, 16), 41, 255):
        assert (MALFORMED, b"") == made(now, SECRET).judge(option(bytes(length)), "10.0.0.1")
    assert VALID == said(data, now + 3600)
    assert VALID == said(data, now - 300)
    assert (NONE, b"") == made(now, SECRET).judge(Edns(1232, 0, 0), "10.0.0.1")
    assert (NONE, b"") == made(now, SECRET).judge(None, "10.0.0.1")
    for i in range(len(data)):
        bad = bytearray(data)
        bad[i] ^= 1
        assert INVALID == said(bytes(bad), now), i


def test_random_secrets_change_and_the_last_one_is_accepted(monkeypatch):
    now = [1_000_000.0]
    monkeypatch.setattr(plugin.time, "time", lambda: now[0])
    configuration = compile_text(
        ". {\ncookie {\n rotate 1h\n}\nwhoami\n}", "Corefile", port=53, environ={}, warn=print
    )
    (router,) = configuration.routers.values()
    first = router.cookies._secrets()
    assert len({*first}) == 2
    assert first == router.cookies._secrets()
    now[0] += 3600
    second = router.cookies._secrets()
    assert second[1] == first[0]
    assert second[0] not in first
    again = compile_text(
        ". {\ncookie {\n rotate 1h\n}\nwhoami\n}", "Corefile", port=53, environ={}, warn=print
    )
    (other,) = again.routers.values()
    assert other.cookies._secrets() == second, "a reload keeps them"


MISTAKES = {
    "cookie missing": "cannot use",
    "cookie bad": "secret 2 has not 32 hexadecimal digits",
    "cookie empty": "wants 1 to 3 secrets, has 0",
    "cookie many": "wants 1 to 3 secrets, has 4",
    "cookie good good": "takes one argument",
    "cookie {\n rotate 0s\n}": "positive",
    "cookie {\n require all\n}": "takes no argument",
    "cookie {\n tcp 10.0.0.0/99\n}": "10.0.0.0/99",
    "cookie {\n requires\n}": "require",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_are_told_without_the_secrets(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good").write_text(f"{SECRET}\n{OLD}\n")
    (tmp_path / "bad").write_text(f"{SECRET}\n{OLD[:-1]}\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "many").write_text(f"{SECRET}\n" * 4)
    with pytest.raises(ConfigError) as caught:
        compile_text(f". {{\n{text}\nwhoami\n}}", "Corefile", port=53, environ={}, warn=print)
    assert MISTAKES[text] in str(caught.value)
    assert "Corefile:" in str(caught.value)
    assert OLD[:-1] not in str(caught.value)


def query(text: str, data: bytes | None, size: int = 1232) -> bytes:
    made = beside.query(text, edns=size)
    if data is None:
        return made
    added = message.write_option(cookies.COOKIE, data)
    return made[:-2] + struct.pack("!H", len(added)) + added


def read(reply: bytes | None) -> tuple[int, bool, bytes | None, int]:
    """Return the RCODE, TC, the cookie, and the number of answers of a reply."""
    assert reply is not None
    found = dns.message.from_wire(reply)
    data = [each for each in found.options if each.otype == cookies.COOKIE]
    octets = data[0].client + data[0].server if data else None
    return found.rcode(), bool(reply[2] & 2), octets, len(found.answer)


COREFILE = """.:{{PORT}} {{
    cookie {words}
    hosts /none {{
        192.0.2.1 web.test
        fallthrough
    }}
    prometheus 127.0.0.1:{metrics}
    cache
    forward . {upstream}
}}
"""


@pytest.mark.parametrize("pure", ["", "1"])
def test_the_server_gives_cookies_to_those_who_ask(tmp_path, pure, monkeypatch):
    if pure:
        monkeypatch.setenv("CLUSTERDNS_PURE", pure)
    (tmp_path / "secrets").write_text(f"{SECRET}\n")
    metrics = peers.free_port()
    with FaultyUpstream(good) as upstream:
        text = COREFILE.format(words="secrets", metrics=metrics, upstream=upstream.address)
        with peers.clusterdns(text, tmp_path) as server:
            asks = (peers.ask_udp, peers.ask_tcp)
            for name in ("web.test", "far.example"):
                for _ in range(3):  # misses and hits, with and without cookies by turns
                    for ask in asks:
                        rcode, _, none, count = read(ask(server.address, query(name, None)))
                        assert (0, None, 1) == (rcode, none, count)
                        rcode, _, first, count = read(ask(server.address, query(name, CLIENT)))
                        assert (0, 1) == (rcode, count)
                        assert first is not None
                        assert (CLIENT, 24) == (first[:8], len(first))
                        rcode, _, second, _ = read(ask(server.address, query(name, first)))
                        assert rcode == 0
                        assert second is not None
                        assert second[:12] == first[:12]
            for bad in (b"", bytes(7), bytes(9), bytes(41)):
                assert FORMERR == read(peers.ask_udp(server.address, query("web.test", bad)))[0]
            plain = peers.ask_udp(server.address, beside.query("web.test"))
            assert plain is not None
            assert plain[10:12] == b"\0\0", "no OPT for a client without"
            # A query without a question asks for a cookie, or whether one is valid.
            for data, rcode in ((CLIENT, 0), (first, 0), (CLIENT + bytes(16), BADCOOKIE)):
                head = struct.pack("!HHHHHH", 7, 0x0100, 0, 0, 0, 1)
                bare = head + message.write_opt(option(data))
                found = read(peers.ask_udp(server.address, bare))
                assert (rcode, False, 0) == (found[0], found[1], found[3])
                assert found[2] is not None
            for bare in (head, head + message.write_opt(Edns(1232, 0, 0)), head + b"\0\0\x29"):
                reply = peers.ask_udp(server.address, bare)
                assert reply is not None
                assert FORMERR == reply[3] & 15
            counted = beside.samples(metrics, "clusterdns_cookie_queries_total")
            words = {key for keys in counted for key in str(keys).split("'")}
            assert {CLIENT_ONLY, VALID, INVALID, MALFORMED} <= words


@pytest.mark.parametrize("pure", ["", "1"])
def test_clients_that_have_to_prove_their_address(tmp_path, pure, monkeypatch):
    if pure:
        monkeypatch.setenv("CLUSTERDNS_PURE", pure)
    with FaultyUpstream(good) as upstream:
        words = "{\n require\n tcp 127.0.0.0/8\n}"
        text = COREFILE.format(words=words, metrics=peers.free_port(), upstream=upstream.address)
        with peers.clusterdns(text, tmp_path) as server:
            for name in ("web.test", "far.example"):
                for _ in range(3):
                    rcode, _, first, count = read(
                        peers.ask_udp(server.address, query(name, CLIENT))
                    )
                    assert (BADCOOKIE, 0) == (rcode, count)
                    assert first is not None
                    found = read(peers.ask_udp(server.address, query(name, first)))
                    assert (0, False, 1) == (found[0], found[1], found[3])
                    forged = first[:-1] + bytes((first[-1] ^ 1,))
                    found = read(peers.ask_udp(server.address, query(name, forged)))
                    assert (BADCOOKIE, 0) == (found[0], found[3])
                    for packet in (query(name, None), beside.query(name)):
                        cut = peers.ask_udp(server.address, packet)
                        assert (0, True, None, 0) == read(cut)
                        assert cut is not None
                        assert len(cut) <= len(packet)
                        assert 1 == read(peers.ask_tcp(server.address, packet))[3]
                    assert 1 == read(peers.ask_tcp(server.address, query(name, CLIENT)))[3]


def test_replicas_that_share_a_file_and_a_secret_that_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin, "POLL_S", 0.1)
    path = Path(tmp_path / "secrets")
    write = path.write_text
    write(f"{SECRET}\n")

    async def main() -> None:
        corefile = f". {{\ncookie {path}\nhosts /none {{\n192.0.2.1 web.test\n}}\n}}"
        async with InProcess(corefile, []) as one, InProcess(corefile, []) as other:
            first = read(await one.ask_chain(query("web.test", CLIENT), "udp"))[2]
            assert first is not None
            found = other.server.router.cookies
            assert found is not None
            await other.ask_chain(query("web.test", first), "udp")
            assert (1, 0) == (found.counts[VALID], found.counts[INVALID])
            write(f"{NEW}\n{SECRET}\n")
            for _ in range(100):
                await asyncio.sleep(0.05)
                if found._secrets()[0] == bytes.fromhex(NEW):
                    break
            await other.ask_chain(query("web.test", first), "udp")
            assert (2, 0) == (found.counts[VALID], found.counts[INVALID])
            write("nonsense")
            await asyncio.sleep(0.3)
            await other.ask_chain(query("web.test", first), "udp")
            assert (3, 0) == (found.counts[VALID], found.counts[INVALID])

    asyncio.run(main())
