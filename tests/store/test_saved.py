"""Saved books: exact to the last digit, and restored so that nothing is applied twice."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from kalshibook.errors import WireError
from kalshibook.store import (
    Activity,
    Book,
    BookStore,
    Checkpoint,
    Condition,
    Level,
    Market,
    MarketStatus,
    Origin,
    SavedBook,
    Stamps,
    decode_checkpoint,
    decode_saved,
    save_book,
)
from kalshibook.store.heartbeats import LastSign
from kalshibook.store.ladder import built
from kalshibook.testing import FrameFactory
from kalshibook.wire import PriceRange

times = st.none() | st.integers(0, 2**53)
stamps = st.builds(Stamps, times, times, times, times, times, st.integers(0, 2**53))
levels = st.lists(
    st.builds(Level, st.integers(1, 9_999), st.integers(1, 2**62), stamps),
    max_size=8,
    unique_by=lambda one: one.price,
)
number = st.none() | st.integers(-(2**62), 2**62)
markets = st.builds(
    Market,
    st.text(min_size=1, max_size=20),
    st.just(0),
    st.none() | st.sampled_from(MarketStatus),
    number,
    number,
    st.none() | st.text(),
    number,
    st.none() | st.text(),
    st.none() | st.text(),
    st.none()
    | st.lists(st.builds(PriceRange, st.integers(), st.integers(), st.integers()), max_size=2).map(tuple),
)
origins = st.none() | st.builds(
    Origin, st.text(), st.none() | st.text(), st.none() | st.integers(0, 99), st.integers(0, 99)
)
books = st.builds(
    Book,
    markets,
    levels.map(built),
    levels.map(built),
    st.sampled_from([Condition.AWAITING, Condition.LIVE, Condition.STALE]),
    st.none() | st.text(),
    origins,
    number,
    st.none() | stamps,
    st.integers(0, 9),
    st.builds(Activity, *[number] * 7),
)


@given(books)
def test_a_book_comes_back_as_it_was(book: Book) -> None:
    """Every price, size, stamp, fact and word, whatever they are; but for the version that it appears in."""
    if book.stamps is None:
        # Without a message no level rests.
        book = msgspec.structs.replace(book, yes=built([]), no=built([]))
    loaded = decode_saved(save_book(book, 7, 8)).book(0, book.version)
    assert book == loaded


def test_levels_of_one_message_share_their_stamps_again() -> None:
    """What was one object is one again: memory is that of the store that saved."""
    stamps = Stamps(1, 2, 3, 4, 5, 6)
    ladder = built([Level(price, 1, stamps) for price in (100, 200, 300)])
    book = Book(Market("A", 0), ladder, ladder, Condition.LIVE, None, None, None, stamps, 1, Activity())
    loaded = decode_saved(save_book(book, None, 0)).book(0, 1)
    assert 1 == len({id(level.stamps) for level in (*loaded.yes, *loaded.no)} | {id(loaded.stamps)})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", b""),
        ("$", b"[]"),
        ("$", b'{"version":1}'),
        ("$.version", b'{"version":2,"ticker":"A","written_us":1}'),
        ("$", b'{"version":1,"ticker":"A","written_us":1,"yes":[[0,1,0]]}'),
        ("$", b'{"version":1,"ticker":"A","written_us":1,"yes":[[5,1,0]]}'),
        ("$", b'{"version":1,"ticker":"A","written_us":1,"copy":"fresh"}'),
    ],
)
def test_what_is_no_saved_book_is_refused(path: str, value: bytes) -> None:
    """Not JSON, another version, or what contradicts itself."""
    with pytest.raises(WireError) as caught:
        decode_saved(value).book(0, 1)
    assert path == caught.value.path


def test_a_checkpoint_comes_back_as_it_was() -> None:
    """With the signs of life of its partition."""
    signs = [LastSign("g1", 3, 5, 1_000, ended=False)]
    checkpoint = Checkpoint(version=1, topic="t", partition=3, offset=9, begun_us=7, signs=signs)
    assert checkpoint == decode_checkpoint(msgspec.json.encode(checkpoint))
    with pytest.raises(WireError):
        decode_checkpoint(b'{"version":1}')


class Stage:
    """A store that was saved at some moments, and what one gatherer has said."""

    def __init__(self) -> None:
        self.frames = FrameFactory(source="g1")
        self.log: list[Any] = []
        self.store = BookStore()

    def say(self, frame: bytes) -> None:
        self.put(self.frames.message(frame))

    def put(self, message: Any) -> None:
        self.log.append(message)
        with self.store.writer() as writer:
            writer.apply(*message)

    def saved(self, ticker: str, written_us: int) -> SavedBook:
        cut = self.store.cut()
        return decode_saved(save_book(cut[ticker], cut.offsets[0], written_us))

    def restored(self, *saved: SavedBook, offset: int, begun_us: int, start: int | None = None) -> BookStore:
        """Return a store that begins with what was saved, and reads on from the checkpoint."""
        store = BookStore()
        checkpoint = Checkpoint(version=1, topic="t", partition=0, offset=offset, begun_us=begun_us)
        begin = offset if start is None else start
        with store.writer() as writer:
            writer.restore(saved)
            writer.resume({0: begin}, {0: checkpoint})
            for message in self.log[begin:]:
                writer.apply(*message)
            writer.set_ready(True)
        return store


def books_of(store: BookStore) -> dict[str, tuple[Any, ...]]:
    """Return everything of each book but what belongs to one process: versions and times of applying."""
    return {
        book.ticker: (
            [(level.price, level.size) for level in book.yes],
            [(level.price, level.size) for level in book.no],
            book.copy,
            book.stale_reason,
            book.origin,
            book.sequence,
            book.activity,
            book.market.status,
        )
        for book in store.cut().books()
    }


def test_each_record_is_applied_once_wherever_its_book_was_saved() -> None:
    """Of two books, one was saved after the checkpoint: only what it does not hold is applied to it."""
    stage = Stage()
    for ticker in ("A", "B"):
        stage.say(stage.frames.snapshot(ticker, yes=[(4_000, 100)]))
    checkpoint = 2
    first = stage.saved("A", 10)
    for size in (1, 2, 3):
        stage.say(stage.frames.delta("A", "yes", 4_000, size))
        stage.say(stage.frames.delta("B", "yes", 4_000, size))
        stage.say(stage.frames.trade("B", 4_000, size))
    later = stage.saved("B", 11)
    stage.say(stage.frames.delta("B", "yes", 4_000, 5))

    store = stage.restored(first, later, offset=checkpoint, begun_us=10)

    assert books_of(stage.store) == books_of(store)
    outcomes = {name: count for name, count in store.statistics().outcomes.items() if count}
    assert {"delta": 4, "restored": 6} == outcomes
    assert dict(stage.store.cut().offsets) == dict(store.cut().offsets)


def test_a_book_saved_long_ago_stands_at_the_checkpoint() -> None:
    """It did not change since, or it would have been saved again: nothing is missing."""
    stage = Stage()
    stage.say(stage.frames.snapshot("A", yes=[(4_000, 100)]))
    stage.say(stage.frames.snapshot("B", yes=[(4_000, 100)]))
    quiet = stage.saved("A", 1)
    for _ in range(20):
        stage.say(stage.frames.delta("B", "yes", 4_000, 1))
    busy = stage.saved("B", 10)

    store = stage.restored(quiet, busy, offset=22, begun_us=10)

    assert books_of(stage.store) == books_of(store)
    assert (2, 0) == (store.cut().counts.live, store.cut().counts.stale)


def test_what_two_processes_saved_in_turns_is_not_trusted() -> None:
    """A book written after the checkpoint, but standing before it, was put over a newer one: it is stale."""
    stage = Stage()
    stage.say(stage.frames.snapshot("A", yes=[(4_000, 100)]))
    old = stage.saved("A", 99)
    stage.say(stage.frames.delta("A", "yes", 4_000, 1))

    store = stage.restored(old, offset=2, begun_us=50)

    assert Condition.STALE is store.cut()["A"].copy
    assert 1 == store.incidents.counts()["doubted"]


def test_a_hole_makes_its_books_stale() -> None:
    """Where reading goes on behind what a book holds, and nobody knows what lay between."""
    stage = Stage()
    stage.say(stage.frames.snapshot("A", yes=[(4_000, 100)]))
    saved = stage.saved("A", 1)
    for _ in range(3):
        stage.say(stage.frames.delta("A", "yes", 4_000, 1))
    store = stage.restored(saved, offset=1, begun_us=5, start=3)
    assert Condition.STALE is store.cut()["A"].copy


def test_a_notice_that_a_restored_book_has_heard_is_not_said_to_it_again() -> None:
    """It was healed since; only the book that stands before the notice turns stale."""
    stage = Stage()
    for ticker in ("A", "B"):
        stage.say(stage.frames.snapshot(ticker, yes=[(4_000, 100)]))
    first = stage.saved("A", 10)
    stage.put(stage.frames.arrived(stage.frames.notice("stale", reason="gap")))
    stage.say(stage.frames.snapshot("B", yes=[(4_000, 200)]))
    later = stage.saved("B", 11)

    store = stage.restored(first, later, offset=2, begun_us=10)

    assert {"A": Condition.STALE, "B": Condition.LIVE} == {
        book.ticker: book.copy for book in store.cut().books()
    }
    assert books_of(stage.store) == books_of(store)


def test_who_died_before_the_checkpoint_is_found_dead() -> None:
    """Its last sign of life is in the checkpoint, and no other comes."""
    stage = Stage()
    stage.say(stage.frames.snapshot("A", yes=[(4_000, 100)]))
    saved, store = stage.saved("A", 1), BookStore()
    signs = [LastSign("test", 0, 1_000, 1_000, ended=False), LastSign("g1", 0, 1_000, 1_000, ended=False)]
    checkpoint = Checkpoint(version=1, topic="t", partition=0, offset=1, begun_us=5, signs=signs)
    with store.writer() as writer:
        writer.restore([saved])
        writer.resume({0: 1}, {0: checkpoint})
        writer.set_ready(True)
        assert Condition.LIVE is store.cut()["A"].copy
        writer.tick(store.cut().applied_us)
    assert Condition.STALE is store.cut()["A"].copy


def test_markets_open_and_close_after_a_restart() -> None:
    """The two steps without a message happen by the restored market's own times."""
    stage = Stage()
    stage.say(stage.frames.lifecycle("A", "created", {"open_ts": 1_790_000_100, "close_ts": 1_790_000_200}))
    cut = stage.store.cut()
    store = BookStore()
    with store.writer() as writer:
        writer.restore([decode_saved(save_book(cut["A"], None, 1))])
        assert MarketStatus.INITIALIZED is store.cut()["A"].market.status
        writer.tick(1_790_000_100_000_000)
        assert MarketStatus.ACTIVE is store.cut()["A"].market.status
        writer.tick(1_790_000_200_000_000)
        assert MarketStatus.CLOSED is store.cut()["A"].market.status


def test_a_newer_record_of_a_market_replaces_an_older_one() -> None:
    """A topic holds several; the last one written counts, in one call or in two, in whatever order."""
    stage = Stage()
    stage.say(stage.frames.snapshot("A", yes=[(4_000, 100)]))
    first = stage.saved("A", 1)
    stage.say(stage.frames.delta("A", "yes", 4_000, 1))
    second = stage.saved("A", 2)
    for batches in ([[first, second]], [[first], [second]], [[second, first]], [[second], [first]]):
        store = BookStore()
        with store.writer() as writer:
            for batch in batches:
                writer.restore(batch)
        assert [(4_000, 101)] == [(level.price, level.size) for level in store.cut()["A"].yes]
        assert (1, 0) == (store.cut().counts.live, store.cut().counts.awaiting)


@given(st.lists(st.tuples(st.integers(0, 80), st.booleans()), max_size=80))
def test_what_changed_since_an_older_cut(steps: list[tuple[int, bool]]) -> None:
    """Exactly the books that are other objects than then, and those that are new."""
    frames, store = FrameFactory(), BookStore()
    cut, expected = None, dict[str, Book]()
    with store.writer() as writer:
        for market, is_cut in steps:
            writer.apply(*frames.message(frames.snapshot(f"M{market}", yes=[(4_000, 1 + market)])))
            expected[f"M{market}"] = store.cut()[f"M{market}"]
            if is_cut:
                cut, expected = store.cut(), {}
    assert expected == {book.ticker: book for book in store.cut().changed_since(cut)}


def test_no_fact_is_forgotten() -> None:
    """Another field of a book, a market, an origin or the stamps must be saved too."""
    saved = set(SavedBook.__struct_fields__)
    assert {"number"} == set(Market.__struct_fields__) - saved
    assert set() == set(Origin.__struct_fields__) - saved
    assert {"market", "origin", "stamps"} == set(Book.__struct_fields__) - saved
    assert (6, 7) == (len(Stamps.__struct_fields__), len(Activity.__struct_fields__))
