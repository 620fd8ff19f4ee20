"""What went wrong, findable afterwards: a bounded log of incidents, and counts that never forget."""

import itertools
import logging
import time
from collections import Counter, deque
from enum import StrEnum
from typing import Generic, Protocol, TypeVar

import msgspec

__all__ = ["BoundedLog", "Incident", "IncidentKind", "IncidentLog", "placed"]

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


class _Kept(Protocol):
    @property
    def id(self) -> int: ...


Kind = TypeVar("Kind", bound=StrEnum)
Entry = TypeVar("Entry", bound=_Kept)


class BoundedLog(Generic[Kind, Entry]):
    """
    The newest entries and the counts of all; any thread may keep and read.

    Args:
        kinds: what can happen.
        capacity: how many entries are kept.
        logger: where lines go.
    """

    def __init__(self, kinds: type[Kind], capacity: int, logger: logging.Logger) -> None:
        self._kinds = kinds
        self._logger = logger
        self._kept: deque[Entry] = deque(maxlen=capacity)
        self._counts: Counter[Kind] = Counter()
        self._ids = itertools.count(1)

    def _next_id(self) -> int:
        return next(self._ids)

    def _keep(self, entry: Entry, kind: Kind, text: str, level: int) -> None:
        self._kept.append(entry)
        count = self._counts[kind] = self._counts[kind] + 1
        # A flood (a lost connection makes 7,500 books stale at once) must not fill the disk:
        # past the first hundred of a kind a line appears each time their number doubles.
        if count <= _LOGGED_SINGLY or count & (count - 1) == 0:
            self._logger.log(level, "%s #%d: %s", kind, count, text)

    def recent(self, limit: int = 100, *, before: int | None = None) -> list[Entry]:
        """
        Return entries, newest first.

        Args:
            limit: how many at most.
            before: only those with a smaller id, to page on.
        """
        kept = list(self._kept)
        if before is not None:
            kept = [entry for entry in kept if entry.id < before]
        return kept[: -limit - 1 : -1] if limit > 0 else []

    def counts(self) -> dict[str, int]:
        """Return how often each kind happened since the start, also of entries no longer kept."""
        return {kind.value: self._counts[kind] for kind in self._kinds}


class IncidentLog(BoundedLog[IncidentKind, Incident]):
    """
    What happened to a store; see `BoundedLog`.

    Args:
        capacity: how many incidents are kept.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        super().__init__(IncidentKind, capacity, _log)

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
        incident = Incident(self._next_id(), kind, time.time_ns() // 1_000, ticker, partition, offset, detail)
        text = f"{detail}{placed(market=ticker, partition=partition, offset=offset)}"
        self._keep(incident, kind, text, logging.INFO if kind is IncidentKind.HEALED else level)


def placed(**places: object) -> str:
    """Return, in brackets, what of these is known; nothing where nothing is."""
    known = [f"{name} {value}" for name, value in places.items() if value is not None]
    return f" ({', '.join(known)})" if known else ""
