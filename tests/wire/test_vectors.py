"""Every frame of the vector file, read or refused as the file says."""

from typing import Any

import msgspec
import pytest

from kalshibook.errors import WireError
from kalshibook.wire import (
    EventFrame,
    MarketLifecycle,
    Trade,
    WireEvent,
    decode_envelope,
    decode_frame,
    encode_envelope,
    read_frame,
)
from tests.vectors import VECTORS, frame_bytes

RECEIVED = [row for row in VECTORS if "event" in row or "error" in row]
PASSED_ON = [
    row for row in RECEIVED if row.get("event", {}).get("is") in {"Trade", "MarketLifecycle", "EventFrame"}
]
JSON = [row for row in RECEIVED if not isinstance(row["frame"], str)]


def name_of(row: dict[str, Any]) -> str:
    """Name a test by its vector."""
    name: str = row["name"]
    return name


def facts(event: WireEvent) -> dict[str, Any]:
    """Return all of an event but its body, as the vector file writes it."""
    fields: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(event))
    fields.pop("body", None)
    return {"is": type(event).__name__, **fields}


def test_all_vectors_are_here() -> None:
    """The file holds 126 frames with different names, each with something to check."""
    assert 126 == len({row["name"] for row in VECTORS})
    assert all({"event", "error", "reply"} & row.keys() for row in VECTORS)


@pytest.mark.parametrize("row", RECEIVED, ids=name_of)
def test_frame_is_read_or_refused(row: dict[str, Any]) -> None:
    """A frame of the exchange becomes its event in fixed point, or an error with the field's path."""
    if "error" in row:
        with pytest.raises(WireError) as caught:
            read_frame(decode_frame(frame_bytes(row)))

        assert row["error"] == caught.value.path
    else:
        event = read_frame(decode_frame(frame_bytes(row)))

        assert row["event"] == facts(event)


@pytest.mark.parametrize("row", PASSED_ON, ids=name_of)
def test_body_is_the_message_as_it_came(row: dict[str, Any]) -> None:
    """What is passed on to subscribers is the exchange's own message, byte for byte."""
    event = read_frame(decode_frame(frame_bytes(row)))

    assert isinstance(event, Trade | MarketLifecycle | EventFrame)
    assert msgspec.json.encode(row["frame"]["msg"]) == event.body


@pytest.mark.parametrize("row", JSON, ids=name_of)
def test_frame_in_its_envelope_is_read_the_same(row: dict[str, Any]) -> None:
    """Inside an envelope a frame gives the same event, or the same error under the payload's path."""
    value = encode_envelope(
        frame_bytes(row),
        received_us=2_000_001,
        published_us=2_000_002,
        channel="orderbook_delta",
        market_ticker="",
        sequence=1,
        source="g1",
    )

    if "error" in row:
        with pytest.raises(WireError) as caught:
            read_frame(decode_envelope(value).payload, "$.payload")

        assert "$.payload" + row["error"][1:] == caught.value.path
    else:
        assert row["event"] == facts(read_frame(decode_envelope(value).payload, "$.payload"))
