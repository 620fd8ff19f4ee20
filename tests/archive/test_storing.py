import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from kalshibook.archive.database import DatabaseDown
from kalshibook.archive.entries import Counts, Entry
from kalshibook.archive.rows import StoredRow
from kalshibook.archive.storing import BatchStore, CursorKey
from kalshibook.errors import ArchiveError
from tests.archive.entries import (
    DELTA,
    GAP,
    LIFECYCLE,
    SNAPSHOT,
    START_US,
    TICKER,
    TRADE,
    count,
    deltas,
    entry,
    query,
)
from tests.archive.postgres import PostgresServer

NOW_US = START_US + 3_600_000_000
KEY = CursorKey("kafka:archive", "market-data-all/0")


@pytest.fixture
def dsn(new_archive: Callable[..., str]) -> str:
    return new_archive("local")


@pytest.fixture
def store(dsn: str) -> Iterator[BatchStore]:
    made = BatchStore(dsn, clock_us=lambda: NOW_US)
    yield made
    made.close()


ALL = [DELTA, SNAPSHOT, TRADE, TICKER, LIFECYCLE, GAP]


class TestRows:
    def test_every_table_takes_its_rows(self, dsn: str, store: BatchStore) -> None:
        """Each insert statement succeeds on the real database, and once only for the same row."""
        assert Counts(6, 6, 0, 0) == store.store([entry(row) for row in ALL])
        assert Counts(6, 0, 6, 0) == store.store([entry(row) for row in ALL])
        tables = ("orderbook_deltas", "orderbook_snapshots", "trades", "tickers", "lifecycles", "gaps")
        assert [1] * 6 == [count(dsn, table) for table in tables]

    def test_values_come_back_as_they_were(self, dsn: str, store: BatchStore) -> None:
        """Sub-cent prices, hundredths of contracts, both times and absent values are exact."""
        store.store([entry(row) for row in ALL])

        expected_delta = (START_US, START_US - 5_000, 1, -1, 2, 42, 2, "KXFROG-T40", "gatherer-1", "c1")
        assert [expected_delta] == query(
            dsn,
            "SELECT received_us, exchange_us, sequence, change, sid, price, side, ticker, s.name, c.name"
            " FROM orderbook_deltas JOIN sources s USING (source_id) JOIN connections c USING (connection_id)"
            " WHERE received_at = timestamptz 'epoch' + received_us * interval '1 us'",
        )
        assert [(None, [4000, 4100], [7550, 1], [], [], 1, 2)] == query(
            dsn,
            "SELECT exchange_us, yes_prices, yes_sizes, no_prices, no_sizes, kind, condition"
            " FROM orderbook_snapshots",
        )
        assert [(START_US - 5_000, "7c0f", 4000, 1200, 1, False, True)] == query(
            dsn,
            "SELECT exchange_us, trade_id, yes_price, size, taker_side, is_block_trade, consistent"
            " FROM trades WHERE exchange_at = timestamptz 'epoch' + exchange_us * interval '1 us'",
        )
        assert [(-5, 100, 5, 6, 7, -8, 4000)] == query(
            dsn,
            "SELECT digest, last_size, volume, open_interest, dollar_volume, dollar_open_interest, last_price"
            " FROM tickers",
        )
        assert [("determined", {"result": "yes"})] == query(dsn, "SELECT kind, body FROM lifecycles")

    def test_absent_values_are_null(self, dsn: str, store: BatchStore) -> None:
        """None never becomes 0."""
        store.store([entry(TICKER._replace(last_size=None, volume=None, exchange_us=None, last_price=None))])
        store.store([entry(TRADE._replace(taker_side=None, connection=None, sid=None, sequence=None))])

        assert [(None, None, None, None)] == query(
            dsn, "SELECT last_size, volume, exchange_us, last_price FROM tickers"
        )
        assert [(None, None, None, None)] == query(
            dsn, "SELECT taker_side, connection_id, sid, sequence FROM trades"
        )

    def test_duplicates_inside_a_batch(self, dsn: str, store: BatchStore) -> None:
        """A batch that holds a row twice stores it once, also when rows go straight into their table."""
        for number in range(60):
            store.store(deltas(1, 1_000 + number))

        assert Counts(12, 10, 2, 0) == store.store([*deltas(10), *deltas(2, 4)])
        assert 70 == count(dsn, "orderbook_deltas")

    def test_a_reconnect_reuses_sids(self, store: BatchStore) -> None:
        """The same sid and number on another connection, or of another gatherer, is another frame."""
        rows = [DELTA, DELTA._replace(connection="c2"), DELTA._replace(source="gatherer-2")]

        assert Counts(3, 3, 0, 0) == store.store([entry(row) for row in rows])

    def test_a_trade_over_rest_is_the_same_trade(self, store: BatchStore) -> None:
        """REST says microseconds, and may round; the id decides."""
        rest = TRADE._replace(connection=None, sid=None, sequence=None)
        store.store([entry(TRADE)])

        for shift_us in (456, 999, -1_000):
            moved = rest._replace(exchange_us=START_US - 5_000 + shift_us)
            assert Counts(1, 0, 1, 0) == store.store([entry(moved)])

    def test_a_healed_gap_replaces_the_open_one(self, dsn: str, store: BatchStore) -> None:
        """The later record stands, with a new place in the commit order; an older one changes nothing."""
        store.store([entry(GAP)])
        before = query(dsn, "SELECT ingest FROM gaps")[0][0]
        healed = GAP._replace(healed_us=START_US + 9, how="snapshots")

        assert Counts(1, 1, 0, 0) == store.store([entry(healed)])
        assert Counts(2, 0, 2, 0) == store.store([entry(GAP), entry(healed)])
        ((healed_us, how, after),) = query(dsn, "SELECT healed_us, how, ingest FROM gaps")
        assert (START_US + 9, "snapshots") == (healed_us, how)
        assert after > before


BAD: list[tuple[str, StoredRow, str]] = [
    ("size", DELTA._replace(price=2**40), "error: "),
    ("side", DELTA._replace(side=3), "23514: "),
    ("text", DELTA._replace(ticker="KX\0"), "22021: "),
    ("surrogate", DELTA._replace(ticker="KX\ud800"), "UnicodeEncodeError: "),
    ("length", DELTA._replace(ticker="".join(f"{n:x}" * 7 for n in range(9_000))), "54000: "),
    ("levels", SNAPSHOT._replace(yes_prices=(1,)), "23514: "),
    ("json", LIFECYCLE._replace(body='{"a":"\\u0000"}'), "22P05: "),
    ("old", DELTA._replace(received_us=5), "its time, 5 us, is not between"),
    ("early", TRADE._replace(exchange_us=253_402_300_799_999_000), "its time, 25"),
    ("source", DELTA._replace(source="g\0"), "client: PostgreSQL text fields cannot contain NUL"),
]


class TestBadRows:
    @pytest.mark.parametrize(("row", "reason"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
    def test_a_bad_row_stands_alone(self, dsn: str, store: BatchStore, row: StoredRow, reason: str) -> None:
        """What cannot be stored becomes a dead letter with its bytes and a reason; the others are stored."""
        bad = Entry("market-data-all/0@77", b"\x00\xffbytes", (row,))
        batch: list[Entry] = [*deltas(20, 100), bad, *deltas(20, 200)]

        assert Counts(41, 40, 0, 1) == store.store(batch)
        assert 40 == count(dsn, "orderbook_deltas")
        ((place, payload, found),) = query(dsn, "SELECT place, payload, reason FROM dead_letters")
        assert ("market-data-all/0@77", b"\x00\xffbytes") == (place, bytes(payload))
        assert found.startswith(reason)

    def test_a_dead_letter_is_kept_once(self, dsn: str, store: BatchStore) -> None:
        """Delivered again, it is a duplicate."""
        bad = Entry("t/0@1", b"x", (), "cannot be read")

        assert Counts(1, 0, 0, 1) == store.store([bad])
        assert Counts(1, 0, 1, 0) == store.store([bad])
        assert 1 == count(dsn, "dead_letters")

    def test_what_cannot_succeed_is_no_fault_of_the_rows(self, dsn: str, store: BatchStore) -> None:
        """Without its table a batch is refused as a whole: no row is blamed, none is lost."""
        store.store(deltas(1))
        with psycopg.connect(dsn) as connection:
            connection.execute("ALTER TABLE orderbook_deltas RENAME COLUMN price TO cost")

        with pytest.raises(ArchiveError, match="cannot do that"):
            store.store(deltas(5, 10))
        assert 0 == count(dsn, "dead_letters")


class TestCursors:
    def test_a_cursor_moves_with_its_rows(self, store: BatchStore) -> None:
        """In the same transaction, forward only."""
        store.store(deltas(3), {KEY: 3})
        store.store([], {KEY: 2})

        assert {"market-data-all/0": 3} == store.positions("kafka:archive")
        assert {} == store.positions("another")

    def test_a_rewind_is_explicit(self, store: BatchStore) -> None:
        """A topic that was made anew begins at its beginning."""
        store.store([], {KEY: 300})
        store.rewind(KEY, 0)

        assert {"market-data-all/0": 0} == store.positions("kafka:archive")

    def test_a_batch_that_fails_moves_nothing(self, dsn: str, store: BatchStore) -> None:
        """When the rows are not stored, neither is the position."""
        store.store(deltas(1), {KEY: 1})
        with psycopg.connect(dsn) as connection:
            connection.execute("ALTER TABLE dead_letters RENAME TO elsewhere")
        bad: Any = Entry("t/0@1", b"x", (), "cannot be read")

        with pytest.raises(ArchiveError):
            store.store([*deltas(5, 10), bad], {KEY: 7})
        assert {"market-data-all/0": 1} == store.positions("kafka:archive")
        assert 1 == count(dsn, "orderbook_deltas")


def test_a_late_commit_is_not_behind_the_horizon(dsn: str, store: BatchStore) -> None:
    """Who reads up to the horizon, in the order of transactions, never passes a row that is still to come."""
    store.store(deltas(1))
    behind = (
        "SELECT sequence FROM orderbook_deltas WHERE xid < pg_snapshot_xmin(pg_current_snapshot())"
        " ORDER BY xid, ingest"
    )
    with psycopg.connect(dsn) as late:
        late.execute(
            "INSERT INTO orderbook_deltas (received_at, received_us, sequence, change, connection_id, sid,"
            " price, source_id, side, ticker)"
            " SELECT received_at, received_us, 2, change, connection_id, sid, price, source_id, side, ticker"
            " FROM orderbook_deltas"
        )
        store.store(deltas(1, 3))

        assert [(1,)] == query(dsn, behind)
        late.commit()
    assert [(1,), (2,), (3,)] == query(dsn, behind)


def test_dropped_partitions_are_made_again(dsn: str, store: BatchStore) -> None:
    """A row that comes after its partition was dropped is stored, not blamed."""
    store.store(deltas(2))
    with psycopg.connect(dsn) as connection:
        for (name,) in connection.execute("DELETE FROM chunks RETURNING name").fetchall():
            connection.execute(f"DROP TABLE {name}".encode())

    assert Counts(1, 1, 0, 0) == store.store(deltas(1, 5))


def test_writers_share_a_database(dsn: str) -> None:
    """Several that store the same rows at once store each once, and wait for nothing for ever."""
    counts: list[Counts] = []
    barrier = threading.Barrier(3)

    def run() -> None:
        store = BatchStore(dsn, clock_us=lambda: NOW_US)
        barrier.wait(10)
        counts.extend(store.store(deltas(20, first)) for first in range(0, 200, 20))
        store.close()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    total = sum(counts, Counts())
    assert Counts(600, 200, 400, 0) == total
    assert 200 == count(dsn, "orderbook_deltas")


@pytest.mark.postgres
class TestOutages:
    def test_nobody_answers(self) -> None:
        """A database that is down is one to try again."""
        store = BatchStore("postgresql://postgres@127.0.0.1:1/none")

        with pytest.raises(DatabaseDown):
            store.store(deltas(1))

    def test_after_a_kill_it_goes_on(self, own_server: PostgresServer) -> None:
        """The batch that failed is stored as it is once the server is back."""
        from kalshibook.archive.migrate import migrate

        dsn = own_server.create_database()
        with psycopg.connect(dsn) as connection:
            migrate(connection, "local")
        store = BatchStore(dsn, clock_us=lambda: NOW_US)
        store.store(deltas(10))
        own_server.kill()

        with pytest.raises(DatabaseDown):
            store.store(deltas(10, 5))
        own_server.start()
        assert Counts(10, 4, 6, 0) == store.store(deltas(10, 5))
        store.close()

    def test_an_address_without_sense(self) -> None:
        """What can never be reached is said at once."""
        with pytest.raises(ArchiveError, match=r"archive\.dsn is not set"):
            BatchStore("").store(deltas(1))
