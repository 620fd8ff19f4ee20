"""
From a gatherer into its database, by way of a journal on disk, so that a kill at any moment takes nothing.

Two threads: one puts what was offered into the journal within milliseconds, one stores what lies there.
Were it one, whatever came during a transaction would be lost with the process. A full queue is for
whoever offers to see: nothing here drops a message to keep going.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final, Protocol, Self, final

import msgspec

from kalshibook.archive.database import DatabaseDown
from kalshibook.archive.entries import Counts, Entry
from kalshibook.archive.journal import Journal, NoRoom
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.storing import BatchStore
from kalshibook.errors import ArchiveError

__all__ = ["ArchiveWriter", "Codec", "WriterStatistics"]

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0
_LOOK_S: Final = 0.1
_COLLECT_S: Final = 0.002
"""How long what was offered waits for more; with it goes what a kill takes."""
_STOPPING_S: Final = 10.0
"""How long a stop stores what lies in the journal; the rest is stored after the next start."""


class Codec(Protocol):
    """How messages lie in the journal, and what they mean."""

    def encode(self, messages: Sequence[Any]) -> bytes:
        """Return messages as one record."""

    def decode(self, record: bytes) -> list[Entry]:
        """
        Return the entries that a record makes; a message may make none.

        Raises:
            ArchiveError: it is nothing that `encode` wrote.
        """


class WriterStatistics(msgspec.Struct, frozen=True):
    """Counts since the start; ``offered == processed + dropped + waiting`` at any moment."""

    offered: int
    """Messages taken over."""
    processed: int
    """Messages that are in the journal or have been; a kill takes none of them."""
    dropped: int
    """Messages that neither journal nor database took before the writer was stopped; told in the log."""
    waiting: int
    rows: Counts
    """What became of rows in the database, also of those that an earlier process left in the journal."""
    journal_bytes: int
    """On the disk, still to be stored."""
    down: str | None
    """Why the database takes nothing, or None while it does."""


@final
class ArchiveWriter:
    """
    Writes what it is offered into a gatherer's own database, on threads of its own.

    Args:
        options: the database, the sizes of batches, queue and journal.
        codec: what a message is in the journal, and in the database.
        upkeep: called every `housekeeping_minutes` on the storing thread, while the database answers.
        on_step: called at each point at which a crash is worth a test.
        clock_s: seconds, from any beginning.
    """

    def __init__(
        self,
        options: ArchiveOptions,
        codec: Codec,
        *,
        upkeep: Callable[[], object] = lambda: None,
        on_step: Callable[[str], None] = lambda _: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._options = options
        self._codec = codec
        self._upkeep = upkeep
        self._step = on_step
        self._clock_s = clock_s
        self._kept_house_s = clock_s()
        self._store = BatchStore(options.dsn)
        self._journal = Journal(options.spill_folder, options.spill_bytes, codec.decode)
        self._queue: deque[Any] = deque()
        self._arrived = threading.Event()
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._all_kept = threading.Event()
        self._has_room = threading.Event()
        self._threads: list[threading.Thread] = []
        self._offered = self._processed = self._dropped = 0
        # Of whoever uses the database: nearly always the storing thread.
        self._storing = threading.Lock()
        self._rows = Counts()
        self._down: str | None = None
        self._try_at_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._at_hand: int | None = None
        self._left: list[Entry] = []

    def start(self) -> None:
        """Begin to write, without waiting for a database."""
        if self._threads:
            raise ArchiveError("a writer is started once; make another one")
        for name, run in (("archive-journal", self._run_keeping), ("archive-writer", self._run_storing)):
            self._threads.append(threading.Thread(target=run, name=name, daemon=True))
            self._threads[-1].start()

    @property
    def is_full(self) -> bool:
        """Whether as much waits as may wait."""
        return len(self._queue) >= self._options.queue_rows

    def offer(self, item: Any) -> None:
        """Take over a message; never blocks. Whoever finds `is_full` should offer no more for a while."""
        self._offered += 1
        self._queue.append(item)
        if not self._arrived.is_set():
            self._arrived.set()

    def stop(self, timeout: float = 30.0) -> bool:
        """
        Journal what waits, store what can be stored, and tell whether that was done in `timeout` seconds.

        Nothing must be offered any more.
        """
        self._stopping.set()
        self._arrived.set()
        until_s = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(until_s - time.monotonic(), 0.0))
        if not self._threads:
            self._journal.close()
        return not any(thread.is_alive() for thread in self._threads)

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
            journal_bytes=self._journal.size,
            down=self._down,
        )

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    # The thread that keeps: from the queue into the journal.

    def _run_keeping(self) -> None:
        try:
            while True:
                count = self._gathered()
                if count:
                    self._keep(count)
                elif self._stopping.is_set():
                    return
        finally:
            self._all_kept.set()
            self._due.set()

    def _gathered(self) -> int:
        """Wait until something was offered, and return how much of it makes a record."""
        if not self._queue and not self._stopping.is_set():
            self._arrived.wait()
            # To wake for each message would take the interpreter from the sockets each time.
            self._stopping.wait(_COLLECT_S)
        # Cleared before looking: what arrives in between sets it again.
        self._arrived.clear()
        return min(len(self._queue), self._options.batch_rows)

    def _keep(self, count: int) -> None:
        """Put messages into the journal; wait while neither it nor the database takes them."""
        # Looked at, and taken out only when kept: what waits is counted by the queue's bound.
        record = self._codec.encode([self._queue[index] for index in range(count)])
        told = False
        while (refusal := self._refusal(record, count)) is not None:
            if not told:
                told = True
                _log.error("nothing can be journaled (%s); waiting with %d messages", refusal, count)
            # While the database answers there will be room.
            if self._stopping.is_set() and self._down is not None:
                self._dropped += count
                _log.error(
                    "%d messages are lost: stopped while neither journal nor database took them", count
                )
                break
            self._has_room.wait(_LOOK_S)
            self._has_room.clear()
        else:
            self._processed += count
        for _ in range(count):
            self._queue.popleft()

    def _refusal(self, record: bytes, count: int) -> str | None:
        """Journal a record, or store it at once where there is no room; say why neither was done."""
        try:
            messages = self._journal.append(record, count)
        except NoRoom as error:
            self._due.set()
            # What lies in the journal comes first: a book's changes are stored in their order.
            if not self._journal.is_empty:
                return str(error)
            with self._storing:
                stored = self._may_try() and self._tried(self._codec.decode(record))
            return None if stored else str(error)
        # Told once a file: while the database is down there is nothing to do for each record.
        if messages - count < self._options.batch_rows <= messages:
            self._due.set()
        self._step("journaled")
        return None

    # The thread that stores: from the journal into the database.

    def _run_storing(self) -> None:
        try:
            while True:
                is_last = self._all_kept.is_set()
                self._store_due(seal=is_last)
                if is_last:
                    return
                self._keep_house()
                pause_s = self._options.batch_ms / 1_000
                if self._down is not None:
                    self._sync()
                    pause_s = max(self._try_at_s - self._clock_s(), 0.0)
                self._due.wait(pause_s)
                self._due.clear()
        finally:
            self._store.close()
            self._sync()
            self._journal.close()

    def _store_due(self, *, seal: bool) -> None:
        """Store what an outage or an earlier process has left, or else what came since the last turn."""
        if seal or self._journal.oldest() is None:
            self._journal.seal()
        until_s = self._clock_s() + _STOPPING_S
        while (number := self._journal.oldest()) is not None and self._may_try():
            self._store_some(number)
            self._keep_house()
            if self._stopping.is_set() and self._clock_s() >= until_s:
                _log.warning("stopped with %d bytes in the journal", self._journal.size)
                return

    def _store_some(self, number: int) -> None:
        """Store one batch of a file; with its last one the file goes."""
        rows = self._options.batch_rows
        with self._storing:
            try:
                if self._at_hand != number:
                    self._left = [*chain.from_iterable(self._journal.read(number))]
                    self._at_hand = number
                if self._left and not self._tried(self._left[:rows]):
                    return
                self._step("stored")
                self._left = self._left[rows:]
                if not self._left:
                    self._journal.remove(number)
                    self._at_hand = None
                    self._has_room.set()
                    self._step("removed")
            except OSError as error:
                _log.error("the journal cannot be read: %s", error)
                self._hold_off(f"the journal cannot be read: {error.strerror}")

    def _sync(self) -> None:
        """Have the disk keep what the database does not take; else it has it in a second anyway."""
        try:
            self._journal.sync()
        except OSError as error:
            _log.error("a power cut may take what lies in the journal: %s", error)

    def _keep_house(self) -> None:
        if (
            self._down is None
            and self._clock_s() >= self._kept_house_s + self._options.housekeeping_minutes * 60
        ):
            self._kept_house_s = self._clock_s()
            try:
                self._upkeep()
            except (DatabaseDown, ArchiveError) as error:
                # Whoever stores will meet it too, and say so; what is left is done the next time.
                _log.warning("housekeeping has to wait: %s", error)

    def _may_try(self) -> bool:
        return self._down is None or self._clock_s() >= self._try_at_s

    def _tried(self, batch: list[Entry]) -> bool:
        try:
            counts = self._store.store(batch)
        except (DatabaseDown, ArchiveError) as error:
            # Also what will not mend by itself, such as a table that is missing: an operator may mend it,
            # and meanwhile the sockets go on.
            if self._down is None:
                _log.warning("the archive's database takes nothing, it waits in the journal: %s", error)
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
