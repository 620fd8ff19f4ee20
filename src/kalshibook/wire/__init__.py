"""Kalshi's frames and the Kafka envelope: typed structs, decode, encode. Pure."""

from kalshibook.wire.envelope import (
    ENVELOPE_VERSION as ENVELOPE_VERSION,
    Envelope as Envelope,
    EnvelopeHead as EnvelopeHead,
    decode_envelope as decode_envelope,
    encode_envelope as encode_envelope,
)
from kalshibook.wire.events import (
    BookDelta as BookDelta,
    BookSnapshot as BookSnapshot,
    EventFrame as EventFrame,
    GathererNotice as GathererNotice,
    MarketDescription as MarketDescription,
    MarketLifecycle as MarketLifecycle,
    NoticeKind as NoticeKind,
    Other as Other,
    PriceRange as PriceRange,
    Side as Side,
    Ticker as Ticker,
    Trade as Trade,
    WireEvent as WireEvent,
)
from kalshibook.wire.frames import (
    decode_frame as decode_frame,
    decode_head as decode_head,
    market_frame as market_frame,
    notice_frame as notice_frame,
    read_frame as read_frame,
)
from kalshibook.wire.gaps import (
    GAP_VERSION as GAP_VERSION,
    GapRecord as GapRecord,
    decode_gap as decode_gap,
    encode_gap as encode_gap,
)
from kalshibook.wire.messages import Frame as Frame, FrameHead as FrameHead

__all__ = [
    "ENVELOPE_VERSION",
    "GAP_VERSION",
    "BookDelta",
    "BookSnapshot",
    "Envelope",
    "EnvelopeHead",
    "EventFrame",
    "Frame",
    "FrameHead",
    "GapRecord",
    "GathererNotice",
    "MarketDescription",
    "MarketLifecycle",
    "NoticeKind",
    "Other",
    "PriceRange",
    "Side",
    "Ticker",
    "Trade",
    "WireEvent",
    "decode_envelope",
    "decode_frame",
    "decode_gap",
    "decode_head",
    "encode_envelope",
    "encode_gap",
    "market_frame",
    "notice_frame",
    "read_frame",
]
