import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from kalshibook.errors import FeedError, SettingsError
from kalshibook.feeds import EmbeddedBroker, KafkaOptions
from kalshibook.feeds.publisher import PublishFailure
from kalshibook.gather.gatherer import Gatherer
from kalshibook.gather.options import GatherOptions
from kalshibook.simulator.ledger import FaultKind
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.simulator.session import Session as ExchangeSession
from tests.gather.gathering import (
    EXCHANGE,
    TOPICS,
    gatherer_of,
    gathering,
    kafka_of,
    same_books,
    store_of,
    until,
)
from tests.simulator.signing import Signer

pytestmark = pytest.mark.trio

STOPS = 100

FOUND = {
    FaultKind.LOST: "gap",
    FaultKind.DOUBLED: "duplicate",
    FaultKind.REORDERED: "late",
    FaultKind.COUNTER_RESET: "reset",
    FaultKind.IMPOSSIBLE_DELTA: "diverged",
    FaultKind.OVERFLOW: "overflow",
    FaultKind.CHANNEL_ERROR: "ended",
    FaultKind.CUT: "disconnected",
    FaultKind.CLOSED: "disconnected",
}


async def test_what_the_exchange_says_is_in_the_readers_store() -> None:
    """From the exchange's bytes to a reader's books: all equal, and every frame accounted for."""
    async with gathering() as (exchange, broker, gatherer):
        exchange.step(2_000)
        with store_of(broker) as store:
            await until(lambda: same_books(store, exchange))
        statistics = gatherer.router.statistics()
        assert all(counts.adds_up for counts in statistics.sinks.values())
        assert statistics.routed == statistics.sinks["kafka"].offered
        books = statistics.types["orderbook_delta"] + statistics.types["orderbook_snapshot"]
        assert books == statistics.sinks["audit"].offered
        health = gatherer.health()
        assert (True, ()) == (health.is_ready, health.reasons)
        assert {"live": len(exchange.tickers)} == health.pool.by_state
    assert 0 == gatherer.failed_records
    # After the stop nothing waits any more.
    statistics = gatherer.router.statistics()
    assert statistics.sinks["kafka"].processed == statistics.routed


@pytest.mark.parametrize("kind", list(FOUND), ids=lambda kind: kind.value)
async def test_each_fault_is_found_and_healed(kind: FaultKind) -> None:
    """It is told under its own name, the ledger closes, and a reader's books equal the truth."""
    async with gathering() as (exchange, broker, gatherer):
        exchange.step(200)
        for _ in range(3):
            found = gatherer.incidents.counts()[FOUND[kind]]
            exchange.inject(kind, channel="orderbook_delta")
            exchange.step(200)
            await until(lambda found=found: gatherer.incidents.counts()[FOUND[kind]] > found)  # type: ignore[misc]
            await until(lambda: gatherer.pool.is_live and not gatherer.ledger.counts().open)
            # Also the exchange has noticed: the next fault is for a connection that lives.
            await until(lambda: len(exchange.venue.sessions) == len(gatherer.pool.connections))
        with store_of(broker) as store:
            await until(lambda: same_books(store, exchange))
        assert gatherer.health().pool.by_state == {"live": len(exchange.tickers)}


async def test_a_clock_that_is_set_back_keeps_no_market_out() -> None:
    """Markets that come after it are followed at once, and not when the clock has come as far again."""
    back_us = 0
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**EXCHANGE)) as exchange:
            first, *others = exchange.tickers
            options = gatherer_of(exchange, broker).options
            gatherer = Gatherer(
                options,
                kafka_of(broker),
                markets=others,
                clock_us=lambda: time.time_ns() // 1_000 - back_us,
                seed=1,
            )
            async with gatherer:
                await until(lambda: gatherer.pool.is_live)
                back_us = 3_600_000_000
                await gatherer.add([first])
                await until(lambda: gatherer.health().pool.by_state == {"live": len(exchange.tickers)}, 10)


async def test_what_kafka_refuses_is_made_good_by_a_snapshot() -> None:
    """A reader hears of a lost record with the market's next change, which may be hours away."""
    async with gathering() as (exchange, _, gatherer):
        ticker = exchange.tickers[0]
        before = gatherer.router.statistics().types["orderbook_snapshot"]
        for _ in range(5):
            # As the publishing thread does.
            await trio.to_thread.run_sync(gatherer._kafka._on_failure, PublishFailure(ticker, "too large"))
        await until(lambda: gatherer.router.statistics().types["orderbook_snapshot"] == before + 1)
        await until(lambda: gatherer.pool.is_live)
        assert before + 1 == gatherer.router.statistics().types["orderbook_snapshot"]
        assert 5 == gatherer.incidents.counts()["unpublished"]


async def test_markets_without_a_connection_are_no_readiness() -> None:
    """All connections are whole and full: what is on none of them is missing all the same."""
    options: dict[str, Any] = {"book_connections": 1, "max_connections": 1, "markets_per_connection": 10}
    async with gathering(**options) as (_, _, gatherer):
        health = gatherer.health()
        assert (False, ("20 markets have no connection",)) == (health.is_ready, health.reasons)


async def test_many_markets_that_the_exchange_does_not_answer_for_are_no_readiness() -> None:
    """A few of them are every day's business; where they are many, something is wrong with the exchange."""
    async with gathering() as (exchange, _, gatherer):
        await gatherer.add(["KXNO-1"])
        await until(lambda: gatherer.health().pool.by_state.get("missing") == 1)
        assert gatherer.health().is_ready
        await gatherer.add(["KXNO-2", "KXNO-3"])
        await until(lambda: gatherer.health().pool.by_state.get("missing") == 3)
        health = gatherer.health()
        assert ("the exchange does not answer for 3 of 33 markets",) == health.reasons
        assert 30 == len(exchange.tickers)


async def test_commands_that_time_out_are_repeated() -> None:
    """Error 18 at the start costs a moment and no market."""
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**EXCHANGE)) as exchange:
            exchange.inject(FaultKind.TIMEOUT, count=3)
            async with gatherer_of(exchange, broker) as gatherer:
                await until(lambda: gatherer.pool.is_live)
                assert 3 == gatherer.incidents.counts()["command"]


async def test_a_refused_handshake_is_retried_like_a_later_one() -> None:
    """The first attempt of every connection fails; all come up by themselves."""
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**EXCHANGE)) as exchange:
            exchange.inject(FaultKind.UNAUTHORIZED, count=5)
            async with gatherer_of(exchange, broker) as gatherer:
                await until(lambda: gatherer.pool.is_live)
                assert 5 == gatherer.incidents.counts()["refused"]
            assert 5 == len(exchange.faults)


async def test_an_exchange_that_is_down_at_the_start_is_waited_for() -> None:
    """The gatherer runs, says why it is not ready, and connects once somebody listens."""
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**EXCHANGE)) as exchange:
            port = int(exchange.stream_url.rpartition(":")[2].partition("/")[0])
            tickers = exchange.tickers
            rest, stream = exchange.rest_url, exchange.stream_url
        options = GatherOptions(
            environment="custom",
            rest_url=rest,
            stream_url=stream,
            backoff_first_s=0.02,
            backoff_limit_s=0.1,
            heartbeat_ms=50,
        )
        async with Gatherer(options, kafka_of(broker), markets=tickers) as gatherer:
            await until(lambda: gatherer.incidents.counts()["refused"] > 10)
            health = gatherer.health()
            assert not health.is_ready
            assert any("cannot be reached" in reason for reason in health.reasons)
            again = SimulatorOptions(**{**EXCHANGE, "stream_port": port})
            async with SimulatedExchange(again):
                await until(lambda: gatherer.pool.is_live)


async def test_a_lost_connection_disturbs_no_other() -> None:
    """The other connections are not even asked anything, and only the lost one's markets are filled again."""
    async with gathering() as (exchange, _, gatherer):
        exchange.step(100)
        before = {
            one.number: one.connects for one in gatherer.health().pool.connections if one.role == "books"
        }
        taken = gatherer.budget.taken
        exchange.inject(FaultKind.CUT, channel="orderbook_delta")
        await until(lambda: gatherer.incidents.counts()["disconnected"] == 1)
        await until(lambda: gatherer.pool.is_live)
        after = {
            one.number: one.connects for one in gatherer.health().pool.connections if one.role == "books"
        }
        assert [0, 1] == sorted(after[number] - before[number] for number in after)
        assert len(exchange.tickers) // 2 == gatherer.budget.taken - taken


async def test_a_connection_with_7500_markets_is_filled_again_by_eight_commands() -> None:
    """One to subscribe and seven to add, each with the markets of the one lost; then all are live again."""
    wide = {"markets": 20, "quiet_markets": 7_480}
    one = {"book_connections": 1, "trade_connections": 0, "lifecycle_connections": 0, "audit": False}
    async with gathering(wide, **one) as (exchange, _, gatherer):
        heard = overheard(exchange)
        exchange.inject(FaultKind.CUT, channel="orderbook_delta")
        await until(lambda: gatherer.incidents.counts()["disconnected"] == 1)
        await until(lambda: gatherer.health().pool.by_state == {"live": 7_500}, 60)
        assert ["subscribe", *["add_markets"] * 7] == [name for name, _ in heard]
        assert [1_000] * 7 + [500] == [len(tickers) for _, tickers in heard]
        assert list(gatherer.pool.placement.on(0)) == [ticker for _, tickers in heard for ticker in tickers]


def overheard(exchange: SimulatedExchange) -> list[tuple[str, list[str]]]:
    """Return a list that fills with the commands of sessions that begin from now on: name and markets."""
    heard: list[tuple[str, list[str]]] = []
    connect = exchange.venue.connect

    def tapped(**caller: str) -> ExchangeSession:
        session = connect(**caller)
        receive = session.receive

        def hear(message: str | bytes) -> None:
            command = msgspec.json.decode(message)
            params = command["params"]
            heard.append((params.get("action", command["cmd"]), params["market_tickers"]))
            receive(message)

        session.receive = hear  # type: ignore[method-assign]  # a tap on the exchange's side
        return session

    exchange.venue.connect = tapped  # type: ignore[method-assign]  # likewise
    return heard


async def test_new_and_removed_markets() -> None:
    """A market that is added is followed at once; one that is removed is let go, and readers are told."""
    async with gathering() as (exchange, broker, gatherer):
        exchange.create("KXNEWT-T1")
        exchange.change("KXNEWT-T1", "yes", 4_000, 500)
        await gatherer.add(["KXNEWT-T1"])
        await until(lambda: gatherer.health().pool.by_state == {"live": 31})
        exchange.change("KXNEWT-T1", "no", 3_000, 700)
        with store_of(broker) as store:
            await until(lambda: same_books(store, exchange, ["KXNEWT-T1"]))
            await gatherer.remove(["KXNEWT-T1"])
            await until(lambda: gatherer.health().pool.by_state == {"live": 30})
            await until(lambda: all("KXNEWT-T1" not in held for held in subscribed(exchange)))


def subscribed(exchange: SimulatedExchange) -> list[list[str]]:
    """Return the markets of each order book subscription, as the exchange has them."""
    return [
        [*held.tickers]
        for session in exchange.venue.sessions.values()
        for held in session.subscriptions
        if held.channel.name == "orderbook_delta"
    ]


@pytest.mark.parametrize(("most", "connections"), [(4, 8), (15, 2)])
async def test_the_exchanges_limit_opens_more_connections(most: int, connections: int) -> None:
    """A limit that nobody published is found (error 26); the markets are spread over more connections."""
    async with gathering({"max_markets": most}) as (exchange, _, gatherer):
        await until(lambda: gatherer.pool.is_live and gatherer.health().pool.by_state == {"live": 30})
        await until(lambda: sum(map(len, subscribed(exchange))) == 30)
        assert connections <= gatherer.pool.placement.connections <= 2 * connections
        assert max(map(len, subscribed(exchange))) <= most


async def test_max_connections() -> None:
    """With no room left markets wait, which is told; they come in when others leave."""
    async with gathering({"max_markets": 5}, max_connections=3) as (exchange, _, gatherer):
        await until(lambda: len(gatherer.pool.placement.homeless) == 15)
        await until(lambda: gatherer.incidents.counts()["homeless"] > 0)
        assert 3 == gatherer.pool.placement.connections
        followed = [ticker for ticker in exchange.tickers if gatherer.pool.placement.home(ticker) is not None]
        await gatherer.remove(followed[:10])
        await until(lambda: len(gatherer.pool.placement.homeless) == 5)
        await until(lambda: gatherer.health().pool.by_state == {"live": 15})


async def test_load_is_evened_out() -> None:
    """Markets move from a full connection to an empty one, and a reader's books stay true."""
    async with gathering() as (exchange, broker, gatherer):
        leaving = list(gatherer.pool.placement.on(0))
        await gatherer.remove(leaving)
        assert [0, 15] == sorted(gatherer.pool.placement.loads)
        await until(lambda: abs(gatherer.pool.placement.imbalance) <= 0.2)
        exchange.step(500)
        await until(lambda: gatherer.pool.is_live)
        staying = [ticker for ticker in exchange.tickers if ticker not in leaving]
        with store_of(broker) as store:
            await until(lambda: same_books(store, exchange, staying))
        assert 1 == gatherer.incidents.counts()["moved"]
        assert [7, 8] == sorted(map(len, subscribed(exchange)))


async def test_lifecycle_connections_publish_each_message_once() -> None:
    """Two connections follow the lives of markets; a message of either passes, its twin does not."""
    async with gathering(lifecycle_connections=2) as (exchange, _, gatherer):
        for number in range(10):
            exchange.create(f"KXNEWT-T{number}")
            exchange.pause(f"KXNEWT-T{number}")
        await until(lambda: gatherer.router.statistics().types.get("market_lifecycle_v2", 0) >= 20)
        await until(lambda: gatherer.pool.twins_dropped >= 20)
        passed = gatherer.router.statistics().types
        assert passed["market_lifecycle_v2"] == 20 + 10 * ("activated" in str(passed))


@pytest.mark.parametrize(
    ("setting", "roles"),
    [("trade_connections", {"books", "lifecycle"}), ("lifecycle_connections", {"books", "trades"})],
)
async def test_roles_can_be_left_out(setting: str, roles: set[str]) -> None:
    """None follow what is set to none."""
    options: dict[str, Any] = {setting: 0}
    async with gathering(**options) as (_, _, gatherer):
        assert roles == {one.role for one in gatherer.health().pool.connections}


async def test_book_connections() -> None:
    """Books are spread over as many connections as are set."""
    async with gathering(book_connections=3) as (exchange, _, gatherer):
        assert [10, 10, 10] == gatherer.pool.placement.loads
        assert 3 == len(subscribed(exchange))


async def test_a_frame_that_is_too_long_ends_its_connection() -> None:
    """`max_frame_bytes` bounds what a peer can make us hold."""
    with EmbeddedBroker(TOPICS) as broker:
        wide = {**EXCHANGE, "markets": 3_000}
        narrow: dict[str, Any] = {
            "max_frame_bytes": 65_536,
            "book_connections": 1,
            "markets_per_command": 1_000,
        }
        async with (
            SimulatedExchange(SimulatorOptions(**wide)) as exchange,
            gatherer_of(exchange, broker, **narrow) as gatherer,
        ):
            # The third `ok` lists three thousand markets.
            await until(lambda: gatherer.incidents.counts()["disconnected"] > 0)


async def test_a_half_open_socket_is_noticed_by_its_pings() -> None:
    """Nothing is read or answered any more, and nobody says so."""
    async with gathering(ping_interval_s=0.2, silence_s=60) as (exchange, _, gatherer):
        exchange.inject(FaultKind.HALF_OPEN, channel="orderbook_delta")
        await until(lambda: gatherer.incidents.counts()["disconnected"] == 1)
        assert "ping" in gatherer.incidents.recent(5)[0].detail + gatherer.incidents.recent(5)[1].detail
        await until(lambda: gatherer.pool.is_live)


async def test_a_stalled_socket_is_noticed_although_it_answers_pings() -> None:
    """It is asked something, does not answer, and is given up."""
    async with gathering(silence_s=0.5, command_timeout_s=0.5) as (exchange, _, gatherer):
        exchange.inject(FaultKind.STALL, channel="orderbook_delta", duration_ms=60_000)
        await until(lambda: gatherer.incidents.counts()["silent"] >= 1)
        await until(lambda: gatherer.pool.is_live)


async def test_without_a_key_there_is_no_gatherer() -> None:
    """Kalshi refuses every unsigned socket: the message says what to set."""
    with pytest.raises(SettingsError, match=r"gather\.key_id"):
        Gatherer(GatherOptions(environment="demo"), KafkaOptions())


@pytest.mark.parametrize("missing", list(TOPICS))
async def test_a_missing_topic_stops_the_start(missing: str) -> None:
    """The message names it, and nothing is left behind."""
    with EmbeddedBroker({name: 1 for name in TOPICS if name != missing}) as broker:
        options = GatherOptions(environment="custom", rest_url="http://x", stream_url="ws://127.0.0.1:9/x")
        with pytest.raises(FeedError, match=missing):
            async with Gatherer(options, kafka_of(broker)):
                raise AssertionError("it must not start")


async def test_gap_topic_can_be_left_out() -> None:
    """Without a topic the ledger is kept in memory only."""
    with EmbeddedBroker({"market-data-all": 1}) as broker:
        async with (
            SimulatedExchange(SimulatorOptions(**EXCHANGE)) as exchange,
            gatherer_of(exchange, broker, gap_topic="") as gatherer,
        ):
            await until(lambda: gatherer.pool.is_live)


async def test_the_blocks_own_error_leaves_as_it_is() -> None:
    """It is not wrapped, and the gatherer has stopped."""
    with pytest.raises(ValueError, match="mine"):
        async with gathering() as (_, _, gatherer):
            raise ValueError("mine")
    assert 0 == gatherer.failed_records


async def test_own_books_are_kept_where_they_are_wanted() -> None:
    """A program that embeds the gatherer reads them without Kafka; else nothing is kept."""
    async with gathering(own_books=False) as (_, _, gatherer):
        assert gatherer.books is None
    async with gathering(own_books=True, audit=False) as (exchange, _, gatherer):
        assert gatherer.books is not None
        exchange.step(500)
        await until(lambda: gatherer.books is not None and same_books(gatherer.books, exchange))
        for found in range(2):
            exchange.inject(FaultKind.IMPOSSIBLE_DELTA, channel="orderbook_delta")
            exchange.step(100)
            await until(lambda found=found: gatherer.incidents.counts()["diverged"] > found)  # type: ignore[misc]
        await until(lambda: gatherer.books is not None and same_books(gatherer.books, exchange))


async def test_markets_are_found_over_rest_and_by_messages() -> None:
    """Without a list it follows what the exchange has, from now on and later, and lets go what is gone."""
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**{**EXCHANGE, "rest_lag_ms": 0})) as exchange:
            options = gatherer_of(exchange, broker, poll_seconds=1).options
            async with Gatherer(options, kafka_of(broker), seed=1) as gatherer:
                await until(lambda: gatherer.health().pool.by_state.get("live") == 30)
                exchange.create("KXNEWT-T1")
                await until(lambda: gatherer.pool.placement.home("KXNEWT-T1") is not None)
                await until(lambda: gatherer.health().pool.by_state == {"live": 31})
                with store_of(broker) as store:
                    await until(lambda: same_books(store, exchange))
                assert gatherer.poller is not None
                await until(lambda: gatherer.poller is not None and gatherer.poller.statistics().books > 30)
                assert 0 == gatherer.incidents.counts()["diverged"]


async def test_attachments_run_beside_the_sockets() -> None:
    """What finds markets is handed the gatherer, and ends with it."""
    ended = trio.Event()

    async def finds_markets(gatherer: Gatherer) -> None:
        try:
            await gatherer.add(["KXNEWT-T1"])
            await trio.sleep_forever()
        finally:
            ended.set()

    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**EXCHANGE)) as exchange:
            exchange.create("KXNEWT-T1")
            options = gatherer_of(exchange, broker).options
            gatherer = Gatherer(options, kafka_of(broker), markets=[], attachments=[finds_markets])
            async with gatherer:
                await until(lambda: gatherer.health().pool.by_state == {"live": 1})
    assert ended.is_set()


@pytest.mark.parametrize("kind", ["rsa", "ed25519"])
async def test_handshakes_are_signed(kind: str, tmp_path: Path) -> None:
    """An exchange that wants signatures lets the right key in, and tells a wrong one from a wrong clock."""
    signer = Signer("mine", kind)
    (tmp_path / "mine.pem").write_bytes(signer.private_pem)
    key: dict[str, Any] = {"key_id": "mine", "private_key_file": str(tmp_path / "mine.pem")}
    with EmbeddedBroker(TOPICS) as broker:
        async with (
            SimulatedExchange(SimulatorOptions(**{**EXCHANGE, "open": False})) as exchange,
            gatherer_of(exchange, broker, **key) as gatherer,
        ):
            await until(lambda: gatherer.incidents.counts()["refused"] > 0)
            assert any("refused the key" in reason for reason in gatherer.health().reasons)
            exchange.register_key("mine", signer.public_pem)
            await until(lambda: gatherer.pool.is_live)
            exchange.inject(FaultKind.CLOCK_SKEW, duration_ms=3_600_000)
            exchange.inject(FaultKind.CUT, channel="orderbook_delta")
            await until(
                lambda: any("this machine's clock is" in text for text in gatherer.health().reasons), 5
            )


async def test_a_slow_kafka_is_waited_for_and_what_it_costs_is_healed() -> None:
    """With Kafka away sockets are not read; the exchange ends subscriptions; all is well afterwards."""
    narrow: dict[str, Any] = {"queue_frames": 50, "command_timeout_s": 60, "silence_s": 60}
    with EmbeddedBroker(TOPICS) as broker:
        kafka = kafka_of(broker, queue_buffering_max_messages=100)
        simulator = SimulatorOptions(**{**EXCHANGE, "subscription_buffer": 500})
        async with (
            SimulatedExchange(simulator) as exchange,
            gatherer_of(exchange, broker, kafka=kafka, **narrow) as gatherer,
        ):
            await until(lambda: gatherer.pool.is_live)
            broker.down()
            while not gatherer.router.is_full:
                exchange.step(50)
                await trio.sleep(0.001)
            while len(subscribed(exchange)) == 2:
                exchange.step(500)
                await trio.sleep(0.001)
            assert gatherer.router.is_full
            broker.up()
            await until(lambda: gatherer.incidents.counts()["overflow"] > 0)
            await until(lambda: gatherer.pool.is_live and not gatherer.ledger.counts().open)
            assert gatherer.incidents.counts()["backpressure"] > 0
            assert gatherer.router.statistics().waits > 0
            with store_of(broker) as store:
                await until(lambda: same_books(store, exchange))
    assert 0 == gatherer.failed_records


@pytest.mark.timeout(600)
async def test_nothing_is_lost_over_many_stops() -> None:
    """A hundred starts and stops: every record is delivered, and the books at the end are the truth."""
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**{**EXCHANGE, "markets": 4})) as exchange:
            published = 0
            for _ in range(STOPS):
                quiet: dict[str, Any] = {"peers": False, "trade_connections": 0, "lifecycle_connections": 0}
                async with gatherer_of(exchange, broker, **quiet) as gatherer:
                    await until(lambda gatherer=gatherer: gatherer.pool.is_live)  # type: ignore[misc]
                    exchange.step(20)
                statistics = gatherer.health().published
                assert (0, 0) == (gatherer.failed_records, statistics.in_flight)
                counts = gatherer.router.statistics().sinks["kafka"]
                assert (counts.offered, 0) == (counts.processed, counts.waiting)
                published += statistics.delivered
            with store_of(broker) as store:
                await until(lambda: store.cut().ready)
                cut = store.cut()
                assert (published, 0) == (sum(cut.offsets.values()), cut.counts.live)
                async with gatherer_of(exchange, broker, peers=False) as gatherer:
                    await until(lambda: same_books(store, exchange))
