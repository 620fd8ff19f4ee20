import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest
import trio

from kalshibook.simulator import GRIDS, SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from tests.simulator.signing import Signer

pytestmark = pytest.mark.trio

NEWT = "KXNEWT-26DEC01-T40"
ROOT = "/trade-api/v2"

# The keys that Kalshi's REST reference of autumn 2026 requires in a market.
# fmt: off
REQUIRED = {
    "ticker", "event_ticker", "market_type", "yes_sub_title", "no_sub_title", "created_time",
    "updated_time", "open_time", "close_time", "latest_expiration_time", "settlement_timer_seconds",
    "status", "yes_bid_dollars", "yes_bid_size_fp", "yes_ask_dollars", "yes_ask_size_fp",
    "no_bid_dollars", "no_ask_dollars", "last_price_dollars", "volume_fp", "volume_24h_fp", "result",
    "can_close_early", "open_interest_fp", "notional_value_dollars", "previous_yes_bid_dollars",
    "previous_yes_ask_dollars", "previous_price_dollars", "settlement_bounds_type", "expiration_value",
    "rules_primary", "rules_secondary", "price_level_structure", "price_ranges",
}
# fmt: on


class Caller:
    """Asks one exchange, and says what came back."""

    def __init__(self, exchange: SimulatedExchange, client: httpx.AsyncClient) -> None:
        self.exchange = exchange
        self.client = client

    async def ask(self, path: str, headers: dict[str, str] | None = None, **params: Any) -> tuple[int, Any]:
        """Return status and body."""
        answer = await self.client.get(self.exchange.rest_url + path, params=params, headers=headers)
        return answer.status_code, answer.json()

    async def get(self, path: str, **params: Any) -> Any:
        """Return the body of an answer that is none of an error."""
        status, body = await self.ask(path, **params)
        assert 200 == status
        return body

    async def pages(self, path: str, key: str, **params: Any) -> list[list[Any]]:
        """Return all pages of a list."""
        pages, cursor = [], ""
        while True:
            body = await self.get(path, **params, **({"cursor": cursor} if cursor else {}))
            pages.append(body[key])
            cursor = body["cursor"]
            if not cursor:
                return pages


@asynccontextmanager
async def calling(**options: Any) -> AsyncIterator[Caller]:
    """Run an exchange that stands still unless told otherwise."""
    given = {
        "open": True,
        "messages_per_second": 0,
        "markets": 6,
        "short_lived": 0,
        "read_tokens_per_second": 0,
    }
    async with (
        SimulatedExchange(SimulatorOptions(**(given | options))) as exchange,
        httpx.AsyncClient() as client,
    ):
        yield Caller(exchange, client)


async def test_pages_hold_every_market_once() -> None:
    """Page by page all markets come, in one order, and the last page has an empty cursor."""
    async with calling(quiet_markets=230, combos=0.25) as caller:
        pages = await caller.pages("/markets", "markets", limit=100)
        assert [100, 100, 36] == [len(page) for page in pages]
        tickers = [market["ticker"] for page in pages for market in page]
        assert caller.exchange.tickers == tickers
        assert len(set(tickers)) == len(tickers)
        for page in pages:
            for market in page:
                assert REQUIRED <= market.keys()


async def test_a_market_created_while_paging_comes_last() -> None:
    """A list that grows under a reader loses nothing and repeats nothing."""
    async with calling(rest_lag_ms=0) as caller:
        first = await caller.get("/markets", limit=4)
        caller.exchange.create(NEWT)
        caller.exchange.delist(first["markets"][0]["ticker"])
        rest = await caller.get("/markets", limit=4, cursor=first["cursor"])
        tickers = [market["ticker"] for market in first["markets"] + rest["markets"]]
        assert 7 == len(tickers) == len(set(tickers))
        assert NEWT == tickers[-1]


async def test_filters() -> None:
    """Status, event, series, tickers and combos select what they say."""
    async with calling(quiet_markets=100, combos=0.5, rest_lag_ms=0) as caller:
        exchange = caller.exchange

        async def found(**params: Any) -> list[str]:
            pages = await caller.pages("/markets", "markets", limit=7, **params)
            return [market["ticker"] for page in pages for market in page]

        everything = exchange.tickers
        combos = [ticker for ticker in everything if ticker.startswith("KXMVE")]
        assert combos == await found(mve_filter="only")
        assert [ticker for ticker in everything if ticker not in combos] == await found(mve_filter="exclude")
        event = exchange.venue.model[everything[25]].event
        assert [ticker for ticker in everything if ticker.startswith(f"{event}-")] == await found(
            event_ticker=event
        )
        series = exchange.venue.model[everything[-1]].series
        assert [ticker for ticker in everything if ticker.startswith(f"{series}-")] == await found(
            series_ticker=series
        )
        assert sorted(everything[2:4]) == sorted(await found(tickers=",".join([*everything[2:4], "KXTYPO"])))
        exchange.pause(everything[3])
        exchange.pause(everything[-2])
        assert [everything[3], everything[-2]] == await found(status="paused")
        assert len(everything) - 2 == len(await found(status="open"))
        exchange.close(everything[5])
        assert [everything[5]] == await found(status="closed")
        assert [] == await found(status="settled")


async def test_time_filters() -> None:
    """Times in seconds bound creation, close and change, and do not go with every status."""
    async with calling(rest_lag_ms=0) as caller:
        now_s = caller.exchange.clock_us() // 1_000_000
        caller.exchange.create(NEWT, close_s=now_s + 100)
        for params in (
            {"max_close_ts": now_s + 200},
            {"min_created_ts": now_s, "tickers": NEWT},
        ):
            body = await caller.get("/markets", **params)
            assert NEWT in [market["ticker"] for market in body["markets"]]
        assert [] == (await caller.get("/markets", max_close_ts=now_s + 50))["markets"]
        for params in (
            {"min_close_ts": 1, "status": "open"},
            {"min_created_ts": 1, "min_close_ts": 1},
            {"min_updated_ts": 1, "status": "open"},
        ):
            assert 400 == (await caller.ask("/markets", **params))[0]


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/markets", {"limit": 1_001}),
        ("/markets", {"limit": "many"}),
        ("/markets", {"status": "sleeping"}),
        ("/markets", {"cursor": "nonsense"}),
        ("/markets", {"mve_filter": "some"}),
        ("/events", {"limit": 201}),
        ("/markets/orderbooks", {}),
        ("/markets/orderbooks", {"tickers": [f"KX{number}" for number in range(101)]}),
        ("/markets/orderbooks", {"tickers": "X" * 201}),
    ],
)
async def test_bad_parameters(path: str, params: dict[str, Any]) -> None:
    """What cannot be is answered with 400 and a reason."""
    async with calling() as caller:
        status, body = await caller.ask(path, **params)
        assert 400 == status
        assert {"code", "message"} == body.keys()


async def test_unknown_things_are_404() -> None:
    """Markets, events, series and paths that do not exist have the exchange's error."""
    async with calling() as caller:
        for path in (
            "/markets/KXTYPO",
            "/markets/KXTYPO/orderbook",
            "/events/KXTYPO",
            "/series/KXTYPO",
            "/typo",
        ):
            status, body = await caller.ask(path)
            assert (404, "not_found") == (status, body["code"])


async def test_order_books() -> None:
    """Both keys are always there, levels ascend, and `depth` counts from the best."""
    async with calling() as caller:
        caller.exchange.create(NEWT)
        for price in (3_000, 4_000, 3_500):
            caller.exchange.change(NEWT, "yes", price, 150)
        body = {"yes_dollars": [["0.3000", "1.50"], ["0.3500", "1.50"], ["0.4000", "1.50"]], "no_dollars": []}
        bulk = await caller.get("/markets/orderbooks", tickers=[NEWT, "KXTYPO"])
        assert {"orderbooks": []} == bulk  # its creation is not known to REST yet
        caller.exchange.venue.model[NEWT].visible_us = 0
        assert {"orderbook_fp": body} == await caller.get(f"/markets/{NEWT}/orderbook")
        best = {"yes_dollars": [["0.4000", "1.50"]], "no_dollars": []}
        assert {"orderbook_fp": best} == await caller.get(f"/markets/{NEWT}/orderbook", depth=1)
        bulk = await caller.get("/markets/orderbooks", tickers=[NEWT, "KXTYPO"])
        assert {"orderbooks": [{"ticker": NEWT, "orderbook_fp": body}]} == bulk


async def test_rest_learns_of_a_market_later_than_the_socket(autojump_clock: trio.testing.MockClock) -> None:
    """After a creation REST answers 404 for a while, then with the market."""
    async with calling(rest_lag_ms=2_000) as caller:
        caller.exchange.create(NEWT)
        model = caller.exchange.venue.model
        assert model[NEWT].visible_us == caller.exchange.venue.now_us + 2_000_000
        status, body = await caller.ask(f"/markets/{NEWT}")
        assert (404, "not_found") == (status, body["code"])
        await trio.sleep(3)
        assert NEWT == (await caller.get(f"/markets/{NEWT}"))["market"]["ticker"]


async def test_a_life(autojump_clock: trio.testing.MockClock) -> None:
    """A market is seen unopened, open, closed, determined, settled, and at last nowhere."""
    async with calling(rest_lag_ms=0, settled_seconds=30) as caller:
        exchange = caller.exchange
        now_s = exchange.clock_us() // 1_000_000
        exchange.create(NEWT, open_s=now_s + 60, close_s=now_s + 120)
        seen = []
        for _ in range(200):
            status, body = await caller.ask(f"/markets/{NEWT}")
            seen.append(body["market"]["status"] if status == 200 else "gone")
            await trio.sleep(1)
        steps = [one for place, one in enumerate(seen) if place == 0 or seen[place - 1] != one]
        assert ["initialized", "active", "closed", "determined", "finalized", "gone"] == steps


async def test_trades_newest_first() -> None:
    """The tape pages from the newest trade back, and can be limited to a market and to times."""
    async with calling(rest_lag_ms=0) as caller:
        exchange = caller.exchange
        exchange.create(NEWT)
        exchange.change(NEWT, "yes", 4_000, 1_000)
        for size in range(1, 8):
            exchange.trade(NEWT, "no", size)
        pages = await caller.pages("/markets/trades", "trades", limit=3, ticker=NEWT)
        assert [3, 3, 1] == [len(page) for page in pages]
        assert [f"0.0{size}" for size in range(7, 0, -1)] == [
            trade["count_fp"] for page in pages for trade in page
        ]
        first = pages[0][0]
        assert ("0.4000", "0.6000", "no", "ask") == (
            first["yes_price_dollars"],
            first["no_price_dollars"],
            first["taker_outcome_side"],
            first["taker_book_side"],
        )
        assert [] == (await caller.get("/markets/trades", max_ts=1))["trades"]
        assert "0.28" == (await caller.get(f"/markets/{NEWT}"))["market"]["volume_fp"]


async def test_events_and_series() -> None:
    """Events are paged without combos, which have a list of their own; series are all told."""
    async with calling(quiet_markets=200, combos=0.5, rest_lag_ms=0) as caller:
        pages = await caller.pages("/events", "events", limit=4)
        events = [event["event_ticker"] for page in pages for event in page]
        assert len(events) == len(set(events))
        model = caller.exchange.venue.model
        assert {one.event for one in model.listed() if not one.is_combo} == set(events)
        combos = await caller.pages("/events/multivariate", "events", limit=4, with_nested_markets="true")
        nested = [market["ticker"] for page in combos for event in page for market in event["markets"]]
        assert {one.ticker for one in model.listed() if one.is_combo} == set(nested)
        one = await caller.get(f"/events/{events[0]}", with_nested_markets="true")
        assert 20 == len(one["event"]["markets"])
        assert 20 == len((await caller.get(f"/events/{events[0]}"))["markets"])
        series = (await caller.get("/series"))["series"]
        assert {market.series for market in model.listed()} == {each["ticker"] for each in series}
        assert "KXREED0000" == (await caller.get("/series/KXREED0000"))["series"]["ticker"]
        assert [] == (await caller.get("/series", category="Finance"))["series"]


async def test_every_tick_grid_is_told() -> None:
    """Markets name their grid, and give its bands."""
    async with calling(markets=20, combos=0) as caller:
        markets = (await caller.get("/markets"))["markets"]
        assert GRIDS.keys() == {market["price_level_structure"] for market in markets}
        assert {"start": "0.0000", "end": "1.0000", "step": "0.0100"} == next(
            one["price_ranges"] for one in markets if one["price_level_structure"] == "linear_cent"
        )[0]


async def test_too_many_requests(autojump_clock: trio.testing.MockClock) -> None:
    """A bucket holds two seconds' worth of requests; then 429, and after a while more."""
    async with calling(read_tokens_per_second=20) as caller:
        statuses = [(await caller.ask("/exchange/status"))[0] for _ in range(4)]
        assert [200] * 4 == statuses
        status, body = await caller.ask("/exchange/status")
        assert (429, {"error": "too many requests"}) == (status, body)
        await trio.sleep(0.6)
        assert [200, 429] == [(await caller.ask("/exchange/status"))[0] for _ in range(2)]


async def test_answers_may_be_as_old_as_the_cache_allows() -> None:
    """Unsigned requests see what was true a while ago, signed ones do not."""
    signer = Signer("key-1")
    async with calling(rest_lag_ms=0, cache_seconds=15, open=False) as caller:
        caller.exchange.register_key("key-1", signer.public_pem)
        caller.exchange.create(NEWT)
        path = f"/markets/{NEWT}/orderbook"
        empty: dict[str, list[Any]] = {"yes_dollars": [], "no_dollars": []}
        assert empty == (await caller.get(path))["orderbook_fp"]
        caller.exchange.change(NEWT, "yes", 4_000, 100)
        assert empty == (await caller.get(path))["orderbook_fp"]
        status, body = await caller.ask(path, headers=signer.headers(ROOT + path))
        assert (200, [["0.4000", "1.00"]]) == (status, body["orderbook_fp"]["yes_dollars"])
        status, body = await caller.ask(path, headers=signer.headers(ROOT + path, late_ms=90_000))
        assert (401, "header_timestamp_expired") == (status, body["code"])


async def test_account_limits_need_a_key() -> None:
    """Limits are told to whoever signs."""
    signer = Signer("key-1", "ed25519")
    async with calling(open=False, read_tokens_per_second=300) as caller:
        caller.exchange.register_key("key-1", signer.public_pem)
        assert 401 == (await caller.ask("/account/limits"))[0]
        status, body = await caller.ask("/account/limits", headers=signer.headers(f"{ROOT}/account/limits"))
        assert (200, 300, 600) == (status, body["read"]["refill_rate"], body["read"]["bucket_capacity"])


async def test_faults_of_rest(autojump_clock: trio.testing.MockClock) -> None:
    """Busy, broken, slow and old, each for as long as asked for, each on record."""
    async with calling(rest_lag_ms=0) as caller:
        exchange = caller.exchange
        exchange.create(NEWT)
        path = f"/markets/{NEWT}/orderbook"
        for kind, expected in (("rest_busy", 429), ("rest_error", 500)):
            exchange.inject(kind, duration_ms=2_000)
            assert expected == (await caller.ask(path))[0]
            await trio.sleep(3)
            assert 200 == (await caller.ask(path))[0]
        exchange.inject("rest_old", duration_ms=60_000)
        before = await caller.get(path)
        exchange.change(NEWT, "yes", 4_000, 100)
        assert before == await caller.get(path)
        assert {"rest_busy": 1, "rest_error": 1, "rest_old": 1} == exchange.venue.ledger.done
        assert all(fault.exposed_us is not None for fault in exchange.faults)


async def test_slow_answers(autojump_clock: trio.testing.MockClock) -> None:
    """A slow exchange answers, two seconds later."""
    async with calling() as caller:
        caller.exchange.inject("rest_slow", duration_ms=60_000)
        begun = trio.current_time()
        await caller.get("/exchange/status")
        assert 2 <= trio.current_time() - begun


async def test_the_clock_can_be_off() -> None:
    """The `Date` header shows it, and who signs by the right time is refused."""
    signer = Signer("key-1")
    async with calling(open=False) as caller:
        caller.exchange.register_key("key-1", signer.public_pem)
        url = f"{caller.exchange.rest_url}/exchange/status"
        true = parsedate_to_datetime((await caller.client.get(url)).headers["date"])
        caller.exchange.inject("clock_skew", duration_ms=600_000)
        off = parsedate_to_datetime((await caller.client.get(url)).headers["date"])
        assert 115 < (off - true).total_seconds() < 130
        status, body = await caller.ask("/exchange/status", headers=signer.headers(f"{ROOT}/exchange/status"))
        assert (401, "header_timestamp_expired") == (status, body["code"])


async def test_maintenance_is_told() -> None:
    """While trading pauses, the status says so."""
    async with calling() as caller:
        assert (await caller.get("/exchange/status"))["trading_active"]
        caller.exchange.inject("maintenance", duration_ms=600_000)
        assert not (await caller.get("/exchange/status"))["trading_active"]
        hours = (await caller.get("/exchange/schedule"))["schedule"]["standard_hours"]
        assert 2 == len(hours[0]["thursday"])


async def test_faults_over_rest() -> None:
    """Faults are injected and listed under /simulator; a wrong order is explained."""
    async with calling() as caller:
        url = f"{caller.exchange.control_url}/faults"
        answer = await caller.client.post(url, json={"kind": "unauthorized", "count": 2})
        assert (201, 2) == (answer.status_code, len(answer.json()["faults"]))
        assert 2 == len((await caller.client.get(url)).json()["faults"])
        assert 409 == (await caller.client.post(url, json={"kind": "lost"})).status_code
        for wrong in ({"kind": "nonsense"}, {"kind": "lost", "typo": 1}, {}):
            assert 400 == (await caller.client.post(url, content=json.dumps(wrong))).status_code
        status = (await caller.client.get(f"{caller.exchange.control_url}/status")).json()
        assert (6, []) == (status["markets"], status["connections"])


async def test_markets_are_steered_over_rest() -> None:
    """What can be done from Python can be done by request, and errors say why it cannot."""
    async with calling(rest_lag_ms=0) as caller:
        base = f"{caller.exchange.control_url}/markets/{NEWT}"

        async def post(action: str, **order: Any) -> tuple[int, Any]:
            answer = await caller.client.post(f"{base}/{action}", json=order)
            return answer.status_code, answer.json()

        assert 201 == (await post("create", grid="deci_cent"))[0]
        status, book = await post("change", side="no", price=5_510, size=300)
        assert (201, [[5_510, 300]]) == (status, book["no"])
        status, book = await post("trade", side="yes", size=100)
        assert [[5_510, 200]] == book["no"]
        assert "inactive" == (await post("pause"))[1]["status"]
        assert "active" == (await post("resume"))[1]["status"]
        assert 201 == (await post("set_close", close_s=2_000_000_000))[0]
        assert "closed" == (await post("close"))[1]["status"]
        assert {"ticker": NEWT} == (await post("delist"))[1]
        for action, order, expected in (
            ("change", {"price": 4_000, "size": -1}, 404),
            ("explode", {}, 404),
            ("create", {"grid": "nonsense"}, 404),
            ("create", {"typo": 1}, 400),
        ):
            assert (action, expected) == (action, (await post(action, **order))[0])
        await post("create")
        for order in ({"price": 4_001, "size": 1}, {"price": 4_000, "size": -1}, {"price": "x"}):
            assert 400 == (await post("change", **order))[0]
        assert 400 == (await post("set_close"))[0]


async def test_a_frozen_exchange_stands_still(autojump_clock: trio.testing.MockClock) -> None:
    """While it is frozen no book moves, by whatever clock; afterwards it goes on without a rush."""
    async with calling(messages_per_second=100) as caller:
        exchange = caller.exchange
        await trio.sleep(10)
        answer = await caller.client.post(f"{exchange.control_url}/freeze")
        assert {"frozen": True} == answer.json()
        before = exchange.checksum()
        await trio.sleep(1_000)
        assert (before.checksum, before.changes) == (
            exchange.checksum().checksum,
            exchange.checksum().changes,
        )
        await caller.client.post(f"{exchange.control_url}/thaw")
        await trio.sleep(10)
        assert 100 < exchange.checksum().changes - before.changes < 4_000


async def test_a_campaign_is_begun_over_rest() -> None:
    """So many faults over so many changes, from when somebody subscribes."""
    async with calling(messages_per_second=100) as caller:
        url = f"{caller.exchange.control_url}/campaign"
        assert 201 == (await caller.client.post(url, json={"count": 3, "span": 30})).status_code
        assert 400 == (await caller.client.post(url, json={"count": -1, "span": 30})).status_code
        session = caller.exchange.venue.connect()
        command = {"cmd": "subscribe", "params": {"channels": ["orderbook_delta"]}}
        command["params"]["market_tickers"] = caller.exchange.tickers  # type: ignore[index]
        session.receive(json.dumps(command))
        session.take(1 << 30)
        caller.exchange.step(100)
        assert 3 == len(caller.exchange.faults)


async def test_a_run_is_begun_over_rest() -> None:
    """A frozen exchange is let run for so many changes, and its status tells when it is frozen again."""
    async with calling(messages_per_second=5_000, frozen=True) as caller:
        base = caller.exchange.control_url
        before = (await caller.client.get(f"{base}/status")).json()
        assert before["frozen"]
        assert 202 == (await caller.client.post(f"{base}/run", json={"changes": 500})).status_code
        assert 400 == (await caller.client.post(f"{base}/run", json={"changes": 0})).status_code
        with trio.fail_after(20):
            status = before
            while not status["frozen"] or status["changes"] == before["changes"]:
                status = (await caller.client.get(f"{base}/status")).json()
        assert 500 <= status["changes"] - before["changes"] < 700
