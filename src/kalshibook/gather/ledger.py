"""
The gap ledger: what was not received, since when, and until when. Pure.

An entry is handed on when a gap is found and again when it is healed. Healing is counted market by
market, across subscriptions and connections, so an entry says when the last one was whole again.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final, final

import msgspec

from kalshibook.wire import GapRecord
from kalshibook.wire.gaps import GapCause, GapHealing

__all__ = ["GapLedger", "LedgerCounts", "OpenGap"]

_MOST_NAMED: Final = 20_000
"""More markets than a record can name within Kafka's usual limit of a message, 1 MB."""


class LedgerCounts(msgspec.Struct, frozen=True):
    """Gaps since the start."""

    found: int
    healed: int
    by_cause: dict[str, int]

    @property
    def open(self) -> int:
        """Return how many are not healed, those that never will be among them."""
        return self.found - self.healed


@final
class OpenGap:
    """A gap whose markets are not all whole again."""

    __slots__ = ("record", "waiting")

    def __init__(self, record: GapRecord, waiting: set[str]) -> None:
        self.record = record
        self.waiting: Final = waiting
        """Markets of which no snapshot has come since."""


@final
class GapLedger:
    """
    Writes the entries of one gatherer.

    Example:
        >>> ledger = GapLedger("g1", on_record=lambda record: print(record.id, record.how))
        >>> gap = ledger.found("c1", 3, "orderbook_delta", "gap", first=7, last=9, tickers=["A"], now_us=1)
        g1/c1/1 None
        >>> ledger.is_whole(gap, "A", "snapshots", now_us=5)
        g1/c1/1 snapshots
        True
    """

    def __init__(self, source: str, *, on_record: Callable[[GapRecord], None], capacity: int = 1_000) -> None:
        """
        Begin with an empty ledger.

        Args:
            source: which gatherer this is.
            on_record: told of each entry that is new or healed.
            capacity: how many entries `recent` keeps.
        """
        self._source = source
        self._on_record = on_record
        self._capacity = capacity
        self._kept: dict[str, GapRecord] = {}
        self._found = self._healed = 0
        self._causes: Counter[str] = Counter()
        self._order: deque[str] = deque()

    def found(
        self,
        connection: str,
        sid: int | None,
        channel: str,
        cause: GapCause,
        *,
        first: int | None,
        last: int | None,
        tickers: Iterable[str],
        now_us: int,
    ) -> OpenGap:
        """
        Enter a gap.

        Args:
            connection: the socket epoch.
            sid: the subscription.
            channel: what it carries.
            cause: how the gap was found.
            first: the first number that is missing, where there are numbers.
            last: the last one, where it is known.
            tickers: the markets concerned; none is every market.
            now_us: the time.
        """
        self._found += 1
        self._causes[cause] += 1
        waiting = set(tickers)
        record = GapRecord(
            id=f"{self._source}/{connection}/{self._found}",
            source=self._source,
            connection=connection,
            sid=sid,
            channel=channel,
            cause=cause,
            from_sequence=first,
            to_sequence=last,
            markets=len(waiting),
            tickers=tuple(sorted(waiting)) if len(waiting) <= _MOST_NAMED else (),
            detected_us=now_us,
        )
        self._order.append(record.id)
        self._keep(record)
        while len(self._order) > self._capacity:
            self._kept.pop(self._order.popleft(), None)
        return OpenGap(record, waiting)

    def is_whole(self, gap: OpenGap, ticker: str, how: GapHealing, *, now_us: int) -> bool:
        """Note that one market is whole again, or followed no more, and tell whether all now are."""
        gap.waiting.discard(ticker)
        if gap.waiting:
            return False
        self.heal(gap, how, now_us=now_us)
        return True

    def heal(self, gap: OpenGap, how: GapHealing, *, now_us: int) -> None:
        """Close an entry; a second time changes nothing."""
        if gap.record.healed_us is not None:
            return
        self._healed += 1
        gap.waiting.clear()
        gap.record = msgspec.structs.replace(gap.record, healed_us=now_us, how=how)
        self._keep(gap.record)

    def recent(self, limit: int = 100) -> list[GapRecord]:
        """Return the newest entries, newest first."""
        names = list(self._order)
        return [self._kept[name] for name in names[: -limit - 1 : -1]] if limit > 0 else []

    def counts(self) -> LedgerCounts:
        """Return the counts since the start."""
        return LedgerCounts(self._found, self._healed, dict(self._causes))

    def _keep(self, record: GapRecord) -> None:
        if record.healed_us is None or record.id in self._kept:
            self._kept[record.id] = record
        self._on_record(record)
