"""DNS over HTTPS without sockets: what requests carry, how long replies hold, hostile octets."""

from __future__ import annotations

import base64
import struct
import time

import beside
import dns.flags
import dns.message
import dns.rrset
import h2.config
import h2.connection
import pytest
import webclient
from hypothesis import given, settings
from hypothesis import strategies as st
from webclient import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
)

from clusterdns.doh import carrier, http1, http2
from clusterdns.doh.carrier import BAD_REQUEST, NOT_FOUND, NoQueryError, Request
from clusterdns.doh.fields import Encoder

QUERY = b"\0\0" + beside.query("www.test")[2:]
TEXT = base64.urlsafe_b64encode(QUERY).rstrip(b"=")
NOW = 1_800_000_000.0
CALM, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 11, 1, 3, 6


def request(method: bytes, target: bytes, body: bytes | None = b"") -> Request:
    return Request(1, method, target, body)


@pytest.mark.parametrize(
    "target",
    [
        b"/dns-query?dns=" + TEXT,
        b"/dns%2Dquery?a&dns=" + TEXT + b"&b=c",
        b"https://dns.test/dns-query?dns=" + TEXT,
        b"HTTP://dns.test:8443/dns-query?d%6es=" + TEXT,
        b"/dns-query?dns=%0a" + TEXT,
        b"/dns-query?dns=" + TEXT + b"&a=%zz&b;c",
    ],
)
def test_get(target):
    assert QUERY == carrier.query_of(request(b"GET", target))


@pytest.mark.parametrize(
    ("status", "method", "target"),
    [
        (NOT_FOUND, b"GET", b"/"),
        (NOT_FOUND, b"GET", b"*"),
        (NOT_FOUND, b"GET", b"dns-query?dns=" + TEXT),
        (NOT_FOUND, b"GET", b"https:///dns-query?dns=" + TEXT),
        (NOT_FOUND, b"GET", b"/dns-query%?dns=" + TEXT),
        (NOT_FOUND, b"DELETE", b"/dns-query/"),
        (BAD_REQUEST, b"GET", b"/dns-query"),
        (BAD_REQUEST, b"GET", b"/dns-query?dns=" + TEXT + b"="),
        (BAD_REQUEST, b"GET", b"/dns-query?dns=" + TEXT + b"&dns=" + TEXT),
        (BAD_REQUEST, b"GET", b"/dns-query?dns=" + TEXT + b"+"),
        (BAD_REQUEST, b"GET", b"/dns-query?dns=" + TEXT + b";"),
        (BAD_REQUEST, b"GET", b"/dns-query?dns=" + TEXT + b"%f"),
        (BAD_REQUEST, b"GET", b"/dns-query?dns=A"),
        (BAD_REQUEST, b"GET", b"/dns-query?dns=%C3%A4"),
        (BAD_REQUEST, b"HEAD", b"/dns-query?dns=" + TEXT),
        (BAD_REQUEST, b"GET", b"/dns-query?dns=" + b"A" * 87_382),
    ],
)
def test_what_carries_no_query(status, method, target):
    with pytest.raises(NoQueryError) as caught:
        carrier.query_of(request(method, target))
    assert status == caught.value.status


def test_post():
    assert QUERY == carrier.query_of(request(b"POST", b"/dns-query?dns=ignored", QUERY))
    with pytest.raises(NoQueryError):
        carrier.query_of(request(b"POST", b"/dns-query", None))


@given(st.binary(max_size=100))
def test_base64url(octets):
    assert octets == carrier.decoded(carrier.encoded(octets).decode())


def reply(*records: str, rcode: int = 0, do: bool = False, qtype: str = "A") -> bytes:
    """Return a reply; each record is its section's first letter, and its text."""
    made = dns.message.make_response(dns.message.make_query("a.test", qtype, want_dnssec=do))
    if do:
        made.use_edns(0, dns.flags.DO)
    made.set_rcode(rcode)
    made.id = 0
    sections = {"n": made.answer, "u": made.authority, "d": made.additional}
    for each in records:
        section, owner, ttl, rtype, rdata = each.split(" ", 4)
        sections[section].append(dns.rrset.from_text(owner, int(ttl), "IN", rtype, rdata))
    return made.to_wire()


SOA = "u test. 90 SOA ns.test. h.test. 1 2 3 4 5"
OLD = "n a.test. 60 RRSIG A 8 2 60 {} {} 1 test. AAAA"


@pytest.mark.parametrize(
    ("expected", "wire"),
    [
        (60, reply("n a.test. 60 A 192.0.2.1", "u test. 90 NS a.test.")),
        (0, reply("n a.test. 60 A 192.0.2.1", "d b.test. 0 A 192.0.2.1")),
        (3600, reply("n a.test. 86400 A 192.0.2.1")),
        (90, reply(SOA)),
        (90, reply(SOA, rcode=3)),
        (90, reply(SOA, rcode=3, do=True)),
        (5, reply(SOA, rcode=2)),
        (5, reply()),
        (5, reply(do=True)),
        (5, reply("u test. 90 NS a.test.")),  # a referral
        (5, reply("n a.test. 60 A 192.0.2.1", rcode=3)),
        (70, reply("d a.test. 70 A 192.0.2.1")),
        (5, reply("n a.test. 60 A 192.0.2.1", qtype="AXFR")),
        (60, reply(OLD.format("20280101000000", "20260101000000"), do=True)),
        (60, reply(OLD.format("20200101000000", "20190101000000"))),
        (5, reply(OLD.format("20200101000000", "20190101000000"), do=True)),
        (5, reply(OLD.format("20290101000000", "20280101000000"), do=True)),
        (5, b"\0" * 12),
        (5, b"\0\0\x80\0\0\1\0\1\0\0\0\0"),
        (5, b""),
    ],
)
def test_how_long_a_reply_holds(expected, wire):
    assert expected == carrier.fresh_s(wire, NOW)


@given(st.binary(max_size=60))
def test_any_octets_hold_for_a_while(octets):
    assert 0 <= carrier.fresh_s(octets, NOW) <= 3600


# ---- HTTP/2


def opened(most_streams: int = 250) -> http2.Server:
    """Return a server whose client has said what it must."""
    server = http2.Server(most_streams)
    server.receive(PREFACE + webclient.frame(SETTINGS))
    run(server)
    server.output()
    return server


def run(server: carrier.Session) -> int:
    """Have a session do all it can; return in how many steps."""
    steps = 0
    while server.step():
        steps += 1
        assert steps < 100_000
    return steps


def frames_in(octets: bytes) -> list[tuple[int, int, int, bytes]]:
    """Return type, flags, stream and body of each frame."""
    found = []
    while octets:
        size = int.from_bytes(octets[:3], "big")
        found.append(
            (octets[3], octets[4], *struct.unpack("!I", octets[5:9]), octets[9 : 9 + size])
        )
        octets = octets[9 + size :]
    return found


def asked(stream: int, target: bytes = b"/dns-query?dns=" + TEXT) -> bytes:
    block = webclient.block(webclient.Request(b"GET", target))
    return webclient.frame(HEADERS, END_HEADERS | END_STREAM, stream, block)


def posted(stream: int, body: bytes) -> bytes:
    block = webclient.block(webclient.post(b""))
    parts = [body[i : i + 16_000] for i in range(0, len(body), 16_000)]
    return webclient.frame(HEADERS, END_HEADERS, stream, block) + b"".join(
        webclient.frame(DATA, END_STREAM if i == len(parts) - 1 else 0, stream, part)
        for i, part in enumerate(parts)
    )


def last_word(server: http2.Server) -> int | None:
    """Return the error of the GOAWAY that a server has sent, None if there is none."""
    for sort, _, _, body in frames_in(server.output()):
        if sort == GOAWAY:
            return int.from_bytes(body[4:8], "big")
    return None


def test_requests_in_single_octets():
    server = http2.Server(250)
    for octet in PREFACE + webclient.frame(SETTINGS) + asked(1) + posted(3, QUERY):
        server.receive(bytes([octet]))
        run(server)
    assert [1, 3] == [each.number for each in server.requests]
    assert [QUERY, QUERY] == [carrier.query_of(each) for each in server.requests]


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (NOT_FOUND, [(b":method", b"POST")]),
        (NOT_FOUND, [(b":method", b"POST"), (b":path", b"/dns-query"), (b":path", b"/dns-query")]),
        (BAD_REQUEST, [(b":path", b"/dns-query")]),
        (BAD_REQUEST, [(b":path", b"/dns-query"), (b":method", b"POST"), (b":method", b"POST")]),
        (BAD_REQUEST, [(b":path", b"/dns-query"), (b":METHOD", b"POST")]),
        (BAD_REQUEST, [(b":path", b"/dns-query"), (b":status", b"200")]),
    ],
)
def test_pseudo_header_fields(status, fields):
    """What lacks one, or has it twice, carries no query."""
    server = opened()
    block = b"".join(webclient.field(*each) for each in fields)
    server.receive(webclient.frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
    run(server)
    with pytest.raises(NoQueryError) as caught:
        carrier.query_of(server.requests[0])
    assert status == caught.value.status


def test_settings_are_said_first():
    sort, _, _, body = frames_in(http2.Server(7).output())[0]
    said = dict(struct.iter_unpack("!HI", body))
    assert (SETTINGS, 7, 16_384) == (sort, said[3], said[6])


def answered(server: http2.Server, size: int = 100) -> bytes:
    """Answer all that was asked with so many octets; return what is sent."""
    while server.requests:
        number = server.requests.popleft().number
        server.reply(number, carrier.Answer(200, [], b"x" * size))
    return server.output()


def test_a_reply_waits_for_room():
    """No octet is sent for which the client has made no room, and all are in the end."""
    server = http2.Server(250)
    server.receive(PREFACE + webclient.frame(SETTINGS, body=struct.pack("!HI", 4, 10)) + asked(1))
    run(server)
    sent = b"".join(body for sort, *_, body in frames_in(answered(server)) if sort == DATA)
    assert (10, True) == (len(sent), server.held >= 90)
    for _ in range(3):
        server.receive(webclient.frame(WINDOW_UPDATE, stream=1, body=struct.pack("!I", 20)))
        run(server)
    server.receive(webclient.frame(SETTINGS, body=struct.pack("!HI", 4, 40)))
    run(server)
    frames = [each for each in frames_in(server.output()) if each[0] == DATA]
    assert (90, END_STREAM) == (sum(len(each[3]) for each in frames), frames[-1][1])
    assert server.held < 4096


def test_a_connection_without_room():
    """64 KiB are all that one connection takes at first; each more is used, by any stream."""
    server = opened()
    server.receive(b"".join(asked(stream) for stream in range(1, 9, 2)))
    run(server)
    sent = len(
        b"".join(body for sort, *_, body in frames_in(answered(server, 40_000)) if sort == 0)
    )
    assert sent == 65_535
    while sent < 160_000:
        server.receive(webclient.frame(WINDOW_UPDATE, body=struct.pack("!I", 30_000)))
        run(server)
        sent += sum(len(body) for sort, *_, body in frames_in(server.output()) if sort == DATA)
    assert sent == 160_000


def test_a_request_taken_back():
    server = opened()
    server.receive(asked(1) + webclient.frame(RST_STREAM, stream=1, body=b"\0\0\0\x08") + asked(3))
    run(server)
    assert [3] == [stream for sort, _, stream, _ in frames_in(answered(server)) if sort == HEADERS]
    assert server.held < 2 * http2.STREAM_OCTETS + 1


def test_a_client_that_leaves_gets_its_replies():
    server = opened()
    server.receive(asked(1) + webclient.frame(GOAWAY, body=bytes(8)) + asked(3))
    run(server)
    assert {1, 3} == {stream for sort, _, stream, _ in frames_in(answered(server)) if sort == DATA}


def test_the_last_word_of_a_server_names_the_last_request():
    server = opened()
    server.receive(asked(1) + asked(5))
    run(server)
    server.finish()
    (found,) = [body for sort, *_, body in frames_in(answered(server)) if sort == GOAWAY]
    assert struct.pack("!II", 5, 0) == found


@pytest.mark.parametrize("size", [65_535, 65_536, 100_000])
def test_a_body_is_bounded(size):
    server = opened()
    server.receive(posted(1, b"x" * size))
    run(server)
    (found,) = server.requests
    assert (size if size < 65_536 else None) == (found.body and len(found.body))
    assert server.held < 2 * http2.STREAM_OCTETS
    assert server.held >= 0


FLOODS = {
    "ping": webclient.frame(PING, body=bytes(8)),
    "settings": webclient.frame(SETTINGS, body=struct.pack("!HI", 4, 65_535)),
    "unknown settings": webclient.frame(SETTINGS, body=b"".join(
        struct.pack("!HI", i, i) for i in range(100, 2800))),
    "priority": webclient.frame(PRIORITY, stream=1, body=bytes(5)),
    "window": webclient.frame(WINDOW_UPDATE, body=struct.pack("!I", 1)),
    "unknown": webclient.frame(99, body=b"x"),
    "empty data": webclient.frame(DATA, stream=1),
    "one octet": webclient.frame(DATA, stream=1, body=b"x"),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_floods(name):
    """Frames that make no request end the connection, and cost little until then."""
    server = opened()
    block = webclient.block(webclient.post(b""))
    server.receive(webclient.frame(HEADERS, END_HEADERS, 1, block))
    for _ in range(3000):
        server.receive(FLOODS[name])
        run(server)
        if server.is_over:
            break
        assert server.held < 8192
    assert CALM == last_word(server)


def test_a_flood_of_header_octets():
    """A header block has an end, in octets and in frames, whatever comes (CVE-2024-27316)."""
    for size, flood in ((1000, 8), (0, 65)):
        server = opened()
        server.receive(webclient.frame(HEADERS, 0, 1, b"x"))
        count = 0
        while not server.is_over:
            server.receive(webclient.frame(CONTINUATION, 0, 1, b"x" * size))
            run(server)
            count += 1
            assert server.held < 16_384
        assert count <= flood + 1


def test_a_small_block_of_many_fields():
    """What a block stands for is bounded, too: each octet may stand for 4 KiB (CVE-2016-6581)."""
    server = opened()
    block = webclient.block(webclient.get(QUERY)) + b"\x40\x01a" + webclient._text(b"b" * 4000)
    server.receive(webclient.frame(HEADERS, END_HEADERS | END_STREAM, 1, block + b"\xbe" * 1000))
    run(server)
    assert CALM == last_word(server)
    assert not server.requests


@pytest.mark.parametrize("update", [b"\x20", b"\x3f\xe1\x1f\x20"])
def test_a_block_of_updates_of_the_table_is_refused(update):
    """hpack takes 5 ms for one of 8 KiB: fifty times as long as a request."""
    get = webclient.block(webclient.get(QUERY))
    server = opened()
    server.receive(webclient.frame(HEADERS, END_HEADERS | END_STREAM, 1, update + get))
    server.receive(webclient.frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x20\x3f\xe1\x1f" + get))
    run(server)
    assert 2 == len(server.requests)
    flood = update * (7800 // len(update)) + get
    began = time.process_time()
    server.receive(webclient.frame(HEADERS, END_STREAM, 5, flood[:100]))
    server.receive(webclient.frame(CONTINUATION, END_HEADERS, 5, flood[100:]))
    run(server)
    assert time.process_time() - began < 0.002
    assert server.is_over
    assert 2 == len(server.requests)


def test_too_many_streams():
    server = opened(10)
    block = webclient.block(webclient.post(b""))
    for stream in range(1, 41, 2):
        server.receive(webclient.frame(HEADERS, END_HEADERS, stream, block))
    run(server)
    assert server.is_over


def test_streams_opened_and_reset():
    """Each reset stream is forgotten (CVE-2023-44487)."""
    server = opened(10)
    block = webclient.block(webclient.post(b""))
    for stream in range(1, 2000, 2):
        server.receive(webclient.frame(HEADERS, END_HEADERS, stream, block))
        server.receive(webclient.frame(RST_STREAM, stream=stream, body=bytes(4)))
        run(server)
        assert server.held <= 3 * http2.STREAM_OCTETS
        if server.is_over:
            break
    assert CALM == last_word(server)


def test_a_client_with_requests_may_go_on():
    """Who asks and reads may send some frames for each request, for ever."""
    server = opened()
    for stream in range(1, 4001, 2):
        room = webclient.frame(WINDOW_UPDATE, body=struct.pack("!I", 100))
        server.receive(asked(stream) + FLOODS["ping"] + room + FLOODS["window"] * 5)
        run(server)
        assert not server.is_over
        answered(server)


@pytest.mark.parametrize(
    ("error", "octets"),
    [
        (PROTOCOL_ERROR, b"GET / HTTP/1.1\r\nhost: dns.test\r\n\r\n"),
        (FRAME_SIZE_ERROR, PREFACE + webclient.frame(SETTINGS) + b"\x40\0\1\0\0\0\0\0\1"),
        (PROTOCOL_ERROR, PREFACE + webclient.frame(SETTINGS) + asked(2)),
        (PROTOCOL_ERROR, PREFACE + webclient.frame(SETTINGS) + webclient.frame(DATA, 0, 1, b"x")),
        (FRAME_SIZE_ERROR, PREFACE + webclient.frame(SETTINGS, body=b"x")),
        (FLOW_CONTROL_ERROR, PREFACE + webclient.frame(SETTINGS) + webclient.frame(
            WINDOW_UPDATE, body=struct.pack("!I", 2**31 - 1)) * 2),
    ],
)  # fmt: skip
def test_what_is_no_http2(error, octets):
    server = http2.Server(250)
    server.receive(octets)
    run(server)
    assert server.is_over
    assert last_word(server) in (error, None)
    server.receive(b"more")
    assert not server.step()
    assert server.held == 0


SORTS = st.integers(0, 10)
FRAMES = st.one_of(
    st.builds(webclient.frame, SORTS, st.integers(0, 255), st.integers(0, 7), st.binary(max_size=40)),
    st.builds(
        lambda sort, flags, stream, target: webclient.frame(
            sort, flags, stream, webclient.block(webclient.Request(target=target))
        ),
        st.sampled_from((HEADERS, CONTINUATION)),
        st.sampled_from((0, 1, 4, 5, 0x2D)),
        st.integers(0, 9),
        st.binary(max_size=10),
    ),
    st.builds(asked, st.integers(1, 9)),
    st.binary(max_size=20),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAMES, max_size=12))
def test_no_octets_raise_in_http2(frames):
    server = http2.Server(4)
    server.receive(PREFACE + webclient.frame(SETTINGS))
    for each in frames:
        server.receive(each)
        run(server)
        answered(server, 70_000)
        assert server.held >= 0


# ---- HTTP/1.1

HEAD = b"POST /dns-query HTTP/1.1\r\nhost: dns.test\r\n"


def heard(octets: bytes) -> http1.Server:
    server = http1.Server()
    server.receive(octets)
    run(server)
    return server


def test_requests_one_after_the_other():
    """A request that came early waits until the one before is answered."""
    one = HEAD + b"content-length: 3\r\n\r\n"
    server = heard(one + b"abc" + one + b"def" + one + b"gh")
    bodies = []
    while server.requests:
        (found,) = server.requests
        server.requests.clear()
        bodies.append(found.body)
        assert not server.step()
        server.reply(found.number, carrier.answer_with(reply(), NOW))
        run(server)
    assert [b"abc", b"def"] == bodies
    assert server.output().count(b"HTTP/1.1 200 OK") == 2
    assert not server.is_over


@pytest.mark.parametrize("size", [65_535, 65_536])
def test_a_body_of_http1_is_bounded(size):
    server = heard(HEAD + b"content-length: %d\r\n\r\n" % size + b"x" * size)
    (found,) = server.requests
    assert (size if size < 65_536 else None) == (found.body and len(found.body))


def test_chunks():
    server = heard(HEAD + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n")
    assert b"abcde" == server.requests[0].body
    server = heard(HEAD + b"transfer-encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 2000)
    assert server.is_over
    assert server.output().startswith(b"HTTP/1.1 429 ")


def test_a_client_that_waits_to_go_on():
    server = heard(HEAD + b"content-length: 3\r\nexpect: 100-continue\r\n\r\n")
    assert server.output().startswith(b"HTTP/1.1 100 ")
    server.receive(b"abc")
    run(server)
    assert b"abc" == server.requests[0].body


@pytest.mark.parametrize(
    ("status", "octets"),
    [
        (431, b"GET /" + b"x" * 20_000),
        (431, HEAD + b"a: b\r\n" * 2000),
        (400, b"GET / HTTP/1.1\r\n\r\n"),
        (400, b"\x16\x03\x01\x02\x00\x01\x00"),
        (400, b"nonsense\r\n\r\n"),
        (400, HEAD + b"content-length: x\r\n\r\n"),
        (400, HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\n"),
        (501, HEAD + b"transfer-encoding: gzip\r\n\r\n"),
        (400, HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n"),
    ],
)
def test_what_is_no_http1(status, octets):
    server = heard(octets)
    output = server.output()
    assert output.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nconnection: close\r\n" in output.lower()
    assert server.is_over
    assert not server.requests
    server.receive(b"more")
    assert not server.step()


def test_a_reply_to_head_has_no_body():
    server = heard(HEAD.replace(b"POST", b"HEAD") + b"\r\n")
    found = server.requests.popleft()
    server.reply(found.number, carrier.refusal(BAD_REQUEST, NOW, found.method))
    head, _, body = server.output().partition(b"\r\n\r\n")
    assert (b"", True) == (body, b"content-length: 16" in head)
    assert not server.is_over


def test_the_last_reply_says_so():
    server = heard(HEAD + b"\r\n")
    server.finish()
    server.reply(server.requests.popleft().number, carrier.answer_with(reply(), NOW))
    assert b"connection: close" in server.output().lower()
    assert server.is_over


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from((HEAD, b"content-length: 3\r\n", b"\r\n", b"abc", b"\r\n\r\n", b"0\r\n",
                             b"transfer-encoding: chunked\r\n", b"connection: close\r\n",
                             b"upgrade: h2c\r\n", b"CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n")),
            st.binary(max_size=20),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_no_octets_raise_in_http1(parts):
    server = http1.Server()
    for each in parts:
        server.receive(each)
        run(server)
        while server.requests:
            found = server.requests.popleft()
            server.reply(found.number, carrier.refusal(NOT_FOUND, NOW, found.method))
            run(server)
        server.output()
        assert server.held >= 0


@given(st.lists(st.tuples(
    st.sampled_from((b"content-type", b"cache-control", b"content-length", b"date", b"x-other")),
    st.one_of(st.binary(max_size=3), st.integers(0, 300).map(lambda n: b"v" * n)).map(
        lambda value: bytes(octet % 64 + 33 for octet in value)),
), max_size=6), st.sampled_from((b"200", b"400", b"404", b"500", b"503")))  # fmt: skip
def test_header_fields(fields, status):
    """h2 reads what is written, whatever the length of names and values."""
    client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    client.initiate_connection()
    request = [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")]
    client.send_headers(1, request, end_stream=True)
    said = [(b":status", status), *fields]
    sent = [each for each in said if each[0] != b"content-length"]
    (event,) = client.receive_data(webclient.frame(HEADERS, END_HEADERS, 1, Encoder().encode(sent)))
    assert sent == [tuple(each) for each in event.headers]


# ---- our own requests


def linked(client: carrier.ClientSession, server: carrier.Session, size: int = 100) -> None:
    """Have two sessions talk until there is nothing to say; the server sends so many octets."""
    octets = b"x"
    while octets:
        octets = client.output()
        if octets:
            server.receive(octets)
        run(server)
        while server.requests:
            found = server.requests.popleft()
            assert carrier.query_of(found) == QUERY
            headers = [(b"content-length", b"%d" % size)]
            server.reply(found.number, carrier.Answer(200, headers, b"x" * size))
            run(server)
        back = server.output()
        if back:
            client.receive(back)
        while client.step():
            pass
        octets += back


ENDS = [(http2.Client, lambda: http2.Server(250)), (http1.Client, http1.Server)]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(("made", "other"), ENDS)
def test_both_ends(made, other, method):
    client, server = made(), other()
    for size in (12, 65_535, 65_536, 100):
        number = client.ask(carrier.request_for(QUERY, method, "dns.test"))
        linked(client, server, size)
        (found,) = client.deliveries
        client.deliveries.clear()
        assert (number, 200, size < 65_536) == (found.number, found.status, found.body is not None)
        assert client.room


@pytest.mark.parametrize(("said", "most"), [(7, 7), (1000, 100), (0, 0)])
def test_requests_at_one_time_have_a_bound(said, most):
    client = http2.Client()
    client.receive(webclient.frame(SETTINGS, body=struct.pack("!HI", 3, said)))
    while client.step():
        pass
    asked = 0
    while client.room:
        client.ask(carrier.request_for(QUERY, "POST", "dns.test"))
        asked += 1
    assert most == asked


def waiting() -> http2.Client:
    """Return a client that waits for replies on the streams 1, 3 and 5."""
    client = http2.Client()
    client.receive(webclient.frame(SETTINGS))
    for _ in range(3):
        client.ask(carrier.request_for(QUERY, "POST", "dns.test"))
    while client.step():
        pass
    return client


def outcomes(client: http2.Client) -> dict[int, int]:
    while client.step():
        pass
    return {each.number: each.status for each in client.deliveries}


def test_a_server_that_leaves():
    client = waiting()
    client.receive(webclient.frame(GOAWAY, body=struct.pack("!II", 3, 0)))
    assert {5: carrier.AGAIN} == outcomes(client)
    assert (0, False) == (client.room, client.is_over)
    client.receive(b"")
    assert {5: carrier.AGAIN, 1: 0, 3: 0} == outcomes(client)
    assert client.is_over


def test_streams_that_a_server_resets():
    client = waiting()
    for stream, code in ((1, 7), (3, 2)):  # REFUSED_STREAM, INTERNAL_ERROR
        client.receive(webclient.frame(RST_STREAM, stream=stream, body=struct.pack("!I", code)))
    assert {1: carrier.AGAIN, 3: 0} == outcomes(client)


def test_a_request_that_nobody_waits_for():
    client = waiting()
    client.output()
    client.cancel(3)
    ((sort, _, stream, body),) = frames_in(client.output())
    assert (RST_STREAM, 3, struct.pack("!I", 8)) == (sort, stream, body)
    client.cancel(3)
    client.cancel(99)
    assert client.output() == b""


@settings(max_examples=200, deadline=None)
@given(st.lists(FRAMES, max_size=12))
def test_no_octets_of_a_server_raise_in_http2(frames):
    client = waiting()
    for each in frames:
        client.receive(each)
        found = outcomes(client)
        assert found.keys() <= {1, 3, 5}
        client.output()
    client.receive(b"")
    assert len(outcomes(client)) == 3


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from((b"HTTP/1.1 200 OK\r\n", b"content-length: 3\r\n", b"\r\n", b"abc",
                             b"HTTP/1.1 100 Continue\r\n\r\n", b"transfer-encoding: chunked\r\n",
                             b"3\r\nabc\r\n0\r\n\r\n", b"connection: close\r\n")),
            st.binary(max_size=20),
        ),
        max_size=12,
    )
)  # fmt: skip
def test_no_octets_of_a_server_raise_in_http1(parts):
    client = http1.Client()
    client.ask(carrier.request_for(QUERY, "POST", "dns.test"))
    for each in parts:
        client.receive(each)
        while client.step():
            pass
    client.receive(b"")
    while client.step():
        pass
    assert len(client.deliveries) == 1
