"""
From Kafka records to a store: decode, apply; what cannot be read goes to quarantine.

The hot path. Nothing here keeps a `Message`: each holds on to librdkafka's whole fetch buffer.
"""

import logging
from collections.abc import Sequence
from typing import Final, final

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Message

from kalshibook.errors import WireError
from kalshibook.feeds.quarantine import Quarantine, QuarantinedRecord
from kalshibook.store import Arrival, StoreWriter
from kalshibook.wire import decode_envelope, read_frame

__all__ = ["RecordIntake"]

_log = logging.getLogger(__name__)


class _Hint(msgspec.Struct, gc=False, rename="camel"):
    market_ticker: str = ""
    channel: str = ""


_NO_HINT: Final = _Hint()


_hint_decoder: Final = msgspec.json.Decoder(_Hint)


@final
class RecordIntake:
    """
    Applies batches of records to a store. One thread; its counters may be read by any.

    Args:
        topic: what is read, for the quarantine.
        writer: the store's writer.
        quarantine: where unreadable records go.
    """

    def __init__(self, topic: str, writer: StoreWriter, quarantine: Quarantine) -> None:
        self._topic = topic
        self._writer = writer
        self._quarantine = quarantine
        self.records = 0
        self.bytes = 0
        self.rejected = 0
        self.tombstones = 0
        self.last_record_us: int | None = None

    def take(self, messages: Sequence[Message], consumed_us: int) -> tuple[dict[int, int], list[Message]]:
        """
        Apply every record of a batch.

        Args:
            messages: as librdkafka returned them.
            consumed_us: when that was.

        Returns:
            Next offset by partition, and the messages that are errors or events instead of records.
        """
        apply, arrival_of = self._writer.apply, Arrival.of
        next_offsets: dict[int, int] = {}
        events: list[Message] = []
        size = 0
        for message in messages:
            if message.error() is not None:
                events.append(message)
                continue
            partition: int = message.partition()  # type: ignore[assignment]  # a record has one
            offset: int = message.offset()  # type: ignore[assignment]
            next_offsets[partition] = offset + 1
            value = message.value()
            if value is None:
                self.tombstones += 1
                self._writer.skip(partition, offset + 1)
                continue
            size += len(value)
            kind, kafka_ms = message.timestamp()
            kafka_us = None if kind == TIMESTAMP_NOT_AVAILABLE else kafka_ms * 1_000
            try:
                envelope = decode_envelope(value)
                event = read_frame(envelope.payload, "$.payload")
            except WireError as error:
                self._reject(message, value, error, kafka_us, consumed_us)
            except Exception as error:  # noqa: BLE001 - see below
                # Whatever a record contains, it must not end the feed: after a restart it would be
                # read again, and end it again. This is a fault of the decoder, so it is shown whole.
                _log.exception("decoding %s/%d offset %d", self._topic, partition, offset)
                found = WireError("$", f"the decoder failed: {type(error).__name__}: {error}")
                self._reject(message, value, found, kafka_us, consumed_us)
            else:
                apply(
                    event,
                    arrival_of(
                        envelope,
                        partition=partition,
                        offset=offset,
                        kafka_us=kafka_us,
                        consumed_us=consumed_us,
                    ),
                )
        count = len(messages) - len(events)
        if count:
            self.records += count
            self.bytes += size
            self.last_record_us = consumed_us
        return next_offsets, events

    def _reject(
        self, message: Message, value: bytes, error: WireError, kafka_us: int | None, consumed_us: int
    ) -> None:
        self.rejected += 1
        partition: int = message.partition()  # type: ignore[assignment]
        offset: int = message.offset()  # type: ignore[assignment]
        key = message.key()
        arrival = Arrival("", None, None, None, None, None, None, kafka_us, consumed_us, partition, offset)
        hint = _hint(value)
        ticker = hint.market_ticker or (key or b"").decode(errors="replace")
        self._writer.reject(error, arrival, ticker or None, channel=hint.channel or None)
        self._quarantine.put(
            QuarantinedRecord.of(
                value,
                topic=self._topic,
                partition=partition,
                offset=offset,
                key=key,
                reason=str(error),
                time_us=consumed_us,
            )
        )


def _hint(value: bytes) -> _Hint:
    """Return what the envelope of an unreadable record tells, as far as it can be read."""
    try:
        return _hint_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _NO_HINT
