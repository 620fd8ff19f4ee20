"""Books at any time: whatever gatherers lost, a book that is called live equals the exchange's then."""

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings, strategies as st

from kalshibook.archive.dedup import Deduplicator
from kalshibook.archive.export import Exporter
from kalshibook.archive.gaps import SLACK_US, Coverage, Gap, Seen, coverage_of
from kalshibook.archive.merging import Merged, Place, Sighting, Stream, change_key
from kalshibook.archive.migrate import migrate
from kalshibook.archive.reading import DatabaseArchive, ParquetArchive, open_archive
from kalshibook.archive.rebuild import (
    Books,
    KnownChange,
    KnownSnapshot,
    Sum,
    book_from,
    counted_after,
    sums,
)
from kalshibook.archive.rows import DeltaRow, Row, SnapshotRow
from kalshibook.archive.targets import Folder
from kalshibook.errors import ArchiveError
from kalshibook.store import Condition
from kalshibook.wire import GapRecord, Side
from tests.archive.gathered import NOW_US, MakeArchive, Stage, change, delta, store, store_gaps
from tests.archive.scenario import START_US, Scenario, sides

SIDES: dict[int, Side] = {1: "yes", 2: "no"}


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


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from([0.0, 0.004, 0.05]),
    cuts=st.sampled_from([0.0, 0.01]),
    sources=st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]),
)
def test_a_live_book_is_the_exchanges(seed: int, loss: float, cuts: float, sources: tuple[str, ...]) -> None:
    """Over any losses, cuts and refreshes: live means equal, and without losses every book is live."""
    scenario = Scenario(seed, frames=400, sources=sources, loss=loss, cuts=cuts)
    archive = InMemory(scenario.rows, scenario.gaps)

    live, total = compared(archive, scenario, moments_of(scenario, 12))

    if not loss and not cuts:
        assert live == total


def test_three_sources_leave_little_in_doubt() -> None:
    """What one source lost another saw: nearly all books are live though every source has gaps."""
    scenario = Scenario(5, loss=0.01)
    moments = moments_of(scenario, 60)

    live, total = compared(InMemory(scenario.rows, scenario.gaps), scenario, moments)
    alone = [row for row in scenario.rows if row.source == "a"]
    gaps = [gap for gap in scenario.gaps if gap.source == "a"]
    live_alone, _ = compared(InMemory(alone, gaps), scenario, moments)

    assert live > 0.8 * total
    assert live_alone < live


A, B = Stream("a", "a.1", 1), Stream("b", "b.1", 1)
SNAPSHOT = KnownSnapshot("KXA-1", 1_000, ((A, 10),), ((4_000, 100),), ())


@pytest.mark.parametrize(
    ("at_us", "count", "places", "after"),
    [
        (1_000, 1, [(A, 10)], 0),
        (1_000, 1, [(A, 11)], 1),
        (1_000, 2, [(A, 9), (A, 11)], 1),
        (1_000, 2, [(A, 11), (B, 70), (B, 71)], 2),
        (1_000, 2, [(A, 9), (B, 70), (B, 71)], 0),
        (1_000, 1, [(B, 70)], 0),
        (1_001, 1, [(B, 70)], 1),
        (999, 1, [(A, 11), (B, 70)], 1),
    ],
    ids=["in", "after", "one-each", "lost-twin-after", "lost-twin-in", "unseen-then", "unseen-later", "slow"],
)
def test_what_a_snapshot_contains(at_us: int, count: int, places: list[Any], after: int) -> None:
    """Its own stream's numbers decide; where that saw nothing, the exchange's times do."""
    change = KnownChange(at_us, "yes", 4_000, 100, count, tuple(places))

    assert after == counted_after(SNAPSHOT, change)


class Fixed(InMemory):
    """An archive in which something does not fit."""

    def __init__(self, changes: Sequence[Sum]) -> None:
        super().__init__([], [])
        self._sums = changes

    def snapshots_before(self, ticker: str, at_us: int) -> Sequence[KnownSnapshot]:
        """Return the one there is."""
        return [SNAPSHOT]

    def sums_after(self, snapshot: KnownSnapshot, at_us: int) -> Sequence[Sum]:
        """Return what was given."""
        return self._sums

    def coverage(self, ticker: str, from_us: int, until_us: int) -> Coverage:
        """Claim that nothing is missing."""
        return coverage_of([Seen(A, 0, 0)], {A: ("a", 10**18)}, [])


def test_more_taken_than_rests_is_never_clamped() -> None:
    """The book is stale and says where."""
    book = book_from(Fixed([Sum("yes", 4_000, -101, 1_500)]), "KXA-1", 2_000)

    assert (Condition.STALE, "yes at 4000: -1 (0.01 contract)") == (book.condition, book.stale_reason)
    assert 0 == len(book.yes)


def test_levels_bear_the_time_of_their_last_change() -> None:
    """What was not touched since the snapshot bears the snapshot's."""
    book = book_from(Fixed([Sum("no", 3_000, 70, 1_500)]), "KXA-1", 2_000)

    assert [1_000] == [level.stamps.exchange_us for level in book.yes]
    assert [(3_000, 70, 1_500)] == [(one.price, one.size, one.stamps.exchange_us) for one in book.no]
    assert book.stamps is not None
    assert 1_500 == book.stamps.exchange_us


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    """Three gatherers with losses."""
    return Scenario(5, frames=900, loss=0.01)


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


def test_files_say_nothing_of_what_is_not_in_them_yet(
    scenario: Scenario, new_archive: MakeArchive, tmp_path: Path
) -> None:
    """What is too young to be exported makes no book of the files seem complete."""
    sources = {name: new_archive("local") for name in ("a", "b", "c")}
    production = new_archive("production")
    rows = sorted(scenario.rows, key=lambda row: row.received_us)
    for start in range(0, len(rows), 200):
        for name, dsn in sources.items():
            store(dsn, [row for row in rows[start : start + 200] if row.source == name])
            store_gaps(dsn, [gap for gap in scenario.gaps if gap.source == name])
        with Deduplicator(sources, production) as dedup:
            dedup.drain()
    now_us = scenario.end_us + 1_000_000
    Exporter(production, Folder(tmp_path), settle_s=15, clock_us=lambda: now_us).run()

    with ParquetArchive(str(tmp_path)) as files:
        live, total = compared(files, scenario, moments_of(scenario, 60))

    assert 0 < live < total


def test_a_row_that_grew_counts_once_beside_one_without_a_time(
    new_archive: MakeArchive, tmp_path: Path
) -> None:
    """In the files it stands twice, with another first receipt; what has no time changes nothing in that."""
    stage = Stage(new_archive)
    stage.store(delta("a", 9, change(4_000, 100)), delta("a", 10, change(4_000, 300, None)))
    for late in (None, delta("b", 2, change(4_000, 100))):
        stage.store(*([late] if late else []))
        stage.merge()
        Exporter(stage.production, Folder(tmp_path), settle_s=0).run()

    found = []
    for address in (stage.production, str(tmp_path)):
        with open_archive(address) as archive:
            changes = archive.changes("KXA-1", NOW_US, NOW_US + 1_000)
        found.append(sorted((one.at_us, one.price, one.change, one.count) for one in changes))

    assert [(NOW_US, 4_000, 100, 1), (NOW_US + 10, 4_000, 300, 1)] == found[0] == found[1]


def test_from_databases_and_files(scenario: Scenario, new_archive: MakeArchive, tmp_path: Path) -> None:
    """Production, a gatherer's own database and Parquet rebuild the same true books."""
    sources, production = gathered(scenario, new_archive)
    Exporter(production, Folder(tmp_path), settle_s=0).run()
    moments = moments_of(scenario, 30)
    memory = InMemory(scenario.rows, scenario.gaps)

    expected, total = compared(memory, scenario, moments)
    with DatabaseArchive(production) as archive, DatabaseArchive(sources["a"]) as one:
        assert (expected, total) == compared(archive, scenario, moments)
        live_alone, _ = compared(one, scenario, moments)
    with ParquetArchive(str(tmp_path)) as files:
        assert (expected, total) == compared(files, scenario, moments)

    assert 0 < live_alone < expected
    for at_us in moments[:5]:
        for ticker in scenario.tickers:
            with open_archive(production) as archive, open_archive(str(tmp_path)) as files:
                assert book_from(archive, ticker, at_us) == book_from(files, ticker, at_us)


def test_far_from_a_snapshot(new_archive: MakeArchive, tmp_path: Path) -> None:
    """Minutes after the last snapshot the database adds up, and the book is still the exchange's."""
    scenario = Scenario(9, frames=600, loss=0, cuts=0, refreshes=0, rate=1.5)
    sources, production = gathered(scenario, new_archive)
    Exporter(production, Folder(tmp_path), settle_s=0).run()
    length_us = scenario.end_us - START_US
    moments = [START_US + length_us * part // 4_000 * 1_000 for part in (2, 3)]

    for address in (production, sources["b"], str(tmp_path)):
        with open_archive(address) as archive:
            assert (6, 6) == compared(archive, scenario, moments)
    assert scenario.end_us - START_US > 200_000_000


def test_production_holds_what_happened(new_archive: MakeArchive) -> None:
    """Without a loss common to all, every change is there as often as it happened."""
    scenario = Scenario(4, frames=600, loss=0, cuts=0)
    _, production = gathered(scenario, new_archive)

    with psycopg.connect(production) as connection:
        rows = connection.execute(
            "SELECT ticker, exchange_us, side, price, change, count FROM orderbook_deltas"
        )
        found = sorted(tuple(row[:5]) for row in rows for _ in range(row[5]))

    assert scenario.happened() == found


@pytest.mark.postgres
def test_what_is_no_archive_is_refused(new_database: Callable[[], str], tmp_path: Path) -> None:
    """An empty database and an empty folder are named as such; a market nobody knows is awaited."""
    with pytest.raises(ArchiveError, match="holds no archive"):
        open_archive(new_database())
    with pytest.raises(ArchiveError, match="no export"):
        open_archive(str(tmp_path))
    dsn = new_database()
    with psycopg.connect(dsn) as connection:
        migrate(connection, "production")
    with open_archive(dsn) as archive:
        assert Condition.AWAITING is book_from(archive, "KXNOBODY", START_US).condition
