from typing import Any

import msgspec
import pytest

from kalshibook.archive.rows import (
    DeltaRow,
    Identity,
    LifecycleRow,
    Place,
    Row,
    SnapshotKind,
    SnapshotRow,
    TickerRow,
    TradeRow,
    rows_of,
    rows_of_event,
    snapshot_row,
)
from kalshibook.errors import WireError
from kalshibook.wire import BookDelta, Other, decode_envelope, encode_envelope, read_frame

TICKER = "KXFROG-T40"
PLACE = Place("market-data-all", 3, 1042, 1_790_000_000_500_000)


def row_of(frame: dict[str, Any], *, place: Place = PLACE, **changes: Any) -> Row:
    """Send a frame through an envelope, as a gatherer does, and return the row that comes out."""
    fields: dict[str, Any] = {
        "received_us": 1_790_000_000_123_456,
        "published_us": 1_790_000_000_123_999,
        "channel": "",
        "market_ticker": TICKER,
        "sequence": frame.get("seq"),
        "source": "gatherer-1",
        "connection": "c1",
        "sid": frame.get("sid"),
    }
    envelope = decode_envelope(encode_envelope(msgspec.json.encode(frame), **(fields | changes)))
    (row,) = rows_of(envelope, read_frame(envelope.payload), place)
    return row


def delta(**changes: Any) -> dict[str, Any]:
    message = {
        "market_ticker": TICKER,
        "side": "no",
        "price_dollars": "0.0042",
        "delta_fp": "-0.01",
        "ts_ms": 1_790_000_000_100,
    }
    return {"type": "orderbook_delta", "sid": 2, "seq": 9, "msg": message | changes}


class TestRows:
    def test_delta(self) -> None:
        """Sub-cent prices and hundredths of a contract stay exact; both times are kept."""
        expected = DeltaRow(
            "gatherer-1", "c1", 2, 9, 1_790_000_000_123_456, 1_790_000_000_100_000, TICKER, 2, 42, -1
        )

        assert expected == row_of(delta())

    def test_an_absent_time_stays_absent(self) -> None:
        """Nothing takes the place of a time that the exchange did not give."""
        row = row_of(delta(ts_ms=None))

        assert row.exchange_us is None

    def test_snapshot(self) -> None:
        """Levels become parallel arrays, ascending; an empty side is empty."""
        message = {"market_ticker": TICKER, "yes_dollars_fp": [["0.4100", "3.50"], ["0.4000", "75.50"]]}
        row = row_of({"type": "orderbook_snapshot", "sid": 2, "seq": 8, "msg": message})

        assert isinstance(row, SnapshotRow)
        assert ((4000, 4100), (7550, 350), (), ()) == row[-4:]
        assert (SnapshotKind.EXCHANGE, 2) == (row.kind, row.condition)

    def test_trade(self) -> None:
        """A trade keeps its own id."""
        message = {
            "market_ticker": TICKER,
            "trade_id": "7c0f",
            "yes_price_dollars": "0.4000",
            "no_price_dollars": "0.6000",
            "count_fp": "12.00",
            "taker_outcome_side": "yes",
            "ts_ms": 1_790_000_000_100,
        }
        row = row_of({"type": "trade", "sid": 3, "seq": 1, "msg": message})

        assert isinstance(row, TradeRow)
        assert ("7c0f", 4000, 1200, 1, False, True) == row[-6:]

    def test_equal_tickers_are_equal_and_others_are_not(self) -> None:
        """A ticker has no number: its content tells it apart, the same in every process."""
        first = row_of({"type": "ticker", "sid": 4, "msg": {"market_ticker": TICKER, "volume_fp": "10.00"}})
        again = row_of({"type": "ticker", "sid": 4, "msg": {"market_ticker": TICKER, "volume_fp": "10.00"}})
        other = row_of({"type": "ticker", "sid": 4, "msg": {"market_ticker": TICKER, "volume_fp": "10.01"}})

        assert isinstance(first, TickerRow)
        assert isinstance(other, TickerRow)
        assert -4260801637938846423 == first.digest
        assert first == again
        assert first.digest != other.digest

    def test_lifecycle(self) -> None:
        """A step in a market's life keeps the whole of its body."""
        message = {"market_ticker": TICKER, "event_type": "determined", "result": "yes"}
        row = row_of({"type": "market_lifecycle_v2", "sid": 5, "seq": 7, "msg": message})

        assert isinstance(row, LifecycleRow)
        assert ("market_lifecycle_v2", "determined", message) == (*row[-3:-1], msgspec.json.decode(row.body))

    def test_event(self) -> None:
        """A frame about an event is kept under the event's ticker."""
        row = row_of({"type": "event_lifecycle", "sid": 5, "seq": 8, "msg": {"event_ticker": "KXFROG"}})

        assert isinstance(row, LifecycleRow)
        assert ("KXFROG", "event_lifecycle") == (row.ticker, row.kind)


class TestIdentity:
    @pytest.mark.parametrize("missing", ["connection", "sid", "sequence"])
    def test_the_place_stands_in(self, missing: str) -> None:
        """A producer that names no connection, sid or number still gets rows that cannot be confused."""
        frame = delta()
        if missing != "connection":
            del frame[{"sid": "sid", "sequence": "seq"}[missing]]
        changes: dict[str, Any] = {missing: None}
        row = row_of(frame, **changes)

        assert isinstance(row, DeltaRow)
        assert ("kafka:market-data-all", 3, 1042) == (row.connection, row.sid, row.sequence)

    def test_time_of_receipt_from_kafka(self) -> None:
        """The time that the broker keeps with a record is as good: it is the same at every reading."""
        value = b'{"payload":' + msgspec.json.encode(delta()) + b"}"
        envelope = decode_envelope(value)
        (row,) = rows_of(envelope, read_frame(envelope.payload), PLACE)

        assert PLACE.kafka_us == row.received_us
        with pytest.raises(WireError, match="neither the envelope nor the record carries a time"):
            rows_of(envelope, read_frame(envelope.payload), PLACE._replace(kafka_us=None))

    def test_without_a_number_there_is_no_row(self) -> None:
        """Outside of Kafka nothing can stand in for a missing number."""
        event = BookDelta(TICKER, "yes", 4000, 100, None)

        with pytest.raises(WireError, match=r"\$\.seq: is missing"):
            rows_of_event(event, Identity("g", "c", 1, None, 5))


def test_a_snapshot_of_no_subscription_is_an_audit() -> None:
    """What a gatherer fetches over REST carries its connection, and neither a sid nor a number."""
    frame = {"type": "orderbook_snapshot", "msg": {"market_ticker": TICKER}}
    row = row_of(frame, connection="gatherer-1/rest")

    assert isinstance(row, SnapshotRow)
    assert (SnapshotKind.AUDIT, "gatherer-1/rest", 0) == (row.kind, row.connection, row.sid)
    assert row.received_us == row.sequence


def test_other_frames_make_no_row() -> None:
    """What carries no market data is passed over."""
    assert () == rows_of_event(Other("ok"), Identity("g", "c", 1, 1, 5))


def test_a_book_of_ours() -> None:
    """A minute's snapshot is identified by the last frame in it, an audit by its time."""
    minute = snapshot_row(Identity("g", "c", 1, 7, 5), TICKER, [(2, 3)], [], kind=SnapshotKind.MINUTE)
    audit = snapshot_row(Identity("g", "audit", 0, None, 5), TICKER, [], [(2, 3)], kind=SnapshotKind.AUDIT)

    assert (7, 2, (2,), (3,), (), ()) == (minute.sequence, minute.kind, *minute[-4:])
    assert (5, 3, (), (), (2,), (3,)) == (audit.sequence, audit.kind, *audit[-4:])
