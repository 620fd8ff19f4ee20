"""What went wrong, findable afterwards: a bounded log of incidents, and counts that never forget."""

import itertools
import logging
import time
from collections import Counter, deque
from enum import StrEnum

import msgspec

__all__ = ["Incident", "IncidentKind", "IncidentLog"]

_log = logging.getLogger(__name__)

_LOGGED_SINGLY = 100


class IncidentKind(StrEnum):
    """What happened."""

    GAP = "gap"
    """Messages of a market were lost between gatherer and store."""
    IMPOSSIBLE = "impossible"
    """A change took away more than rests: our copy had diverged."""
    CROSSED = "crossed"
    """A snapshot's best bids sum to a dollar or more: its NO scale is in doubt."""
    RESET = "reset"
    """Sequence numbers went backwards on a live subscription."""
    UNANCHORED = "unanchored"
    """A change came on a connection that sent no snapshot of that market."""
    REJECTED = "rejected"
    """A record could not be read and went to quarantine."""
    DOUBTED = "doubted"
    """A feed declared books stale."""
    HEALED = "healed"
    """A snapshot made a stale book live again."""
    NOTICED = "noticed"
    """A gatherer said that books of its own are in doubt, or that it stops following them."""
    SOURCE_SILENT = "source_silent"
    """A gatherer gives no signs of life any more: the books that follow it are stale."""
    SOURCE_BACK = "source_back"
    """A silent gatherer gives signs of life again; its snapshots heal."""
    SOURCE_CHANGED = "source_changed"
    """A market's book now comes from another gatherer."""
    CONFLATED = "conflated"
    """A reader of changes was too slow: changes were merged, or notices dropped."""
    FEED = "feed"
    """A feed changed its state or its way of working."""
    CLIENT = "client"
    """A client of the server was cut: it was too slow, broke a limit, or did not answer."""


class Incident(msgspec.Struct, frozen=True, gc=False):
    """One thing that went wrong, or was put right."""

    id: int
    """Rising from 1 in one process."""
    kind: IncidentKind
    time_us: int
    """When it was recorded, microseconds since the epoch."""
    ticker: str | None
    partition: int | None
    offset: int | None
    detail: str
    """What was found, for people."""


class IncidentLog:
    """
    The newest incidents and the counts of all; any thread may record and read.

    Args:
        capacity: how many incidents are kept.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._kept: deque[Incident] = deque(maxlen=capacity)
        self._counts: Counter[IncidentKind] = Counter()
        self._ids = itertools.count(1)

    def record(
        self,
        kind: IncidentKind,
        detail: str,
        *,
        ticker: str | None = None,
        partition: int | None = None,
        offset: int | None = None,
        level: int = logging.WARNING,
    ) -> None:
        """
        Keep, count and log an incident.

        Args:
            kind: what happened.
            detail: what was found, for people.
            ticker: the market it concerns, if it is one.
            partition: where the record stands that showed it.
            offset: likewise.
            level: of the log line; what heals or informs is `logging.INFO`.
        """
        incident = Incident(next(self._ids), kind, time.time_ns() // 1_000, ticker, partition, offset, detail)
        self._kept.append(incident)
        count = self._counts[kind] = self._counts[kind] + 1
        # A flood (a lost connection makes 7,500 books stale at once) must not fill the disk:
        # past the first hundred of a kind a line appears each time their number doubles.
        if count <= _LOGGED_SINGLY or count & (count - 1) == 0:
            _log.log(
                logging.INFO if kind is IncidentKind.HEALED else level,
                "%s #%d: %s%s",
                kind,
                count,
                detail,
                _place(incident),
            )

    def recent(self, limit: int = 100, *, before: int | None = None) -> list[Incident]:
        """
        Return incidents, newest first.

        Args:
            limit: how many at most.
            before: only those with a smaller id, to page on.
        """
        kept = list(self._kept)
        if before is not None:
            kept = [incident for incident in kept if incident.id < before]
        return kept[: -limit - 1 : -1] if limit > 0 else []

    def counts(self) -> dict[str, int]:
        """Return how often each kind happened since the start, also of incidents no longer kept."""
        return {kind.value: self._counts[kind] for kind in IncidentKind}


def _place(incident: Incident) -> str:
    places = (("market", incident.ticker), ("partition", incident.partition), ("offset", incident.offset))
    known = [f"{name} {value}" for name, value in places if value is not None]
    return f" ({', '.join(known)})" if known else ""
