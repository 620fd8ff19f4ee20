"""
An archive played as frames: what a gatherer would have received that had lost nothing.

Each market begins with its book at the start of the stretch, rebuilt, or with its first snapshot in
it. Then come its changes and trades by the exchange's time, on one subscription without a gap. Changes
of one millisecond come in the order of the subscription that saw them all, else additions first: no
order of theirs is known then, and a level must not seem to fall below what rests.
"""

import heapq
import secrets
from collections.abc import Hashable, Iterator, Sequence
from itertools import groupby
from typing import Final, final

from kalshibook.archive.rebuild import (
    Archive,
    KnownChange,
    KnownSnapshot,
    KnownTrade,
    book_from,
    counted_after,
)
from kalshibook.errors import FeedError
from kalshibook.feeds.tape import RecordedFrame
from kalshibook.simulator.frames import delta_frame, snapshot_frame, trade_frame
from kalshibook.store import Condition

__all__ = ["ArchiveTape"]

BOOK_SID: Final = 1
TRADE_SID: Final = 2


@final
class ArchiveTape:
    """
    A stretch of an archive as frames; each iteration is on a connection of its own.

    Args:
        archive: what to play; it is read while this is iterated.
        from_us: begin, by the exchange's clock.
        until_us: end, exclusive.
        tickers: only these; all that have anything unless given.
        run: begin of the connection ids; random unless given.
    """

    def __init__(
        self,
        archive: Archive,
        from_us: int,
        until_us: int,
        tickers: Sequence[str] = (),
        *,
        run: str | None = None,
    ) -> None:
        """
        Look which markets there are.

        Raises:
            FeedError: nothing is stored of that stretch.
        """
        self.markets: Final = sorted(tickers) or archive.tickers(from_us, until_us)
        """The tickers that are played."""
        if not self.markets:
            raise FeedError("the archive holds nothing of that time")
        self._archive = archive
        self._from_us = from_us
        self._until_us = until_us
        self._run = secrets.token_hex(4) if run is None else run
        self._plays = 0

    def __iter__(self) -> Iterator[RecordedFrame]:
        """Yield the frames of all markets by the exchange's time."""
        self._plays += 1
        connection = f"archive.{self._run}.{self._plays}"
        numbers = {BOOK_SID: 0, TRADE_SID: 0}
        for at_us, _, _, make in heapq.merge(*map(self._market, range(len(self.markets)))):
            numbers[make.sid] += 1
            yield RecordedFrame(at_us // 1_000, connection, make.frame(numbers[make.sid]))

    def _market(self, place: int) -> Iterator[tuple[int, int, int, "_Snapshot | _Change | _Trade"]]:
        ticker = self.markets[place]
        archive, start_us = self._archive, self._from_us
        turn = 0
        changes = archive.changes(ticker, start_us, self._until_us)
        book = book_from(archive, ticker, start_us - 1)
        if book.condition is Condition.AWAITING:
            candidates = archive.snapshots_before(ticker, self._until_us - 1)
            if not candidates:
                return
            first = candidates[-1]
            changes = [
                KnownChange(c.at_us, c.side, c.price, c.change, count, c.places)
                for c in changes
                if (count := counted_after(first, c))
            ]
            yield first.at_us, place, turn, _Snapshot(first)
        else:
            levels = [tuple((level.price, level.size) for level in side) for side in (book.yes, book.no)]
            known = KnownSnapshot(ticker, start_us, (), levels[0], levels[1])
            yield start_us, place, turn, _Snapshot(known)
        events: list[tuple[int, _Change | _Trade]] = [
            (change.at_us, _Change(ticker, change)) for change in _ordered(changes)
        ]
        trades = archive.trades(ticker, start_us, self._until_us)
        events += [(trade.at_us, _Trade(ticker, trade)) for trade in trades]
        events.sort(key=lambda event: event[0])
        for at_us, make in events:
            for _ in range(make.count):
                turn += 1
                yield at_us, place, turn, make


class _Snapshot:
    sid = BOOK_SID

    def __init__(self, known: KnownSnapshot) -> None:
        self._known = known

    def frame(self, number: int) -> bytes:
        known = self._known
        ts_ms = known.at_us // 1_000
        return snapshot_frame(known.ticker, known.yes, known.no, sid=BOOK_SID, seq=number, ts_ms=ts_ms)


class _Change:
    sid = BOOK_SID

    def __init__(self, ticker: str, known: KnownChange) -> None:
        self._ticker = ticker
        self._known = known
        self.count = known.count

    def frame(self, number: int) -> bytes:
        known = self._known
        return delta_frame(
            *(self._ticker, known.side, known.price, known.change),
            sid=BOOK_SID,
            seq=number,
            ts_ms=known.at_us // 1_000,
        )


class _Trade:
    sid = TRADE_SID
    count = 1

    def __init__(self, ticker: str, known: KnownTrade) -> None:
        self._ticker = ticker
        self._known = known

    def frame(self, number: int) -> bytes:
        known = self._known
        return trade_frame(
            *(self._ticker, known.trade_id, known.yes_price, known.size, known.taker_side or "yes"),
            sid=TRADE_SID,
            seq=number,
            ts_ms=known.at_us // 1_000,
        )


def _ordered(changes: Sequence[KnownChange]) -> Iterator[KnownChange]:
    in_time = sorted(changes, key=lambda change: change.at_us)
    for _, moment in groupby(in_time, key=lambda change: change.at_us):
        together = [*moment]
        if len(together) == 1:
            yield together[0]
            continue
        common = set.intersection(*({stream for stream, _ in change.places} for change in together))
        if common and all(change.count == 1 for change in together):
            stream = min(common, key=repr)
            yield from sorted(together, key=lambda change: _number(change, stream))
        else:
            yield from sorted(together, key=lambda change: (change.change < 0, change.side, change.price))


def _number(change: KnownChange, stream: Hashable) -> int:
    return next(number for place, number in change.places if place == stream)
