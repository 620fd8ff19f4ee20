import pytest

from kalshibook.errors import WireError
from kalshibook.store import BookStore, Condition, MarketStatus, Outcome
from kalshibook.testing import FrameFactory
from kalshibook.wire import decode_envelope, decode_head

FROG = "KXFROG-26DEC01-T40"
NEWT = "KXNEWT-26DEC01-T4611.99"


def test_numbers_rise_across_markets_and_not_across_subscriptions() -> None:
    """Book frames of two markets share a counter; trades have their own."""
    factory = FrameFactory()
    frames = [
        factory.snapshot(FROG),
        factory.snapshot(NEWT),
        factory.trade(FROG, 4_000, 100),
        factory.delta(FROG, "yes", 100, 1),
    ]
    heads = [decode_head(frame) for frame in frames]
    assert [(1, 1), (1, 2), (2, 1), (1, 3)] == [(head.sid, head.seq) for head in heads]


def test_an_envelope_names_the_number_before() -> None:
    """The previous number is that of the same market, 0 for its first."""
    factory = FrameFactory()
    envelopes = [
        decode_envelope(factory.envelope(frame))
        for frame in (factory.snapshot(FROG), factory.snapshot(NEWT), factory.delta(FROG, "yes", 100, 1))
    ]
    assert [(1, 0), (2, 0), (3, 1)] == [(one.sequence, one.previous_sequence) for one in envelopes]


def test_every_frame_applies() -> None:
    """A life of a market goes through a store as it should."""
    factory, store = FrameFactory(), BookStore()
    frames = [
        factory.lifecycle(FROG, "created", {"open_ts": 1, "close_ts": 2_000_000_000}),
        factory.snapshot(FROG, yes=[(4_000, 100)], no=[(5_500, 300)]),
        factory.delta(FROG, "no", 5_500, -100),
        factory.trade(FROG, 4_500, 100),
        factory.ticker(FROG, volume_fp="10.00"),
        factory.lifecycle(FROG, "determined", {"result": "yes", "settlement_value": "1.0000"}),
    ]
    with store.writer() as writer:
        outcomes = [writer.apply(*factory.message(frame)) for frame in frames]
    assert [
        Outcome.LIFECYCLE,
        Outcome.SNAPSHOT,
        Outcome.DELTA,
        Outcome.TRADE,
        Outcome.TICKER,
        Outcome.LIFECYCLE,
    ] == outcomes
    book = store.cut()[FROG]
    assert (200, 4_500, 1_000) == (
        book.no.best and book.no.best.size,
        book.activity.last_price,
        book.activity.volume,
    )
    assert (MarketStatus.DETERMINED, Condition.CLOSED) == (book.market.status, book.condition)


def test_a_frame_that_is_not_handed_on_is_a_loss() -> None:
    """The envelope after a lost one names a number that the store never saw."""
    factory, store = FrameFactory(), BookStore()
    first = factory.snapshot(FROG, yes=[(4_000, 100)])
    lost = factory.delta(FROG, "yes", 4_000, 1)
    with store.writer() as writer:
        writer.apply(*factory.message(first))
        factory.envelope(lost)
        outcome = writer.apply(*factory.message(factory.delta(FROG, "yes", 4_000, 1)))
    assert Outcome.GAP == outcome


def test_a_new_connection_counts_from_one() -> None:
    """After a reconnect numbers fall, and a snapshot is taken for what it is."""
    factory, store = FrameFactory(), BookStore()
    with store.writer() as writer:
        writer.apply(*factory.message(factory.snapshot(FROG, yes=[(4_000, 100)])))
        writer.apply(*factory.message(factory.delta(FROG, "yes", 4_000, 1)))
        factory.reconnect("connection-2")
        assert Outcome.UNANCHORED == writer.apply(*factory.message(factory.delta(FROG, "yes", 4_000, 1)))
        assert Outcome.SNAPSHOT == writer.apply(*factory.message(factory.snapshot(FROG, yes=[(4_100, 5)])))


def test_what_is_never_published_has_no_envelope() -> None:
    """Control frames are refused, and so is what is no frame."""
    with pytest.raises(ValueError, match="control"):
        FrameFactory().envelope(b'{"type":"ok","sid":1,"seq":4}')
    with pytest.raises(WireError):
        FrameFactory().envelope(b"[]")
