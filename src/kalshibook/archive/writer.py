"""
The writing thread: gathers messages into batches, stores them, and spills while the database is down.

What was offered is in the database, in the spill, or waiting, and counted as one of these. A full
queue is for whoever offers to see: nothing here drops a message to keep going.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final, Self, final

import msgspec

from kalshibook.archive.database import DatabaseDown
from kalshibook.archive.entries import Counts, Entry, decode_entries, encode_entries
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.spill import Spill
from kalshibook.archive.storing import BatchStore
from kalshibook.errors import ArchiveError

__all__ = ["ArchiveWriter", "WriterStatistics"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_LOOK_S: Final = 0.1
_AT_LEAST_DRAINED: Final = 3


class WriterStatistics(msgspec.Struct, frozen=True):
    """Counts since the start; ``offered == processed + dropped + waiting`` at any moment."""

    offered: int
    """Messages taken over."""
    processed: int
    """Messages that are in the database or in the spill, or make no row."""
    dropped: int
    """Messages that neither took before the writer was stopped; told in the log."""
    waiting: int
    rows: Counts
    """What became of rows; those that came back out of the spill are counted when they are stored."""
    spilt_bytes: int
    """On the disk, still to be stored."""
    down: str | None
    """Why the database takes nothing, or None while it does."""


@final
class ArchiveWriter:
    """
    Writes what it is offered into a gatherer's own database, on a thread of its own.

    Args:
        options: the database, the sizes of batches, queue and spill.
        entry_of: turns what is offered into an entry, on the writer's thread; None makes no row.
        upkeep: called every `housekeeping_minutes` on the writer's thread, while the database answers.
        clock_s: seconds, from any beginning.
    """

    def __init__(
        self,
        options: ArchiveOptions,
        entry_of: Callable[[Any], Entry | None] = lambda entry: entry,
        *,
        upkeep: Callable[[], object] = lambda: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._entry_of = entry_of
        self._upkeep = upkeep
        self._clock_s = clock_s
        self._kept_s = clock_s()
        self._store = BatchStore(options.dsn)
        self._spill = Spill(options.spill_folder, options.spill_bytes)
        self._queue: deque[Any] = deque()
        self._arrived = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._offered = self._processed = self._dropped = 0
        self._rows = Counts()
        self._down: str | None = None
        self._try_at_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._drained: Iterator[bytes] | None = None
        self._held: list[Entry] | None = None

    def start(self) -> None:
        """Begin to write, without waiting for a database."""
        if self._thread is not None:
            raise ArchiveError("a writer is started once; make another one")
        self._thread = threading.Thread(target=self._run, name="archive-writer", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether as much waits as may wait."""
        return len(self._queue) >= self._options.queue_rows

    def offer(self, item: Any) -> None:
        """Take over a message; never blocks. Whoever finds `is_full` should offer no more for a while."""
        self._offered += 1
        self._queue.append(item)
        if len(self._queue) >= self._options.batch_rows and not self._arrived.is_set():
            self._arrived.set()

    def stop(self, timeout: float = 30.0) -> bool:
        """
        Store or spill what waits, disconnect, and tell whether that was done within `timeout` seconds.

        Nothing must be offered any more.
        """
        self._stopping.set()
        self._arrived.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def statistics(self) -> WriterStatistics:
        """Return the counts; from any thread."""
        # In this order: what is processed meanwhile was offered before.
        processed, dropped = self._processed, self._dropped
        offered = self._offered
        return WriterStatistics(
            offered=offered,
            processed=processed,
            dropped=dropped,
            waiting=offered - processed - dropped,
            rows=self._rows,
            spilt_bytes=self._spill.size,
            down=self._down,
        )

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _run(self) -> None:
        try:
            while True:
                count, batch = self._gathered()
                if count:
                    self._keep(count, batch)
                elif self._stopping.is_set():
                    return
                self._catch_up()
                self._keep_house()
        finally:
            self._store.close()
            self._spill.close()

    def _keep_house(self) -> None:
        if self._down is None and self._clock_s() >= self._kept_s + self._options.housekeeping_minutes * 60:
            self._kept_s = self._clock_s()
            try:
                self._upkeep()
            except (DatabaseDown, ArchiveError) as error:
                # Whoever stores will meet it too, and say so; what is left is done the next time.
                _log.warning("housekeeping has to wait: %s", error)

    def _gathered(self) -> tuple[int, list[Entry]]:
        """Wait until a batch is full or old enough, and take it out of the queue."""
        options = self._options
        if len(self._queue) < options.batch_rows and not self._stopping.is_set():
            self._arrived.wait(options.batch_ms / 1_000)
        # Cleared before taking: what arrives in between sets it again.
        self._arrived.clear()
        count = min(len(self._queue), options.batch_rows)
        # Looked at, and taken out only when kept: what waits is counted by the queue's bound.
        items = [self._queue[index] for index in range(count)]
        return count, [entry for entry in map(self._entry_of, items) if entry is not None]

    def _keep(self, count: int, batch: list[Entry]) -> None:
        """Store a batch, or spill it; wait while neither is possible."""
        told = False
        while batch:
            # Behind what is spilt already: a book's changes are stored in their order.
            if self._is_drained() and self._may_try() and self._tried(batch):
                break
            if not self._is_drained() or not self._may_try():
                if self._spill.append(encode_entries(batch)):
                    break
                if not told:
                    told = True
                    _log.error("the database is down and the spill is full; waiting with %d messages", count)
                if self._stopping.is_set():
                    self._give_up(count)
                    return
                if self._may_try():
                    self._drain()
                else:
                    self._stopping.wait(_LOOK_S)
        for _ in range(count):
            self._queue.popleft()
        self._processed += count

    def _give_up(self, count: int) -> None:
        for _ in range(count):
            self._queue.popleft()
        self._dropped += count
        _log.error("%d messages are lost: stopped while the database is down and the spill is full", count)

    def _is_drained(self) -> bool:
        return self._held is None and self._spill.is_empty

    def _may_try(self) -> bool:
        return self._down is None or self._clock_s() >= self._try_at_s

    def _catch_up(self) -> None:
        """Store what was put aside, and more of it than is put aside meanwhile."""
        least = _AT_LEAST_DRAINED
        while not self._is_drained() and self._may_try():
            if least <= 0 and len(self._queue) >= self._options.batch_rows:
                return
            self._drain()
            least -= 1

    def _drain(self) -> None:
        """Store one record of the spill."""
        if self._held is None:
            if self._drained is None:
                self._drained = self._spill.drain()
            try:
                data = next(self._drained, None)
            except OSError as error:
                # Begun again from where its files are.
                self._drained = None
                _log.error("the spill cannot be read: %s", error)
                self._hold_off(f"the spill cannot be read: {error.strerror}")
                return
            if data is None:
                self._drained = None
                _log.info("all that was put aside is in the database")
                return
            try:
                self._held = decode_entries(data)
            except ArchiveError as error:
                _log.error("%s", error)
                return
        if self._tried(self._held):
            self._held = None

    def _tried(self, batch: list[Entry]) -> bool:
        try:
            counts = self._store.store(batch)
        except (DatabaseDown, ArchiveError) as error:
            # Also what will not mend by itself, such as a table that is missing: an operator may mend it,
            # and meanwhile the sockets go on.
            if self._down is None:
                _log.warning("the archive's database takes nothing, spilling to disk: %s", error)
            self._hold_off(str(error))
            return False
        except Exception as error:  # noqa: BLE001 - see below
            # A fault of this program: shown whole, and no reason to lose what comes.
            _log.exception("the archive's writer")
            self._hold_off(f"{type(error).__name__}: {error}")
            return False
        if self._down is not None:
            self._down = None
            _log.info("the archive's database is back")
        self._rows += counts
        return True

    def _hold_off(self, reason: str) -> None:
        if self._down is None:
            self._pause_s = _FIRST_PAUSE_S
        self._down = reason
        self._try_at_s = self._clock_s() + self._pause_s
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)
