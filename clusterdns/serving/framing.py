"""Messages on a stream: two octets of length in front of each (RFC 1035 section 4.2.2).

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations


def end_of(octets: bytes | bytearray, at: int) -> int:
    """Return the end of the message that starts ``at``, 0 if it is not whole."""
    if len(octets) < at + 2:
        return 0
    end = at + 2 + (octets[at] << 8 | octets[at + 1])
    return end if end <= len(octets) else 0


def skip(octets: bytes, most: int) -> tuple[int, int]:
    """Return the end of the first ``most`` whole messages, and their number."""
    at = found = 0
    while found < most:
        end = end_of(octets, at)
        if not end:
            return len(octets), found
        at = end
        found += 1
    return at, found


def frame(reply: bytes) -> bytes:
    """Return a message with its length before it."""
    return len(reply).to_bytes(2, "big") + reply
