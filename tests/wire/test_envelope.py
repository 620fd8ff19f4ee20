"""The envelope: one schema for both ends of the topic, tolerant of what other producers leave out."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, strategies as st

from kalshibook.errors import WireError
from kalshibook.wire import BookDelta, EnvelopeHead, Other, decode_envelope, encode_envelope, read_frame

DELTA = (
    b'{"type":"orderbook_delta","sid":7,"seq":4,"msg":{"market_ticker":"KXFROG-26DEC01-T40",'
    b'"price_dollars":"0.4000","delta_fp":"-25.50","side":"yes","ts_ms":1795348800020}}'
)
CHANGE = BookDelta("KXFROG-26DEC01-T40", "yes", 4000, -2550, 1_795_348_800_020_000)


def encoded(payload: bytes = DELTA, **changes: Any) -> bytes:
    """An envelope with every field set, but for `changes`."""
    fields: dict[str, Any] = {
        "received_us": 1_795_348_800_027_123,
        "published_us": 1_795_348_800_028_456,
        "channel": "orderbook_delta",
        "market_ticker": "KXFROG-26DEC01-T40",
        "sequence": 4,
        "source": "g1",
        "connection": "c9",
        "sid": 7,
        "previous_sequence": 1,
    }
    return encode_envelope(payload, **{**fields, **changes})


def with_fields(**fields: Any) -> bytes:
    """An envelope as another producer would write it."""
    return msgspec.json.encode({"payload": msgspec.Raw(DELTA), **fields})


def test_what_one_end_writes_the_other_reads() -> None:
    """Every field of version 1 comes out as it went in."""
    envelope = decode_envelope(encoded())

    assert CHANGE == read_frame(envelope.payload, "$.payload")
    assert 1 == envelope.version
    assert 1_795_348_800_027 == envelope.received_timestamp
    assert 1_795_348_800_028 == envelope.published_timestamp
    assert 1_795_348_800_027_123 == envelope.received_us
    assert 1_795_348_800_028_456 == envelope.published_us
    assert ("orderbook_delta", "KXFROG-26DEC01-T40") == (envelope.channel, envelope.market_ticker)
    assert ("g1", "c9", 7, 4, 1) == (
        envelope.source,
        envelope.connection,
        envelope.sid,
        envelope.sequence,
        envelope.previous_sequence,
    )


def test_names_on_the_wire() -> None:
    """The JSON has the agreed names, which other consumers of the topic rely on."""
    assert {
        "payload": msgspec.json.decode(DELTA),
        "receivedTimestamp": 1_795_348_800_027,
        "publishedTimestamp": 1_795_348_800_028,
        "channel": "orderbook_delta",
        "marketTicker": "KXFROG-26DEC01-T40",
        "sequence": 4,
        "source": "g1",
        "version": 1,
        "connection": "c9",
        "sid": 7,
        "previousSequence": 1,
        "receivedTimestampUs": 1_795_348_800_027_123,
        "publishedTimestampUs": 1_795_348_800_028_456,
    } == msgspec.json.decode(encoded())


def test_a_doubt_is_carried() -> None:
    """A frame that its gatherer does not trust says why; without doubt the field is not there."""
    assert "from a cache" == decode_envelope(encoded(doubt="from a cache")).doubt
    assert decode_envelope(encoded()).doubt is None
    assert b"doubt" not in encoded()


def test_the_first_message_of_a_market_says_so() -> None:
    """Before the first there is 0, which is written and is not the same as unknown."""
    assert 0 == decode_envelope(encoded(previous_sequence=0)).previous_sequence
    assert decode_envelope(encoded(previous_sequence=None)).previous_sequence is None


@pytest.mark.parametrize(
    "payload",
    [
        DELTA,
        b'{ "type" : "orderbook_delta",\n\t"msg":{"delta_fp":"1", "delta_fp":"0.6" ,"x":1.0e+0}}',
        '{"type":"trade","msg":{"note":"\\u00fc Ü 🐸 \\/"}}'.encode(),
        b'{"msg":{"big":123456789012345678901234567890.5},"type":"orderbook_l3"}',
    ],
)
def test_payload_bytes_are_untouched(payload: bytes) -> None:
    """Spaces, order, escapes, doubled keys, number spellings: the payload is carried, not rewritten."""
    value = encoded(payload)

    assert payload in value
    assert payload == bytes(msgspec.json.decode(value, type=EnvelopeHead).payload)


@pytest.mark.parametrize(
    "missing",
    [
        "receivedTimestamp",
        "publishedTimestamp",
        "channel",
        "marketTicker",
        "sequence",
        "source",
        "version",
        "connection",
        "sid",
        "previousSequence",
        "receivedTimestampUs",
        "publishedTimestampUs",
    ],
)
def test_any_field_but_the_payload_may_be_missing(missing: str) -> None:
    """Each field alone may be left out; the message is read and the rest stays."""
    fields = msgspec.json.decode(encoded())
    del fields[missing]

    envelope = decode_envelope(msgspec.json.encode(fields))

    assert CHANGE == read_frame(envelope.payload)
    kept = {name: value for name, value in fields.items() if name != "payload"}
    written = msgspec.json.decode(msgspec.json.encode(envelope))
    assert kept.items() <= written.items()
    assert missing not in written or written[missing] in ("", 0, None)


def test_a_bare_payload_is_an_envelope() -> None:
    """With nothing but the payload everything else is unknown, and nothing is made up."""
    envelope = decode_envelope(with_fields())

    assert CHANGE == read_frame(envelope.payload)
    assert [None] * 6 == [
        envelope.sequence,
        envelope.connection,
        envelope.sid,
        envelope.previous_sequence,
        envelope.received_us,
        envelope.published_us,
    ]


def test_milliseconds_serve_where_microseconds_are_missing() -> None:
    """Times are as precise as the producer was."""
    envelope = decode_envelope(with_fields(receivedTimestamp=5, publishedTimestamp=6, version=1))

    assert (5_000, 6_000) == (envelope.received_us, envelope.published_us)


def test_unknown_fields_are_ignored() -> None:
    """Version 1 may grow."""
    assert CHANGE == read_frame(decode_envelope(with_fields(version=1, shard=3, extra={"x": []})).payload)


@pytest.mark.parametrize("version", [2, -1, 10**30])
@pytest.mark.parametrize("payload", [DELTA, b"[]", b'{"kind":"delta"}', b'{"type":"orderbook_delta"}'])
def test_another_version_is_refused_whatever_it_carries(version: int, payload: bytes) -> None:
    """The version is what is wrong, even if the payload of that version looks odd to us."""
    value = msgspec.json.encode({"payload": msgspec.Raw(payload), "version": version})

    with pytest.raises(WireError) as caught:
        decode_envelope(value)

    assert "$.version" == caught.value.path


def test_payload_of_an_unknown_type() -> None:
    """It is counted by its type, with the envelope's facts intact."""
    envelope = decode_envelope(encoded(b'{"type":"orderbook_l3","sid":7,"seq":9,"msg":{"x":[1,{}]}}'))

    assert Other("orderbook_l3", "KXFROG-26DEC01-T40") == envelope.payload == read_frame(envelope.payload)
    assert (4, "g1", 1_795_348_800_027_123) == (envelope.sequence, envelope.source, envelope.received_us)


@pytest.mark.parametrize(
    ("path", "payload"),
    [
        ("$.payload", b"null"),
        ("$.payload", b"5"),
        ("$.payload", b'"text"'),
        ("$.payload", b"[]"),
        ("$.payload", b"{}"),
        ("$.payload.type", b'{"type":null}'),
        ("$.payload.seq", b'{"type":"orderbook_l3","seq":"9"}'),
        ("$.payload.seq", b'{"type":"orderbook_delta","seq":0,"msg":{"market_ticker":"A","side":"yes"}}'),
        ("$.payload.msg", b'{"type":"orderbook_delta"}'),
        ("$.payload.msg", b'{"type":"orderbook_delta","msg":[]}'),
        ("$.payload.msg.side", b'{"type":"orderbook_delta","msg":{"market_ticker":"A","side":1}}'),
        ("$.payload.msg.market_ticker", b'{"type":"ticker","msg":{"market_ticker":null}}'),
    ],
)
def test_payload_of_the_wrong_shape(path: str, payload: bytes) -> None:
    """The error names the field inside the payload."""
    with pytest.raises(WireError) as caught:
        read_frame(decode_envelope(encoded(payload)).payload, "$.payload")

    assert path in (caught.value.path, caught.value.path + ".msg")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("$", b""),
        ("$", b"\x00\x01\x02"),
        ("$", b"{"),
        ("$", b"[]"),
        ("$", b"null"),
        ("$", b"{}"),
        ("$", b'{"version":1}'),
        ("$", with_fields(version=1) + b"x"),
        ("$.marketTicker", with_fields(marketTicker=5)),
        ("$.sequence", with_fields(sequence="4")),
        ("$.sequence", with_fields(sequence=4.0)),
        ("$.sequence", with_fields(sequence=-1)),
        ("$.sequence", with_fields(sequence=2**63)),
        ("$.previousSequence", with_fields(previousSequence=-1)),
        ("$.receivedTimestamp", with_fields(receivedTimestamp="now")),
        ("$.receivedTimestamp", with_fields(receivedTimestamp=10**15)),
        ("$.publishedTimestampUs", with_fields(publishedTimestampUs=-5)),
        ("$.source", with_fields(source=None)),
        ("$.sid", with_fields(sid=True)),
        ("$.doubt", with_fields(doubt=1)),
        ("$.source", encoded(b'{"type":"orderbook_l3"}').replace(b'"g1"', b"1")),
    ],
)
def test_envelope_of_the_wrong_shape(path: str, value: bytes) -> None:
    """Not JSON, no object, no payload, or a field of the wrong type or out of all bounds."""
    with pytest.raises(WireError) as caught:
        decode_envelope(value)

    assert path == caught.value.path


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
envelope_like = st.fixed_dictionaries(
    {"payload": json_values},
    optional=dict.fromkeys(
        ["receivedTimestamp", "channel", "marketTicker", "sequence", "source", "version", "sid"], json_values
    ),
)


def read_or_refuse(value: bytes) -> None:
    """Read a record as a feed does; the only way out is a WireError."""
    with contextlib.suppress(WireError):
        read_frame(decode_envelope(value).payload, "$.payload")


@given(st.binary(max_size=200))
@example(b'{"payload":' * 2_000)
@example(b'{"payload":{"type":"trade","msg":' + b"[" * 100_000 + b"]" * 100_000 + b"}}")
@example(b'{"payload":{"type":"x","msg":' + b"[" * 100_000 + b"]" * 100_000 + b"}}")
@example(b'{"payload":{"type":"\xff"}}')
@example(b'{"payload":{"type":"\\ud800"}}')
def test_no_bytes_get_past_the_decoder(value: bytes) -> None:
    """Any bytes are read or refused; nothing else is ever raised."""
    read_or_refuse(value)


@given(envelope_like)
def test_no_json_gets_past_the_decoder(value: dict[str, Any]) -> None:
    """Any JSON in an envelope's place is read or refused; nothing else is ever raised."""
    read_or_refuse(msgspec.json.encode(value))
