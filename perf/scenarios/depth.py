"""
What the depth of a book costs: an update of ladders of 5 to 9,999 levels a side, in every place of them.

For contrast the usual way to keep old versions: a dictionary a side, copied for each update.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Final

import msgspec

from kalshibook.feeds.enveloper import Enveloper
from kalshibook.simulator.frames import delta_frame, snapshot_frame
from kalshibook.store import Arrival, BookStore
from kalshibook.wire import BookDelta, Side, decode_envelope, read_frame
from perf.context import Context
from perf.frames import START_US
from perf.result import Check, Goal, ScenarioResult, Series, Table
from perf.timing import Cost, costs

__all__ = ["run"]

_DEPTHS: Final = (5, 20, 99, 1_179, 9_999)
_TICKER: Final = "KXPERF-26DEC01-T1"
_LIMIT: Final = 2.0


class _Input(msgspec.Struct, frozen=True):
    depth: int
    filling: list[bytes]
    """Records that make the full book."""
    updates: list[bytes]
    expected: dict[Side, dict[int, int]]
    """The book after all of them."""


def run(context: Context) -> ScenarioResult:
    """Measure the store and the copying book at each depth."""
    updates, rounds = (2_000, 3) if context.quick else (20_000, 7)
    copies = 200 if context.quick else 1_000
    inputs = [_records(depth, updates, context.seed) for depth in _DEPTHS]
    context.step("depth: the store")
    measured = costs({str(one.depth): _applying(one, rounds) for one in inputs}, updates, rounds)
    context.step("depth: a copy for each update")
    copied = costs({str(one.depth): _copying(one, copies) for one in inputs}, copies, rounds)
    wrong = [str(one.depth) for one in inputs if not _is_right(one)]
    return _result(measured, copied, updates, wrong)


def _result(
    measured: dict[str, Cost], copied: dict[str, Cost], updates: int, wrong: list[str]
) -> ScenarioResult:
    shallow, deep = measured[str(_DEPTHS[0])], measured[str(_DEPTHS[-1])]
    rows = tuple(
        (depth, measured[str(depth)].least, copied[str(depth)].least, measured[str(depth)].over(shallow))
        for depth in _DEPTHS
    )
    lines = {
        "kalshibook, decode and apply": tuple(row[1] for row in rows),
        "a dictionary copied for each update, without decode": tuple(row[2] for row in rows),
    }
    return ScenarioResult(
        name="depth",
        title="One update of a ladder of 5 to 9,999 levels a side.",
        conditions=(
            f"{updates:,} updates of one market: sizes change, levels go and come back, anywhere",
            "decode, apply and publish a version; CPU time of the thread, the least of the rounds",
        ),
        tables=(Table("", ("levels a side", "kalshibook, µs", "dict copied, µs", "x of 5 levels"), rows),),
        series=tuple(
            Series(
                plot="Cost of one update against depth",
                name=name,
                x_label="levels a side",
                y_label="µs an update",
                x=tuple(map(float, _DEPTHS)),
                y=y,
                log_x=True,
                log_y=True,
            )
            for name, y in lines.items()
        ),
        goals=(
            Goal(
                text=f"9,999 levels cost at most {_LIMIT:g} x what 5 levels cost",
                value=deep.over(shallow),
                limit=_LIMIT,
                reason="a chunk of up to 128 levels and a tuple of 79 chunks are copied for each update",
            ),
        ),
        checks=(Check("books equal plain dictionaries at every depth", not wrong, ", ".join(wrong)),),
    )


def _prices(depth: int) -> list[int]:
    # Even over the whole range; up to 99 of them on the grid of a cent.
    unit = 100 if depth <= 99 else 1
    places = 10_000 // unit - 1
    return [(1 + number * places // depth) * unit for number in range(depth)]


def _records(depth: int, updates: int, seed: int) -> _Input:
    random, prices = Random(seed), _prices(depth)
    enveloper = Enveloper("perf", clock_us=lambda: START_US)
    values: list[bytes] = []

    def add(frame: bytes) -> None:
        route = enveloper.route(frame)
        assert route is not None
        values.append(enveloper.wrap(frame, route, connection="c1", received_us=START_US))
        enveloper.accept(route, connection="c1")

    def change(side: Side, price: int, size: int) -> None:
        held[side][price] = held[side].get(price, 0) + size
        number = len(values) + 1
        add(delta_frame(_TICKER, side, price, size, sid=1, seq=number, ts_ms=START_US // 1_000))

    held: dict[Side, dict[int, int]] = {"yes": {}, "no": {}}
    # Filled by changes: a snapshot of two sides this full is crossed, and the writer would doubt it.
    add(snapshot_frame(_TICKER, [], [], sid=1, seq=1, ts_ms=START_US // 1_000))
    for side in held:
        for price in prices:
            change(side, price, 10_000)
    filled = len(values)
    for _ in range(updates):
        side, price = ("yes", "no")[random.randrange(2)], prices[random.randrange(depth)]
        size = held[side][price]
        wanted = 0 if size and random.random() < 0.3 else random.randrange(1, 200) * 100
        change(side, price, wanted - size or 100)
    return _Input(depth, values[:filled], values[filled:], held)


def _applying(one: _Input, rounds: int) -> Callable[[], object]:
    """Return what applies the updates to a full book; each call begins with another."""
    full = [BookStore() for _ in range(rounds)]
    for store in full:
        _apply(store, one.filling, 0)
    return lambda: _apply(full.pop(), one.updates, len(one.filling))


def _apply(store: BookStore, values: Sequence[bytes], start: int) -> None:
    with store.writer() as writer:
        for offset, value in enumerate(values, start):
            envelope = decode_envelope(value)
            event = read_frame(envelope.payload)
            writer.apply(event, Arrival.of(envelope, partition=0, offset=offset, kafka_us=1, consumed_us=1))


def _copying(one: _Input, copies: int) -> Callable[[], object]:
    events = [read_frame(decode_envelope(value).payload) for value in one.updates[:copies]]
    first = {side: dict.fromkeys(_prices(one.depth), 10_000) for side in one.expected}

    def work() -> None:
        book = first
        for event in events:
            assert type(event) is BookDelta
            levels = {**book[event.side]}
            size = levels.get(event.price, 0) + event.change
            if size:
                levels[event.price] = size
            else:
                del levels[event.price]
            book = {**book, event.side: levels}

    return work


def _is_right(one: _Input) -> bool:
    store = BookStore()
    _apply(store, [*one.filling, *one.updates], 0)
    book = store.cut()[_TICKER]
    return all(
        {level.price: level.size for level in getattr(book, side)}
        == {price: size for price, size in levels.items() if size}
        for side, levels in one.expected.items()
    )
