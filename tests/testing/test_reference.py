import json
from decimal import Decimal
from typing import Any

import pytest

from kalshibook.store import BookStore
from kalshibook.testing import FrameFactory, ReferenceBook, compare, compare_all, fold

TICKER = "KXFROG-26DEC01-T40"


def snapshot(**sides: list[list[str]]) -> dict[str, Any]:
    return {"type": "orderbook_snapshot", "msg": {"market_ticker": TICKER, **sides}}


def delta(side: str, price: str, change: str) -> dict[str, Any]:
    message = {"market_ticker": TICKER, "side": side, "price_dollars": price, "delta_fp": change}
    return {"type": "orderbook_delta", "msg": message}


def test_a_snapshot_replaces_both_sides() -> None:
    """A side whose key is missing in a snapshot is empty afterwards."""
    book = ReferenceBook()
    book.apply(snapshot(yes_dollars_fp=[["0.4000", "75.50"]], no_dollars_fp=[["0.5500", "1.00"]]))
    book.apply(snapshot(no_dollars_fp=[["0.5600", "2.00"]]))
    assert {"yes": {}, "no": {Decimal("0.56"): Decimal(2)}} == book.sides


def test_a_level_that_reaches_zero_is_gone() -> None:
    """Changes add up, and a sum of 0 leaves no level."""
    book = ReferenceBook()
    book.apply(snapshot(yes_dollars_fp=[["0.4000", "75.50"], ["0.3900", "1.00"]]))
    book.apply(delta("yes", "0.40", "-75.50"))
    book.apply(delta("yes", "0.3900", "0.25"))
    assert {3_900: 125} == book.levels("yes")


def test_a_change_before_a_snapshot_makes_no_book() -> None:
    """Nothing rests in a book whose base is unknown."""
    book = ReferenceBook()
    book.apply(delta("yes", "0.4000", "1.00"))
    assert not book.known
    assert {} == book.levels("yes")


def test_taking_away_more_than_rests_is_an_error() -> None:
    """The reference never clamps."""
    book = ReferenceBook()
    book.apply(snapshot(yes_dollars_fp=[["0.4000", "1.00"]]))
    with pytest.raises(ValueError, match="more than rests"):
        book.apply(delta("yes", "0.4000", "-1.01"))


def test_fold_goes_on_with_earlier_books() -> None:
    """Folding in two parts equals folding at once."""
    frames = [
        json.dumps(frame)
        for frame in (snapshot(yes_dollars_fp=[["0.4000", "1.00"]]), delta("no", "0.1000", "3"))
    ]
    halves = fold(frames[1:], fold(frames[:1]))
    assert fold(frames)[TICKER].sides == halves[TICKER].sides


def filled() -> tuple[BookStore, list[bytes]]:
    factory, store = FrameFactory(), BookStore()
    frames = [
        factory.snapshot(TICKER, yes=[(4_000, 7_550), (3_900, 10)], no=[(5_500, 100)]),
        factory.delta(TICKER, "no", 5_500, 25),
        factory.delta(TICKER, "yes", 4_000, -7_550),
    ]
    with store.writer() as writer:
        for frame in frames:
            writer.apply(*factory.message(frame))
    return store, frames


def test_equal_books_have_no_differences() -> None:
    """A store that was given the same frames as the reference equals it."""
    store, frames = filled()
    assert [] == compare_all(store.cut(), fold(frames))


def test_every_difference_is_named() -> None:
    """A size, a missing level and a wrong best price each get a line."""
    store, frames = filled()
    reference = fold(frames[:2])[TICKER]
    assert [
        f"{TICKER} yes at 4000: None, expected 7550",
        f"{TICKER} best yes: {store.cut()[TICKER].yes.best}, expected 4000",
    ] == compare(store.cut()[TICKER], reference)
    reference.apply(delta("no", "0.5500", "0.01"))
    assert f"{TICKER} no at 5500: 125, expected 126" in compare(store.cut()[TICKER], reference)


def test_missing_and_unexpected_markets_are_named() -> None:
    """Markets on one side only are differences."""
    store, frames = filled()
    assert [f"{TICKER} is not expected"] == compare_all(store.cut(), {})
    assert [f"{TICKER} is missing"] == compare_all({}, fold(frames))
