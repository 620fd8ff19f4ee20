"""The tape of the vector file, as a store sees it: one connection from first snapshot to last delta."""

from typing import Any

import pytest

from kalshibook.store import Arrival, Book, BookStore, Condition
from kalshibook.wire import decode_envelope, encode_envelope, read_frame
from tests.vectors import VECTORS, frame_bytes

TAPE = [row for row in VECTORS if "store" in row]


def play(store: BookStore, row: dict[str, Any], offset: int, **overrides: int) -> str:
    """Publish one frame as a gatherer does, and apply what a feed makes of it."""
    frame = row["frame"]
    received_us = overrides.get("received_us", 1_000_000 + 1_000 * frame["seq"])
    value = encode_envelope(
        frame_bytes(row),
        received_us=received_us,
        published_us=received_us + 10,
        channel="orderbook_delta",
        market_ticker=frame["msg"]["market_ticker"],
        sequence=frame["seq"],
        source="g1",
        connection="c1",
        sid=frame["sid"],
        previous_sequence=row["store"]["previous"],
    )
    envelope = decode_envelope(value)
    arrival = Arrival.of(envelope, partition=0, offset=offset, kafka_us=None, consumed_us=None)
    with store.writer() as writer:
        return writer.apply(read_frame(envelope.payload, "$.payload"), arrival).value


def state(book: Book) -> dict[str, Any]:
    """Return a book as the vector file writes it."""
    return {
        "condition": book.condition.value,
        "yes": [[level.price, level.size] for level in reversed(list(book.yes))],
        "no": [[level.price, level.size] for level in reversed(list(book.no))],
    }


def test_the_tape_step_by_step() -> None:
    """After every frame each outcome and all books are as the file says."""
    store = BookStore()
    expected: dict[str, Any] = {}

    for offset, row in enumerate(TAPE):
        outcome = play(store, row, offset)

        expected |= row["store"]["books"]
        assert (row["name"], row["store"]["outcome"]) == (row["name"], outcome)
        assert (row["name"], expected) == (row["name"], {t: state(b) for t, b in store.cut().items()})


def test_the_same_tape_twice_leaves_the_same_books() -> None:
    """A feed that starts again too early applies nothing twice and puts nothing old over new."""
    store = BookStore()
    for offset, row in enumerate(TAPE):
        play(store, row, offset)
    books = {ticker: state(book) for ticker, book in store.cut().items()}

    outcomes = {play(store, row, offset) for offset, row in enumerate(TAPE)}

    assert {"duplicate", "replayed"} == outcomes
    assert books == {ticker: state(book) for ticker, book in store.cut().items()}


def test_a_number_that_goes_backwards_later_is_a_reset() -> None:
    """The frame that an old receive time shows to be a replay means a restarted counter with a new one."""
    store = BookStore()
    for offset, row in enumerate(TAPE[:-1]):
        play(store, row, offset)

    outcome = play(store, TAPE[-1], len(TAPE), received_us=9_000_000)

    book = store.cut()[TAPE[-1]["frame"]["msg"]["market_ticker"]]
    assert ("reset", Condition.STALE) == (outcome, book.condition)


def test_exchange_times_of_the_tape() -> None:
    """A level bears the exchange's time of its last change, and none where the frame had none."""
    store = BookStore()
    for offset, row in enumerate(TAPE):
        play(store, row, offset)

    book = store.cut()["KXFROG-26DEC01-T40"]

    assert book.yes.best is not None
    assert book.no.best is not None
    assert book.yes.best.stamps.exchange_us is None
    assert 1_795_348_800_075_000 == book.no.best.stamps.exchange_us


@pytest.mark.parametrize("name", ["legacy_snapshot_cents", "legacy_snapshot_transition_both_shapes"])
def test_old_shapes_make_the_same_book(name: str) -> None:
    """A book does not know in which encoding it came."""
    row = next(row for row in VECTORS if row["name"] == name)
    store = BookStore()

    play(store, {**row, "store": {"previous": 0}}, 0)

    book = store.cut()[row["frame"]["msg"]["market_ticker"]]
    assert {"condition": "live", "yes": row["event"]["yes"], "no": row["event"]["no"]} == state(book)


def test_a_crossed_snapshot_is_kept_and_not_trusted() -> None:
    """Bids beyond a dollar are shown, as stale."""
    row = next(row for row in VECTORS if row["name"] == "bad_snapshot_crossed")
    store = BookStore()

    outcome = play(store, {**row, "store": {"previous": 0}}, 0)

    book = store.cut()["KXFROG-26DEC01-T40"]
    assert ("crossed", Condition.STALE, True) == (outcome, book.condition, book.is_crossed)


def test_a_delta_of_an_unknown_market_makes_no_book() -> None:
    """Without a snapshot a market is awaited, not empty."""
    row = next(row for row in VECTORS if row["name"] == "bad_market_not_on_sid")
    store = BookStore()

    outcome = play(store, {**row, "store": {"previous": 0}}, 0)

    assert ("awaiting", Condition.AWAITING) == (outcome, store.cut()["KXOTHERPOND-26DEC01-T9"].condition)
