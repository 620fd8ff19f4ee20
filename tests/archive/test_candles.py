"""Candles: views in the database, DuckDB over Parquet and the library say the same."""

from pathlib import Path

import duckdb
import psycopg
import pytest

from kalshibook.archive.candles import Candle, candles, mid_candles, trade_candles
from kalshibook.archive.dedup import Deduplicator
from kalshibook.archive.export import Exporter
from kalshibook.archive.reading import open_archive
from kalshibook.archive.rebuild import KnownTrade
from kalshibook.archive.rows import SnapshotRow
from kalshibook.archive.targets import Folder
from kalshibook.wire import GapRecord
from tests.archive.gathered import NOW_US, MakeArchive, change, delta, store, store_gaps, trade
from tests.archive.rebuilding import gathered
from tests.archive.scenario import START_US, Scenario

WIDTHS = {"1s": 1_000_000, "1m": 60_000_000, "1h": 3_600_000_000}


@pytest.fixture
def scenario() -> Scenario:
    """Gatherers without losses, and trades at prices that differ."""
    scenario = Scenario(12, frames=400, loss=0, cuts=0)
    for number in range(60):
        at_us = START_US + number * 370_000 // 1_000 * 1_000
        one = trade("abc"[number % 3], number, f"t-{number:03}", at_us)
        ticker = scenario.tickers[number % 2]
        scenario.rows.append(one._replace(ticker=ticker, yes_price=1_000 + number * 37 % 500, size=number))
    return scenario


@pytest.mark.parametrize("width", WIDTHS)
def test_trade_candles_are_the_same_everywhere(
    scenario: Scenario, new_archive: MakeArchive, tmp_path: Path, width: str
) -> None:
    """From the view, from the library over database and files, and from DuckDB."""
    _, production = gathered(scenario, new_archive)
    Exporter(production, Folder(tmp_path), settle_s=0).run()
    end_us = scenario.end_us + 10**9
    expected = []
    for ticker in scenario.tickers:
        with open_archive(production) as archive, open_archive(str(tmp_path)) as files:
            found = candles(archive, "trade", ticker, START_US, end_us, WIDTHS[width])
            assert found == candles(files, "trade", ticker, START_US, end_us, WIDTHS[width])
        expected += [(ticker, c.at_us, c.open, c.high, c.low, c.close, c.volume, c.count) for c in found]

    with psycopg.connect(production) as connection:
        view = connection.execute(
            "SELECT ticker, (extract(epoch FROM at) * 1000000)::bigint, open, high, low, close, volume,"
            f" trades FROM trade_candles_{width} ORDER BY ticker, at"
        ).fetchall()
    with duckdb.connect() as database:
        in_place = database.execute(
            f"""
            SELECT ticker, exchange_us // {WIDTHS[width]} * {WIDTHS[width]} AS at_us,
                arg_min(yes_price, (exchange_us, trade_id)), max(yes_price), min(yes_price),
                arg_max(yes_price, (exchange_us, trade_id)), sum(size), count(*)
            FROM read_parquet('{tmp_path}/trades/*/*/*.parquet') WHERE NOT is_block_trade
            GROUP BY ALL ORDER BY ticker, at_us
            """
        ).fetchall()

    assert expected == view == in_place
    assert len(expected) >= 2


def test_a_market_that_begins_later_has_all_its_candles(new_archive: MakeArchive, tmp_path: Path) -> None:
    """From its first snapshot on, however many come after it."""
    production = new_archive("production")
    sources = {"a": new_archive("local")}
    prices = range(1_000, 1_150)
    rows = [
        SnapshotRow("a", "a.c1", 1, n, at_us, at_us, "KXA-1", 1, 2, (price,), (100,), (2_000,), (100,))
        for n, price in enumerate(prices)
        for at_us in [NOW_US + n * 90_000_000]
    ]
    store(sources["a"], rows)
    with Deduplicator(sources, production) as dedup:
        dedup.drain()
    Exporter(production, Folder(tmp_path), settle_s=0).run()

    for address in (production, str(tmp_path)):
        with open_archive(address) as archive:
            found = mid_candles(archive, "KXA-1", NOW_US - 10**9, NOW_US + 150 * 90_000_000, 3_600_000_000)

        assert NOW_US // 3_600_000_000 * 3_600_000_000 == found[0].at_us


@pytest.mark.parametrize("after", [True, False], ids=["changes-after", "nothing-after"])
def test_the_mid_is_right_again_behind_a_gap(new_archive: MakeArchive, after: bool) -> None:
    """Levels whose end nobody saw are gone with the next snapshot."""
    production = new_archive("production")
    sources = {"a": new_archive("local")}

    def book(number: int, at_s: int, price: int) -> SnapshotRow:
        at_us = NOW_US + at_s * 1_000_000
        sides = ((price,), (100,), (5_000,), (100,))
        return SnapshotRow("a", "a.c1", 1, number, at_us, at_us, "KXA-1", 1, 2, *sides)

    change_at_us = NOW_US + 20_000_000
    moved = delta("a", 13, change(3_900, 100, change_at_us))._replace(received_us=change_at_us)
    store(sources["a"], [book(1, 0, 4_000), book(12, 10, 3_800), book(14, 60, 3_800), *([moved] * after)])
    record = GapRecord(
        id="a/1",
        source="a",
        connection="a.c1",
        sid=1,
        channel="orderbook_delta",
        cause="gap",
        from_sequence=2,
        to_sequence=11,
        markets=1,
        tickers=("KXA-1",),
        detected_us=NOW_US + 9_000_000,
        healed_us=NOW_US + 10_000_000,
    )
    store_gaps(sources["a"], [record])
    with Deduplicator(sources, production) as dedup:
        dedup.drain()

    with open_archive(production) as archive:
        found = mid_candles(archive, "KXA-1", NOW_US, NOW_US + 40_000_000, 10_000_000)

    mids = [9_000, 8_800, 8_900 if after else 8_800, 8_900 if after else 8_800]
    assert mids == [one.close for one in found]


def test_mid_candles_follow_every_change(
    scenario: Scenario, new_archive: MakeArchive, tmp_path: Path
) -> None:
    """The mid at the end of each millisecond in which something happened is in its candle."""
    _, production = gathered(scenario, new_archive)
    Exporter(production, Folder(tmp_path), settle_s=0).run()
    ticker, width_us, end_us = scenario.tickers[0], 1_000_000, scenario.end_us + 1_000
    spans: dict[int, list[int]] = {}
    for at_us in sorted({time_us for time_us, _ in scenario.events}):
        truth = scenario.truth(ticker, at_us)
        if truth and truth["yes"] and truth["no"]:
            mid = max(truth["yes"]) + 10_000 - max(truth["no"])
            spans.setdefault(at_us // width_us * width_us, []).append(mid)

    for address in (production, str(tmp_path)):
        with open_archive(address) as archive:
            found = {c.at_us: c for c in mid_candles(archive, ticker, START_US, end_us, width_us)}
        for at_us, values in spans.items():
            assert values[-1] == found[at_us].close
            assert max(values) <= found[at_us].high
            assert min(values) >= found[at_us].low
        times = sorted(found)
        assert [*range(times[0], times[-1] + 1, width_us)] == times, "no span is left out"
        assert all(found[one].close == found[one + width_us].open for one in times[:-1]), (
            "what the span before left"
        )


def test_mids_of_stored_books(scenario: Scenario, new_archive: MakeArchive) -> None:
    """The view of the mid has a candle wherever a book with both sides was stored."""
    _, production = gathered(scenario, new_archive)

    with psycopg.connect(production) as connection:
        (found,) = connection.execute("SELECT sum(books) FROM mid_candles_1h").fetchall()
        (stored,) = connection.execute(
            "SELECT count(*) FROM orderbook_snapshots WHERE yes_prices <> '{}' AND no_prices <> '{}'"
        ).fetchall()
        high, low = connection.execute("SELECT max(high), min(low) FROM mid_candles_1h").fetchall()[0]

    assert found == stored
    assert 0 < low <= high < 20_000


def test_block_trades_move_no_candle(new_archive: MakeArchive) -> None:
    """They are made off the book."""
    dsn = new_archive("local")
    store(dsn, [trade("a", 1, "t-1")._replace(is_block_trade=True)])
    production = new_archive("production")
    from kalshibook.archive.dedup import Deduplicator

    with Deduplicator({"a": dsn}, production) as dedup:
        dedup.drain()

    with psycopg.connect(production) as connection:
        assert [] == connection.execute("SELECT * FROM trade_candles_1m").fetchall()
    with open_archive(production) as archive:
        assert [] == candles(archive, "trade", "KXA-1", NOW_US - 1, NOW_US + 10**6, 1_000_000)


def test_a_candle_of_two_trades() -> None:
    """Open and close go by time, then by id."""
    trades = [
        KnownTrade(1_500, "b", 30, 7, "yes"),
        KnownTrade(1_500, "a", 20, 5, None),
        KnownTrade(900, "c", 25, 1, "no"),
    ]

    assert [Candle(0, 25, 25, 25, 25, 1, 1), Candle(1_000, 20, 30, 20, 30, 12, 2)] == trade_candles(
        trades, 1_000
    )
