"""Every setting of the simulated exchange changes something."""

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing

from kalshibook.errors import SettingsError
from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.exchange import Status
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.simulator.venue import Venue
from tests.simulator.signing import Signer
from tests.simulator.test_server import WS_PATH, options, raw, refused
from tests.simulator.watching import START_US, Watcher, venue

SECOND_US = 1_000_000


def after(seconds: float, **given: Any) -> tuple[Venue, Watcher]:
    """Return an exchange so many seconds on, and what was told of its markets' lives."""
    exchange = venue(**given)
    watcher = Watcher(exchange)
    watcher.ask("subscribe", channels=["market_lifecycle_v2", "multivariate_market_lifecycle"])
    exchange.advance(START_US + round(seconds * SECOND_US))
    watcher.hear()
    return exchange, watcher


def turns(watcher: Watcher) -> Counter[str]:
    """Count what was told, by kind."""
    return Counter(message["event_type"] for message in watcher.of("market_lifecycle_v2"))


def test_markets_and_quiet_markets() -> None:
    """Both are listed; only the first kind is kept in memory."""
    exchange = venue(markets=7, quiet_markets=50)
    assert (57, 7) == (len(exchange.model), exchange.model.kept_count)
    assert 57 == len({market.ticker for market in exchange.model.listed()})
    assert 0 == len(venue(markets=0).model)


def test_messages_per_second() -> None:
    """The rate is what was asked for, and 0 stands still."""
    exchange, _ = after(300, markets=50, messages_per_second=100)
    assert 0.6 * 30_000 < exchange.lives.steps < 1.4 * 30_000
    exchange, _ = after(3_600)
    assert 0 == exchange.lives.steps


def test_seed() -> None:
    """Equal seeds make equal books, other seeds others."""
    first, again, other = (venue(quiet_markets=5, seed=seed).checksum().checksum for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_short_lived_and_combos() -> None:
    """Shares of the markets are of each kind."""
    exchange = venue(markets=20, short_lived=0.5, combos=0.3, quiet_markets=10)
    markets = list(exchange.model.listed())
    assert 3 + 3 == sum(market.is_combo for market in markets)
    now_s = exchange.now_us // SECOND_US
    assert 10 == sum(market.close_s is not None and market.close_s < now_s + 1_000 for market in markets)


def test_life_seconds() -> None:
    """A short-lived market closes that long after it opened."""
    exchange = venue(markets=1, short_lived=1, life_seconds=77)
    (market,) = exchange.model.held()
    assert market.open_s is not None
    assert market.open_s + 77 == market.close_s


def test_pauses_per_hour() -> None:
    """Short-lived markets pause about that often."""
    life: dict[str, Any] = {"markets": 5, "short_lived": 1, "life_seconds": 3_600, "messages_per_second": 20}
    assert 25 < turns(after(600, **life, pauses_per_hour=60)[1])["deactivated"] < 75
    assert 0 == turns(after(600, **life, pauses_per_hour=0)[1])["deactivated"]


def test_created_ahead_seconds() -> None:
    """A successor is created that long before it opens."""
    life: dict[str, Any] = {"markets": 1, "short_lived": 1, "life_seconds": 100, "messages_per_second": 1}
    for ahead in (0, 40):
        exchange = venue(**life, created_ahead_seconds=ahead)
        (first,) = exchange.model.held()
        assert first.close_s is not None
        exchange.advance((first.close_s - 30) * SECOND_US)
        assert (2 if ahead else 1) == len(exchange.model)
        assert ahead == 0 or Status.INITIALIZED is list(exchange.model.held())[-1].status


def test_settled_seconds() -> None:
    """A settled market stays on the lists that long."""
    for seconds in (0, 50):
        exchange = venue(settled_seconds=seconds)
        exchange.create("KXNEWT-T1")
        exchange.advance(START_US)
        exchange.close("KXNEWT-T1")
        exchange.advance(START_US + 30 * SECOND_US)
        assert bool(seconds) == ("KXNEWT-T1" in exchange.model)
        exchange.advance(START_US + 70 * SECOND_US)
        assert "KXNEWT-T1" not in exchange.model


def test_rest_lag() -> None:
    """REST knows a new market that much later."""
    exchange = venue(rest_lag_ms=1_234)
    assert START_US + 1_234_000 == exchange.create("KXNEWT-T1").visible_us


def test_max_session_markets() -> None:
    """All subscriptions of a connection together are limited, too."""
    exchange = venue(max_session_markets=5)
    tickers = [market.ticker for market in exchange.model.held()]
    watcher = Watcher(exchange)
    watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=tickers[:4])
    (error,) = watcher.ask("subscribe", 2, channels=["trade"], market_tickers=tickers[:2])
    assert 26 == error["msg"]["code"]
    assert (
        "subscribed" == watcher.ask("subscribe", 3, channels=["trade"], market_tickers=tickers[:1])[0]["type"]
    )


def test_commands_per_second() -> None:
    """More commands in a second are refused, in the next one they are not."""
    exchange = venue(commands_per_second=3)
    watcher = Watcher(exchange)
    assert ["ok", "ok", "ok", "error"] == [watcher.ask("list_subscriptions")[0]["type"] for _ in range(4)]
    exchange.advance(START_US + SECOND_US)
    assert "ok" == watcher.ask("list_subscriptions")[0]["type"]


@pytest.mark.trio
async def test_host() -> None:
    """Both servers listen on the address that was asked for."""
    async with SimulatedExchange(options(host="127.0.0.2")) as exchange:
        assert exchange.rest_url.startswith("http://127.0.0.2:")
        assert exchange.stream_url.startswith("ws://127.0.0.2:")
        async with raw(exchange):
            pass


@pytest.mark.trio
async def test_clock_tolerance() -> None:
    """A signature may be that old."""
    signer = Signer("key-1", "ed25519")
    for tolerance_ms, status in ((60_000, None), (5_000, 401)):
        async with SimulatedExchange(options(open=False, clock_tolerance_ms=tolerance_ms)) as exchange:
            exchange.register_key("key-1", signer.public_pem)
            headers = signer.headers(WS_PATH, late_ms=20_000)
            if status is None:
                key_id, stamp, signature = headers.values()
                assert "key-1" == exchange.admit(key_id, stamp, signature, f"GET{WS_PATH}")
            else:
                assert status == (await refused(exchange, headers))[0]


@pytest.mark.trio
async def test_pings(autojump_clock: trio.testing.MockClock) -> None:
    """Distance and number of pings before a cut are those that were set."""
    settings = options(ping_interval_s=2, missed_pongs=2)
    async with SimulatedExchange(settings) as exchange, raw(exchange, within_s=60) as client:
        begun = trio.current_time()
        assert 2 * b"\x89\x09heartbeat" == await client.rest()
        assert 6 == round(trio.current_time() - begun)


@pytest.mark.parametrize(
    "given",
    [
        {"rest_port": 65_536},
        {"stream_port": -1},
        {"markets": -1},
        {"messages_per_second": float("nan")},
        {"short_lived": 1.1},
        {"combos": -0.1},
        {"subscription_buffer": 0},
        {"speed": float("inf")},
        {"speed": 0, "messages_per_second": 0},
        {"fault_span": 0},
    ],
)
def test_options_that_cannot_work_are_refused(given: dict[str, Any]) -> None:
    """Each bound has its error, naming the setting."""
    with pytest.raises(SettingsError, match=f"simulator.{next(iter(given))}"):
        SimulatorOptions(**given)
