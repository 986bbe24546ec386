"""Queries to primary servers over TCP: the serial of a zone, and the whole zone (RFC 5936).

Every step and the whole transfer have a time limit. A thread reads the messages, so that the event
loop is free for queries. incoming.py takes the messages, within bounds.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from clusterdns.authority import incoming
from clusterdns.authority.incoming import Incoming, TransferError
from clusterdns.authority.zone import Zone
from clusterdns.host.addresses import host_and_port
from clusterdns.wire import message, rr
from clusterdns.wire.message import Question
from clusterdns.wire.name import WireName

STEP_S = 5.0  # to connect, or for one message
TRANSFER_S = 300.0
_AT_A_STRETCH, _BREAK_S = 64, 0.0002  # records, as in authority/zonefile.py
_MAX_MESSAGES = 65_536  # of one transfer: bounds a primary that sends one record in each

Address = tuple[str, int]


async def serial(address: Address, apex: WireName) -> int:
    """Return a zone's serial at a primary server. Raises TransferError."""
    ident = secrets.randbelow(65536)
    async with _asking(address, ident, apex, rr.SOA) as reader:
        return incoming.serial_of(await _message(reader), ident, apex)


async def zone(address: Address, apex: WireName) -> Zone:
    """Return a zone from a primary server. Raises TransferError."""
    ident = secrets.randbelow(65536)
    taken = Incoming(apex, ident)
    try:
        async with (
            asyncio.timeout(TRANSFER_S),
            _asking(address, ident, apex, rr.AXFR) as reader,
        ):
            for _ in range(_MAX_MESSAGES):
                if await asyncio.to_thread(taken.take, await _message(reader)):
                    return await asyncio.to_thread(taken.zone, _pause)
    except TimeoutError as error:
        raise TransferError(f"not done in {TRANSFER_S:g} s") from error
    raise TransferError(f"more than {_MAX_MESSAGES} messages")


def _pause(records: int) -> None:
    """Let the thread that answers queries run."""
    if records % _AT_A_STRETCH == 0:
        time.sleep(_BREAK_S)


@asynccontextmanager
async def _asking(
    address: Address, ident: int, apex: WireName, qtype: int
) -> AsyncIterator[asyncio.StreamReader]:
    """Yield the replies of a primary server to a query. Raises TransferError."""
    packet = message.write_query(ident, 0, Question(apex, apex, qtype), None)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(STEP_S):
            reader, writer = await asyncio.open_connection(
                *address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            )
        writer.write(len(packet).to_bytes(2, "big") + packet)
        yield reader
    except TimeoutError as error:
        raise TransferError(f"no connection to {host_and_port(*address)}") from error
    except OSError as error:
        raise TransferError(error.strerror or str(error)) from error
    finally:
        if writer is not None:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """Return the next message of a stream. Raises TransferError."""
    try:
        async with asyncio.timeout(STEP_S):
            length = int.from_bytes(await reader.readexactly(2), "big")
            return await reader.readexactly(length)
    except TimeoutError as error:
        raise TransferError(f"no message in {STEP_S:g} s") from error
    except asyncio.IncompleteReadError as error:
        raise TransferError("connection closed") from error
