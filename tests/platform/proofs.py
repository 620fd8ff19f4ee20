"""What must hold at the end; each proof counts what it has compared, and names what is wrong."""

import hashlib
import io
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import psycopg
import pyarrow.parquet as pq

from kalshibook.archive.exchange import Exchange
from kalshibook.archive.export import check
from kalshibook.archive.gaps import SLACK_US
from kalshibook.archive.judging import judge
from kalshibook.archive.parquet import LAYOUTS
from kalshibook.archive.reading_database import DatabaseArchive
from kalshibook.archive.rebuild import book_from
from kalshibook.archive.targets import Target, open_target
from kalshibook.simulator.ledger import Fault, FaultKind
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.simulator.truth import TrueBook
from kalshibook.store import Book, BookStore, Condition
from tests.platform.running import Platform
from tests.platform.truth import SIDES, Change, Levels, Told, Trade, Truth, canonical, levels_of

__all__ = [
    "Finding",
    "books_are_rebuilt",
    "faults_are_told",
    "gaps_are_judged",
    "nothing_is_double",
    "parquet_is_production",
    "production_is_the_truth",
    "store_is_the_truth",
    "true_books",
    "untold_faults",
    "wrong_books",
]

SHOWN: Final = 5
LATE_US: Final = 2_500_000
"""So long before the end a book is not asked for: what comes last is not known to be all yet."""
OVER: Final = {"determined", "finalized"}
"""A market in these states is followed no more, and its book says so: it is not live."""
NOTICED_US: Final = 20_000_000
"""How long after a fault showed its record may come."""


class Finding(NamedTuple):
    """One line of the table."""

    what: str
    numbers: str
    wrong: Sequence[str]
    """What differs; empty when it is proven."""


def production_is_the_truth(platform: Platform, truth: Truth) -> Iterator[Finding]:
    """Compare changes, trades and lifecycle messages with what the witness saw."""
    with psycopg.connect(platform.production) as connection, DatabaseArchive(platform.production) as archive:
        found: Counter[Any] = Counter()
        for *key, count in connection.execute(
            "SELECT ticker, exchange_us, side, price, change, count FROM orderbook_deltas"
        ):
            found[Change(*key)] += count
        named: list[Any] = []
        unnamed: list[Any] = []
        for change in truth.followed_changes - found:
            lost = archive.coverage(change.ticker, change.at_us, change.at_us + 1)
            (named if lost.lost(change.at_us, change.at_us + 1) else unnamed).append(change)
        every = Counter(truth.changes)
        twins = sum(count > 1 for count in truth.followed_changes.values())
        yield Finding(
            "changes of books",
            f"{found.total():,} in production, {truth.followed_changes.total():,} true ones were followed"
            f" ({twins:,} of them equal twins), {len(named):,} lost and named",
            [*_lines("is missing", unnamed), *_lines("never happened", found - every)],
        )

        trades = _trades(connection)
        yield Finding(
            "trades",
            f"{len(trades):,} in production, {len(truth.followed_trades):,} true ones were followed",
            [
                *_lines("is missing", truth.followed_trades - trades.keys()),
                *_lines("differs", (key for key, trade in trades.items() if not truth.confirms(key, trade))),
            ],
        )

        told: Counter[Any] = Counter()
        for ticker, kind, body, count in connection.execute(
            "SELECT ticker, kind, body, count FROM lifecycles"
        ):
            told[Told(ticker, kind, canonical(body))] += count
        missed = [*(truth.followed_told - told)]
        named = [message for message in missed if _is_named(connection, truth.told_us[message])]
        yield Finding(
            "lifecycle messages",
            f"{told.total():,} in production, {truth.followed_told.total():,} true ones were followed,"
            f" {len(named):,} lost and named",
            [
                *_lines("is missing", (message for message in missed if message not in named)),
                *_lines("never told", told - truth.told),
            ],
        )


def _is_named(connection: psycopg.Connection[Any], at_us: int) -> bool:
    """Tell whether a gap of lifecycle messages at that time is named as lost."""
    (found,) = _row(
        connection,
        f"SELECT EXISTS (SELECT FROM gaps WHERE outcome = 'lost' AND channel LIKE '%lifecycle%'"
        f" AND {at_us} BETWEEN coalesce(since_us, detected_us) - {SLACK_US}"
        f" AND coalesce(healed_us, detected_us))",
    )
    return bool(found)


def _trades(connection: psycopg.Connection[Any]) -> dict[str, Trade]:
    return {
        trade_id: Trade(ticker, at_us // 1_000, price, size, taker)
        for trade_id, ticker, at_us, price, size, taker in connection.execute(
            "SELECT trade_id, ticker, exchange_us, yes_price, size, taker_side FROM trades"
        )
    }


def nothing_is_double(platform: Platform) -> Finding:
    """Look for rows of production that say the same, and for sightings that became more than one row."""
    wrong: list[str] = []
    rows = sightings = 0
    with psycopg.connect(platform.production) as connection:
        for table, key in _KEYS.items():
            names = ", ".join(key)
            (count,) = _row(connection, f"SELECT count(*) FROM {table}")
            (single,) = _row(connection, f"SELECT count(*) FROM (SELECT DISTINCT {names} FROM {table}) AS d")
            rows += count
            if count != single:
                wrong.append(f"{table}: {count:,} rows, {single:,} different ones")
        for table in ("orderbook_deltas", "lifecycles"):
            seen, places = _row(
                connection,
                "SELECT count(*), count(DISTINCT (s, q))"
                f" FROM {table}, unnest(streams, sequences) AS u (s, q)",
            )
            sightings += seen
            if seen != places:
                wrong.append(f"{table}: {seen:,} sightings, {places:,} different frames")
    return Finding("no duplicate", f"{rows:,} rows; {sightings:,} sightings of changes and messages", wrong)


def gaps_are_judged(platform: Platform) -> Finding:
    """Judge every gap now, without the pause after its healing: trades that all missed are fetched."""
    with (
        psycopg.connect(platform.production, autocommit=True) as connection,
        Exchange(platform.exchange.rest_url) as exchange,
    ):
        before = len(_trades(connection))
        while judge(connection, exchange, settle_s=0):
            pass
        fetched = len(_trades(connection)) - before
        outcomes: dict[str, int] = dict(
            connection.execute("SELECT coalesce(outcome, 'open'), count(*) FROM gaps GROUP BY 1 ORDER BY 1")
        )
    numbers = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
    wrong = _lines("is open", ["a gap"] * outcomes.get("open", 0))
    return Finding("gaps are judged", f"{numbers}; {fetched:,} trades fetched that nobody had", wrong)


class Gap(NamedTuple):
    """A record of the ledger, as it stands in production."""

    gap_id: str
    source: str
    connection_id: int | None
    sid: int | None
    channel: str
    cause: str
    first: int | None
    last: int | None
    detected_us: int
    healed_us: int | None
    outcome: str | None


_CAUSES: Final = {
    FaultKind.LOST: {"gap"},
    FaultKind.REORDERED: {"gap"},
    FaultKind.COUNTER_RESET: {"reset"},
    FaultKind.OVERFLOW: {"overflow"},
    FaultKind.CHANNEL_ERROR: {"ended"},
    FaultKind.CUT: {"disconnected", "silent"},
    FaultKind.CLOSED: {"disconnected", "silent"},
    FaultKind.HALF_OPEN: {"disconnected", "silent"},
}
"""By what each kind is told. What is doubled or only late takes nothing from anybody."""


def faults_are_told(platform: Platform) -> Finding:
    """See that each fault that showed is in the ledger of the gatherer it was done to, healed or judged."""
    shown, pairs = _told(platform)
    healed = named = 0
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    for fault, record in pairs:
        if record is None:
            wrong.append(f"nothing tells of {fault}")
            continue
        kinds[fault.kind.value] += 1
        healed += record.healed_us is not None
        named += record.healed_us is None and record.outcome is not None
        if record.healed_us is None and record.outcome is None:
            wrong.append(f"{record} is neither healed nor judged")
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    return Finding(
        "faults in a ledger",
        f"{len(pairs):,} of {shown:,} that showed take something away: {healed:,} healed,"
        f" {named:,} named ({counts})",
        wrong,
    )


def untold_faults(platform: Platform) -> list[str]:
    """Return the faults that showed and are in no ledger yet: a dead connection is found after a while."""
    return [str(fault) for fault, record in _told(platform)[1] if record is None]


def _told(platform: Platform) -> tuple[int, list[tuple[Fault, Gap | None]]]:
    """Return how many faults showed, and for each that takes something away the record of its own."""
    faults = [
        fault
        for fault in platform.exchange.do(lambda exchange: exchange.faults)
        if fault.exposed_us is not None
    ]
    with psycopg.connect(platform.production) as connection:
        gaps = [
            Gap(*row)
            for row in connection.execute(
                "SELECT g.gap_id, s.name, g.connection_id, g.sid, g.channel, g.cause, g.from_sequence,"
                " g.to_sequence, g.detected_us, g.healed_us, g.outcome FROM gaps AS g"
                " JOIN sources AS s USING (source_id) ORDER BY g.detected_us"
            )
        ]
    used: set[object] = set()
    pairs: list[tuple[Fault, Gap | None]] = []
    for fault in faults:
        if fault.kind in _CAUSES:
            record = next((gap for gap in gaps if _tells(gap, fault, used)), None)
            if record is not None:
                # A connection's end is told for each of its subscriptions, and is one fault.
                used.add(record.gap_id if fault.sid is not None else record.connection_id or record.gap_id)
            pairs.append((fault, record))
    return len(faults), pairs


def _tells(gap: Gap, fault: Fault, used: set[object]) -> bool:
    assert fault.done_us is not None
    assert fault.exposed_us is not None
    if gap.source != fault.user:
        return False
    if not fault.done_us - 1_000 <= gap.detected_us <= fault.exposed_us + NOTICED_US:
        return False
    if fault.kind in {FaultKind.LOST, FaultKind.REORDERED}:
        # By its number; two that follow each other are one gap, and what ends a stream covers it too.
        return (
            (gap.sid, gap.channel) == (fault.sid, fault.channel)
            and gap.first is not None
            and fault.seq is not None
            and gap.first <= fault.seq
            and (fault.seq <= gap.last if gap.last is not None else gap.cause != "gap")
        )
    if gap.cause not in _CAUSES[fault.kind]:
        return False
    if fault.sid is None:
        return gap.connection_id not in used
    return gap.gap_id not in used and (gap.sid, gap.channel) == (fault.sid, fault.channel)


_KEYS: Final = {
    "orderbook_deltas": ("ticker", "exchange_us", "side", "price", "change"),
    "orderbook_snapshots": ("connection_id", "sid", "sequence", "kind", "ticker"),
    "trades": ("trade_id",),
    "tickers": ("ticker", "exchange_us", "digest"),
    "lifecycles": ("ticker", "kind", "digest", "exchange_us"),
    "gaps": ("gap_id",),
    "series": ("ticker", "valid_from_us"),
    "events": ("ticker", "valid_from_us"),
    "markets": ("ticker", "valid_from_us"),
}


def parquet_is_production(platform: Platform) -> Iterator[Finding]:
    """Compare each table row by row with its files, and the files with their manifests."""
    target = open_target(*platform.target)
    for table in LAYOUTS:
        stored = _stored(platform.production, table)
        files, again = _exported(target, table)
        numbers = (
            f"{len(stored):,} rows, {_digest(stored)}; {len(files):,} in files, {_digest(files)},"
            f" {again:,} of them came again"
        )
        wrong = _lines("differs", set(stored) ^ set(files)) if stored != files else []
        wrong += [] if stored else ["there is nothing to compare"]
        yield Finding(f"Parquet: {table}", numbers, wrong)
    yield Finding("Parquet: manifests", f"{len(target.paths('manifests')):,} batches", check(target))


def _stored(production: str, table: str) -> list[str]:
    layout = LAYOUTS[table]
    columns = ", ".join(
        layout.computed.get(name, f"t.{name}") + ("::text" if name == "body" else "")
        for name in layout.columns
    )
    with psycopg.connect(production) as connection:
        return sorted(repr(row) for row in connection.execute(f"SELECT {columns} FROM {table} AS t"))


def _exported(target: Target, table: str) -> tuple[list[str], int]:
    """Return the rows of all files, the last of each key, and how many stand in a later file again."""
    names = [*LAYOUTS[table].columns]
    keys = [name if name != "connection_id" else "stream_id" for name in _KEYS[table] if name in names]
    keys += ["stream_id"] if table == "orderbook_snapshots" else []
    if table == "lifecycles":
        # The earliest sighting may move it in time; where it ends stays.
        keys[-1] = "last_us"
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    rows = 0
    for path in target.paths(table):
        for row in pq.read_table(io.BytesIO(target.read(path) or b"")).to_pylist():
            rows += 1
            key = tuple(row[name] for name in keys)
            if key not in found or found[key]["ingest"] < row["ingest"]:
                found[key] = row
    return sorted(repr(tuple(row[name] for name in names)) for row in found.values()), rows - len(found)


def _digest(rows: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:12]


def books_are_rebuilt(
    platform: Platform, truth: Truth, count: int, until_us: int, source: random.Random
) -> Finding:
    """Rebuild books at random moments until so many live ones have been compared with the truth."""
    until_us -= LATE_US
    tickers = sorted(ticker for ticker, first_us in truth.first_us.items() if first_us <= until_us)
    equal = stale = 0
    wrong: list[str] = []
    reasons: Counter[str] = Counter()
    with DatabaseArchive(platform.production) as archive:
        while equal + len(wrong) < count and stale < 10 * count:
            ticker = source.choice(tickers)
            at_us = source.randint(truth.first_us[ticker], until_us)
            book = book_from(archive, ticker, at_us)
            if book.condition is not Condition.LIVE:
                # It says so itself: nobody watched, or all who did were in doubt.
                stale += 1
                reasons[(book.stale_reason or str(book.condition)).partition(":")[0]] += 1
                continue
            (true,) = truth.books(ticker, [at_us])
            if _levels(book) == true:
                equal += 1
            else:
                wrong.append(f"{ticker} at {at_us}: {_levels(book)} instead of {true}")
    if equal < count and not wrong:
        wrong.append(f"only {equal:,} books were live")
    why = ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())
    return Finding(
        "books rebuilt", f"{equal:,} equal the truth, {stale:,} not called live ({why or '-'})", wrong
    )


def store_is_the_truth(platform: Platform, truth: Truth) -> Finding:
    """Compare the store that is fed from Kafka, and what the witness saw, with the exchange's own books."""
    books = platform.exchange.do(true_books)
    wrong = wrong_books(platform.store, books)
    for book in books:
        (summed,) = truth.books(book.ticker, [2**62])
        if summed != levels_of(book):
            wrong.append(f"{book.ticker}: the witness has missed something")
    levels = sum(len(book.yes) + len(book.no) for book in books)
    return Finding("books from Kafka", f"{len(books):,} books, {levels:,} levels", wrong)


def true_books(exchange: SimulatedExchange) -> list[TrueBook]:
    """Return the exchange's own books."""
    return [TrueBook.of(market, 0) for market in exchange.venue.model.held()]


def wrong_books(store: BookStore, books: Iterable[TrueBook]) -> list[str]:
    """Return which live books of a store are not the true ones, and which are not live without a reason."""
    cut, wrong = store.cut(), []
    for true in books:
        held = cut.get(true.ticker)
        if held is None:
            wrong += [f"{true.ticker} is missing"] if true.yes or true.no else []
        elif held.copy is not Condition.LIVE:
            if true.status not in OVER:
                wrong.append(f"{true.ticker} is {held.copy}: {held.stale_reason}")
        elif _levels(held) != levels_of(true):
            wrong.append(f"{true.ticker} differs")
    return wrong


def _levels(book: Book) -> Levels:
    found: Levels = defaultdict(int)
    for side, ladder in (("yes", book.yes), ("no", book.no)):
        for level in ladder:
            found[SIDES[side], level.price] = level.size
    return dict(found)


def _row(connection: psycopg.Connection[Any], query: str) -> Sequence[Any]:
    row: Sequence[Any] | None = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row


def _lines(verdict: str, things: Iterable[Any]) -> list[str]:
    return [f"{thing} {verdict}" for thing in things]
