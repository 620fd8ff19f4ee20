"""
The bridge from the store's writing thread into a Trio run.

The writer only raises a flag and, when it was down, asks Trio once to look (0.04 µs against 14 to
120 µs for a wake-up or a round trip per change). On the Trio thread whatever has gathered by then
crosses a bounded memory channel as one batch. A consumer that is slow finds the channel full: what
does not fit goes back to the reader, where it is conflated and counted, and comes again as soon as
a batch is taken out.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final, Self, final

import msgspec
import trio

from kalshibook.store import BookStore, ChangeBatch, ChangeReader

__all__ = ["ChangeStatistics", "Changes", "open_changes"]

DEFAULT_BATCHES: Final = 16


class ChangeStatistics(msgspec.Struct, frozen=True):
    """What crossed the bridge since it was opened."""

    batches: int
    """Batches that went into the channel."""
    given_back: int
    """How often the channel was full and a batch was given back to be conflated."""
    conflated: int
    """Changes folded into others because this consumer was slow."""
    lost: int
    """Notices dropped because they could not be folded."""
    waiting: int
    """Batches in the channel now."""
    peak: int
    """Most batches the channel ever held."""


@final
class Changes:
    """
    Batches of changes as an async iterator of a Trio program; from `open_changes`.

    It ends when the store's reader is closed, which nobody but `open_changes` does.
    """

    def __init__(self, batches: int) -> None:
        if batches < 1:
            raise ValueError(f"{batches} batches is no room; at least 1 must fit")
        self._token = trio.lowlevel.current_trio_token()
        self._sender, self._receiver = trio.open_memory_channel[ChangeBatch](batches)
        self._reader: ChangeReader | None = None
        self._poked = False
        self._batches = 0
        self._given_back = 0

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> ChangeBatch:
        """Wait for the next batch."""
        try:
            batch = await self._receiver.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        # There is room again for what was given back while the channel was full; nobody
        # else will ask for it, because the reader wakes only when it was empty before.
        self._pump()
        return batch

    def take_waiting(self) -> list[ChangeBatch]:
        """Return all that waits already, in order: what is in the channel, and what had no room there."""
        batches = self._drained()
        self._pump()
        return batches + self._drained()

    async def gather(self, seconds: float) -> None:
        """Let changes gather for a while; the writer wakes nobody meanwhile."""
        # With the flag up `wake` does nothing; what comes is found by the pump below.
        self._poked = True
        try:
            await trio.sleep(seconds)
        finally:
            self._pump()

    def statistics(self) -> ChangeStatistics:
        """Return the counts so far."""
        channel = self._sender.statistics()
        return ChangeStatistics(
            batches=self._batches,
            given_back=self._given_back,
            conflated=self._reader.total_conflated if self._reader else 0,
            lost=self._reader.total_lost if self._reader else 0,
            waiting=channel.current_buffer_used,
            peak=channel.peak_buffer_used,
        )

    def wake(self) -> None:
        """Ask Trio to look for changes, once, however often this is called before it does."""
        if self._poked:
            return
        self._poked = True
        # When the run has ended without closing the reader the flag stays up, so that the writer
        # does not come here again; the reader conflates and stays within its bound.
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._pump)

    def attach(self, reader: ChangeReader) -> None:
        """Take from `reader` from now on, and first what it already holds."""
        self._reader = reader
        self._pump()

    def close(self) -> None:
        """End the iteration after what is in the channel."""
        self._sender.close()

    def _drained(self) -> list[ChangeBatch]:
        batches: list[ChangeBatch] = []
        with suppress(trio.WouldBlock, trio.EndOfChannel):
            while True:
                batches.append(self._receiver.receive_nowait())
        return batches

    def _pump(self) -> None:
        # This runs as a callback of Trio's entry queue, where any exception would end the
        # whole run as TrioInternalError: the channel being full or closed is normal here.
        #
        # The flag falls before anything is taken. The other way round, a change that came
        # between the last take and the clearing would wait for the one after it.
        self._poked = False
        if self._reader is None:
            return
        while (batch := self._reader.take_nowait()) is not None:
            try:
                self._sender.send_nowait(batch)
            except trio.WouldBlock:
                self._given_back += 1
                self._reader.give_back(batch)
                return
            except (trio.ClosedResourceError, trio.BrokenResourceError):
                return
            self._batches += 1


@asynccontextmanager
async def open_changes(
    store: BookStore, *, capacity: int = 65_536, batches: int = DEFAULT_BATCHES
) -> AsyncIterator[Changes]:
    """
    Read a store's changes inside a Trio program.

    Example:
        ::

            async with open_changes(store) as changes:
                async for batch in changes:
                    for change in batch.changes: ...

    Args:
        store: the store.
        capacity: how many single changes its reader holds before it folds them to one a market.
        batches: how many batches may wait in the channel; one more and they are folded.

    Yields:
        The batches, to be read by one task.
    """
    changes = Changes(batches)
    with store.changes(capacity=capacity, wake=changes.wake) as reader:
        changes.attach(reader)
        try:
            yield changes
        finally:
            changes.close()
