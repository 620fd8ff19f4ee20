"""The sync: from lists, messages, names and the clock to what the pool of sockets holds."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from kalshibook.errors import SettingsError
from kalshibook.gather.lifecycle import LifecycleSink
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.position import Position, PositionFile
from kalshibook.gather.records import Notice, Received
from kalshibook.gather.registry import MarketChanged
from kalshibook.gather.selection import Selection
from kalshibook.gather.sync import MarketSync, registry_of
from kalshibook.wire import MarketLifecycle
from tests.gather.listing import ListedExchange, Pool
from tests.gather.test_registry import message

pytestmark = pytest.mark.trio

S = 1_000_000
BEGAN_US = 1_785_931_200 * S


def clock() -> int:
    """Return a system's clock that runs with Trio's."""
    return BEGAN_US + int(trio.current_time() * S)


class Stage:
    """A running sync with everything around it."""

    def __init__(self, exchange: ListedExchange, **options: Any) -> None:
        self.exchange = exchange
        self.options = GatherOptions(**options)
        self.selection = Selection(self.options)
        self.registry = registry_of(self.options, self.selection)
        self.pool = Pool()
        self.changed: list[MarketChanged] = []
        self.client = exchange.client()
        self.sync = MarketSync(
            self.client,
            self.registry,
            self.selection,
            self.pool,
            self.options,
            on_changed=self.changed.append,
            now_us=clock,
            draw=lambda: 0.5,
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let time pass until something holds."""
        with trio.fail_after(100_000):
            while not condition():  # noqa: ASYNC110 - what is waited for has no event
                await trio.sleep(0.25)

    async def synced(self) -> None:
        """Let the first sweep be complete and handed over."""
        await self.until(lambda: self.sync.statistics().sweeps > 0 and not self.sync.statistics().waiting)


@asynccontextmanager
async def running(exchange: ListedExchange, **options: Any) -> AsyncIterator[Stage]:
    """Run a sync during a block."""
    stage = Stage(exchange, **options)
    async with stage.client, trio.open_nursery() as nursery:
        await nursery.start(stage.sync.run)
        yield stage
        nursery.cancel_scope.cancel()


def names(count: int, prefix: str = "M") -> list[str]:
    """Return tickers in the order of the exchange's lists."""
    return [f"{prefix}-{number:04}" for number in range(count)]


async def test_all_markets_reach_the_pool(autojump_clock: object) -> None:
    """Every list to its end, in pages; each market is handed over once, and then it is ready."""
    exchange = ListedExchange(*names(25))
    exchange.add("U", "initialized")
    exchange.add("P", "inactive")
    exchange.add("OVER", "finalized")
    async with running(exchange, page_markets=10) as stage:
        assert ["the exchange's markets are still being listed, 0 so far"] == stage.sync.reasons_against()
        await stage.synced()

    assert sorted([*names(25), "U", "P"]) == sorted(stage.pool.held)
    assert [] == stage.sync.reasons_against()
    assert (5, 27) == (stage.sync.statistics().pages, stage.sync.statistics().listed)


async def test_work_starts_with_the_first_page(autojump_clock: object) -> None:
    """The first markets are handed over while the exchange does not answer for the second page."""
    exchange = ListedExchange(*names(25))
    exchange.answers = [None, *[httpx.ConnectError("down")] * 30]
    async with running(exchange, page_markets=10, statuses=("open",)) as stage:
        await stage.until(lambda: stage.sync.statistics().failing is not None)

        assert names(10) == stage.pool.held
        listing, failing = stage.sync.reasons_against()
        assert "are still being listed, 10 so far" in listing
        assert "cannot be listed" in failing
        assert "the last time: down" in failing
        await stage.synced()

    assert names(25) == stage.pool.held
    assert [] == stage.sync.reasons_against()


async def test_goes_on_from_its_cursor_after_a_failure(autojump_clock: object) -> None:
    """However long the exchange is away: no page is asked for again that was had before."""
    exchange = ListedExchange(*names(30))
    exchange.answers = [None, None, *[httpx.Response(503)] * 40]
    async with running(exchange, page_markets=10, statuses=("open",)) as stage:
        await stage.synced()

    good = [target for target in exchange.asked if "cursor" not in target]
    assert 1 == len(good)
    assert 3 == stage.sync.statistics().pages
    assert names(30) == stage.pool.held


async def test_state_file_is_where_a_restart_goes_on(autojump_clock: object, tmp_path: Path) -> None:
    """Stopped in the middle, the next run begins there, goes round, and has all markets."""
    state = tmp_path / "position.json"
    options = {"page_markets": 10, "statuses": ("open",), "state_file": str(state)}
    exchange = ListedExchange(*names(40))
    exchange.answers = [None, *[httpx.Response(503)] * 1_000]
    async with running(exchange, **options) as stage:
        await stage.until(state.exists)
        assert 1 == stage.sync.statistics().pages
    exchange.answers.clear()
    exchange.asked.clear()

    async with running(exchange, **options) as again:
        await again.synced()

    assert "cursor=c10" in exchange.asked[0]
    assert [*names(40)[10:], *names(10)] == again.pool.held
    assert 4 == again.sync.statistics().pages
    assert not state.exists()


async def test_position_of_another_selection_means_nothing(autojump_clock: object, tmp_path: Path) -> None:
    """Neither does a file that is no position; a folder that is not there is told at once."""
    state = tmp_path / "position.json"
    exchange = ListedExchange(*names(3))
    for content in (b'{"list":"/markets?limit=5&status=open","cursor":"c2"}', b"\xff", b"[]"):
        state.write_bytes(content)
        async with running(exchange, state_file=str(state)) as stage:
            await stage.synced()
        assert names(3) == stage.pool.held

    with pytest.raises(SettingsError, match=r"gather\.state_file .* there is no folder"):
        PositionFile(str(tmp_path / "none" / "position.json"))
    file = PositionFile(str(tmp_path))
    file.save(Position("a", "b"))
    assert file.load() is None


async def test_cursor_that_is_forgotten_begins_the_list_anew(autojump_clock: object, tmp_path: Path) -> None:
    """A cursor has a limited life; one that is never taken ends the list instead of repeating it for ever."""
    state = tmp_path / "position.json"
    state.write_bytes(b'{"list":"/markets?limit=10&status=open","cursor":"old"}')
    exchange = ListedExchange(*names(15))
    refusal = httpx.Response(400, content=b'{"code":"bad_request","message":"invalid cursor"}')
    exchange.answers = [refusal]
    async with running(exchange, page_markets=10, statuses=("open",), state_file=str(state)) as stage:
        await stage.synced()
    assert names(15) == sorted(stage.pool.held)

    exchange.forgets_cursors = True
    async with running(exchange, page_markets=10, statuses=("open",)) as stage:
        await stage.synced()
    assert names(10) == stage.pool.held


async def test_reconcile_minutes_is_how_often_the_lists_are_gone_through(autojump_clock: object) -> None:
    """What no message told is found by then: new markets, and those that left every list."""
    exchange = ListedExchange(*names(3))
    async with running(exchange, reconcile_minutes=5) as stage:
        await stage.synced()
        exchange.add("NEW")
        exchange.add("M-0001", "finalized")
        del exchange.markets["M-0002"]
        await trio.sleep(4 * 60)
        assert names(3) == stage.pool.held
        await trio.sleep(2 * 60)
        assert ["M-0000", "NEW"] == stage.pool.held

    assert {"finalized": 1, "gone": 1} == stage.registry.statistics().total_removed


async def test_hurry_goes_through_the_lists_soon(autojump_clock: object) -> None:
    """Messages may have been lost: not ten minutes later but one, and not more often than that."""
    exchange = ListedExchange(*names(2))
    async with running(exchange, reconcile_minutes=10) as stage:
        await stage.synced()
        exchange.add("NEW")
        stage.sync.hurry()
        await trio.sleep(50)
        assert 1 == stage.sync.statistics().sweeps
        await trio.sleep(15)
        assert [*names(2), "NEW"] == stage.pool.held
        for _ in range(100):
            stage.sync.hurry()
            await trio.sleep(1)
        assert 3 == stage.sync.statistics().sweeps


async def test_market_missing_from_a_list_is_asked_for_by_name(autojump_clock: object) -> None:
    """A page that leaves some out takes nothing away; many are asked for in one call, the rest alone."""
    exchange = ListedExchange(*names(150))
    async with running(exchange, reconcile_minutes=5, statuses=("open",)) as stage:
        await stage.synced()
        exchange.hidden = set(names(150)[50:])
        del exchange.markets["M-0149"]
        exchange.asked.clear()
        await stage.until(lambda: "M-0149" not in stage.pool.held)

    assert names(149) == stage.pool.held
    assert [1, 1] == [
        sum("tickers=" in one for one in exchange.asked),
        sum("/M-0149" in one for one in exchange.asked),
    ]
    assert 100 == stage.sync.statistics().checks


async def test_answer_that_cannot_be_had_takes_nothing_away(autojump_clock: object) -> None:
    """While the exchange fails, markets stay, and are asked for later."""
    exchange = ListedExchange(*names(2))
    async with running(exchange, reconcile_minutes=5, statuses=("open",)) as stage:
        await stage.synced()
        exchange.markets.clear()
        # A page without them; then neither together nor, a minute later, one by one is there an answer.
        exchange.answers = [None, httpx.Response(403), None, httpx.Response(403), httpx.Response(404)]
        await stage.until(lambda: stage.sync.statistics().checks == 2)
        assert names(2) == stage.pool.held
        await trio.sleep(59)
        assert names(2) == stage.pool.held
        await stage.until(lambda: stage.sync.statistics().checks == 4)
        await stage.until(lambda: len(stage.pool.held) == 1)
        await trio.sleep(55)
        assert 1 == len(stage.pool.held)
        await stage.until(lambda: not stage.pool.held)


async def test_lifecycle_acts_at_once(autojump_clock: object) -> None:
    """Created, and it is subscribed within the same second; settled, and it is not any more."""
    exchange = ListedExchange(*names(2))
    async with running(exchange) as stage:
        await stage.synced()
        began = trio.current_time()
        stage.sync.on_lifecycle(message("created", "NEW", open_us=clock(), close_us=clock() + 900 * S))
        stage.sync.on_lifecycle(message("settled", "M-0000"))
        stage.sync.on_lifecycle(message("deactivated", "M-0001"))
        await trio.testing.wait_all_tasks_blocked()

        assert ["M-0001", "NEW"] == stage.pool.held
        assert 0.1 > trio.current_time() - began
        assert [MarketChanged("M-0001", "status", "inactive")] == stage.changed


async def test_message_about_an_unknown_market_asks_for_it(autojump_clock: object) -> None:
    """Within a second it is known, or known not to be ours."""
    exchange = ListedExchange("S-1-A")
    async with running(exchange, series=("S",), statuses=("open",)) as stage:
        await stage.synced()
        exchange.add("S-2-B")
        exchange.add("T-1-C")
        exchange.asked.clear()
        stage.sync.on_lifecycle(message("activated", "S-2-B"))
        stage.sync.on_lifecycle(message("activated", "T-1-C"))
        await trio.sleep(0.5)

        assert ["S-1-A", "S-2-B"] == stage.pool.held
        assert ["/markets/S-2-B"] == exchange.asked


async def test_created_before_rest_knows_it(autojump_clock: object) -> None:
    """A market that REST does not know for two minutes is gathered all the while."""
    exchange = ListedExchange(*names(1))
    async with running(exchange, reconcile_minutes=1) as stage:
        await stage.synced()
        stage.sync.on_lifecycle(message("created", "NEW", open_us=clock(), close_us=clock() + 9_000 * S))
        for _ in range(120):
            await trio.sleep(1)
            assert ["M-0000", "NEW"] == stage.pool.held
        assert any("/NEW" in target for target in exchange.asked)
        exchange.add("NEW")
        await trio.sleep(600)
        assert ["M-0000", "NEW"] == stage.pool.held
        del exchange.markets["NEW"]
        await trio.sleep(600)
        assert ["M-0000"] == stage.pool.held


async def test_closed_seconds_is_how_long_a_closed_market_is_gathered(autojump_clock: object) -> None:
    """It closes by the clock, drains, and goes; nobody sends a message."""
    exchange = ListedExchange(*names(1), close_time="2026-08-05T12:01:00Z")
    async with running(exchange, closed_seconds=30) as stage:
        await stage.synced()
        await trio.sleep(60 - trio.current_time() + 0.1)
        assert [MarketChanged("M-0000", "status", "closed")] == stage.changed
        await trio.sleep(29)
        assert ["M-0000"] == stage.pool.held
        await trio.sleep(2)
        assert [] == stage.pool.held


async def test_addition_and_removal_cancel_out(autojump_clock: object) -> None:
    """A slow pool hears nothing of a market that came and went while it was busy, and misses nothing else."""
    exchange = ListedExchange(*names(1))
    async with running(exchange) as stage:
        await stage.synced()
        free, add = trio.Event(), stage.pool.add

        async def slow(tickers: Any) -> None:
            await free.wait()
            await add(tickers)

        stage.pool.add = slow  # type: ignore[method-assign]
        for ticker in ("X", "Y", "Z"):
            stage.sync.on_lifecycle(message("created", ticker, close_us=clock() + 900 * S))
            await trio.testing.wait_all_tasks_blocked()
        stage.sync.on_lifecycle(message("settled", "X"))
        stage.sync.on_lifecycle(message("settled", "Y"))
        stage.sync.on_lifecycle(message("settled", "M-0000"))
        stage.sync.on_lifecycle(message("created", "M-0000", close_us=clock() + 900 * S))
        assert {"X": False, "Z": True} == stage.sync._waiting
        free.set()
        await trio.testing.wait_all_tasks_blocked()

        assert ["M-0000", "Z"] == stage.pool.held
        assert 0 == stage.sync.statistics().waiting


async def test_lists_wait_for_a_slow_pool(autojump_clock: object) -> None:
    """No million names pile up before a pool that does not keep pace."""
    exchange = ListedExchange(*names(30_000))
    stage = Stage(exchange, statuses=("open",))
    free = trio.Event()

    async def stuck(tickers: Any) -> None:
        await free.wait()

    stage.pool.add = stuck  # type: ignore[method-assign]
    async with stage.client, trio.open_nursery() as nursery:
        await nursery.start(stage.sync.run)
        await trio.sleep(5)
        assert 10_000 <= stage.sync.statistics().waiting <= 12_000
        free.set()
        await stage.synced()
        nursery.cancel_scope.cancel()

    assert 30_000 == len(stage.registry)


async def test_max_markets_is_how_many_are_gathered(autojump_clock: object) -> None:
    """More are refused, and readiness says why."""
    async with running(ListedExchange(*names(5)), max_markets=3) as stage:
        await stage.synced()

        assert names(3) == stage.pool.held
        assert ["2 times a market was refused, the registry is full (gather.max_markets)"] == (
            stage.sync.reasons_against()
        )


async def test_bad_market_costs_no_other(autojump_clock: object) -> None:
    """It is counted; the sweep is complete without it."""
    exchange = ListedExchange(*names(3))
    exchange.add("M-0001", close_time="tomorrow")
    async with running(exchange) as stage:
        await stage.synced()

    assert ["M-0000", "M-0002"] == stage.pool.held
    assert 1 == stage.sync.statistics().rejected


async def test_lifecycle_frames_come_from_the_router() -> None:
    """Among the router's sinks: what is a lifecycle message is handed on, and all is accounted for."""
    heard: list[str] = []

    class Target:
        def on_lifecycle(self, event: MarketLifecycle) -> None:
            heard.append(f"{event.event_type} {event.ticker}")

    sink = LifecycleSink(Target())
    for frame in (
        b'{"type":"market_lifecycle_v2","sid":1,"seq":1,"msg":{"market_ticker":"A","event_type":"activated"}}',
        b'{"type":"multivariate_market_lifecycle","sid":1,"seq":1,"msg":{"market_ticker":"KXMVE","event_type":"settled"}}',
        b'{"type":"market_lifecycle_v2","sid":1,"seq":2,"msg":{"market_ticker":"A","event_type":"of_next_year"}}',
        b'{"type":"market_lifecycle_v2","sid":1,"seq":3,"msg":{}}',
    ):
        sink.offer(Received(frame, "c", 1, "market_lifecycle_v2"))
    sink.notify(Notice("stale"))

    assert ["activated A", "settled KXMVE"] == heard
    assert (4, 3, 1, 0) == (
        sink.counts().offered,
        sink.counts().processed,
        sink.counts().dropped,
        sink.counts().waiting,
    )
    assert sink.counts().adds_up
    assert not sink.is_full
    assert sink.types is not None
    assert "registry" == sink.name
