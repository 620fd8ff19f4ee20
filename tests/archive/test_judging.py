"""Gaps judged: filled by others, backfilled from a real (simulated) exchange, or lost and named."""

from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest
import stamina
from prometheus_client import generate_latest

from kalshibook.archive import dedup_metrics
from kalshibook.archive.chores import Chores
from kalshibook.archive.completeness import completeness
from kalshibook.archive.dedup import Deduplicator
from kalshibook.archive.dedup_metrics import DedupCollector, registry_of
from kalshibook.archive.describing import describe_markets
from kalshibook.archive.exchange import Exchange
from kalshibook.archive.judging import add_trades, judge
from kalshibook.archive.migrate import migrate
from kalshibook.archive.rows import DeltaRow, SnapshotRow
from kalshibook.errors import ExchangeRefused, ExchangeUnavailable
from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.thread import ThreadedExchange, exchange_in_thread
from kalshibook.wire import GapRecord, Trade
from tests.archive.gathered import NOW_US, Stage, change, delta, everything, store_gaps, trade

pytestmark = pytest.mark.postgres

SECOND_US = 1_000_000
LATER_US = NOW_US + 10_000 * SECOND_US


@pytest.fixture
def stage(new_database: Callable[[], str]) -> Stage:
    """Empty databases, on PostgreSQL."""

    def make(variant: Any) -> str:
        dsn = new_database()
        with psycopg.connect(dsn) as connection:
            migrate(connection, variant)
        return dsn

    return Stage(make)


def seen(source: str, number: int, at_s: float, ticker: str = "KXA-1") -> SnapshotRow:
    """Return a snapshot on the only book subscription of a source."""
    at_us = NOW_US + int(at_s * SECOND_US)
    return SnapshotRow(source, f"{source}.c1", 1, number, at_us + 1_000, at_us, ticker, 1, 2, (), (), (), ())


def sighted(source: str, number: int, at_s: float, ticker: str = "KXA-1") -> DeltaRow:
    """Return a change on it."""
    at_us = NOW_US + int(at_s * SECOND_US)
    row = delta(source, number, change(4_000, 100 + number, at_us, ticker=ticker))
    return row._replace(received_us=at_us + 1_000)


def gap(
    source: str,
    first: int,
    detected_s: float,
    healed_s: float | None,
    channel: str = "orderbook_delta",
) -> GapRecord:
    """Return a ledger record of a source's only connection."""
    sid = {"orderbook_delta": 1, "trade": 2}.get(channel)
    return GapRecord(
        id=f"{source}/{channel}/{first}",
        source=source,
        connection=f"{source}.c1",
        sid=sid,
        channel=channel,
        cause="gap",
        from_sequence=first,
        to_sequence=first + 1,
        markets=1,
        tickers=("KXA-1",),
        detected_us=NOW_US + int(detected_s * SECOND_US),
        healed_us=None if healed_s is None else NOW_US + int(healed_s * SECOND_US),
        how=None if healed_s is None else "snapshots",
    )


def outcomes(stage: Stage) -> dict[str, tuple[Any, ...]]:
    """Return what stands beside the gaps of production."""
    with psycopg.connect(stage.production) as connection:
        columns = "gap_id, outcome, lost_tickers, backfilled_trades"
        rows = connection.execute(f"SELECT {columns} FROM gaps").fetchall()
    return {row[0]: row[1:] for row in rows}


def judged(stage: Stage, lister: Any = None) -> dict[str, tuple[Any, ...]]:
    """Merge, judge, and return the outcomes."""
    stage.merge()
    with psycopg.connect(stage.production, autocommit=True) as connection:
        judge(connection, lister, clock_us=lambda: LATER_US)
    return outcomes(stage)


def two_sources(stage: Stage, *gaps: GapRecord) -> None:
    """Let two sources watch for a hundred seconds, with gaps that are healed by snapshots."""
    rows: list[SnapshotRow | DeltaRow] = []
    for source in ("a", "b"):
        rows += [seen(source, 1, 0), *(sighted(source, number, number) for number in range(2, 100))]
    for one in gaps:
        assert one.healed_us is not None
        healed_s = (one.healed_us - NOW_US) / SECOND_US
        lost = range(one.from_sequence or 0, int(healed_s))
        rows = [row for row in rows if not (row.source == one.source and row.sequence in lost)]
        rows.append(seen(one.source, int(healed_s) * 1_000, healed_s))
    stage.store(*rows)
    for source in ("a", "b"):
        store_gaps(stage.sources[source], [one for one in gaps if one.source == source])


def test_what_one_lost_another_fills(stage: Stage) -> None:
    """A gap of one source is filled when another watched all the while."""
    two_sources(stage, gap("a", 20, 25, 26))

    assert {"a/orderbook_delta/20": ("filled", [], 0)} == judged(stage)


def test_what_all_lost_is_lost_and_named(stage: Stage) -> None:
    """Gaps of all sources that overlap are lost, with their markets."""
    two_sources(stage, gap("a", 20, 25, 26), gap("b", 24, 30, 31), gap("b", 60, 62, 63))

    assert {
        "a/orderbook_delta/20": ("lost", ["KXA-1"], 0),
        "b/orderbook_delta/24": ("lost", ["KXA-1"], 0),
        "b/orderbook_delta/60": ("filled", [], 0),
    } == judged(stage)


def test_a_gap_begins_where_its_own_gatherer_says(stage: Stage) -> None:
    """Another database that has read the same ledger, and is merged first, does not know the last frame."""
    two_sources(stage, gap("a", 20, 95, 96))
    store_gaps(stage.sources["b"], [gap("a", 20, 95, 96)])
    own = stage.sources.pop("a")
    stage.merge()
    stage.sources["a"] = own
    stage.merge()

    with psycopg.connect(stage.production) as connection:
        found = connection.execute("SELECT since_us FROM gaps").fetchall()
    assert [(NOW_US + 19 * SECOND_US + 1_000,)] == found


def test_more_sources_than_bits_are_refused(stage: Stage) -> None:
    """A source whose bit another has would pass for that one in every row."""
    with psycopg.connect(stage.production, autocommit=True) as connection:
        for number in range(63):
            connection.execute("INSERT INTO sources (name) VALUES (%s)", [f"gone-{number}"])
    stage.store(*everything(1))

    with pytest.raises(psycopg.errors.CheckViolation, match="sources_are_bits"):
        stage.merge()


def test_what_was_lost_is_looked_at_again(stage: Stage) -> None:
    """A source whose database was away comes back hours later, and what it saw fills the gap."""
    two_sources(stage, gap("a", 20, 25, 26))
    away = stage.sources.pop("b")
    assert {"a/orderbook_delta/20": ("lost", ["KXA-1"], 0)} == judged(stage)
    stage.sources["b"] = away
    stage.merge()
    with psycopg.connect(stage.production, autocommit=True) as connection:
        assert [] == judge(connection, None, clock_us=lambda: LATER_US + 60 * SECOND_US)
        assert 1 == len(judge(connection, None, clock_us=lambda: LATER_US + 3_600 * SECOND_US))
        assert [] == judge(connection, None, clock_us=lambda: LATER_US + 9_000 * SECOND_US)

    assert {"a/orderbook_delta/20": ("filled", [], 0)} == outcomes(stage)


def test_a_gap_is_judged_when_all_are_merged(stage: Stage) -> None:
    """Not before it was healed some minutes ago, so that a source that lags has its say; and once."""
    two_sources(stage, gap("a", 20, 25, 26))
    stage.merge()
    with psycopg.connect(stage.production, autocommit=True) as connection:
        assert [] == judge(connection, None, clock_us=lambda: NOW_US + 60 * SECOND_US)
        assert 1 == len(judge(connection, None, clock_us=lambda: LATER_US))
        assert [] == judge(connection, None, clock_us=lambda: LATER_US)


def test_a_gap_that_nothing_heals_is_judged_in_the_end(stage: Stage) -> None:
    """A gatherer that never came back leaves its gap open; an hour later it is judged all the same."""
    stage.store(seen("a", 1, 0), *(sighted("a", number, number) for number in range(2, 20)))
    store_gaps(stage.sources["a"], [gap("a", 20, 25, None)])

    assert {"a/orderbook_delta/20": ("lost", ["KXA-1"], 0)} == judged(stage)


@pytest.fixture
def exchange() -> Any:
    """A simulated exchange with one market and two trades."""
    with exchange_in_thread(SimulatorOptions(open=True, messages_per_second=0, rest_lag_ms=0)) as running:
        running.do(lambda it: it.create("KXA-1"))
        running.do(lambda it: it.change("KXA-1", "no", 4_000, 10_000))
        running.do(lambda it: it.trade("KXA-1", "yes", 100))
        running.do(lambda it: it.trade("KXA-1", "yes", 200))
        yield running


def listed(exchange: ThreadedExchange) -> list[Trade]:
    """Return the exchange's trades."""
    with Exchange(exchange.rest_url, requests_per_second=1_000) as client:
        return [*client.trades(min_s=0, max_s=2**32)]


def test_missing_trades_are_fetched(stage: Stage, exchange: ThreadedExchange) -> None:
    """What no source saw of trades is asked of the exchange, and only what nobody has is added."""
    first, second = listed(exchange)
    assert first.exchange_us is not None
    offset_us = first.exchange_us - NOW_US
    known = trade("a", 5, first.trade_id, first.exchange_us // 1_000 * 1_000)
    stage.store(known._replace(received_us=first.exchange_us, yes_price=first.yes_price, size=first.size))
    at_s = offset_us / SECOND_US
    store_gaps(stage.sources["a"], [gap("a", 6, at_s + 1, at_s + 2, "trade")])
    stage.merge()
    later_us = first.exchange_us + 10_000 * SECOND_US

    with (
        psycopg.connect(stage.production, autocommit=True) as connection,
        Exchange(exchange.rest_url, requests_per_second=1_000) as client,
    ):
        assert [] == judge(connection, None, clock_us=lambda: later_us), "without an exchange it waits"
        (done,) = judge(connection, client, clock_us=lambda: later_us)
        found = connection.execute("SELECT trade_id, size, sources FROM trades ORDER BY size").fetchall()
        names: dict[str, int] = dict(connection.execute("SELECT name, source_id FROM sources").fetchall())

    assert ("backfilled", 1) == (done.outcome, done.trades)
    a, rest = 1 << names["a"] - 1, 1 << names["rest"] - 1
    both = [(first.trade_id, first.size, a | rest), (second.trade_id, second.size, rest)]
    assert sorted(both, key=lambda row: row[1]) == found
    assert ("backfilled", [], 1) == outcomes(stage)["a/trade/6"]


def test_a_trade_fetched_before_it_is_merged_is_one(stage: Stage, exchange: ThreadedExchange) -> None:
    """Whichever comes first, REST or a lagging source, the trade is one row that names both."""
    first, _ = listed(exchange)
    with psycopg.connect(stage.production, autocommit=True) as connection:
        assert 1 == add_trades(connection, [first])
        assert 0 == add_trades(connection, [first])
    assert first.exchange_us is not None
    stage.store(trade("b", 5, first.trade_id, first.exchange_us // 1_000 * 1_000))

    stage.merge()

    with psycopg.connect(stage.production) as connection:
        assert [(3,)] == connection.execute("SELECT sources FROM trades").fetchall()


def test_trades_that_another_source_saw_are_not_fetched(stage: Stage) -> None:
    """A source that was connected all the while had them; REST is not asked."""
    two_sources(stage)
    store_gaps(stage.sources["a"], [gap("a", 20, 80, 81, "trade")])

    assert {"a/trade/20": ("filled", [], 0)} == judged(stage)


def markets(stage: Stage) -> list[tuple[Any, ...]]:
    """Return the history of the market that is ours."""
    with psycopg.connect(stage.production) as connection:
        return connection.execute(
            "SELECT ticker, status, valid_to_us IS NULL FROM markets"
            " WHERE ticker = 'KXA-1' ORDER BY valid_from_us"
        ).fetchall()


def test_descriptions_keep_their_history(stage: Stage, exchange: ThreadedExchange) -> None:
    """A market that changes gets a new row, and the one before it ends; what only trades does not."""
    chores = Chores(stage.production, lambda: Exchange(exchange.rest_url, requests_per_second=1_000))
    chores.describe()
    before = chores.counts.described["markets"]
    exchange.do(lambda it: it.trade("KXA-1", "yes", 100))
    chores.describe()
    assert [("KXA-1", "active", True)] == markets(stage)

    exchange.do(lambda it: it.pause("KXA-1"))
    chores.describe()

    assert [("KXA-1", "active", False), ("KXA-1", "inactive", True)] == markets(stage)
    assert before + 1 == chores.counts.described["markets"]
    with psycopg.connect(stage.production) as connection:
        (touching,) = connection.execute(
            "SELECT count(*) FROM markets AS a JOIN markets AS b ON a.valid_to_us = b.valid_from_us"
        ).fetchall()
        assert (1,) == touching
        assert connection.execute("SELECT count(*) FROM series").fetchone() != (0,)
        assert connection.execute("SELECT count(*) FROM events").fetchone() != (0,)


def test_what_cannot_be_read_costs_itself_only(stage: Stage) -> None:
    """A market without a ticker or with a wild time is counted, the others are taken."""
    good = {"ticker": "KXB-1", "open_time": "2026-11-26T00:00:00Z", "settlement_value_dollars": "0.4000"}
    with psycopg.connect(stage.production, autocommit=True) as connection:
        done = describe_markets(connection, [good, {"title": "nameless"}, good | {"open_time": "tomorrow"}])
        row = connection.execute("SELECT ticker, open_us, settlement_value FROM markets").fetchone()

    assert (1, 1, 2) == done
    assert ("KXB-1", 1_795_651_200_000_000, 4_000) == row


def test_a_chore_that_fails_is_counted_and_tried_again(stage: Stage) -> None:
    """An exchange that is away holds up nothing."""
    seconds = [1e9]

    def refused(request: httpx.Request) -> httpx.Response:
        del request
        return httpx.Response(404, json={"code": "not_found", "message": "no such page"})

    def client() -> Exchange:
        return Exchange("http://exchange", transport=httpx.MockTransport(refused), sleep=lambda _: None)

    chores = Chores(stage.production, client, clock_s=lambda: seconds[0])
    chores.once()
    chores.once()
    assert {"lists": 1} == chores.counts.failures
    seconds[0] += 301

    chores.once()

    assert {"lists": 2} == chores.counts.failures


def test_the_exchange_is_asked_again_when_it_is_busy() -> None:
    """A 429, a 500 and a broken connection are tried again; what it refuses for good is not."""
    answers: list[Any] = [429, 503, httpx.ConnectError("gone"), 200, 404]

    def answer(request: httpx.Request) -> httpx.Response:
        del request
        next_one = answers.pop(0)
        if isinstance(next_one, Exception):
            raise next_one
        return httpx.Response(next_one, json={"trades": [], "cursor": "", "code": "nope"})

    with (
        stamina.set_testing(True, attempts=6),
        Exchange("http://exchange", transport=httpx.MockTransport(answer), sleep=lambda _: None) as exchange,
    ):
        assert [] == [*exchange.trades(min_s=0, max_s=1)]
        with pytest.raises(ExchangeRefused, match="404: nope"):
            [*exchange.trades(min_s=0, max_s=1)]
        answers += [500] * 6
        with pytest.raises(ExchangeUnavailable, match="500"):
            [*exchange.trades(min_s=0, max_s=1)]


def test_requests_are_paced() -> None:
    """No more than so many in a second are sent, and pages follow their cursors."""
    pauses: list[float] = []
    pages = [{"series": [{"ticker": "A"}], "cursor": "x"}, {"series": [{"ticker": "B"}], "cursor": None}]

    def answer(request: httpx.Request) -> httpx.Response:
        del request
        return httpx.Response(200, json=pages.pop(0))

    transport = httpx.MockTransport(answer)
    with Exchange(
        "http://exchange", requests_per_second=0.001, transport=transport, sleep=pauses.append
    ) as exchange:
        assert ["A", "B"] == [body["ticker"] for body in exchange.series()]
    assert [1_000] == [round(pause, -1) for pause in pauses]


def test_completeness_by_source_and_hour(stage: Stage) -> None:
    """Each row says who saw it, so shares by source, market and hour fall out."""
    hour_us = NOW_US // 3_600_000_000 * 3_600_000_000
    for number in range(1, 11):
        at_us = hour_us + number * 1_000_000 + (3_600_000_000 if number > 8 else 0)
        what = change(4_000, number, at_us, ticker="KXA-1" if number % 2 else "KXB-1")
        stage.store(delta("a", number, what))
        if number % 4 == 0:
            stage.store(delta("b", number, what))
    stage.merge()

    with psycopg.connect(stage.production) as connection:
        both = completeness(connection, hour_us, hour_us + 7_200_000_000)
        market = completeness(connection, hour_us, hour_us + 3_600_000_000, ticker="KXB-1")
        all_markets = completeness(connection, hour_us, hour_us + 7_200_000_000, by_market=True)

    assert [(hour_us, 8, {"a": 8, "b": 2}), (hour_us + 3_600_000_000, 2, {"a": 2, "b": 0})] == [
        (share.hour_us, share.events, share.seen) for share in both
    ]
    assert [("KXB-1", 4, 0.5)] == [(share.ticker, share.events, share.share("b")) for share in market]
    assert 4 == len(all_markets)


DOCUMENTED = [
    line.split("`")[1] for line in (dedup_metrics.__doc__ or "").splitlines() if line.startswith("| `")
]


def test_every_documented_metric_is_in_a_scrape(stage: Stage) -> None:
    """And nothing else, with labels that are bounded by the sources and the tables."""
    stage.store(*everything(3))
    with Deduplicator(stage.sources, stage.production) as dedup:
        dedup.drain()
        chores = Chores(stage.production, None)
        chores.once()
        collector = DedupCollector(dedup.states.values(), dedup.progress, chores.counts)
        text = generate_latest(registry_of(collector)).decode()

    found = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert set(DOCUMENTED) == {name.removesuffix("_total") for name in found}
    rows = dedup.progress.rows["orderbook_deltas"]
    new = dedup.progress.new["orderbook_deltas"]
    assert f'kalshibook_dedup_duplicates_total{{table="orderbook_deltas"}} {float(rows - new)}' in text
    assert 'kalshibook_dedup_source_reachable{source="b"} 1.0' in text
    assert "KXA" not in text
