from collections.abc import Callable, Mapping

from clusterdns.chain.limits import Judge, Memory
from clusterdns.chain.route import Relayed
from clusterdns.observing.sampling import Parts as SamplerParts
from clusterdns.serving.table import Maps
from clusterdns.wire.name import WireName
from clusterdns.wire.response import Addresses

Client = tuple[str, int]

class Buckets:
    truncated: int
    dropped: int
    def __init__(
        self,
        memory: Memory,
        secret: bytes,
        interval: float,
        slack: float,
        slip: int,
        bits4: int,
        bits6: int,
        exempt: tuple[tuple[bytes, int], ...],
        /,
    ) -> None: ...
    def judge(self, host: str, now: float, /) -> int: ...

class Lane:
    number: int
    busy: int
    known: tuple[dict[bytes, object], ...]
    under_way: dict[bytes, bytes | bool]
    targets: list[bytes]
    counts: dict[bytes, tuple[int, float]]
    held: tuple[Mapping[WireName, object], ...] | None
    addresses: tuple[Mapping[str, object], ...] | None
    success: dict[bytes, tuple[float, float, int, bytes]] | None
    denial: dict[bytes, tuple[float, float, int, bytes]] | None
    patience: float
    stale: float
    policy: int
    most: int
    most_octets: int
    own_octets: int
    guarded: tuple[WireName, ...] | None
    starts: bytes | None
    left: bytes | None
    limits: Judge | None
    sampler: SamplerParts | None
    told: list[tuple[Lane, *Relayed]] | None
    wants: int
    many: int
    untold: int
    tells_replies: bool
    tells_exchanges: bool
    success_least: int
    success_most: int
    denial_least: int
    denial_most: int
    failure: int
    success_octets: int
    denial_octets: int
    is_minimal: bool
    is_cached: bool
    shuffles: bool
    refuses: bool
    def __init__(
        self,
        number: int,
        known: tuple[dict[bytes, object], ...],
        under_way: dict[bytes, bytes | bool],
        targets: list[bytes],
        counts: dict[bytes, tuple[int, float]],
        /,
    ) -> None: ...

# A lane for the names of a reverse zone that are not there; the names that may be, octets that
# names of the chain begin with, and types that take the chain, two octets each.
Part = tuple[Lane, Addresses, bytes, bytes]
# What takes the queries of a zone: a lane, limits by client and the chain, the chain, or a lane for
# names that do not exist there.
Zone = Lane | Judge | None | Part

# Lane, query, client, control message for the reply, listener, server, seconds, reply, error, and
# our address if exchanges are observed.
HandedOver = tuple[Lane, bytes, Client, bytes, int, int, float, bytes | None, int, Client | None]
# Query, client, control message for the reply.
Left = tuple[bytes, Client, bytes]
Reply = tuple[bytes, Client, bytes]  # octets, and the same of its query

# What `drain` is given; durations by bucket, and nanoseconds in all; what is left to Python, and
# what sees to it and tells whether asyncio has something to do then.
Reader = tuple[
    Maps,
    dict[bytes, Zone],
    list[int],
    list[Left],
    Callable[[], bool],
]
# What the relay hands over, and what sees to it.
RelayReader = tuple[list[HandedOver], Callable[[], bool]]

def siphash(key: bytes, octets: bytes, /) -> bytes: ...
def drain(
    fd: int,
    table: Maps,
    now: float,
    zones: dict[bytes, Zone] = ...,
    /,
) -> tuple[int, int, list[Left]]: ...
def answer(
    table: Maps,
    stream: bytes,
    at: int,
    most: int,
    now: float,
    /,
) -> tuple[bytes, int, int]: ...
def send(fd: int, replies: list[Reply], /) -> int: ...
def wait(
    epoll: int,
    timeout: float,
    readers: dict[int, Reader | RelayReader | Callable[[], bool]],
    /,
) -> list[int]: ...
def open() -> int: ...
def collect(now: float, /) -> list[HandedOver]: ...
def expire(now: float, /) -> list[HandedOver]: ...
