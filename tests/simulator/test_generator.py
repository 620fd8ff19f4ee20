import itertools
import json
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from kalshibook.errors import SettingsError
from kalshibook.feeds.tape import Tape
from kalshibook.simulator import GRIDS, GeneratorOptions, MarketGenerator, measured
from kalshibook.store import BookStore
from kalshibook.testing import FrameFactory, compare, fold
from kalshibook.wire import BookDelta, BookSnapshot, Side, Trade, decode_frame, read_frame

START_US = 1_790_000_000_000_000
SIDES: tuple[Side, Side] = ("yes", "no")


def taken(count: int, **options: Any) -> tuple[MarketGenerator, list[tuple[int, bytes]]]:
    """Return at least that many frames, up to the end of a moment, each with the time before it."""
    generator = MarketGenerator(GeneratorOptions(**options), start_us=START_US)
    frames: list[tuple[int, bytes]] = []
    for delay_us, spoken in generator.moments():
        frames.extend((0 if number else delay_us, frame) for number, frame in enumerate(spoken))
        if len(frames) >= count:
            break
    return generator, frames


def seconds_of_life(seconds: int, **options: Any) -> tuple[MarketGenerator, list[bytes]]:
    """Return the frames of so much of the exchange's time, up to the end of a moment."""
    generator = MarketGenerator(GeneratorOptions(**options), start_us=START_US)
    frames: list[bytes] = []
    for _, spoken in generator.moments():
        frames.extend(spoken)
        if generator.now_us >= START_US + seconds * 1_000_000:
            break
    return generator, frames


class Traffic:
    """What `measured` speaks of, counted in frames."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.trades = 0
        self.top_changes = 0
        self.levels: list[int] = []
        self.spreads: list[int] = []
        self.sizes: list[int] = []
        self.books: dict[str, dict[str, dict[int, int]]] = {}

    def take(self, frame: bytes) -> None:
        event = read_frame(decode_frame(frame))
        if isinstance(event, BookSnapshot):
            self.books[event.ticker] = {"yes": dict(event.yes), "no": dict(event.no)}
        elif isinstance(event, BookDelta):
            self._change(event)
        elif isinstance(event, Trade):
            self.trades += 1

    def _change(self, event: BookDelta) -> None:
        book = self.books[event.ticker]
        side = book[event.side]
        before = max(side.items(), default=None)
        held = side.pop(event.price, 0)
        if held + event.change:
            side[event.price] = held + event.change
        kind = "grow" if event.change > 0 else "shrink"
        self.kinds["new" if not held else "gone" if event.price not in side else kind] += 1
        self.top_changes += before != max(side.items(), default=None)
        self.sizes.append(abs(event.change))
        if self.deltas % 20 == 0:
            self.levels.extend(len(levels) for levels in book.values())
            if book["yes"] and book["no"]:
                self.spreads.append(10_000 - max(book["yes"]) - max(book["no"]))

    @property
    def deltas(self) -> int:
        return self.kinds.total()

    def share(self, kind: str) -> float:
        return self.kinds[kind] / self.deltas


def traffic_of(frames: list[bytes]) -> Traffic:
    traffic = Traffic()
    for frame in frames:
        traffic.take(frame)
    return traffic


def check(traffic: Traffic, slack: float) -> None:
    """Compare with the constants; `slack` 1 is what simulated traffic is held to."""
    deciles = statistics.quantiles(traffic.levels, n=10)
    spreads = statistics.quantiles(traffic.spreads, n=10)
    sizes = statistics.quantiles(traffic.sizes, n=4)
    for found, expected, tolerance in (
        (traffic.trades / traffic.deltas, measured.TRADES_PER_DELTA, 0.003),
        (traffic.share("new"), measured.NEW_SHARE, 0.02),
        (traffic.share("gone"), measured.GONE_SHARE, 0.02),
        (traffic.share("grow"), measured.GROW_SHARE, 0.03),
        (traffic.top_changes / traffic.deltas, measured.TOP_CHANGE_SHARE, 0.03),
        (deciles[4], measured.LEVELS_MEDIAN, 4),
        (deciles[8], measured.LEVELS_P90, 7),
        (spreads[4] / 100, measured.SPREAD_MEDIAN, 1),
        (spreads[8] / 100, measured.SPREAD_P90, 3),
        (sizes[1] / 100, 29, 12),
    ):
        assert pytest.approx(expected, abs=tolerance * slack) == found


def test_traffic_has_the_measured_statistics() -> None:
    """Message mix, kinds of change, depth, spread and sizes of 40 markets are those of real ones."""
    _, frames = taken(120_000, markets=40, messages_per_second=2_000, seed=3)
    check(traffic_of([frame for _, frame in frames]), slack=1)


@pytest.mark.recordings
def test_the_constants_are_those_of_the_recordings() -> None:
    """What `measured` says is found again in real traffic."""
    folder = Path(__file__).parents[3] / "shared" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}")
    check(traffic_of([frame.frame for frame in Tape(folder)]), slack=0.8)


def test_seconds_are_as_uneven_as_measured() -> None:
    """A market's messages per second vary as much as those of recorded markets."""
    variations = []
    for seed in range(4):
        generator = MarketGenerator(
            GeneratorOptions(markets=1, messages_per_second=80, short_lived=0, seed=seed), start_us=START_US
        )
        seconds: Counter[int] = Counter()
        for _, frames in generator.moments():
            second = (generator.now_us - START_US) // 1_000_000
            if second >= 300:
                break
            seconds[second] += len(frames)
        counts = [seconds[second] for second in range(300)]
        variations.append(statistics.pstdev(counts) / statistics.mean(counts))
    least, most = measured.SECOND_VARIATION
    assert least * 0.8 < statistics.mean(variations) < most * 1.2


def test_the_rate_is_the_one_asked_for() -> None:
    """Over minutes the mean rate is met, by slow and fast markets together."""
    _, frames = taken(60_000, markets=100, messages_per_second=1_000, seed=5)
    assert pytest.approx(60, rel=0.25) == sum(delay for delay, _ in frames) / 1_000_000


def test_activity_is_skewed() -> None:
    """A fifth of the markets carries most of the messages."""
    _, frames = taken(60_000, markets=100, messages_per_second=2_000, seed=5)
    per_market = Counter(json.loads(frame)["msg"]["market_ticker"] for _, frame in frames)
    busiest = sum(count for _, count in per_market.most_common(20))
    assert 0.55 < busiest / len(frames) < 0.9


def test_equal_seeds_make_equal_bytes() -> None:
    """The generator is repeatable, and another seed makes other traffic."""
    first, again, other = (taken(3_000, markets=10, seed=seed)[1] for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_frames_add_up_to_the_true_books() -> None:
    """At any moment the frames so far, folded plainly, equal the exchange's own books."""
    generator, frames = taken(20_000, markets=12, messages_per_second=2_000, life_seconds=5, seed=2)
    books = fold(frame for _, frame in frames)
    compared = 0
    for market in generator.exchange:
        if market.ticker in books:
            compared += 1
            for side in SIDES:
                assert dict(market.levels(side)) == books[market.ticker].levels(side)
    assert compared >= 12


def test_a_store_takes_every_frame() -> None:
    """Nothing is stale, crossed, off the grid or without a base in a store that reads the frames."""
    generator, frames = taken(20_000, markets=12, messages_per_second=2_000, life_seconds=5, seed=2)
    store, factory = BookStore(), FrameFactory()
    with store.writer() as writer:
        for _, frame in frames:
            writer.apply(*factory.message(frame))
    assert {} == {kind: count for kind, count in store.statistics().incidents.items() if count}
    assert 0 == store.statistics().off_grid
    references = fold(frame for _, frame in frames)
    for market in generator.exchange:
        if references[market.ticker].known:
            assert [] == compare(store.cut()[market.ticker], references[market.ticker])


def test_numbers_rise_by_one_on_every_subscription() -> None:
    """Each subscription counts its frames from 1 without a hole."""
    _, frames = taken(10_000, markets=5, messages_per_second=1_000, life_seconds=3)
    last: Counter[int] = Counter()
    for _, frame in frames:
        head = json.loads(frame)
        last[head["sid"]] += 1
        assert last[head["sid"]] == head["seq"]
    assert {1, 2, 3} == set(last)


def test_a_trade_follows_the_change_that_made_it() -> None:
    """Each trade takes from the maker's level what the change before it says."""
    _, frames = taken(20_000, markets=3, short_lived=0)
    events = [read_frame(decode_frame(frame)) for _, frame in frames]
    trades = 0
    for before, event in itertools.pairwise(events):
        if isinstance(event, Trade):
            trades += 1
            assert isinstance(before, BookDelta)
            price = event.yes_price if before.side == "yes" else 10_000 - event.yes_price
            assert (event.ticker, price, -event.size) == (before.ticker, before.price, before.change)
            assert before.side != event.taker_side
    assert trades > 100


def test_a_short_market_lives_dies_and_is_followed() -> None:
    """Created, traded, drained after the close, determined, settled; and its successor opens at the close."""
    generator, frames = seconds_of_life(
        40, markets=1, short_lived=1, life_seconds=10, messages_per_second=50, pauses_per_hour=0, seed=4
    )
    steps: dict[str, list[str]] = {}
    for frame in frames:
        message = json.loads(frame)
        kind = message["msg"].get("event_type", message["type"])
        if kind not in {"trade", "orderbook_delta"}:
            steps.setdefault(message["msg"]["market_ticker"], []).append(kind)
    lives = list(steps.values())
    assert ["created", "orderbook_snapshot", "determined", "settled"] == lives[0]
    assert lives[0] == lives[1]
    assert len(steps) >= 4
    assert {"yes": {}, "no": {}} == fold(frames)[next(iter(steps))].sides
    assert next(iter(steps)) not in {market.ticker for market in generator.exchange}


def test_a_paused_market_loses_its_orders() -> None:
    """A market is deactivated, reactivated, emptied and filled anew, and the frames still add up."""
    generator, frames = seconds_of_life(
        60, markets=2, short_lived=1, life_seconds=600, messages_per_second=50, pauses_per_hour=360, seed=6
    )
    kinds = Counter(json.loads(frame)["msg"].get("event_type") for frame in frames)
    assert kinds["deactivated"] >= 2
    assert kinds["activated"] >= 2
    books = fold(frames)
    for market in generator.exchange:
        for side in SIDES:
            assert dict(market.levels(side)) == books[market.ticker].levels(side)


def test_every_grid_is_used() -> None:
    """Markets on every tick grid of the exchange exist, and their names are told."""
    _, frames = taken(60, markets=30, short_lived=0.1)
    names = {json.loads(frame)["msg"].get("price_level_structure") for _, frame in frames} - {None}
    assert GRIDS.keys() == names


def test_tickers_differ() -> None:
    """Two thousand markets have two thousand names."""
    generator, _ = taken(1, markets=2_000, short_lived=0.5)
    list(itertools.islice(generator.frames(), 5_000))
    assert len(generator.exchange) >= 2_000


def test_it_is_fast_enough() -> None:
    """Fifty thousand frames cost less than a second of this thread's time."""
    generator = MarketGenerator(GeneratorOptions(markets=100), start_us=START_US)
    frames = generator.frames()
    began = time.thread_time()
    for _ in itertools.islice(frames, 50_000):
        pass
    assert time.thread_time() - began < 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"markets": 0},
        {"messages_per_second": 0},
        {"messages_per_second": float("nan")},
        {"short_lived": 1.5},
        {"life_seconds": 0},
        {"pauses_per_hour": -1},
    ],
)
def test_options_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    """Each bound has its error, naming the setting."""
    with pytest.raises(SettingsError, match=next(iter(options))):
        GeneratorOptions(**options)
