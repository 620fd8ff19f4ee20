import pytest
import trio

from kalshibook.gather.gatherer import Gatherer
from kalshibook.gather.peers import PeerWatch, Wish
from kalshibook.simulator.ledger import FaultKind
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.wire import GapRecord
from tests.gather.gathering import gatherer_of, gathering, until

SECOND = 1_000_000


def watch() -> PeerWatch:
    return PeerWatch("g1", silence_us=10 * SECOND)


def gap(**more: object) -> GapRecord:
    fields = {
        "id": "g2/c1/1",
        "source": "g2",
        "connection": "c1",
        "sid": 1,
        "channel": "orderbook_delta",
        "cause": "gap",
        "from_sequence": 1,
        "to_sequence": 2,
        "markets": 2,
        "tickers": ("A", "B"),
        "detected_us": 5,
        **more,
    }
    return GapRecord(**fields)  # type: ignore[arg-type]  # each case is one field


def test_silence_is_told_a_few_times_and_again_after_a_sign_of_life() -> None:
    """Who owes a sign of life is asked for at growing distances: stores find out at times of their own."""
    found = watch()
    found.heard("g2", "alive", scope=False, now_us=0)
    assert [] == found.tick(10 * SECOND)

    told = [now for now in range(11, 300) if found.tick(now * SECOND)]

    assert [11, 21, 41, 81] == told
    found.heard("g2", "alive", scope=False, now_us=300 * SECOND)
    assert [] == found.tick(301 * SECOND)
    assert [Wish("g2", "silent for 11 s", None)] == found.tick(311 * SECOND)


def test_nobody_asks_again_for_a_peer_that_has_come_back() -> None:
    """Its books are its own again."""
    found = watch()
    found.heard("g2", "alive", scope=False, now_us=0)
    assert 1 == len(found.tick(11 * SECOND))
    found.heard("g2", "stale", scope=False, now_us=12 * SECOND)

    assert [] == found.tick(60 * SECOND)


def test_who_never_said_that_it_is_alive_owes_nothing() -> None:
    """A producer without signs of life is not judged by them."""
    found = watch()
    found.heard("g2", "stale", scope=True, now_us=0)

    assert [] == found.tick(60 * SECOND)


def test_an_end_and_a_new_start_leave_markets_without_a_gatherer() -> None:
    """Notices of one connection do not say which markets; the ledger does."""
    found = watch()
    found.heard("g2", "alive", scope=False, now_us=0)
    assert None is found.heard("g2", "stale", scope=True, now_us=1)
    assert Wish("g2", "ended", None) == found.heard("g2", "ended", scope=False, now_us=2)
    assert None is found.heard("g2", "ended", scope=False, now_us=3)
    assert Wish("g2", "stale", None) == found.heard("g2", "stale", scope=False, now_us=4)
    assert [] == found.tick(60 * SECOND)


def test_of_itself_and_of_nobody_nothing_is_wanted() -> None:
    """A gatherer reads its own notices too."""
    found = watch()
    for source in ("g1", ""):
        assert None is found.heard(source, "stale", scope=False, now_us=0)
    assert None is found.gap(gap(source="g1"))
    assert {} == found.peers


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (gap(), ("A", "B")),
        (gap(tickers=()), None),
        (gap(healed_us=9), "nothing"),
        (gap(channel="trade"), "nothing"),
        (gap(markets=0, tickers=()), "nothing"),
    ],
)
def test_entries_of_the_ledger_name_the_markets(record: GapRecord, expected: object) -> None:
    """Healed ones, and those of channels without books, are nobody's business."""
    wish = watch().gap(record)
    assert expected == ("nothing" if wish is None else wish.tickers)


@pytest.mark.trio
@pytest.mark.parametrize("helps", [True, False])
async def test_a_silent_peer_is_helped_out(helps: bool) -> None:
    """One gatherer is told of what the other has lost, and of its silence, and asks for the markets."""
    mine = {"peers": helps, "peer_silence_ms": 500}
    async with gathering(None, **mine) as (exchange, broker, gatherer):
        if helps:
            assert gatherer._peers is not None
            assert await trio.to_thread.run_sync(gatherer._peers.wait_reading, 20)
        taken = gatherer.budget.taken
        async with gatherer_of(exchange, broker, source="g2", peers=False) as other:
            await until(lambda: other.pool.is_live)
            if helps:
                # Its start puts all of its books in doubt.
                await until(lambda: gatherer.budget.taken == taken + 30)
                await until(lambda: gatherer.watch.peers == {"g2": True})
            await helped_with_a_gap(exchange, other, gatherer if helps else None)
            taken = gatherer.budget.taken
            silence(other)
            if helps:
                await until(lambda: gatherer.budget.taken == taken + 30)
                assert "silent" in gatherer.incidents.recent(1)[0].detail
        if not helps:
            assert gatherer.budget.taken == taken
            assert {} == gatherer.watch.peers


async def helped_with_a_gap(exchange: SimulatedExchange, other: Gatherer, gatherer: Gatherer | None) -> None:
    # The other gatherer's connections came last.
    books = [
        number
        for number, session in exchange.venue.sessions.items()
        if any(held.channel.name == "orderbook_delta" for held in session.subscriptions)
    ]
    exchange.inject(FaultKind.LOST, channel="orderbook_delta", connection=max(books))
    exchange.step(200)
    await until(lambda: other.ledger.counts().healed == 1)
    if gatherer is not None:
        await until(lambda: gatherer.incidents.counts()["peer"] == 2)
        assert "15 markets" in gatherer.incidents.recent(1)[0].detail


def silence(gatherer: Gatherer) -> None:
    gatherer._kafka._alive_waits = True  # as if its heart stood still
