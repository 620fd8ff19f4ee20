"""
The gap ledger's records: what a gatherer knows it has not received. Version 1, JSON, one record a gap.

The key on the topic `market-data-gaps`, which is compacted, is the gap's `id`. A record is written
when a gap is found and again when it is healed; the later one stands.
"""

from typing import Final, Literal, TypeAlias

import msgspec

from kalshibook.errors import WireError
from kalshibook.wire.frames import UNREADABLE, wire_error
from kalshibook.wire.messages import Microseconds

__all__ = ["GAP_VERSION", "GapCause", "GapHealing", "GapRecord", "decode_gap", "encode_gap"]

GAP_VERSION: Final = 1

GapCause: TypeAlias = Literal["gap", "reset", "overflow", "ended", "disconnected", "silent"]
GapHealing: TypeAlias = Literal["snapshots", "resubscribed", "reconnected", "late"]


class GapRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True, rename="camel"):
    """One gap of one subscription."""

    id: str
    """Unique for ever: source, connection, subscription and first missing number."""
    source: str
    connection: str
    sid: int | None
    """None where the loss is a whole connection's and no subscription is known."""
    channel: str
    cause: GapCause
    """
    How it was found: numbers jumped (`gap`) or went backwards (`reset`); the exchange ended the
    subscription because its buffer was full (`overflow`) or for another reason (`ended`); the
    connection was lost (`disconnected`) or given up because nothing came (`silent`).
    """
    from_sequence: int | None
    """The first number that is missing; None where the channel has no numbers."""
    to_sequence: int | None
    """The last number that is missing; None where nobody knows how many there were."""
    markets: int
    """How many markets may have lost something."""
    tickers: tuple[str, ...] = ()
    """They; empty where it is every market of the exchange."""
    detected_us: Microseconds
    healed_us: Microseconds | None = None
    """
    When the last of the markets was whole again; None while one is not. A channel without snapshots
    (trades, lifecycle) is never whole again after missing numbers; after an outage it is when it goes on,
    though what was sent meanwhile is lost to this gatherer.
    """
    how: GapHealing | None = None
    """By snapshots on the same subscription, by a new one, by a new connection, or by the frames, `late`."""
    version: int = GAP_VERSION


_decoder: Final = msgspec.json.Decoder(GapRecord)
_encoder: Final = msgspec.json.Encoder()


def encode_gap(gap: GapRecord) -> bytes:
    """Return the value of its record; the key is its `id`."""
    return _encoder.encode(gap)


def decode_gap(data: bytes) -> GapRecord:
    """
    Read a record's value.

    Raises:
        WireError: not a gap of version 1.
    """
    try:
        gap = _decoder.decode(data)
    except UNREADABLE as error:
        raise wire_error(error) from None
    if gap.version != GAP_VERSION:
        raise WireError("$.version", f"gap record version {gap.version} is not {GAP_VERSION}")
    return gap
