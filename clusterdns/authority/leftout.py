"""Why records or hosts of a published object are not served, for metrics and log lines.

Pure: no sockets, clock, threads or randomness.
"""

from __future__ import annotations

from typing import Final

OUTSIDE, INVALID, TYPE, CONFLICT, LIMIT = "outside", "invalid", "type", "conflict", "limit"
LISTENER = "listener"
SENTENCES: Final = {
    OUTSIDE: "is in none of the zones",
    INVALID: "is invalid",
    TYPE: "has a type that is not served",
    CONFLICT: "belongs to an older object",
    LISTENER: "matches no listener of a Gateway that has accepted the route",
    LIMIT: "is one too many",
}
