"""
The envelope: the value of a Kafka record, version 1, JSON.

One schema serves both ends of the topic. The key of the record is the market's ticker. The
fields up to `version` are always there, but for a `sequence` where the channel has none; the
others are optional, so that an envelope of another producer is read too, with what it lacks
unknown:

* `connection`: id of the gatherer's socket epoch; a sid and its numbers mean nothing beyond it.
* `sid`: the subscription on that connection; the frame's own sid where it is missing.
* `previousSequence`: the last number published for this market on this connection and sid. `seq`
  counts per sid over all its markets, so only with it can a consumer find a loss per market.
* `receivedTimestampUs`, `publishedTimestampUs`: the times in microseconds.
* `doubt`: why the gatherer itself does not trust the frame; it is applied, and its book is stale.
"""

from typing import Annotated, Final, TypeAlias

import msgspec

from kalshibook.errors import WireError
from kalshibook.wire.events import Other
from kalshibook.wire.frames import UNREADABLE, decode_head, wire_error
from kalshibook.wire.messages import FRAME_TYPES, Frame, Microseconds, Milliseconds

__all__ = ["ENVELOPE_VERSION", "Envelope", "EnvelopeHead", "decode_envelope", "encode_envelope"]

ENVELOPE_VERSION: Final = 1

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class _Header(msgspec.Struct, frozen=True, gc=False, kw_only=True, rename="camel", omit_defaults=True):
    received_timestamp: Milliseconds | None = None
    """When the gatherer received the frame, Unix milliseconds."""
    published_timestamp: Milliseconds | None = None
    """When the gatherer handed it to Kafka, Unix milliseconds."""
    channel: str = ""
    market_ticker: str = ""
    sequence: Count | None = None
    """The frame's `seq`, or None where its channel has none."""
    source: str = ""
    """Which gatherer this is."""
    version: int = 0
    """The envelope's version; 0 stands for one that does not say and is read as version 1."""
    connection: str | None = None
    sid: int | None = None
    previous_sequence: Count | None = None
    received_timestamp_us: Microseconds | None = None
    published_timestamp_us: Microseconds | None = None
    doubt: str | None = None
    """Why the book is not to be trusted although the frame is applied, or None."""

    @property
    def received_us(self) -> int | None:
        """When the gatherer received the frame, microseconds, as precisely as is known."""
        if self.received_timestamp_us is not None:
            return self.received_timestamp_us
        return None if self.received_timestamp is None else self.received_timestamp * 1_000

    @property
    def published_us(self) -> int | None:
        """When the gatherer handed the frame to Kafka, microseconds, as precisely as is known."""
        if self.published_timestamp_us is not None:
            return self.published_timestamp_us
        return None if self.published_timestamp is None else self.published_timestamp * 1_000


class Envelope(_Header, frozen=True, gc=False, kw_only=True):
    """A decoded envelope with its typed frame."""

    payload: Frame | Other


class _KnownEnvelope(Envelope, frozen=True, gc=False, kw_only=True, rename="camel"):
    payload: Frame


class EnvelopeHead(_Header, frozen=True, gc=False, kw_only=True, rename="camel"):
    """An envelope whose payload is left as it came."""

    payload: msgspec.Raw


typed_decoder: Final = msgspec.json.Decoder(_KnownEnvelope)
"""Decodes envelopes of known frames, and judges nothing."""
_head_decoder = msgspec.json.Decoder(EnvelopeHead)
_encoder = msgspec.json.Encoder()
_decode: Final = typed_decoder.decode


def decode_envelope(data: bytes) -> Envelope:
    """
    Decode a record's value in one pass; a payload of an unknown type becomes `Other`.

    Raises:
        WireError: not an envelope of version 1, or its frame does not fit, with the field's path.
    """
    try:
        envelope: Envelope = _decode(data)
    except UNREADABLE as error:
        return _with_unknown_payload(data, error)
    if envelope.version != ENVELOPE_VERSION:
        _check_version(envelope)
    return envelope


def _with_unknown_payload(data: bytes, error: Exception) -> Envelope:
    try:
        head = _head_decoder.decode(data)
    except UNREADABLE as head_error:
        raise wire_error(head_error) from None
    # Before the payload is judged: in another version it may well be another.
    _check_version(head)
    kind = decode_head(bytes(head.payload), "$.payload").type
    if kind in FRAME_TYPES:
        raise wire_error(error) from None
    fields = {name: getattr(head, name) for name in head.__struct_fields__ if name != "payload"}
    return Envelope(payload=Other(kind, head.market_ticker), **fields)


def _check_version(envelope: _Header) -> None:
    if envelope.version not in (0, ENVELOPE_VERSION):
        raise WireError("$.version", f"envelope version {envelope.version} is not {ENVELOPE_VERSION}")


def encode_envelope(
    payload: bytes,
    *,
    received_us: int,
    published_us: int,
    channel: str,
    market_ticker: str,
    sequence: int | None,
    source: str,
    connection: str | None = None,
    sid: int | None = None,
    previous_sequence: int | None = None,
    doubt: str | None = None,
) -> bytes:
    """
    Wrap a frame, untouched, into an envelope of version 1.

    Args:
        payload: the frame as received, a JSON object.
        received_us: when the frame came off the socket, microseconds since the epoch.
        published_us: now, microseconds since the epoch.
        channel: the frame's channel, such as ``orderbook_delta``.
        market_ticker: the market; also the key of the record.
        sequence: the frame's ``seq``.
        source: which gatherer this is.
        connection: id of the socket epoch.
        sid: the subscription.
        previous_sequence: the last number published for this market on this connection and sid;
            0 says that this is the first.
        doubt: why the frame is not to be trusted; its book is stale once it is applied.
    """
    head = EnvelopeHead(
        payload=msgspec.Raw(payload),
        received_timestamp=received_us // 1_000,
        published_timestamp=published_us // 1_000,
        channel=channel,
        market_ticker=market_ticker,
        sequence=sequence,
        source=source,
        version=ENVELOPE_VERSION,
        connection=connection,
        sid=sid,
        previous_sequence=previous_sequence,
        received_timestamp_us=received_us,
        published_timestamp_us=published_us,
        doubt=doubt,
    )
    return _encoder.encode(head)
