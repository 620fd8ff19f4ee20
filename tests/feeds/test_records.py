from confluent_kafka import TIMESTAMP_CREATE_TIME, TIMESTAMP_NOT_AVAILABLE, KafkaError, Message

from kalshibook.feeds.quarantine import NoQuarantine
from kalshibook.feeds.records import RecordIntake
from kalshibook.simulator.frames import snapshot_frame
from kalshibook.store import BookStore
from kalshibook.wire import encode_envelope


def record(
    ticker: str, *, partition: int = 0, offset: int = 0, timestamp: tuple[int, int] = (1, 7_000)
) -> Message:
    """Return a record as librdkafka would hand it out."""
    frame = snapshot_frame(ticker, [(4_000, 100)], [], sid=1, seq=1 + offset, ts_ms=5_000)
    value = encode_envelope(
        frame,
        received_us=6_000_001,
        published_us=6_000_002,
        channel="orderbook_delta",
        market_ticker=ticker,
        sequence=1 + offset,
        source="g1",
        connection="c1",
        sid=1,
        previous_sequence=0,
    )
    return Message(
        topic="t", partition=partition, offset=offset, key=ticker.encode(), value=value, timestamp=timestamp
    )


def test_tells_how_far_a_batch_came() -> None:
    """Offsets by partition, events apart from records, and both counted."""
    store = BookStore()
    event = Message(topic="t", partition=0, offset=9, error=KafkaError(KafkaError._PARTITION_EOF))
    with store.writer() as writer:
        intake = RecordIntake("t", writer, NoQuarantine())
        messages = [record("A", offset=7), record("B", partition=3, offset=4), record("C", offset=8), event]
        next_offsets, events = intake.take(messages, 8_000_000)

    assert {0: 9, 3: 5} == next_offsets == store.cut().offsets
    assert [event] == events
    assert (3, 8_000_000) == (intake.records, intake.last_record_us)
    assert intake.bytes == sum(len(message.value() or b"") for message in messages)


def test_every_hop_is_stamped() -> None:
    """A book carries when its message was sent, received, published, stored in Kafka, and taken out."""
    store = BookStore()
    with store.writer() as writer:
        RecordIntake("t", writer, NoQuarantine()).take(
            [record("A", timestamp=(TIMESTAMP_CREATE_TIME, 7_000))], 8_000_000
        )
    stamps = store.cut()["A"].stamps

    assert stamps is not None
    assert (5_000_000, 6_000_001, 6_000_002, 7_000_000, 8_000_000) == (
        stamps.exchange_us,
        stamps.received_us,
        stamps.published_us,
        stamps.kafka_us,
        stamps.consumed_us,
    )
    assert 1_000_000 == stamps.kafka_latency_us


def test_a_missing_timestamp_is_unknown() -> None:
    """A record without a time gets none, and no latency is made of it."""
    store = BookStore()
    with store.writer() as writer:
        RecordIntake("t", writer, NoQuarantine()).take(
            [record("A", timestamp=(TIMESTAMP_NOT_AVAILABLE, 0))], 8_000_000
        )
    stamps = store.cut()["A"].stamps

    assert stamps is not None
    assert stamps.kafka_us is None
    assert stamps.kafka_latency_us is None


def test_nothing_but_events_is_no_sign_of_life() -> None:
    """An end of a partition is not a record: silence goes on."""
    store = BookStore()
    event = Message(topic="t", partition=0, offset=9, error=KafkaError(KafkaError._PARTITION_EOF))
    with store.writer() as writer:
        intake = RecordIntake("t", writer, NoQuarantine())
        intake.take([event], 8_000_000)

    assert intake.last_record_us is None
    assert 0 == store.cut().version


def test_an_unreadable_record_is_judged_by_its_channel() -> None:
    """A ticker that cannot be read leaves its book live; a change, and what tells no channel, does not."""
    store = BookStore()
    with store.writer() as writer:
        intake = RecordIntake("t", writer, NoQuarantine())
        for offset, (ticker, channel) in enumerate((("A", "ticker"), ("B", "orderbook_delta"), ("C", ""))):
            value = f'{{"marketTicker":"{ticker}","channel":"{channel}","payload":{{}}}}'.encode()
            spoilt = Message(topic="t", partition=0, offset=9, key=b"?", value=value, timestamp=(0, 0))
            intake.take([record(ticker, offset=offset), spoilt], 8_000_000)

    assert {"A": "live", "B": "stale", "C": "stale"} == {
        ticker: book.condition for ticker, book in store.cut().items()
    }
