"""
What became of each gap, once all sources are merged: filled by others, backfilled over REST, or lost.

For books the question is asked market by market: did another subscription watch it all the while? What
nobody watched cannot be fetched afterwards, so it is lost, and the ledger says so. Trades can: the
exchange lists them by time, and their ids tell which ones are there already.
"""

import logging
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

import psycopg

from kalshibook.archive.gaps import SLACK_US, Gap, Seen, coverage_of
from kalshibook.archive.reading_database import PRODUCTION_STREAMS
from kalshibook.wire import Trade

__all__ = ["REST_SOURCE", "Judged", "TradeLister", "add_trades", "judge"]

_log = logging.getLogger(__name__)

REST_SOURCE: Final = "rest"
"""Under this name trades that were fetched afterwards stand in `sources`."""

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_BOOKS: Final = "orderbook_delta"
_TRADES: Final = "trade"
_AGAIN_US: Final = 3_600_000_000
"""After how long a gap that was called lost is looked at again."""
_AGAIN_FOR_US: Final = 7 * 86_400_000_000
"""For how long: gatherers keep their rows as long, and whoever was away is merged by then or never."""
_FEW: Final = 20
"""Markets that are asked for one by one; for more, everybody's trades of that time are read."""


class TradeLister(Protocol):
    """Whoever knows the exchange's trades."""

    def trades(self, *, ticker: str = "", min_s: int, max_s: int) -> Iterable[Trade]:
        """Yield the trades of a stretch of time, of one market or of all."""


class Judged(NamedTuple):
    """One gap's outcome."""

    gap_id: str
    outcome: str
    lost_tickers: tuple[str, ...]
    trades: int
    """How many were fetched that nobody had."""


class _Row(NamedTuple):
    gap_id: str
    source_id: int
    connection_id: int | None
    sid: int | None
    channel: str
    since_us: int | None
    detected_us: int
    healed_us: int | None
    tickers: Sequence[str]
    outcome: str | None
    """What was said of it before: it is looked at again."""
    lost_tickers: Sequence[str] | None
    trades: int | None

    @property
    def from_us(self) -> int:
        return (self.detected_us - 60_000_000) if self.since_us is None else self.since_us - SLACK_US

    @property
    def until_us(self) -> int:
        return self.detected_us if self.healed_us is None else self.healed_us


def judge(
    connection: Connection,
    lister: TradeLister | None,
    *,
    settle_s: float = 300.0,
    clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    most: int = 100,
) -> list[Judged]:
    """
    Judge the gaps that were healed some time ago, and write the outcome beside them.

    Args:
        connection: production, in autocommit mode.
        lister: the exchange, for missing trades; without it those gaps wait.
        settle_s: how long after the healing; sources that answer are merged by then. A gap that nothing
            has healed for ten times as long is judged too, and what was lost is looked at again each hour
            for a week.
        clock_us: now.
        most: gaps in one pass.
    """
    now_us = clock_us()
    settled_us = now_us - int(settle_s * 1_000_000)
    rows = [
        _Row(*row)
        for row in connection.execute(
            _UNJUDGED,
            [
                *(settled_us, settled_us - int(settle_s * 9_000_000)),
                *(now_us - _AGAIN_US, now_us - _AGAIN_FOR_US, most),
            ],
        )
    ]
    done: list[Judged] = []
    for row in rows:
        if row.outcome is not None:
            outcome = _judge_again(connection, row)
            if outcome.outcome == row.outcome and outcome.lost_tickers == tuple(row.lost_tickers or ()):
                connection.execute(_JUDGED_AGAIN, [now_us, row.gap_id])
                continue
        elif row.channel == _TRADES or not row.channel:
            trades = _judge_trades(connection, row, lister)
            if trades is None:
                continue
            outcome = trades
            if not row.channel and (lost := _lost_books(connection, row)):
                outcome = trades._replace(outcome="lost", lost_tickers=lost)
        elif row.channel == _BOOKS:
            lost = _lost_books(connection, row)
            outcome = Judged(row.gap_id, "lost" if lost else "filled", lost, 0)
        else:
            # Lifecycle and statistics: told again by the market list every few minutes.
            covered = _another_was_there(connection, row, row.channel)
            outcome = Judged(row.gap_id, "filled" if covered else "lost", (), 0)
        connection.execute(
            _WRITE, [outcome.outcome, now_us, [*outcome.lost_tickers], outcome.trades, outcome.gap_id]
        )
        if outcome.outcome == "lost":
            markets = len(outcome.lost_tickers)
            _log.warning("gap %s is lost: nobody else watched %d of its markets", row.gap_id, markets)
        done.append(outcome)
    return done


def _judge_again(connection: Connection, row: _Row) -> Judged:
    """Ask again of what was called lost: a source that was away may have been merged since."""
    trades = row.trades or 0
    if row.channel in {_BOOKS, ""}:
        lost = _lost_books(connection, row)
    elif _another_was_there(connection, row, row.channel):
        lost = ()
    else:
        return Judged(row.gap_id, "lost", (), trades)
    found = "lost" if lost else "backfilled" if trades else "filled"
    return Judged(row.gap_id, found, lost, trades)


def _lost_books(connection: Connection, row: _Row) -> tuple[str, ...]:
    """Return the markets of a gap that no other subscription watched all the while."""
    tickers = [*row.tickers]
    if not tickers:
        watched = connection.execute(_WATCHED, [row.connection_id, row.sid, row.sid])
        tickers = [ticker for (ticker,) in watched]
    seen: dict[str, list[Seen]] = {ticker: [] for ticker in tickers}
    for ticker, connection_id, sid, at_us, received_us in connection.execute(
        _SEEN, [tickers, row.from_us - 172_800_000_000, row.until_us + 3_600_000_000]
    ):
        seen[ticker].append(Seen((connection_id, sid), at_us, received_us))
    streams: dict[Hashable, tuple[str, int]] = {
        (connection_id, sid): (source, last_us)
        for connection_id, sid, source, last_us in connection.execute(PRODUCTION_STREAMS)
    }
    edges = [row.until_us + 120_000_000, row.from_us - 172_800_000_000]
    ledger = connection.execute(_OVERLAPPING, edges).fetchall()
    lost: list[str] = []
    for ticker, snapshots in seen.items():
        mine = {one.stream for one in snapshots}
        gaps = [
            Gap(
                gap_id,
                tuple(s for s in mine if s[0] == connection_id and sid in {None, s[1]}),  # type: ignore[index]  # a pair
                since_us,
                detected_us,
            )
            for gap_id, connection_id, sid, since_us, detected_us, concerned in ledger
            if not concerned or ticker in concerned
        ]
        # The doubt ends at the market's own next snapshot, not at the healing of the last market.
        own = next((gap for gap in gaps if gap.gap_id == row.gap_id), None)
        coverage = coverage_of(snapshots, streams, gaps)
        until_us = min(
            (d.until_us for d in coverage.doubts if own is not None and d.reason == own.gap_id),
            default=row.until_us,
        )
        if coverage.lost(row.from_us, min(until_us, row.until_us)):
            lost.append(ticker)
    return tuple(sorted(lost))


def _judge_trades(connection: Connection, row: _Row, lister: TradeLister | None) -> Judged | None:
    if _another_was_there(connection, row, _TRADES):
        return Judged(row.gap_id, "filled", (), 0)
    if lister is None:
        return None
    min_s, max_s = row.from_us // 1_000_000, row.until_us // 1_000_000 + 1
    added = 0
    for ticker in row.tickers if 0 < len(row.tickers) <= _FEW else ("",):
        added += add_trades(connection, lister.trades(ticker=ticker, min_s=min_s, max_s=max_s))
    return Judged(row.gap_id, "backfilled", (), added)


def _another_was_there(connection: Connection, row: _Row, channel: str) -> bool:
    """Tell whether another source was connected all the while, without a gap on this channel."""
    found = connection.execute(
        _ANOTHER, [row.source_id, row.from_us, row.until_us, channel, row.until_us, row.from_us]
    ).fetchone()
    return found is not None and bool(found[0])


def add_trades(connection: Connection, trades: Iterable[Trade]) -> int:
    """Add trades that were fetched over REST, and return how many nobody had seen."""
    now_us = time.time_ns() // 1_000
    rows = [
        (
            (trade.exchange_us or now_us) // 1_000 * 1_000,
            *(trade.exchange_us, now_us, trade.size, trade.yes_price),
            {"yes": 1, "no": 2}.get(trade.taker_side or ""),
            *(trade.is_block_trade, trade.consistent, trade.trade_id, trade.ticker),
        )
        for trade in trades
    ]
    if not rows:
        return 0
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO sources (name) SELECT %s WHERE NOT EXISTS (SELECT FROM sources WHERE name = %s)",
            [REST_SOURCE, REST_SOURCE],
        )
        cursor.execute(_FETCHED)
        with cursor.copy("COPY fetched FROM STDIN") as copy:
            for values in rows:
                copy.write_row(values)
        cursor.execute(_ENSURE)
        # Its time on the socket may be rounded otherwise, or not be known; its id tells that it is there.
        cursor.execute(_KNOWN, [REST_SOURCE])
        cursor.execute(_ADD, [REST_SOURCE])
        return cursor.rowcount


_AT: Final = "(timestamptz 'epoch' + f.at_us * interval '1 microsecond')"
_UNJUDGED: Final = """
    SELECT gap_id, source_id, connection_id, sid, channel, since_us, detected_us, healed_us, tickers,
        outcome, lost_tickers, backfilled_trades
    FROM gaps
    WHERE (outcome IS NULL AND (healed_us <= %s OR detected_us <= %s))
        OR (outcome = 'lost' AND judged_us <= %s AND detected_us >= %s)
    ORDER BY outcome IS NOT NULL, detected_us LIMIT %s
"""
_JUDGED_AGAIN: Final = "UPDATE gaps SET judged_us = %s WHERE gap_id = %s"
_WRITE: Final = """
    UPDATE gaps SET outcome = %s, judged_us = %s, lost_tickers = %s, backfilled_trades = %s,
        ingest = nextval('ingest_order'), xid = pg_current_xact_id()
    WHERE gap_id = %s
"""
_WATCHED: Final = """
    SELECT DISTINCT ticker FROM orderbook_snapshots
    WHERE connection_id = %s AND (sid = %s OR %s::integer IS NULL) AND kind = 1
"""
_SEEN: Final = """
    SELECT ticker, connection_id, sid, coalesce(exchange_us, received_us), received_us
    FROM orderbook_snapshots
    WHERE ticker = ANY (%s) AND kind = 1
        AND received_at >= timestamptz 'epoch' + %s * interval '1 microsecond'
        AND received_at <= timestamptz 'epoch' + %s * interval '1 microsecond'
"""
_OVERLAPPING: Final = """
    SELECT gap_id, connection_id, sid, since_us, detected_us, tickers FROM gaps
    WHERE channel IN ('orderbook_delta', '') AND connection_id IS NOT NULL
        AND coalesce(since_us, detected_us) <= %s AND detected_us >= %s
"""
_ANOTHER: Final = """
    SELECT EXISTS (
        SELECT FROM (
            SELECT c.source_id, min(t.first_us) AS first_us, least(max(t.last_us), min(r.reach_us)) AS last_us
            FROM streams AS t JOIN connections AS c USING (connection_id)
            LEFT JOIN source_reaches AS r USING (source_id)
            GROUP BY c.source_id, c.connection_id
        ) AS there
        WHERE there.source_id <> %s AND there.first_us <= %s AND there.last_us >= %s
            AND NOT EXISTS (
                SELECT FROM gaps AS g
                WHERE g.source_id = there.source_id AND g.channel IN (%s, '')
                    AND coalesce(g.since_us, g.detected_us - 60000000) <= %s
                    AND coalesce(g.healed_us, g.detected_us) >= %s
            )
    )
"""
_FETCHED: Final = """
    CREATE TEMPORARY TABLE fetched (
        at_us bigint, exchange_us bigint, received_us bigint, size bigint, yes_price integer,
        taker_side smallint, is_block_trade boolean, consistent boolean, trade_id text, ticker text
    ) ON COMMIT DROP
"""
_ENSURE: Final = f"""
    SELECT count(archive_ensure_chunk('trades', moment))
    FROM (SELECT DISTINCT date_bin('1 hour', {_AT}, 'epoch') AS moment FROM fetched AS f) AS moments
"""
_KNOWN: Final = f"""
    WITH known AS (
        SELECT t.trade_id, t.exchange_at FROM trades AS t JOIN fetched AS f USING (trade_id)
        WHERE t.exchange_at BETWEEN {_AT} - interval '1 day' AND {_AT} + interval '1 day'
    ), marked AS (
        UPDATE trades AS t SET
            sources = t.sources | (1::bigint << (s.source_id - 1)),
            ingest = nextval('ingest_order'), xid = pg_current_xact_id()
        FROM known AS k, sources AS s
        WHERE t.trade_id = k.trade_id AND t.exchange_at = k.exchange_at AND s.name = %s
            AND t.sources & (1::bigint << (s.source_id - 1)) = 0
    )
    DELETE FROM fetched AS f USING known AS k WHERE k.trade_id = f.trade_id
"""
_ADD: Final = f"""
    INSERT INTO trades
        (exchange_at, exchange_us, received_us, size, sources, yes_price, taker_side, is_block_trade,
         consistent, trade_id, ticker)
    SELECT
        {_AT}, f.exchange_us, f.received_us, f.size, 1::bigint << (s.source_id - 1), f.yes_price,
        f.taker_side, f.is_block_trade, f.consistent, f.trade_id, f.ticker
    FROM fetched AS f, sources AS s WHERE s.name = %s
    ON CONFLICT DO NOTHING
"""
