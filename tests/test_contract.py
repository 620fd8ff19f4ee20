"""One schema at both ends of the topic: what a gatherer publishes comes out of store and server."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.feeds.player import play
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.tape import RecordedFrame
from kalshibook.simulator import GeneratorOptions, MarketGenerator
from kalshibook.simulator.exchange import ExchangeModel
from kalshibook.store import Book, BookStore, Condition
from kalshibook.testing import FrameFactory
from kalshibook.wire import Side
from tests.http.client import api_of
from tests.store.builders import levels
from tests.stream.stage import Stage

START_US = 1_790_000_000_000_000
FRAMES = 12_000
SIDES: tuple[Side, Side] = ("yes", "no")
TIMEOUT_S = 60


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """A broker with the topic that both ends use unless told otherwise."""
    with EmbeddedBroker({KafkaOptions().topic: 3}) as broker:
        yield broker


def options_for(broker: EmbeddedBroker) -> KafkaOptions:
    """Return options of a feed that reads everything."""
    return KafkaOptions(
        bootstrap_servers=str(broker), start="beginning", extra=dict(EmbeddedBroker.CONSUMER_SETTINGS)
    )


def carry(frames: Iterable[RecordedFrame], broker: EmbeddedBroker, store: BookStore) -> None:
    """Publish frames as received, and bring them into the store."""
    with KafkaFeed(store, options_for(broker)) as feed, Publisher(str(broker), source="g1") as publisher:
        assert feed.wait_ready(TIMEOUT_S)
        report = play(frames, publisher, speed=math.inf, restamp=False, consumed=lambda: store.cut().offsets)
        assert 0 == report.rejected
        wanted = {partition: end - 1 for partition, end in publisher.ends().items()}
        with store.changes() as reader:
            while not store.cut().reaches(wanted):
                assert reader.take(TIMEOUT_S) is not None


def received(frames: Iterable[tuple[int, bytes]]) -> Iterator[RecordedFrame]:
    """Yield frames as a gatherer receives them, 3 ms after the exchange's time."""
    now_us = START_US + 3_000
    for gap_us, frame in frames:
        now_us += gap_us
        yield RecordedFrame(now_us // 1_000, "c1", frame)


@pytest.mark.trio
async def test_generated_bytes_become_the_true_books(broker: EmbeddedBroker) -> None:
    """
    The simulator's bytes, by Kafka and back, are its own books: level by level, in store and REST.

    To the hundredth of a cent and of a contract, with the times of the exchange and of receipt, the
    names and the results on the way.
    """
    options = GeneratorOptions(
        markets=60, messages_per_second=300, short_lived=0.5, life_seconds=20, pauses_per_hour=360, seed=5
    )
    generator, store = MarketGenerator(options, start_us=START_US), BookStore()
    spoken: list[tuple[int, bytes]] = []
    for gap_us, frames in generator.moments():
        spoken += [(0 if number else gap_us, frame) for number, frame in enumerate(frames)]
        if len(spoken) >= FRAMES:
            break

    carry(received(spoken), broker, store)

    cut = store.cut()
    for market in generator.exchange:
        book = cut[market.ticker]
        assert (dict(market.levels("yes")), dict(market.levels("no"))) == (levels(book.yes), levels(book.no))
        assert Condition.LIVE is book.copy
        assert (market.title, market.event) == (book.market.title, book.market.event_ticker)
    settled = [
        book for book in cut.books() if book.ticker not in {market.ticker for market in generator.exchange}
    ]
    assert 10 < len(settled)
    for book in settled:
        assert (Condition.CLOSED, "finalized", 0, 0) == (
            book.condition,
            book.market.status,
            len(book.yes),
            len(book.no),
        )
        assert book.market.result in {"yes", "no"}
    outcomes = store.statistics().outcomes
    assert len(spoken) == sum(outcomes.values())
    assert {"snapshot", "delta", "trade", "lifecycle"} == {name for name, count in outcomes.items() if count}
    _check_stamps(cut.books())
    await _check_served(store, generator.exchange)


def _check_stamps(books: Iterable[Book]) -> None:
    for book in books:
        for level in itertools.chain(book.yes, book.no):
            stamps = level.stamps
            assert None not in (stamps.exchange_us, stamps.received_us, stamps.published_us, stamps.kafka_us)
            assert stamps.exchange_us is not None
            assert stamps.received_us is not None
            assert 2_000 <= stamps.received_us - stamps.exchange_us <= 4_000


async def _check_served(store: BookStore, exchange: ExchangeModel) -> None:
    with store.writer() as writer:
        writer.set_ready(ready=True)
    query = "&".join(f"tickers={market.ticker}" for market in exchange)
    answer = await api_of(store).get(f"/trade-api/v2/markets/orderbooks?{query}")
    served = {row["ticker"]: row["orderbook_fp"] for row in answer.json["orderbooks"]}
    finest = set()
    for market in exchange:
        for side in SIDES:
            found = served[market.ticker][f"{side}_dollars"]
            levels_of_it = [(int(Decimal(price) * 10_000), int(Decimal(size) * 100)) for price, size in found]
            assert market.levels(side) == levels_of_it
            finest |= {next(step for step in (100, 10, 1) if price % step == 0) for price, _ in levels_of_it}
    assert {100, 10, 1} == finest, "cents, tenths and hundredths of a cent were among the prices"


CENTS = (
    {
        "type": "orderbook_snapshot",
        "sid": 1,
        "seq": 1,
        "msg": {"market_ticker": "KXOLD-1", "yes": [[38, 120], [40, 75]], "no": [[55, 10]]},
    },
    {
        "type": "orderbook_delta",
        "sid": 1,
        "seq": 2,
        "msg": {"market_ticker": "KXOLD-1", "side": "yes", "price": 40, "delta": -75},
    },
    {
        "type": "orderbook_delta",
        "sid": 1,
        "seq": 3,
        "msg": {"market_ticker": "KXOLD-1", "side": "no", "price": 56, "delta": 2},
    },
)
BOOK_OF_CENTS = {
    "yes_dollars": [["0.3800", "120.00"]],
    "no_dollars": [["0.5500", "10.00"], ["0.5600", "2.00"]],
}


@pytest.mark.trio
async def test_legacy_cents_go_the_whole_way(broker: EmbeddedBroker) -> None:
    """Frames in whole cents and contracts are served in dollars, over REST and over WebSocket."""
    frames = [RecordedFrame(1_000 + n, "c1", json.dumps(frame).encode()) for n, frame in enumerate(CENTS)]
    stage = Stage()
    store = stage.store
    carry(frames, broker, store)
    with store.writer() as writer:
        writer.set_ready(ready=True)

    kalshi = await api_of(store).get("/trade-api/v2/markets/KXOLD-1/orderbook")
    top = (await api_of(store).get("/v1/tops?tickers=KXOLD-1")).json["markets"][0]
    (snapshot,) = [
        frame["msg"]
        for frame in stage.connect().ask("subscribe", channels=["orderbook_delta"], market_ticker="KXOLD-1")
        if frame["type"] == "orderbook_snapshot"
    ]

    assert {"orderbook_fp": BOOK_OF_CENTS} == kalshi.json
    assert ("0.3800", "0.4400", "2.00") == (
        top["yes_bid_dollars"],
        top["yes_ask_dollars"],
        top["yes_ask_size_fp"],
    )
    assert BOOK_OF_CENTS == {side: snapshot[f"{side}_fp"] for side in BOOK_OF_CENTS}


def publish_in_turns(broker: EmbeddedBroker, number: int, turns: int) -> tuple[str, int, int]:
    """Start a publisher and stop it again and again; return a market, its size in the end, and the frames."""
    source, ticker = f"g{number}", f"KXSTOP-{number}"
    frames, size, count = FrameFactory(), 0, 0
    for turn in range(turns):
        frames.reconnect(f"{source}.{turn}")
        with Publisher(str(broker), source=source) as publisher:
            size = 1_000 * (turn + 1)
            made = [frames.snapshot(ticker, yes=[(4_000, size)])]
            for change in range(1, 20):
                made.append(frames.delta(ticker, "yes", 4_000, change))
                size += change
            for frame in made:
                publisher.publish(frame, connection=frames.connection, received_us=frames.now_us)
            count += len(made)
        assert 0 == publisher.statistics().failed
    return ticker, size, count


def test_a_hundred_stops_and_starts_lose_nothing(broker: EmbeddedBroker) -> None:
    """
    Publishers are stopped and started a hundred times, and a feed at least as often, in mid-stream.

    A publisher drains before it goes, a feed goes on at the offsets of its store: the books are those
    of all frames, each applied exactly once.
    """
    store, stops = BookStore(), 0

    def resumed(**options: Any) -> KafkaFeed:
        offsets = dict(store.cut().offsets)
        start = {"start": "offsets", "start_offsets": offsets} if offsets else {"start": "beginning"}
        return KafkaFeed(store, msgspec.structs.replace(options_for(broker), **start, **options))

    with ThreadPoolExecutor(10) as pool:
        publishing = [pool.submit(publish_in_turns, broker, number, turns=10) for number in range(10)]
        while stops < 100 or not all(turns.done() for turns in publishing):
            with store.changes() as reader, resumed(batch_records=5):
                reader.take(0.02)
            stops += 1
    published = [turns.result() for turns in publishing]
    with resumed() as feed:
        assert feed.wait_ready(TIMEOUT_S)

    sizes = {book.ticker: level.size for book in store.cut().books() for level in book.yes}
    assert {ticker: size for ticker, size, _ in published} == sizes
    outcomes = {name: count for name, count in store.statistics().outcomes.items() if count}
    assert {"snapshot": 100, "delta": sum(count for _, _, count in published) - 100} == outcomes
