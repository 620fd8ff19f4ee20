"""Markets come and go while a gatherer runs: from the exchange's word to a reader's book, with real parts."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from kalshibook.feeds import EmbeddedBroker
from kalshibook.gather.gatherer import Gatherer
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.session import Role
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.store import BookStore, Condition
from tests.gather.gathering import GATHERER, TOPICS, kafka_of, same_books, store_of, until

pytestmark = pytest.mark.trio

EXCHANGE: dict[str, Any] = {
    "open": True,
    "markets": 20,
    "messages_per_second": 0,
    "short_lived": 0,
    "combos": 0.2,
    "read_tokens_per_second": 0,
}


def followed(exchange: SimulatedExchange, gatherer: Gatherer) -> list[str]:
    """Return the exchange's markets that the gatherer follows."""
    return [ticker for ticker in exchange.tickers if ticker in gatherer.pool.placement]


@asynccontextmanager
async def living(
    exchange: dict[str, Any] | None = None, *, moves: bool = False, **options: Any
) -> AsyncIterator[tuple[SimulatedExchange, Gatherer, BookStore]]:
    """
    Run an exchange, a gatherer that finds its markets by itself, and a reader, until all are whole.

    An exchange that `moves` by itself is always a little ahead of its readers.
    """
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**(EXCHANGE | (exchange or {})))) as simulated:
            where = {
                "environment": "custom",
                "rest_url": simulated.rest_url,
                "stream_url": simulated.stream_url,
            }
            found = GatherOptions(**(where | GATHERER | {"read_budget": 10_000, "poll_seconds": 0} | options))
            async with Gatherer(found, kafka_of(broker), seed=1) as gatherer:
                with store_of(broker) as store, trio.fail_after(60):
                    await until(lambda: gatherer.health().is_ready)
                    if not moves:
                        await until(lambda: same_books(store, simulated, followed(simulated, gatherer)))
                    yield simulated, gatherer, store


async def test_created_market_is_read_within_a_second() -> None:
    """REST does not know it for two seconds, and all the same its book is at the reader's within one."""
    async with living({"rest_lag_ms": 2_000}) as (exchange, gatherer, store):
        began = trio.current_time()
        exchange.create("KXNEWT-26DEC01-T40")
        exchange.change("KXNEWT-26DEC01-T40", "yes", 4_000, 500)
        await until(lambda: "KXNEWT-26DEC01-T40" in store.cut())
        await until(lambda: same_books(store, exchange))

        assert 1 > trio.current_time() - began
        assert gatherer.sync is not None
        assert "active" == gatherer.sync.registry.status("KXNEWT-26DEC01-T40")


async def test_closed_market_is_let_go() -> None:
    """Closed, determined and settled: the reader is told, and its socket follows it no more."""
    async with living(closed_seconds=0) as (exchange, gatherer, store):
        ticker = exchange.tickers[0]
        exchange.close(ticker)
        await until(lambda: ticker not in gatherer.pool.placement)
        await until(lambda: store.cut()[ticker].condition is Condition.CLOSED)

        assert 0 == gatherer.incidents.counts()["gap"]
        assert 19 == len(gatherer.pool.placement)


async def test_market_that_left_the_lists_in_silence_is_noticed() -> None:
    """Nobody is told, no list names it: the next sweep misses it, and the exchange does not know it."""
    async with living(reconcile_minutes=0.01) as (exchange, gatherer, store):
        ticker = exchange.tickers[3]
        exchange.delist(ticker)
        await until(lambda: ticker not in gatherer.pool.placement)

        assert gatherer.sync is not None
        assert {"gone": 1} == gatherer.sync.registry.statistics().total_removed
        await until(lambda: same_books(store, exchange))
        assert len(exchange.tickers) == len(gatherer.pool.placement)


async def test_message_that_was_lost_is_made_up_for() -> None:
    """Created while the lifecycle sockets are away: the lists have it, soon enough."""
    async with living(reconcile_minutes=0.01, lifecycle_connections=0) as (exchange, _, store):
        exchange.create("KXNEWT-26DEC01-T40")
        await until(lambda: "KXNEWT-26DEC01-T40" in store.cut())
        await until(lambda: same_books(store, exchange))


@pytest.mark.parametrize("connections", [1, 2])
async def test_outage_of_all_lifecycle_sockets_is_made_up_for(connections: int) -> None:
    """Created while none of them is open: the lists are looked at when one is again."""
    options: dict[str, Any] = {
        "reconcile_minutes": 1,
        "lifecycle_connections": connections,
        "backoff_first_s": 0.001,
    }
    async with living(**options) as (exchange, gatherer, store):
        sync = gatherer.sync
        assert sync is not None
        exchange.inject("unauthorized", count=6)
        for one in gatherer.pool.connections:
            if one.role is Role.LIFECYCLE:
                one.drop("disconnected", "for a test")
        await until(lambda: len(exchange.venue.sessions) < len(gatherer.pool.connections))
        exchange.create("KXNEWT-26DEC01-T40")
        assert "KXNEWT-26DEC01-T40" not in sync.registry
        await until(lambda: "KXNEWT-26DEC01-T40" in store.cut(), 20)


async def test_only_what_is_selected_is_gathered() -> None:
    """One series and nothing else, also of what is created later."""
    close_s = int(time.time()) + 3_600
    async with SimulatedExchange(SimulatorOptions(**EXCHANGE)) as probe:
        series = probe.tickers[0].partition("-")[0]
    async with living(series=(series,)) as (exchange, gatherer, _):
        exchange.create(f"{series}-26DEC01-T40", close_s=close_s)
        exchange.create("KXNEWT-26DEC01-T40", close_s=close_s)
        await until(lambda: f"{series}-26DEC01-T40" in gatherer.pool.placement)

        wanted = {ticker for ticker in exchange.tickers if ticker.partition("-")[0] == series}
        assert wanted == set(followed(exchange, gatherer))
        assert len(wanted) == len(gatherer.pool.placement)


async def test_short_lives_from_beginning_to_end() -> None:
    """Markets are created, open, pause, close and settle by the dozen: none is missed, none is kept."""
    lives = {
        "markets": 12,
        "short_lived": 1,
        "life_seconds": 3,
        "created_ahead_seconds": 1,
        "settled_seconds": 1,
        "rest_lag_ms": 300,
        "messages_per_second": 100,
        "pauses_per_hour": 200,
        "combos": 0,
    }
    async with living(lives, moves=True, closed_seconds=0, reconcile_minutes=0.02) as (
        exchange,
        gatherer,
        store,
    ):
        sync = gatherer.sync
        assert sync is not None
        seen: set[str] = set()

        def many() -> bool:
            seen.update(one.ticker for one in exchange.venue.model.listed() if one.status == "active")
            return len(seen) >= 36

        await until(many, 60)
        await until(lambda: seen <= set(store.cut()))
        # What trades now is followed, and of what is over nothing is.
        await until(
            lambda: (
                {one.ticker for one in exchange.venue.model.listed() if one.status == "active"}
                <= set(sync.registry)
                <= set(exchange.tickers)
            )
        )
        found = sync.registry.statistics()
        assert found.total_added - sum(found.total_removed.values()) == found.markets
        assert found.total_added >= 36
