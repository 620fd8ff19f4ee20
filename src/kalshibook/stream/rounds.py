"""
Rounds of writing: a batch of changes goes to all its clients one after the other, in one task.

Waking a task per client costs several times what the write costs that it then makes. So whoever has
something to write after a batch is written to here, without waiting; only what a socket does not take
at once is left to the client's own task, with its deadlines.
"""

from typing import Final, Protocol, final

import trio

__all__ = ["WriteRounds", "Writes"]

# At 10 µs each: how long others on this thread wait at most.
_WRITES_AT_ONCE: Final = 100


class Writes(Protocol):
    """A client's connection, as far as a round knows it."""

    def write_nowait(self) -> None:
        """Write what can be written without waiting."""


@final
class WriteRounds:
    """One round after the other, each prepared with `begin` and made with `write`."""

    def __init__(self) -> None:
        self._due: list[Writes] | None = None

    def begin(self) -> None:
        """Collect those who have something to write, until they are written to."""
        if self._due is None:
            self._due = []

    def add(self, connection: Writes) -> bool:
        """Take part in the round that is being prepared; False when there is none."""
        if self._due is None:
            return False
        self._due.append(connection)
        return True

    async def write(self) -> None:
        """Write to all who were collected, giving way to other tasks now and then."""
        due, self._due = self._due or (), None
        for number, connection in enumerate(due, 1):
            connection.write_nowait()
            if number % _WRITES_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
