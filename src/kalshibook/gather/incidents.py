"""What went wrong while gathering, findable afterwards: a bounded log, and counts that never forget."""

import logging
import time
from collections.abc import Callable
from enum import StrEnum
from typing import final

import msgspec

from kalshibook.store.incidents import BoundedLog, placed

__all__ = ["GatherIncident", "GatherIncidentKind", "GatherIncidents"]

_log = logging.getLogger(__name__)


class GatherIncidentKind(StrEnum):
    """What happened."""

    GAP = "gap"
    """Numbers of a subscription are missing: frames were lost between the exchange and here."""
    RESET = "reset"
    """Numbers went backwards: the connection is given up."""
    DUPLICATE = "duplicate"
    """A frame came twice; the second is dropped."""
    LATE = "late"
    """A frame came after one with a higher number."""
    HEALED = "healed"
    """Every market of a gap is whole again."""
    CONNECTED = "connected"
    """A socket is open."""
    DISCONNECTED = "disconnected"
    """A socket is gone, or was given up; it is opened again."""
    REFUSED = "refused"
    """The exchange did not take the handshake."""
    SILENT = "silent"
    """A socket that answered pings sent nothing, also when asked; it is given up."""
    OVERFLOW = "overflow"
    """The exchange ended a subscription because we read too slowly."""
    ENDED = "ended"
    """The exchange ended a subscription for another reason."""
    LIMIT = "limit"
    """The exchange takes fewer markets than were asked for; the plan was lowered."""
    COMMAND = "command"
    """A command was refused or not answered; it is repeated, or another way is taken."""
    MISSING = "missing"
    """The exchange does not answer for a market that its lists have named."""
    HOMELESS = "homeless"
    """No connection has room for a market: raise `gather.max_connections`."""
    UNREADABLE = "unreadable"
    """A frame cannot be read, or is of no subscription."""
    BACKPRESSURE = "backpressure"
    """Kafka does not keep pace: sockets are not read until it does."""
    UNPUBLISHED = "unpublished"
    """Kafka has refused a record for good."""
    DIVERGED = "diverged"
    """A book of ours was wrong: the exchange's differs, or a change took away more than was there."""
    PEER = "peer"
    """Another gatherer has lost something, or is silent: its markets were asked for."""
    MOVED = "moved"
    """Markets changed their connection to even out the load."""


class GatherIncident(msgspec.Struct, frozen=True, gc=False):
    """One thing that went wrong, or was put right."""

    id: int
    """Rising from 1 in one process."""
    kind: GatherIncidentKind
    time_us: int
    """When it was recorded, microseconds since the epoch."""
    connection: str | None
    ticker: str | None
    detail: str
    """What was found, for people."""


_INFORMING = frozenset(
    {
        GatherIncidentKind.HEALED,
        GatherIncidentKind.CONNECTED,
        GatherIncidentKind.MOVED,
        GatherIncidentKind.PEER,
    }
)


@final
class GatherIncidents(BoundedLog[GatherIncidentKind, GatherIncident]):
    """
    What happened while gathering; see `BoundedLog`.

    Args:
        capacity: how many incidents are kept.
        clock_us: the time, microseconds since the epoch.
    """

    def __init__(
        self, capacity: int = 10_000, *, clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000
    ) -> None:
        super().__init__(GatherIncidentKind, capacity, _log)
        self._clock_us = clock_us

    def record(
        self,
        kind: GatherIncidentKind,
        detail: str,
        *,
        connection: str | None = None,
        ticker: str | None = None,
    ) -> None:
        """Keep, count and log an incident."""
        incident = GatherIncident(self._next_id(), kind, self._clock_us(), connection, ticker, detail)
        text = f"{detail}{placed(connection=connection, market=ticker)}"
        self._keep(incident, kind, text, logging.INFO if kind in _INFORMING else logging.WARNING)
