import asyncio
import threading

import pytest
from hypothesis import given, strategies as st

from kalshibook.store import BookStore, Change, Readiness
from kalshibook.wire import BookSnapshot, EventFrame
from tests.store.builders import TICKER, Script, levels, lifecycle, trade


def test_a_batch_is_handed_over_in_order_with_one_wake() -> None:
    """However many messages a batch has, its readers are woken once and get all of it in order."""
    store = BookStore()
    wakes: list[int] = []
    script = Script(store)
    with store.changes(wake=lambda: wakes.append(1)) as reader:
        with store.writer() as writer:
            for price in (100, 200, 300):
                event = script_snapshot({price: 5})
                writer.apply(event, script.arrival(TICKER))
            assert reader.take_nowait() is None
        batch = reader.take(timeout=5)

    assert batch is not None
    changes = [change for change in batch.changes if isinstance(change, Change)]
    assert [levels(change.new.yes) for change in changes] == [{100: 5}, {200: 5}, {300: 5}]
    assert [levels(change.old.yes) for change in changes] == [{}, {100: 5}, {200: 5}]
    assert [change.merged for change in changes] == [1, 1, 1]
    assert len(wakes) == 1 + 1  # one for the batch, one for closing


def script_snapshot(yes: dict[int, int]) -> BookSnapshot:
    return BookSnapshot(TICKER, tuple(yes.items()), (), None)


def test_a_reader_that_does_not_take_is_not_woken_again() -> None:
    """A wake-up stands until the reader takes; further batches cost it nothing."""
    store = BookStore()
    wakes: list[int] = []
    script = Script(store)
    reader = store.changes(wake=lambda: wakes.append(1))
    for price in (100, 200, 300):
        script.snapshot({price: 1}, {})
    assert len(wakes) == 1

    reader.take_nowait()
    script.snapshot({400: 1}, {})

    assert len(wakes) == 2


def test_a_slow_reader_is_folded_by_market_and_told() -> None:
    """Beyond its capacity a reader holds one change a market: first old book, newest book, a count."""
    store = BookStore()
    script = Script(store)
    reader = store.changes(capacity=4)
    for ticker in ("A", "B"):
        script.snapshot({100: 1}, {}, ticker=ticker)
    first = reader.take_nowait()
    assert first is not None
    for _ in range(10):
        script.delta("yes", 100, 1, ticker="A")
        script.delta("yes", 200, 1, ticker="B")

    batch = reader.take_nowait()

    assert batch is not None
    assert batch.conflated == 18
    by_ticker = {change.new.ticker: change for change in batch.changes if isinstance(change, Change)}
    assert {"A", "B"} == set(by_ticker)
    assert (by_ticker["A"].merged, by_ticker["B"].merged) == (10, 10)
    assert levels(by_ticker["A"].old.yes) == {100: 1}
    assert levels(by_ticker["A"].new.yes) == {100: 11}
    assert by_ticker["A"].event is None
    assert store.statistics().conflated == 18
    assert store.incidents.counts()["conflated"] == 1


def test_trades_that_cannot_be_folded_are_counted_as_lost() -> None:
    """What a full reader drops is told with its next batch, in the statistics and as an incident."""
    store = BookStore()
    script = Script(store)
    reader = store.changes(capacity=2)
    script.snapshot({100: 1}, {})
    for number in range(5):
        script.apply(trade(str(number)))
    script.apply(lifecycle("activated"))

    batch = reader.take_nowait()

    assert batch is not None
    assert batch.lost == 6
    assert store.statistics().lost_notices == 6


def test_event_frames_reach_readers_in_order() -> None:
    """A message about an event stands between the changes before and after it."""
    store = BookStore()
    script = Script(store)
    reader = store.changes()
    frame = EventFrame("KXFROG-26DEC01", "event_fee_update", None, b"{}")
    with store.writer() as writer:
        writer.apply(script_snapshot({100: 1}), script.arrival(TICKER))
        writer.apply(frame, script.arrival(TICKER))
        writer.apply(script_snapshot({200: 1}), script.arrival(TICKER))

    batch = reader.take_nowait()

    assert batch is not None
    assert frame is batch.changes[1]
    assert len(batch.changes) == 3


@given(st.lists(st.sampled_from(["write", "take", "give_back"]), max_size=40), st.integers(1, 6))
def test_whatever_a_reader_does_old_and_new_books_join_up(steps: list[str], capacity: int) -> None:
    """Taking, giving back and folding never lose the first old book or the newest one of a market."""
    store = BookStore()
    script = Script(store)
    reader = store.changes(capacity=capacity)
    seen: dict[str, object] = {}
    counted = {"A": 0, "B": 0}
    written = {"A": 0, "B": 0}
    turn = 0
    for step in [*steps, "take"]:
        if step == "write":
            ticker = "AB"[turn % 2]
            turn += 1
            script.snapshot({100 + turn: 1}, {}, ticker=ticker)
            written[ticker] += 1
            continue
        batch = reader.take_nowait()
        if batch is None:
            continue
        if step == "give_back":
            reader.give_back(batch)
            continue
        for change in batch.changes:
            assert isinstance(change, Change)
            assert seen.get(change.new.ticker, change.old) is change.old
            seen[change.new.ticker] = change.new
            counted[change.new.ticker] += change.merged

    assert written == counted
    assert all(store.cut()[ticker] is book for ticker, book in seen.items())
    assert reader.take_nowait() is None


def test_a_thread_waiting_for_changes_gets_them_and_leaves_on_close() -> None:
    """`take` blocks until a batch comes, and returns None once the reader is closed."""
    store = BookStore()
    reader = store.changes()
    taken: list[object] = []

    def consume() -> None:
        while (batch := reader.take(timeout=30)) is not None:
            taken.append(batch)
            arrived.set()

    arrived = threading.Event()
    thread = threading.Thread(target=consume)
    thread.start()
    Script(store).snapshot({100: 1}, {})
    assert arrived.wait(30)
    reader.close()
    thread.join(30)

    assert not thread.is_alive()
    assert len(taken) == 1
    assert store.statistics().readers == 0


def test_asyncio_receives_batches_until_the_reader_is_closed() -> None:
    """An asyncio task is woken by the writer's thread and ends with the reader."""
    store = BookStore()
    reader = store.changes()
    seen: list[str] = []

    def write() -> None:
        script = Script(store)
        for ticker in ("A", "B", "C"):
            script.snapshot({100: 1}, {}, ticker=ticker)

    async def consume() -> None:
        thread = threading.Thread(target=write)
        thread.start()
        async for batch in reader.asyncio():
            seen.extend(change.new.ticker for change in batch.changes if isinstance(change, Change))
            if len(seen) == 3:
                reader.close()
        thread.join()

    asyncio.run(asyncio.wait_for(consume(), 30))

    assert seen == ["A", "B", "C"]


def test_a_loop_that_closes_does_not_end_the_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may end its loop, between a look at it and a call, without closing the reader."""
    store = BookStore()
    reader = store.changes()
    script = Script(store)
    script.snapshot({100: 1}, {})
    loop = asyncio.new_event_loop()
    batches = reader.asyncio()
    loop.run_until_complete(anext(batches))
    loop.close()
    monkeypatch.setattr(loop, "is_closed", lambda: False)

    assert "delta" == script.delta("yes", 100, 1)
    batch = reader.take_nowait()
    assert batch is not None
    assert 1 == len(batch.changes)


def test_changes_that_move_only_a_number_are_not_announced() -> None:
    """A delta of 0 and a delta of a stale book tell a reader nothing."""
    store = BookStore()
    script = Script(store)
    script.snapshot({100: 1}, {})
    reader = store.changes()

    assert script.delta("yes", 100, 0) == "unchanged"
    assert reader.take_nowait() is None


def test_readers_are_told_when_the_store_falls_behind_and_catches_up() -> None:
    """Readiness is a notice of its own, in its place; folding keeps the newest, at the end."""
    store = BookStore()
    script = Script(store)
    reader = store.changes(capacity=2)
    with store.writer() as writer:
        writer.set_ready(False, "the broker is gone")
    script.snapshot({100: 1}, {})

    batch = reader.take_nowait()
    assert batch is not None
    assert "the broker is gone" == getattr(batch.changes[0], "behind", None)
    assert isinstance(batch.changes[1], Change)

    for ready in (True, False, True):
        with store.writer() as writer:
            writer.set_ready(ready, "again")
        script.delta("yes", 100, 1)
    folded = reader.take_nowait()
    assert folded is not None
    reader.give_back(folded)
    again = reader.take_nowait()
    assert again is not None
    assert Readiness(None, store.cut().version - 1) == again.changes[-1]
    assert 2 == len(again.changes)


def test_a_capacity_below_one_is_refused() -> None:
    """A reader that could hold nothing is a mistake, and says so."""
    with pytest.raises(ValueError, match="at least 1"):
        BookStore().changes(capacity=0)
