"""The client and the sync against the simulated exchange, over real sockets."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import pytest
import trio

from kalshibook.errors import ExchangeRefused
from kalshibook.gather.credentials import Credentials
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.rest import ExchangeClient
from kalshibook.gather.selection import Selection
from kalshibook.gather.sync import MarketSync, registry_of
from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.wire import rest
from kalshibook.wire.rest import Page, Request
from tests.gather.listing import Pool
from tests.simulator.signing import Signer

pytestmark = pytest.mark.trio

T = TypeVar("T")


@asynccontextmanager
async def signed(
    kind: str = "ed25519", **options: Any
) -> AsyncIterator[tuple[SimulatedExchange, ExchangeClient]]:
    """Run an exchange that stands still, and a client with a key of it."""
    values = {"messages_per_second": 0, "markets": 5, "rest_lag_ms": 0, "read_tokens_per_second": 0}
    signer = Signer("a-key", kind)
    async with SimulatedExchange(SimulatorOptions(**(values | options))) as exchange:
        exchange.register_key("a-key", signer.public_pem)
        credentials = Credentials("a-key", signer.private_pem.decode())
        async with ExchangeClient(exchange.rest_url, credentials, read_budget=100_000) as client:
            with trio.fail_after(60):
                yield exchange, client


async def everything(client: ExchangeClient, request: Request, read: Callable[[bytes], Page[T]]) -> list[T]:
    """Return all items of a list; none is rejected."""
    found: list[T] = []
    async with aclosing(client.pages(request, read)) as pages:
        async for page in pages:
            assert () == page.rejected
            found += page.items
    return found


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
async def test_lists_and_books_are_the_exchanges(kind: str) -> None:
    """Signed with either kind of key: markets page by page, each book as it truly is."""
    async with signed(kind, quiet_markets=60) as (exchange, client):
        tickers = exchange.tickers
        markets = await everything(client, rest.markets_request(limit=10), rest.read_markets)
        short = await everything(client, rest.markets_request(limit=7), rest.read_listings)
        books = await client.orderbooks(tickers)
        one = await client.orderbook(tickers[0])

        assert tickers == [market.ticker for market in markets] == [listing.ticker for listing in short]
        assert [(m.status, m.close_us, m.is_combo) for m in markets] == [
            (listing.status, listing.close_us, listing.is_combo) for listing in short
        ]
        assert sorted(tickers) == sorted(book.ticker for book in books.items)
        for book in (*books.items, one):
            truth = exchange.truth(book.ticker)
            assert (sorted(truth.yes), sorted(truth.no)) == (sorted(book.yes), sorted(book.no))


async def test_everything_else_is_read() -> None:
    """Events, series, trades, status and hours of the exchange: nothing is rejected."""
    async with signed(quiet_markets=40, combos=0.5) as (exchange, client):
        exchange.create("KXNEWT-26DEC01-T40", series="KXNEWT", event="KXNEWT-26DEC01")
        exchange.change("KXNEWT-26DEC01-T40", "yes", 4_000, 1_000)
        exchange.trade("KXNEWT-26DEC01-T40", "no", 250)

        events = await everything(client, rest.events_request(with_nested_markets=True), rest.read_events)
        combos = await everything(client, rest.multivariate_events_request(), rest.read_events)
        series = await everything(client, rest.series_request(), rest.read_series)
        trades = await everything(client, rest.trades_request(ticker="KXNEWT-26DEC01-T40"), rest.read_trades)
        market = await client.market("KXNEWT-26DEC01-T40")
        status = await client.exchange_status()
        schedule = await client.exchange_schedule()

        assert "KXNEWT-26DEC01" in {event.event_ticker for event in events}
        assert all(event.markets for event in events)
        assert combos
        assert "KXNEWT" in {one.ticker for one in series}
        assert [(4_000, 250, "no")] == [(trade.yes_price, trade.size, trade.taker_side) for trade in trades]
        assert ("active", 4_000, 750, None) == (
            market.status,
            market.yes_bid,
            market.yes_bid_size,
            market.yes_ask,
        )
        assert status.trading_active
        assert schedule.hours


async def test_forged_and_unsigned_requests_are_refused() -> None:
    """Another's key under the same id, a key that is not known, and none at all where one is needed."""
    other = Credentials("a-key", Signer("a-key").private_pem.decode())
    unknown = Credentials("b-key", Signer("b-key").private_pem.decode())
    async with signed() as (exchange, _):
        for credentials, words in ((other, "refused the key"), (unknown, "refused the key")):
            async with ExchangeClient(exchange.rest_url, credentials) as client:
                with pytest.raises(ExchangeRefused, match=words) as caught:
                    await client.exchange_status()
                assert 401 == caught.value.status


async def test_clock_that_is_off_is_named() -> None:
    """The exchange's clock is off by minutes, or ours: the error says so and by how much."""
    async with signed() as (exchange, client):
        exchange.inject("clock_skew", duration_ms=60_000)
        skew_s = exchange.venue.faults.skew_ms // 1_000

        with pytest.raises(ExchangeRefused, match="this machine's clock is") as caught:
            await client.exchange_status()

        assert abs(skew_s) > 30
        assert client.statistics().clock_skew_s == pytest.approx(-skew_s, abs=2)
        assert ("behind" if skew_s > 0 else "ahead of") in str(caught.value)


@pytest.mark.parametrize(("fault", "outcome"), [("rest_busy", "limited"), ("rest_error", "failed")])
async def test_faults_are_survived(fault: str, outcome: str) -> None:
    """Busy or broken for a moment: a later attempt has the answer."""
    async with signed() as (exchange, client):
        exchange.inject(fault, duration_ms=200)

        markets = await everything(client, rest.markets_request(), rest.read_markets)

        assert len(exchange.tickers) == len(markets)
        attempts = dict(client.statistics().attempts)
        assert attempts.pop(("markets", outcome)) >= 1
        assert {("markets", "ok"): 1} == attempts


async def test_within_the_budget_nothing_is_refused() -> None:
    """A client that obeys the exchange's rate is never told to slow down, however much it asks."""
    async with signed(read_tokens_per_second=500) as (exchange, patient):
        credentials = patient._credentials
        async with ExchangeClient(exchange.rest_url, credentials, read_budget=500) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(80):
                    nursery.start_soon(client.exchange_status)
            assert {("exchange_status", "ok"): 80} == dict(client.statistics().attempts)
            assert 0 < client.statistics().waited_us


async def test_all_markets_reach_the_pool() -> None:
    """Thousands of markets by pages, some of them combinations; lifecycle goes on from there."""
    options = GatherOptions(page_markets=500)
    selection = Selection(options)
    registry, pool = registry_of(options, selection), Pool()
    async with signed(quiet_markets=3_000) as (exchange, client), trio.open_nursery() as nursery:
        sync = MarketSync(client, registry, selection, pool, options)
        await nursery.start(sync.run)
        while sync.reasons_against() or sync.statistics().waiting:  # noqa: ASYNC110 - no event says so
            await trio.sleep(0.01)

        tradable = {
            m.ticker
            for m in exchange.venue.model.listed()
            if m.status in ("initialized", "active", "inactive")
        }
        assert tradable == set(pool.held) == set(registry)
        assert len(tradable) > 3_000
        assert 0 < registry.statistics().combos < len(tradable)
        nursery.cancel_scope.cancel()
