"""The reading loop of the Kafka feed: find the place, read, keep time, begin again when needed."""

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, final

from confluent_kafka import KafkaError, Message

from kalshibook.errors import FeedError
from kalshibook.feeds.base import FeedState
from kalshibook.feeds.lag import LagClock, LagJudge
from kalshibook.feeds.link import KafkaLink
from kalshibook.feeds.options import KafkaOptions
from kalshibook.feeds.positions import (
    Bounds,
    Positions,
    Start,
    start_at_beginning,
    start_at_offsets,
    start_at_time,
    without_hole,
    without_strangers,
)
from kalshibook.feeds.quarantine import Quarantine
from kalshibook.feeds.records import RecordIntake
from kalshibook.feeds.warm_start import Restored, WarmStart, Warmth
from kalshibook.feeds.watch import Unavailable, state_of
from kalshibook.store import BookStore, IncidentKind, StoreWriter

__all__ = ["ReadingSession"]

_TICK_US: Final = 100_000
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_CLOCKS_DIFFER_MS: Final = 600_000
"""By so much, at most, is a record stamped later than a checkpoint that was written after it."""

_RETENTION: Final = frozenset(
    {
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001 - so named in librdkafka: a local error
        KafkaError._LOG_TRUNCATION,  # noqa: SLF001
        KafkaError.OFFSET_OUT_OF_RANGE,
    }
)
# librdkafka passes over what it cannot unpack.
_SPOILT: Final = frozenset({KafkaError._BAD_MSG, KafkaError._BAD_COMPRESSION})  # noqa: SLF001


@final
class ReadingSession:
    """
    Reads a topic into a store until told to stop. Everything here runs on the feed's thread.

    Args:
        store: for its incidents.
        writer: its writer, held by the feed.
        options: the feed's settings.
        link: the connection.
        quarantine: where unreadable records go.
        show: called with every state and its reason; repeats are the callee's to drop.
        stopping: set when the session shall end.
    """

    def __init__(
        self,
        store: BookStore,
        writer: StoreWriter,
        options: KafkaOptions,
        link: KafkaLink,
        quarantine: Quarantine,
        show: Callable[[FeedState, str], None],
        stopping: threading.Event,
    ) -> None:
        self._store = store
        self._writer = writer
        self._options = options
        self._link = link
        self._quarantine = quarantine
        self._show = show
        self._stopping = stopping
        self._ticked_us = 0
        self._note = ""
        self._cut_off = False
        self._is_silent = False
        self._was_live = False
        self._lag_clock: Final = LagClock()
        self._lag_limit_us: Final = options.lag_limit_s * 1_000_000
        self._lag_judge: Final = LagJudge(self._lag_limit_us)
        self._looked_us = 0
        self.waiting_us = 0
        """For how long a record waits at least, microseconds."""
        self._begun_us = 0
        self._warm_start: Final = WarmStart(options, writer, store.incidents, show, stopping)
        self.restored: Restored | None = None
        """What was restored from saved books, or None."""
        self._warmth: Warmth | None = None
        self.positions: Final = Positions()
        self.intake: Final = RecordIntake(options.topic, writer, quarantine)

    def run(self) -> None:
        """Read until told to stop; an exception is a fault of this program."""
        self._show(FeedState.CONNECTING, f"looking for topic {self._options.topic!r}")
        self._begin(self._start)
        while not self._stopping.is_set():
            self._turn()

    def _turn(self) -> None:
        messages = self._link.poll(self._options.batch_records, self._options.poll_timeout_ms / 1_000)
        if messages:
            next_offsets, events = self.intake.take(messages, _now_us())
            self.positions.consumed(next_offsets)
            # After the records: an end of a partition follows the records before it.
            for event in events:
                if self._on_event(event, next_offsets):
                    break  # the others are about an assignment that is over
            self._writer.commit()
        if self._keep_time():
            self._look_around()
        self._judge()

    def _begin(self, find: Callable[[dict[int, Bounds]], Start], *, again: bool = False) -> None:
        """
        Find where to read, for as long as it takes, and read from there.

        Args:
            find: chooses the place, given what the broker keeps.
            again: books are filled already, from this topic.
        """
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                bounds = self._link.bounds(self._link.partitions())
                start = find(bounds)
            except Unavailable as missing:
                if again and missing.state is FeedState.TOPIC_MISSING:
                    # What comes back under the name is another topic: its offsets mean nothing to us.
                    self._writer.doubt_all(f"topic {self._options.topic!r} is gone")
                    find, again = start_at_beginning, False
                self._writer.set_ready(False, missing.reason)
                self._show(missing.state, missing.reason)
                self._pause(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                continue
            for partition, reason in start.overtaken.items():
                self._writer.doubt_all(reason, partition)
            self.positions.begin(start.offsets, bounds)
            self._link.assign(start.offsets)
            self._was_live = False
            self.waiting_us = 0
            self._looked_us = _steady_us()
            self._lag_judge.begin()
            self._lag_clock.begin()
            self._lag_clock.ends_are(
                {partition: kept.high for partition, kept in bounds.items()}, self._looked_us
            )
            if self.positions.caught_up:
                self._lag_judge.judge(0, self._looked_us)
            self._begun_us = _now_us()
            self._note = f"reading {len(bounds)} partitions of {self._options.topic!r} {start.note}"
            self._judge()
            return

    def _begin_again(self, state: FeedState, reason: str) -> None:
        """Ask for the topic anew and go on where reading was, if that is still there."""
        self._show(state, reason)
        self._resume()

    def _resume(self) -> None:
        self._link.unassign()
        self._begin(partial(start_at_offsets, wanted=self.positions.next_offsets), again=True)

    def _start(self, bounds: dict[int, Bounds]) -> Start:
        # A store that an earlier feed has filled holds books of records before these.
        return without_hole(self._chosen(bounds), self._store.cut().offsets)

    def _chosen(self, bounds: dict[int, Bounds]) -> Start:
        options = self._options
        if options.start == "beginning":
            return start_at_beginning(bounds)
        if options.start == "offsets":
            return start_at_offsets(bounds, options.start_offsets)
        if options.start == "snapshots":
            return self._warm(bounds)
        return self._rewound(bounds)

    def _warm(self, bounds: dict[int, Bounds]) -> Start:
        reached = self._store.cut().offsets
        if reached and self._warmth is None:
            # An earlier feed of this process has filled the store: its books are newer than any saved.
            return start_at_offsets(bounds, reached)
        # Once: were it read again, books saved meanwhile would lie beyond those read before.
        warmth = self._warmth or self._warm_start.read()
        # What was saved and what the topic keeps are asked for apart: the topic's ends must be the later.
        bounds |= self._link.bounds(bounds)
        wanted = {partition: checkpoint.offset for partition, checkpoint in warmth.checkpoints.items()}
        if not wanted:
            start = self._rewound(bounds)
        else:
            start = start_at_offsets(bounds, wanted)
            noted_us = max(checkpoint.begun_us for checkpoint in warmth.checkpoints.values())
            younger = self._link.offsets_at(bounds, noted_us // 1_000 + _CLOCKS_DIFFER_MS)
            start = without_strangers(start, wanted, younger, bounds)
        if self._warmth is None:
            self._warmth = warmth
            if warmth.books:
                self.restored = Restored(self._store.cut(), self._warm_start.newest_us)
                self._writer.resume(start.offsets, warmth.checkpoints)
        note = (
            f"behind {warmth.note}" if wanted else f"{start.note}, for there is no checkpoint: {warmth.note}"
        )
        if not wanted:
            self._store.incidents.record(
                IncidentKind.FEED, f"no warm start: {warmth.note}, without a checkpoint"
            )
        return start._replace(note=note)

    def _rewound(self, bounds: dict[int, Bounds]) -> Start:
        options = self._options
        wanted_ms = _now_us() // 1_000 - options.rewind_minutes * 60_000
        found = self._link.offsets_at(bounds, wanted_ms)
        return start_at_time(bounds, found, self._link.offsets_at(bounds, 0), options.rewind_minutes)

    def _on_event(self, message: Message, next_offsets: dict[int, int]) -> bool:
        """
        Act on what is no record, and tell whether everything was assigned anew.

        Args:
            message: the error or event.
            next_offsets: how far the records of the same batch came, by partition.
        """
        error = message.error()
        assert error is not None, "records are taken by the intake"
        if error.fatal():
            raise FeedError(f"librdkafka cannot go on: {error.str()}")
        partition: int = message.partition()  # type: ignore[assignment]  # -1 where it concerns none
        code = error.code()
        if code == KafkaError._PARTITION_EOF:  # noqa: SLF001
            end: int = message.offset()  # type: ignore[assignment]
            # Records that came after this end may be in the batch too.
            self.positions.end_reached(partition, max(end, next_offsets.get(partition, 0)))
        elif code in _RETENTION:
            self._doubt(partition, "are gone", error)
            self.positions.restart(partition)
            self._link.restart(partition)
        elif code in _SPOILT:
            self._doubt(partition, "cannot be taken out of Kafka", error)
        elif state_of(error) is not FeedState.BROKER_DOWN:
            self._begin_again(state_of(error), f"topic {self._options.topic!r}: {error.str()}")
            return True
        elif code != KafkaError.GROUP_AUTHORIZATION_FAILED:  # no group is used, so none has to be allowed
            self._store.incidents.record(IncidentKind.FEED, error.str(), partition=partition)
        return False

    def _doubt(self, partition: int, finding: str, error: KafkaError) -> None:
        offset = self.positions.next_offsets[partition]
        reason = f"records from offset {offset} of partition {partition} on {finding}: {error.str()}"
        self._writer.doubt_all(reason, partition)

    def _keep_time(self) -> bool:
        now_us = _now_us()
        # A clock that was set back must not stop the timer until it has caught up with itself.
        if 0 <= now_us - self._ticked_us < _TICK_US:
            return False
        self._ticked_us = now_us
        # What is still to be read may have moved the times at which markets open and close.
        if self._store.ready:
            self._writer.tick(now_us)
            self._writer.commit()
        self._quarantine.poll()
        return True

    def _look_around(self) -> None:
        if self._link.watch.vanished:
            self._begin_again(FeedState.CONNECTING, f"topic {self._options.topic!r} has vanished")
            return
        ends, now_us = self._link.watch.ends, _steady_us()
        if self._has_stalled(now_us):
            # How much has come meanwhile is to be asked.
            self._resume()
            return
        self._looked_us = now_us
        self.positions.ends_at(ends)
        self._lag_clock.ends_are(ends, now_us)
        self.waiting_us = self._lag_clock.waiting_us(self.positions.next_offsets, now_us)
        if self.positions.caught_up:
            self._lag_judge.judge(self.waiting_us, now_us)
        for partition in self._link.watch.known_partitions - self.positions.next_offsets.keys():
            self.positions.add(partition)
            self._link.add(partition)
            self._store.incidents.record(
                IncidentKind.FEED, "a partition was added", partition=partition, level=logging.INFO
            )

    def _pause(self, seconds: float) -> None:
        end_s = time.monotonic() + seconds
        while not self._stopping.wait(min(0.1, max(end_s - time.monotonic(), 0.0))):
            self._keep_time()
            if time.monotonic() >= end_s:
                return

    def _judge(self) -> None:
        trouble = self._link.watch.trouble
        if trouble is not None:
            self._cut_off = True
            self._writer.set_ready(False, trouble.reason)
            self._show(trouble.state, trouble.reason)
        elif self._cut_off:
            # What was published meanwhile is still to be read, or was already deleted: the ends are
            # asked for anew, and the store is ready when it has reached them.
            self._cut_off = False
            self._resume()
        else:
            caught_up = self.positions.caught_up
            silence = self.silence(_now_us()) if caught_up else None
            if silence is not None:
                self._is_silent = True
                self._writer.set_ready(False, silence)
                return
            if self._is_silent:
                # What comes first after a silence may be the beginning of much.
                self._is_silent = False
                self._resume()
                return
            if caught_up and self._lag_judge.is_late and self._was_live:
                lag = f"records are read more than {self._options.lag_limit_s} s after they came"
                self._writer.set_ready(False, lag)
                self._show(FeedState.LAGGING, lag)
                return
            # What has come while much was read is a part of catching up.
            self._was_live = caught_up and not self._lag_judge.is_late
            self._writer.set_ready(self._was_live)
            note = self._note if self._was_live or not caught_up else f"{self._note}, and what came meanwhile"
            self._show(FeedState.LIVE if self._was_live else FeedState.CATCHING_UP, note)

    def stall(self) -> str | None:
        """Return what to say of a thread that has not run for longer than a record may wait, or None."""
        if not self._has_stalled(_steady_us()):
            return None
        return f"the feed's thread has not run for more than {self._options.lag_limit_s} s"

    def _has_stalled(self, now_us: int) -> bool:
        return 0 < self._lag_limit_us < now_us - self._looked_us

    def silence(self, now_us: int) -> str | None:
        """
        Return what to say of a topic without any record for longer than is normal, or None.

        A broker that is frozen, or gatherers that are gone, look the same: nothing comes, and the books
        of a live market stay as they are.
        """
        limit_s = self._options.silence_limit_s
        quiet_us = now_us - max(self._begun_us, self.intake.last_record_us or 0)
        return f"no record for more than {limit_s} s" if 0 < limit_s * 1_000_000 < quiet_us else None


def _now_us() -> int:
    return time.time_ns() // 1_000


def _steady_us() -> int:
    return time.monotonic_ns() // 1_000
