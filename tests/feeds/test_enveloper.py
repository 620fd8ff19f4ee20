import json

import pytest

from kalshibook.errors import WireError
from kalshibook.feeds.enveloper import Enveloper, Route
from kalshibook.testing import FrameFactory
from kalshibook.wire import decode_envelope

FROG, NEWT = "KXFROG-T40", "KXNEWT-T41.5"


def previous(
    enveloper: Enveloper, frame: bytes, connection: str = "c1", *, accept: bool = True
) -> int | None:
    route = enveloper.route(frame)
    assert route is not None
    value = enveloper.wrap(frame, route, connection=connection, received_us=5)
    if accept:
        enveloper.accept(route, connection=connection)
    return decode_envelope(value).previous_sequence


def test_the_envelope_says_where_a_frame_belongs() -> None:
    """Every field of version 1 is there, and the frame stands in it untouched."""
    enveloper = Enveloper("gatherer-1", clock_us=lambda: 1_790_000_000_123_456)
    frame = b'{"type":"orderbook_snapshot",  "sid":7,"seq":12,"msg":{"market_ticker":"KXFROG-T40"}}'
    route = enveloper.route(frame)
    assert Route(FROG, FROG, "orderbook_delta", 7, 12) == route
    value = enveloper.wrap(frame, route, connection="c1", received_us=1_790_000_000_120_001)
    assert frame in value
    assert {
        "receivedTimestamp": 1_790_000_000_120,
        "publishedTimestamp": 1_790_000_000_123,
        "channel": "orderbook_delta",
        "marketTicker": FROG,
        "sequence": 12,
        "source": "gatherer-1",
        "version": 1,
        "connection": "c1",
        "sid": 7,
        "previousSequence": 0,
        "receivedTimestampUs": 1_790_000_000_120_001,
        "publishedTimestampUs": 1_790_000_000_123_456,
        "payload": json.loads(frame),
    } == json.loads(value)


def test_previous_numbers_are_kept_per_market_connection_and_subscription() -> None:
    """The first frame of a market on a connection has 0; others name the market's last number."""
    made, enveloper = FrameFactory(), Enveloper("g")
    assert 0 == previous(enveloper, made.snapshot(FROG))
    assert 0 == previous(enveloper, made.snapshot(NEWT))
    assert 1 == previous(enveloper, made.delta(FROG, "yes", 100, 1))
    assert 0 == previous(enveloper, made.trade(FROG, 100, 1))
    assert 3 == previous(enveloper, made.delta(FROG, "yes", 100, 1))
    assert 0 == previous(enveloper, made.delta(FROG, "yes", 100, 1), "c2")
    assert 2 == previous(enveloper, made.delta(NEWT, "yes", 100, 1))


def test_a_frame_without_a_number_has_no_previous_one() -> None:
    """`ticker` frames are not numbered."""
    assert previous(Enveloper("g"), FrameFactory().ticker(FROG)) is None


def test_what_was_not_accepted_is_not_remembered() -> None:
    """A frame that Kafka's queue had no room for is wrapped again with the same number."""
    made, enveloper = FrameFactory(), Enveloper("g")
    previous(enveloper, made.snapshot(FROG))
    refused = made.delta(FROG, "yes", 100, 1)
    assert 1 == previous(enveloper, refused, accept=False)
    assert 1 == previous(enveloper, refused)
    assert 2 == previous(enveloper, made.delta(FROG, "yes", 100, 1))


def test_a_late_frame_does_not_take_the_number_back() -> None:
    """After a frame that came twice the next one names the highest number, so no loss is seen."""
    made, enveloper = FrameFactory(), Enveloper("g")
    first, second, third = (made.delta(FROG, "yes", 100, 1) for _ in range(3))
    assert [0, 1, 2, 2] == [previous(enveloper, frame) for frame in (first, second, first, third)]


def test_a_forgotten_connection_begins_anew() -> None:
    """What is remembered does not grow with reconnects."""
    made, enveloper = FrameFactory(), Enveloper("g")
    previous(enveloper, made.snapshot(FROG))
    enveloper.forget("c1")
    enveloper.forget("never seen")
    assert {} == enveloper._last
    assert 0 == previous(enveloper, made.delta(FROG, "yes", 100, 1))


@pytest.mark.parametrize("kind", ["subscribed", "ok", "unsubscribed", "error"])
def test_answers_to_commands_belong_nowhere(kind: str) -> None:
    """They concern their connection only, also in the form of a list."""
    enveloper = Enveloper("g")
    assert enveloper.route(json.dumps({"type": kind, "sid": 1, "seq": 2}).encode()) is None
    assert enveloper.route(json.dumps({"type": kind, "msg": [{"sid": 1}]}).encode()) is None


def test_a_frame_about_an_event_is_keyed_by_the_event() -> None:
    """It names no market, and its channel is that of market lifecycles."""
    frame = b'{"type":"event_lifecycle","sid":3,"seq":1,"msg":{"event_ticker":"KXFROG"}}'
    assert Route("KXFROG", "", "market_lifecycle_v2", 3, 1) == Enveloper("g").route(frame)


def test_a_type_of_tomorrow_is_published_too() -> None:
    """An unknown frame about a market goes on to consumers that may know it."""
    frame = b'{"type":"weather","msg":{"market_ticker":"KXFROG-T40"}}'
    assert Route(FROG, FROG, "weather", None, None) == Enveloper("g").route(frame)


def test_an_exchange_cannot_speak_for_the_gatherer() -> None:
    """A notice off a socket is refused; only the gatherer itself makes one."""
    with pytest.raises(WireError, match="no exchange sends it"):
        Enveloper("g").route(b'{"type":"gatherer_notice","msg":{"notice":"stale","market_ticker":"A"}}')


@pytest.mark.parametrize(
    "frame", [b"", b"[]", b"{}", b'{"type":1}', b'{"type":"trade"}', b'{"type":"x","msg":[]}', b"\xff"]
)
def test_what_is_no_market_frame_is_an_error(frame: bytes) -> None:
    """It is refused, not published without a key."""
    with pytest.raises(WireError):
        Enveloper("g").route(frame)
