"""
Rounds of writing: a batch of changes goes to all its clients one after the other, in one task.

Waking a task per client costs several times what the write costs that it then makes. So whoever has
something to write after a batch is written to here, without waiting; only what a socket does not take
at once is left to the client's own task, with its deadlines.

All of it is cut into slices of time. An answer of the REST server takes a dozen passes of Trio's loop,
and each of them waits for the slice that is under way: counted in changes and writes instead, a slice
was 80 ms beside a feed that was catching up, and the answer a second.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, final

import trio

__all__ = ["TimeSlice", "WriteRounds", "Writes"]

_SLICE_S: Final = 0.0005


class Writes(Protocol):
    """A client's connection, as far as a round knows it."""

    def write_nowait(self) -> bool:
        """Write some of what can be written without waiting; tell whether to be asked again."""


@final
class TimeSlice:
    """
    Work that takes long gives way to other tasks whenever its slice of time is over.

    Args:
        clock: seconds; the real ones, because it is real work that others wait for.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._ends = 0.0

    def begin(self) -> None:
        """Begin a slice: nothing was done since other tasks ran."""
        self._ends = self._clock() + _SLICE_S

    async def give_way(self) -> None:
        """Let other tasks run if the slice is over, and begin another."""
        if self._clock() >= self._ends:
            await trio.lowlevel.checkpoint()
            self.begin()


@final
class WriteRounds:
    """
    One round after the other, each prepared with `begin` and made with `write`.

    Args:
        slice_: what the rounds share with other work of the same task.
    """

    def __init__(self, slice_: TimeSlice) -> None:
        self._slice = slice_
        self._due: deque[Writes] | None = None

    def begin(self) -> None:
        """Collect those who have something to write, until they are written to."""
        if self._due is None:
            self._due = deque()

    def add(self, connection: Writes) -> bool:
        """Take part in the round that is being prepared; False when there is none."""
        if self._due is None:
            return False
        self._due.append(connection)
        return True

    async def write(self) -> None:
        """Write to all who were collected, as often as each asks for, giving way to other tasks."""
        due, self._due = self._due or deque(), None
        while due:
            connection = due.popleft()
            if connection.write_nowait():
                # Behind the others, so that one with much to write does not hold them up.
                due.append(connection)
            await self._slice.give_way()
