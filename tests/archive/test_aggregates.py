"""Candles that the server keeps ready equal those that it computes, on TimescaleDB's full edition."""

import random
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner

from kalshibook.archive.aggregates import WIDTHS
from kalshibook.archive.database import Connection, connect
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.upkeep import Policy, keep_house, prepare, status_of
from kalshibook.cli.main import app
from tests.archive.gathered import NOW_US
from tests.archive.pglite import PgliteServer

HOUR_US = 3_600_000_000
LONG_AGO_US = 1_600_000_000_000_000
LONG_AGO = f"timestamptz 'epoch' + {LONG_AGO_US} * interval '1 microsecond'"
CANDLES = "ticker, at, open, high, low, close, volume, trades"


@pytest.fixture
def production(pglite_server: PgliteServer) -> Iterator[Connection]:
    """Production, prepared without a warning, and the only client that it can have."""
    warned: list[str | None] = []

    def note(notice: psycopg.errors.Diagnostic) -> None:
        if notice.severity == "WARNING":
            warned.append(notice.message_primary)

    with connect(pglite_server.dsn) as connection:
        connection.add_notice_handler(note)
        prepare(connection, ArchiveOptions(), "production")
        assert [] == warned
        yield connection


def store_trades(connection: Connection, seed: int, *, since_us: int, hours: int = 3) -> None:
    """Store trades of two markets, many at the same millisecond, some without a time or off the book."""
    chance = random.Random(seed)
    rows = []
    for number in range(120):
        at_us = since_us + chance.randrange(hours * 60) * 60_000_000 + chance.randrange(3) * 1_000
        told_us = None if number % 10 == 0 else at_us
        price, size, ticker = chance.randrange(1, 10_000), chance.randrange(2**40), chance.choice("AB")
        rows.append((at_us, told_us, price, size, number % 13 == 0, f"{chance.random()}", ticker))
    connection.execute(
        "INSERT INTO trades (exchange_at, exchange_us, received_us, yes_price, size, is_block_trade,"
        " trade_id, ticker, consistent, sources)"
        " SELECT timestamptz 'epoch' + at_us * interval '1 microsecond', told_us, at_us, price, size,"
        " is_block, trade_id, ticker, true, 1 FROM unnest(%s::bigint[], %s::bigint[], %s::integer[],"
        " %s::bigint[], %s::boolean[], %s::text[], %s::text[])"
        " AS new (at_us, told_us, price, size, is_block, trade_id, ticker)",
        [[*column] for column in zip(*rows, strict=True)],
    )


def candles(connection: Connection, source: str) -> list[tuple[Any, ...]]:
    """Return all candles of a view or a function."""
    return connection.execute(f"SELECT {CANDLES} FROM {source} ORDER BY ticker, at".encode()).fetchall()


def kept(connection: Connection, name: str) -> list[tuple[Any, ...]]:
    """Return only those candles that are stored."""
    change = "ALTER MATERIALIZED VIEW {}_continuous SET (timescaledb.materialized_only = {})"
    connection.execute(change.format(name, "true").encode())
    found = candles(connection, name)
    connection.execute(change.format(name, "false").encode())
    return found


def computed(connection: Connection, name: str) -> list[tuple[Any, ...]]:
    """Return the candles that the same view has where nothing is kept."""
    return candles(connection, f"archive_trade_candles('{WIDTHS[name]}', '-infinity', 'infinity')")


def refresh(connection: Connection) -> None:
    """Take over everything there is, as the policies do batch by batch."""
    for name in WIDTHS:
        connection.execute(f"CALL refresh_continuous_aggregate('{name}_continuous', NULL, NULL)".encode())


def run_policies(connection: Connection, kind: str) -> None:
    """Do what a background worker would."""
    jobs = connection.execute(
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = %s", [f"policy_{kind}"]
    ).fetchall()
    assert jobs
    for (job,) in jobs:
        connection.execute(f"CALL run_job({job})".encode())


def test_candles_that_are_kept_equal_computed_ones(production: Connection) -> None:
    """Before the server's first run and after it; what comes late is in at once, or with the next run."""
    store_trades(production, 1, since_us=NOW_US)

    for name in WIDTHS:
        assert computed(production, name) == candles(production, name)
        assert [] == kept(production, name)
    refresh(production)
    for name in WIDTHS:
        assert len(computed(production, name)) >= 6
        assert computed(production, name) == kept(production, name) == candles(production, name)
    store_trades(production, 2, since_us=NOW_US + 4 * HOUR_US)
    for name in WIDTHS:
        assert computed(production, name) == candles(production, name) != kept(production, name)
    store_trades(production, 3, since_us=NOW_US)
    store_trades(production, 4, since_us=NOW_US - 400 * 24 * HOUR_US)
    run_policies(production, "refresh_continuous_aggregate")
    for name in WIDTHS:
        assert computed(production, name) == kept(production, name) == candles(production, name)


def test_candles_of_dropped_trades_go_with_them(production: Connection) -> None:
    """Retention means one thing on every server."""
    prepare(production, ArchiveOptions(keep_days={"trades": 1}), "production")
    store_trades(production, 1, since_us=LONG_AGO_US)
    refresh(production)
    assert [] != kept(production, "trade_candles_1h")

    keep_house(production)
    refresh(production)

    for name in WIDTHS:
        assert [] == computed(production, name) == candles(production, name)


def test_the_status_names_what_the_server_does_by_itself(
    production: Connection, pglite_server: PgliteServer
) -> None:
    """Aggregates and policies are told; preparing once more leaves them as they are."""
    prepare(production, ArchiveOptions(), "production")
    found = status_of(production)

    assert [*WIDTHS] == found.aggregates
    assert [
        Policy("compression", "orderbook_deltas", 43_200, None),
        Policy("refresh", "trade_candles_1h_continuous", 600, None),
        Policy("refresh", "trade_candles_1m_continuous", 600, None),
    ] == found.policies
    production.close()
    said = CliRunner().invoke(app, ["archive", "status", "--dsn", pglite_server.dsn]).output
    assert "timescale edition, with compression, policies and continuous aggregates" in said
    assert "continuous aggregates: trade_candles_1m, trade_candles_1h\n" in said
    assert "policy refresh trade_candles_1m_continuous: every 10 min, no run yet\n" in said


def test_deltas_that_are_compressed_stay_what_they_are(production: Connection) -> None:
    """The policy compresses what is old; a late sighting raises a row of it, and a late change is added."""
    insert = (
        "INSERT INTO orderbook_deltas (exchange_at, exchange_us, received_us, change, sources, price, count,"
        f" side, ticker) SELECT {LONG_AGO}, 1, 1, %s, 1, price, 1, 1, 'KXA-1'"
        " FROM generate_series(1, %s) AS prices (price)"
        " ON CONFLICT (ticker, exchange_at, side, price, change) DO UPDATE SET sources = 3"
    )
    production.execute(insert.encode(), [100, 50])

    run_policies(production, "compression")
    production.execute(insert.encode(), [100, 20])
    production.execute(insert.encode(), [200, 5])
    prepare(production, ArchiveOptions(), "production")

    assert [(1, 30), (3, 20)] == production.execute(
        "SELECT sources, count(*) FROM orderbook_deltas WHERE change = 100 GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert [(1, 5)] == production.execute(
        "SELECT sources, count(*) FROM orderbook_deltas WHERE change = 200 GROUP BY 1"
    ).fetchall()
    assert [(True,)] == production.execute(
        "SELECT is_compressed FROM timescaledb_information.chunks WHERE hypertable_name = 'orderbook_deltas'"
    ).fetchall()
