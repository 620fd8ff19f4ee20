"""The bridge from the writer's thread into Trio."""

import threading
from collections.abc import Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from kalshibook.store import BookStore, Change, ChangeBatch
from kalshibook.stream.changes import Changes, open_changes
from tests.store.builders import Script


def _changes(batch: ChangeBatch) -> list[Change]:
    return [notice for notice in batch.changes if isinstance(notice, Change)]


def _newest_yes_size(batches: list[ChangeBatch], price: int) -> int:
    newest = [change for batch in batches for change in _changes(batch)][-1].new
    return {level.price: level.size for level in newest.yes}[price]


def _write(store: BookStore, count: int) -> None:
    script = Script(store)
    script.snapshot({4_000: 100}, {5_000: 100})
    for _ in range(count):
        script.delta("yes", 4_000, 100)


@pytest.mark.trio
async def test_batches_arrive_from_another_thread() -> None:
    """What a thread writes comes out of the iterator, in order and complete."""
    store = BookStore()
    versions: list[int] = []

    async with open_changes(store) as changes:
        writing = threading.Thread(target=_write, args=(store, 500))
        writing.start()
        with trio.fail_after(20):
            async for batch in changes:
                versions += [change.version for change in _changes(batch)]
                if len(versions) == 501:
                    break
        await trio.to_thread.run_sync(writing.join)

    assert list(range(versions[0], versions[0] + 501)) == versions
    assert store.cut().version == versions[-1]


@pytest.mark.trio
async def test_a_full_channel_ends_nothing() -> None:
    """What does not fit is given back, folded, counted, and comes when there is room again."""
    store = BookStore()

    async with open_changes(store, capacity=8, batches=2) as changes:
        script = Script(store)
        script.snapshot({4_000: 100}, {})
        for _ in range(99):
            script.delta("yes", 4_000, 100)
            await wait_all_tasks_blocked()
        full = changes.statistics()

        taken = [await changes.__anext__() for _ in range(3)]

    assert 2 == full.waiting == full.peak
    assert 1 <= full.given_back
    assert 100 == sum(
        notice.merged for batch in taken for notice in batch.changes if isinstance(notice, Change)
    )
    assert 10_000 == _newest_yes_size(taken, 4_000)
    assert 0 < sum(batch.conflated for batch in taken) == full.conflated


@pytest.mark.trio
async def test_all_that_waits_is_taken() -> None:
    """What had no room in the channel is taken with what is in it."""
    store = BookStore()

    async with open_changes(store, batches=2) as changes:
        script = Script(store)
        script.snapshot({4_000: 100}, {})
        for _ in range(9):
            script.delta("yes", 4_000, 100)
            await wait_all_tasks_blocked()
        waiting = changes.statistics().waiting
        taken = changes.take_waiting()

    assert 2 == waiting
    assert 10 == sum(
        notice.merged for batch in taken for notice in batch.changes if isinstance(notice, Change)
    )
    assert 1_000 == _newest_yes_size(taken, 4_000)


@pytest.mark.trio
async def test_a_batch_wakes_trio_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is written before Trio looks, it is asked to look once."""
    store = BookStore()
    asked: list[object] = []

    async with open_changes(store) as changes:
        run_sync_soon = trio.lowlevel.TrioToken.run_sync_soon

        def counted(token: trio.lowlevel.TrioToken, function: Callable[[], None]) -> None:
            asked.append(function)
            run_sync_soon(token, function)

        monkeypatch.setattr(trio.lowlevel.TrioToken, "run_sync_soon", counted)
        _write(store, 100)
        batch = await changes.__anext__()

    assert 1 + 101 == len(batch.changes)  # the store became ready first
    assert 2 == len(asked)  # closing the reader is the other one


@pytest.mark.trio
async def test_a_change_between_clearing_and_taking_is_not_lost() -> None:
    """A writer that finds the flag up is served by the callback that has not run yet."""
    store = BookStore()
    script = Script(store)
    script.snapshot({4_000: 100}, {})

    async with open_changes(store) as changes:
        for round_number in range(200):
            await trio.to_thread.run_sync(script.delta, "yes", 4_000, 100)
            with trio.fail_after(5):
                batch = await changes.__anext__()

            assert 200 + 100 * round_number == _newest_yes_size([batch], 4_000)


@pytest.mark.trio
async def test_what_the_reader_holds_at_the_end_is_dropped_with_it() -> None:
    """After the block the store has no reader, and writing on disturbs nobody."""
    store = BookStore()

    async with open_changes(store, batches=1) as changes:
        _write(store, 3)
        await wait_all_tasks_blocked()

    assert 0 == store.statistics().readers
    _write(store, 3)
    await wait_all_tasks_blocked()
    assert 1 == changes.statistics().batches


@pytest.mark.trio
async def test_the_iteration_ends_when_the_block_ends(nursery: trio.Nursery) -> None:
    """A task that iterates ends by itself after the last batch."""
    store = BookStore()
    seen: list[int] = []
    ended = trio.Event()

    async def read(changes: Changes) -> None:
        seen.extend([len(_changes(batch)) async for batch in changes])
        ended.set()

    async with open_changes(store) as changes:
        nursery.start_soon(read, changes)
        _write(store, 2)
        await wait_all_tasks_blocked()
    with trio.fail_after(5):
        await ended.wait()

    assert 3 == sum(seen)


def test_a_writer_outlives_the_run() -> None:
    """Changes after the end of Trio's run are no error on the writer's thread."""
    store = BookStore()
    kept: list[Changes] = []

    async def main() -> None:
        changes = Changes(1)
        changes.attach(store.changes(wake=changes.wake))
        kept.append(changes)

    trio.run(main)
    _write(store, 10)

    assert 10 == store.statistics().outcomes["delta"]
    assert 0 == kept[0].statistics().batches


@pytest.mark.trio
async def test_room_for_no_batch_is_refused() -> None:
    """A channel without room would wait for ever for what was given back."""
    with pytest.raises(ValueError, match="at least 1"):
        async with open_changes(BookStore(), batches=0):
            pass
