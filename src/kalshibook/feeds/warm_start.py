"""
Where a store begins when books were saved: read the topic of saved books, then go on at its checkpoints.

The topic is read to the end that it has at the start, and put into the store as it comes. A checkpoint of a
partition says that all its books are saved as of an offset, so reading goes on there; what a book holds
beyond it is not applied to it again (`StoreWriter.resume`).
"""

import threading
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, final

from confluent_kafka import KafkaError, Message

from kalshibook.errors import WireError
from kalshibook.feeds.base import FeedState
from kalshibook.feeds.link import KafkaLink
from kalshibook.feeds.options import KafkaOptions
from kalshibook.feeds.watch import Unavailable, state_of
from kalshibook.store import (
    Checkpoint,
    Cut,
    IncidentKind,
    IncidentLog,
    SavedBook,
    StoreWriter,
    decode_checkpoint,
    decode_saved,
)

__all__ = ["CHECKPOINT_PREFIX", "Restored", "WarmStart", "Warmth"]

CHECKPOINT_PREFIX: Final = "#partition-"
"""Of a checkpoint's key; no ticker begins like that."""

_BATCH: Final = 5_000
_POLL_S: Final = 0.1


class Restored(NamedTuple):
    """What was restored, for who saves on."""

    cut: Cut
    """The store with the saved books, before anything else was read."""
    written_us: int
    """When the newest of them was written, by the clock of who wrote it."""


class Warmth(NamedTuple):
    """What was found of saved books."""

    checkpoints: Mapping[int, Checkpoint]
    books: int
    note: str
    """For people."""


@final
class WarmStart:
    """
    Reads saved books into a store, on the feed's thread.

    Args:
        options: the feed's settings.
        writer: the store's.
        incidents: where unreadable records are told.
        show: called with what is being done, for people.
        stopping: set when reading shall end.
    """

    def __init__(
        self,
        options: KafkaOptions,
        writer: StoreWriter,
        incidents: IncidentLog,
        show: Callable[[FeedState, str], None],
        stopping: threading.Event,
    ) -> None:
        self._options = options
        self._writer = writer
        self._incidents = incidents
        self._show = show
        self._stopping = stopping
        self.newest_us = 0
        """When the newest record was written."""

    def read(self) -> Warmth:
        """
        Read all of the topic, as it is now.

        Raises:
            Unavailable: no broker answers; nothing is lost by trying again.
        """
        topic = self._options.snapshots_topic
        link = KafkaLink(self._options, topic=topic)
        try:
            return self._read(link, topic)
        except Unavailable as missing:
            if missing.state is not FeedState.TOPIC_MISSING:
                raise
            return Warmth({}, 0, f"there is no topic {topic!r} of saved books")
        finally:
            link.close()

    def _read(self, link: KafkaLink, topic: str) -> Warmth:
        bounds = link.bounds(link.partitions())
        ends = {partition: kept.high for partition, kept in bounds.items() if kept.low < kept.high}
        link.assign({partition: bounds[partition].low for partition in ends})
        checkpoints: dict[int, Checkpoint] = {}
        books = 0
        while ends and not self._stopping.is_set():
            saved: list[SavedBook] = []
            for message in link.poll(_BATCH, _POLL_S):
                error = message.error()
                if error is None:
                    self._take(message, saved, checkpoints)
                elif error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                    continue  # no group is used, so none has to be allowed
                partition: int = message.partition()  # type: ignore[assignment]  # a record and an end have one
                if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 - a local error
                    raise Unavailable(state_of(error), f"topic {topic!r}: {error.str()}")
                offset: int = message.offset()  # type: ignore[assignment]
                if partition in ends and (error is not None or offset + 1 >= ends[partition]):
                    del ends[partition]
            if link.watch.trouble is not None:
                raise link.watch.trouble
            if saved:
                self._restore(saved)
                books += len(saved)
                self._show(FeedState.CATCHING_UP, f"reading saved books of {topic!r}: {books}")
        note = f"{books} saved books of {topic!r}"
        return Warmth(checkpoints, books, note)

    def _take(self, message: Message, saved: list[SavedBook], checkpoints: dict[int, Checkpoint]) -> None:
        value, key = message.value(), (message.key() or b"").decode(errors="replace")
        if value is None:
            return
        try:
            if not key.startswith(CHECKPOINT_PREFIX):
                saved.append(decode_saved(value))
                self.newest_us = max(self.newest_us, saved[-1].written_us)
                return
            checkpoint = decode_checkpoint(value)
            self.newest_us = max(self.newest_us, checkpoint.begun_us)
        except WireError as error:
            self._tell(f"a saved record of {key!r} cannot be read: {error}", message)
            return
        held = checkpoints.get(checkpoint.partition)
        if checkpoint.topic == self._options.topic:
            if held is None or held.begun_us <= checkpoint.begun_us:
                checkpoints[checkpoint.partition] = checkpoint
        else:
            self._tell(f"checkpoint {key!r} is of topic {checkpoint.topic!r}", message)

    def _restore(self, saved: list[SavedBook]) -> None:
        try:
            self._writer.restore(saved)
        except WireError:
            # One of them; the others are worth having.
            for one in saved:
                try:
                    self._writer.restore([one])
                except WireError as error:
                    self._incidents.record(IncidentKind.REJECTED, str(error), ticker=one.ticker)

    def _tell(self, finding: str, message: Message) -> None:
        self._incidents.record(
            IncidentKind.REJECTED, finding, partition=message.partition(), offset=message.offset()
        )
