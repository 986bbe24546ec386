"""The page of `status` over HTTP: who may ask, what is refused, which header fields all replies have."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from clusterdns.metrics.histogram import quantile
from clusterdns.processes import statuspage
from clusterdns.processes.inquiry import InquiryError
from clusterdns.processes.statuspage import StatusPage
from clusterdns.processes.web import Reply, Request


async def status(request: dict[str, Any]) -> dict[str, Any]:
    return {"version": "1"}


async def explained(request: dict[str, Any]) -> dict[str, Any]:
    if request["name"] == "a..b":
        raise InquiryError("no domain name")
    return request


async def tail(request: dict[str, Any]) -> dict[str, Any]:
    return request


PAGE = StatusPage("dns.example:9154", {"status": status, "explained": explained, "tail": tail})


def ask(path: str, query: str = "", host: str = "localhost", **fields: str) -> Reply:
    return asyncio.run(PAGE.respond(Request(path, query, {"host": host, **fields})))


@pytest.mark.parametrize("host", [
    "localhost", "LOCALHOST:9154", "localhost:1", "127.0.0.1", "127.0.0.1:9154", "10.1.2.3:80",
    "[::1]", "[::1]:9154", "dns.example", "DNS.example:9154",
])  # fmt: skip
def test_hosts_that_are_this_server(host):
    assert 200 == ask("/status.json", host=host).status


@pytest.mark.parametrize("host", [
    "", "evil.example", "localhost.evil.example", "evil.example:9154", "127.0.0.1.evil.example",
    "localhost:x", "127.0.0.1:9154:1", "[::1", "::1", "[::1]x", "[]", "localhost evil", "127.0.0.1@evil",
    ":9154", "0x7f000001", "127.1",
])  # fmt: skip
def test_hosts_that_are_another(host):
    for path in ("/", "/status.json", "/explain"):
        assert 421 == ask(path, host=host).status


@pytest.mark.parametrize(
    ("said", "wanted"), [("cross-site", 403), ("same-site", 403), ("same-origin", 200), ("none", 200)]
)  # fmt: skip
def test_pages_of_other_sites_may_not_ask(said, wanted):
    assert wanted == ask("/explain", "name=a", **{"sec-fetch-site": said}).status


@pytest.mark.parametrize(
    "reply", [ask("/"), ask("/page.js"), ask("/top"), ask("/nothing"), ask("/", host="evil")]
)
def test_every_reply_is_strict(reply):
    fields = dict(reply.fields)
    policy = fields["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert "nosniff" == fields["X-Content-Type-Options"]
    assert "no-store" == fields["Cache-Control"]


def test_the_page_has_no_inline_script_or_style_and_no_other_host():
    text = ask("/").body.decode()
    assert "<script>" not in text
    assert "style=" not in text
    assert " on" not in text.replace(" one", "").replace(" on ", "").replace(" only", "")
    for path in ("/", "/page.js", "/page.css"):
        body = ask(path).body.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http" not in body.replace("http-equiv", "").replace("https", "http")


@pytest.mark.parametrize(
    ("path", "query", "status", "found"),
    [
        ("/explain", "name=a.%62", 200, {"name": "a.b", "type": "", "client": "127.0.0.1"}),
        ("/explain", "name=a&type=MX&client=10.0.0.1", 200,
         {"name": "a", "type": "MX", "client": "10.0.0.1"}),
        ("/explain", "name=a..b", 400, {"error": "no domain name"}),
        ("/explain", "", 400, {"error": "a value is missing, or wrong"}),
        ("/explain", "name=a&name=b", 400, {"error": "a value is missing, or wrong"}),
        ("/explain", "name=%ff", 400, {"error": "a value is missing, or wrong"}),
        ("/explain", "name=" + "a" * 2000, 400, {"error": "a value is missing, or wrong"}),
        ("/explain", "a=&" * 100, 400, {"error": "a value is missing, or wrong"}),
        ("/tail", "since=5&limit=2&rcode=NXDOMAIN", 200, {"since": 5, "limit": 2, "rcode": "NXDOMAIN"}),
        ("/tail", "since=x", 400, {"error": "a value is missing, or wrong"}),
        ("/top", "", 503, {"error": "this server keeps no top"}),
    ],
)  # fmt: skip
def test_requests(path, query, status, found):
    reply = ask(path, query)
    assert (status, "application/json") == (reply.status, reply.content_type)
    assert found == json.loads(reply.body)


def test_only_so_many_are_explained_at_a_time():
    async def main() -> list[int]:
        over = asyncio.Event()

        async def slow(request: dict[str, Any]) -> dict[str, Any]:
            await over.wait()
            return {}

        page = StatusPage("127.0.0.1:9154", {"explained": slow})
        request = Request("/explain", "name=a", {"host": "localhost"})
        tasks = [
            asyncio.create_task(page.respond(request)) for _ in range(statuspage.MOST_EXPLAINED + 1)
        ]
        await asyncio.sleep(0)
        over.set()
        return [(await each).status for each in tasks]

    assert [200] * statuspage.MOST_EXPLAINED + [503] == asyncio.run(main())


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ([0, 0, 0], 0.5, None),
        ([10, 0, 0], 0.5, 0.5),
        ([10, 10, 0], 0.5, 1.0),
        ([10, 10, 0], 0.75, 1.5),
        ([0, 0, 5], 0.5, 2.0),
    ],
)
def test_quantiles(counts, share, value):
    assert value == quantile((1.0, 2.0), counts, share)
