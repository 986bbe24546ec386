"""What a version leaves to the next: it arrives whole, or is refused; nothing else is inherited."""

from __future__ import annotations

import asyncio
import json
import os
import socket

import pytest

from clusterdns.cluster.objects import NAMESPACES, SERVICES
from clusterdns.cluster.source import Source
from clusterdns.host import channel
from clusterdns.host.channel import Channel
from clusterdns.processes import estate
from clusterdns.processes.estate import Estate, EstateError, Heir


def taken(octets: bytes) -> Estate | None:
    reader, writer = os.pipe()
    os.write(writer, octets)
    os.close(writer)
    return estate.take({estate.VARIABLE: str(reader)})


def test_an_estate_arrives_as_it_was_left():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        left = Estate(
            sockets=((ours.fileno(),), (theirs.fileno(),)),
            webs={":8080": (ours.fileno(),)},
            feeds={"key": b"\0clusterdns-\xff"},
            zones={(53, "dns", b"\7cluster\5local\0"): frozenset(("services", "namespaces"))},
            heirs=(Heir("worker 0", 17, theirs.fileno(), b"\0\xff", is_worker=True),),
            samples=(("a_total", ("x", "y"), 3.0), ("b_seconds", (), (1.0, 2.0, 0.5))),
            reload_failures=2,
            lameduck_s=5.0,
            given=". {\n}\n",
            version="0.9",
        )
        os.set_inheritable(ours.fileno(), True)
        environ = {estate.VARIABLE: str(estate.leave(left)), "HOME": "/"}
        assert left == estate.take(environ)
        assert {"HOME": "/"} == environ
        assert not os.get_inheritable(ours.fileno())
        assert estate.take(environ) is None


@pytest.mark.parametrize(
    "made",
    [b"", b"[]", b"{", b"null", b"[" * 5000, b'{"format": 0}', b'{"format": 1}'],
)
def test_an_estate_that_is_not_understood_is_refused(made):
    with pytest.raises(EstateError, match="cannot take over"):
        taken(made)


def test_a_descriptor_that_is_not_there_is_refused():
    made = json.loads(json.dumps({**Estate()._asdict(), "format": 1, "zones": []}))
    with pytest.raises(EstateError):
        taken(json.dumps({**made, "sockets": [[10**6]]}).encode())
    with pytest.raises(EstateError):
        estate.take({estate.VARIABLE: "nine"})


def test_sources_are_recognized_by_what_is_set_and_tell_no_password():
    source = Source("", (SERVICES, NAMESPACES), endpoint="http://a", endpoint_user="u:secret")
    key = estate.source_key(source)
    assert key == estate.source_key(source._replace(qps=0))
    assert key != estate.source_key(source._replace(qps=5))
    assert key != estate.source_key(source._replace(kinds=(SERVICES,)))
    assert "secret" not in key


def test_a_channel_goes_on_where_another_program_left_it():
    """Octets read of a message that is incomplete, or that nobody has taken yet, are handed on."""

    async def run() -> None:
        ours, theirs = channel.pair()
        first = await Channel.open(ours)
        octets = channel.frame(("beat", True)) + channel.frame(("samples", [1] * 100))
        theirs.sendall(octets[:-7])
        while len(first.held) < len(octets) - 7:  # noqa: ASYNC110 - the loop has to read
            await asyncio.sleep(0)
        second = await Channel.open(ours.dup(), bytes(first.held))
        theirs.sendall(octets[-7:])
        theirs.close()
        assert [("beat", True), ("samples", [1] * 100)] == [m async for m in second.messages()]
        await first.close()
        await second.close()

    asyncio.run(run())
