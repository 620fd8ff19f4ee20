"""Books rebuilt from what gatherers saw, and compared with the exchange's own."""

from collections.abc import Sequence
from random import Random
from typing import Any

from kalshibook.archive.dedup import Deduplicator
from kalshibook.archive.gaps import SLACK_US, Coverage, Gap, Seen, coverage_of
from kalshibook.archive.merging import Merged, Place, Sighting, Stream, change_key
from kalshibook.archive.rebuild import SIDES, Books, KnownChange, KnownSnapshot, Sum, book_from, sums
from kalshibook.archive.rows import DeltaRow, Row, SnapshotRow
from kalshibook.store import Condition
from kalshibook.wire import GapRecord
from tests.archive.gathered import MakeArchive, store, store_gaps
from tests.archive.scenario import START_US, Scenario, sides

__all__ = ["InMemory", "compared", "gathered", "moments_of"]


class InMemory:
    """An archive of rows, merged by the pure rule."""

    def __init__(self, rows: Sequence[Row], gaps: Sequence[GapRecord]) -> None:
        merged = Merged()
        self._snapshots: list[KnownSnapshot] = []
        self._seen: dict[str, list[Seen]] = {}
        self._streams: dict[Any, tuple[str, int]] = {}
        self._before: dict[tuple[str, int], int] = {}
        self._gaps = gaps
        for row in rows:
            assert isinstance(row, DeltaRow | SnapshotRow)
            stream = Stream(row.source, row.connection, row.sid)
            at_us = row.received_us if row.exchange_us is None else row.exchange_us
            last_us = self._streams.get(stream, ("", 0))[1]
            self._streams[stream] = (row.source, max(row.received_us, last_us))
            self._before[row.connection, row.sequence] = row.received_us
            if isinstance(row, DeltaRow):
                key = change_key(row.ticker, at_us, row.side, row.price, row.change)
                merged.add([Sighting(key, at_us, Place(stream, row.sequence), row.received_us)])
            else:
                yes = tuple(zip(row.yes_prices, row.yes_sizes, strict=True))
                no = tuple(zip(row.no_prices, row.no_sizes, strict=True))
                self._snapshots.append(KnownSnapshot(row.ticker, at_us, ((stream, row.sequence),), yes, no))
                self._seen.setdefault(row.ticker, []).append(Seen(stream, at_us, row.received_us))
        self._changes = [(event.key, event.count, event.places) for event in merged]

    def snapshots_before(self, ticker: str, at_us: int) -> Sequence[KnownSnapshot]:
        """Return them, the latest first."""
        found = [one for one in self._snapshots if one.ticker == ticker and one.at_us <= at_us]
        return sorted(found, key=lambda one: one.at_us, reverse=True)

    def sums_after(self, snapshot: KnownSnapshot, at_us: int) -> Sequence[Sum]:
        """Judge every change there is."""
        changes = (
            KnownChange(key[1], SIDES[key[2]], key[3], key[4], count, tuple(places))  # type: ignore[arg-type,index]  # a change's key
            for key, count, places in self._changes
            if key[0] == snapshot.ticker
        )
        return sums(snapshot, changes, at_us)

    def coverage(self, ticker: str, from_us: int, until_us: int) -> Coverage:
        """Look at everything."""
        gaps = []
        for gap in self._gaps:
            numbers = range((gap.from_sequence or 0) - 1, 0, -1)
            since = next((us for n in numbers if (us := self._before.get((gap.connection, n)))), None)
            stream = Stream(gap.source, gap.connection, gap.sid or 0)
            gaps.append(Gap(gap.id, (stream,), since, gap.detected_us))
        return coverage_of(self._seen.get(ticker, ()), self._streams, gaps)


def compared(archive: Books, scenario: Scenario, moments: Sequence[int]) -> tuple[int, int]:
    """Compare all books at these moments, and return how many were live of how many."""
    live = total = 0
    for at_us in moments:
        for ticker in scenario.tickers:
            book = book_from(archive, ticker, at_us)
            truth = scenario.truth(ticker, at_us)
            total += truth is not None
            if book.condition is Condition.LIVE:
                live += 1
                assert truth == sides(book), f"{ticker} at {at_us}: {book.stale_reason}"
            elif book.condition is Condition.AWAITING:
                assert truth is None or {} == sides(book)["yes"]
    return live, total


def moments_of(scenario: Scenario, count: int, seed: int = 1) -> list[int]:
    """Return times, in whole milliseconds, of which half are such at which something happened."""
    chance = Random(seed)
    # What happened last is not called complete: something of it may be on its way.
    times = [time_us for time_us, _ in scenario.events if time_us < scenario.end_us - 2 * SLACK_US]
    at_random = [chance.randrange(START_US, times[-1]) // 1_000 * 1_000 for _ in range(count // 2)]
    return at_random + [chance.choice(times) for _ in range(count - count // 2)]


def gathered(scenario: Scenario, new_archive: MakeArchive) -> tuple[dict[str, str], str]:
    """Write what each gatherer saw into its database, and merge."""
    sources = {name: new_archive("local") for name in ("a", "b", "c")}
    production = new_archive("production")
    for name, dsn in sources.items():
        store(dsn, [row for row in scenario.rows if row.source == name])
        store_gaps(dsn, [gap for gap in scenario.gaps if gap.source == name])
    with Deduplicator(sources, production, batch_rows=300) as dedup:
        dedup.drain()
    return sources, production
