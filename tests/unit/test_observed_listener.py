"""A listener reports the queries it answers to the collector."""

from __future__ import annotations

import asyncio

import dns.message
import dns.query
from inprocess import InProcess, in_packet_loop

from clusterdns.observing.collector import CHAIN, Collector
from clusterdns.observing.selection import Selection
from clusterdns.serving.server import LATER

COREFILE = """
. {
    hosts {
        10.0.0.1 web.example
        fallthrough
    }
    forward . 127.0.0.1:1
}
"""


def ask(server, qname, send, qclass="IN"):
    query = dns.message.make_query(qname, "A", qclass)
    hits = server.tally.transport("udp", "1")
    return server.resolve(query.to_wire(), ("10.0.0.9", 4000), "udp", hits, send)


def test_all_queries_are_seen_once():
    async def main():
        async with InProcess(COREFILE, []) as world:
            server, answered = world.server, asyncio.get_running_loop().create_future()
            send = answered.set_result
            collector = server.collector = Collector([], server.clock, lambda: 1e9)
            assert ask(server, "WEB.example", send)
            assert LATER == ask(server, "outside.example", send)
            assert ask(server, "web.example", send, "CLASS7")
            reply = await answered
            found = collector.tail(0, 10, Selection())["queries"]
            assert [
                ("web.example.", "IN", "NOERROR"),
                ("web.example.", "CLASS7", "NOERROR"),
                ("outside.example.", "IN", "SERVFAIL"),
            ] == [(each["name"], each["class"], each["rcode"]) for each in found]
            assert {("10.0.0.9", 4000, "dns://:53", "udp", CHAIN)} == {
                (q["client"], q["port"], q["listener"], q["transport"], q["path"]) for q in found
            }
            assert [each["size"] for each in found][2] == len(reply)

    in_packet_loop(main())
