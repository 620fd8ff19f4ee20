import random

import pytest
import trio

from kalshibook.gather.records import Notice, Received, SinkCounts
from kalshibook.gather.router import Router

TYPES = ["orderbook_delta", "orderbook_snapshot", "trade", "ticker", "ok", "novelty"]


class Bounded:
    """A sink with a little room, which drops or says that it is full."""

    def __init__(self, name: str, types: frozenset[str] | None, *, room: int, drops: bool) -> None:
        self.name = name
        self.types = types
        self.room = room
        self.drops = drops
        self.queue: list[Received] = []
        self.notices: list[Notice] = []
        self.offered = self.processed = self.dropped = 0

    @property
    def is_full(self) -> bool:
        return not self.drops and len(self.queue) >= self.room

    def offer(self, received: Received) -> None:
        self.offered += 1
        if len(self.queue) >= self.room and self.drops:
            self.dropped += 1
        else:
            self.queue.append(received)

    def notify(self, notice: Notice) -> None:
        self.notices.append(notice)

    def counts(self) -> SinkCounts:
        return SinkCounts(self.offered, self.processed, self.dropped, len(self.queue))

    def work(self, count: int) -> None:
        self.processed += len(self.queue[:count])
        del self.queue[:count]


def frame(kind: str, number: int = 0) -> Received:
    return Received(b"%d" % number, "c1", number, kind)


def test_every_frame_is_accounted_for_whatever_happens() -> None:
    """Random frames and work: for each sink offered is processed, dropped and waiting, and all it wanted."""
    source = random.Random(2)
    sinks = [
        Bounded("all", None, room=10, drops=True),
        Bounded("books", frozenset(TYPES[:2]), room=5, drops=True),
        Bounded("none", frozenset(), room=1, drops=True),
        Bounded("patient", frozenset({"trade"}), room=3, drops=False),
    ]
    router = Router(sinks)
    sent: dict[str, int] = dict.fromkeys(TYPES, 0)
    for number in range(20_000):
        if source.random() < 0.6:
            kind = source.choice(TYPES)
            if not (router.is_full and kind == "trade"):
                router.route(frame(kind, number))
                sent[kind] += 1
        else:
            source.choice(sinks).work(source.randrange(4))
        if number % 97 == 0:
            statistics = router.statistics()
            assert all(counts.adds_up for counts in statistics.sinks.values())
            assert sum(sent.values()) == statistics.routed == statistics.sinks["all"].offered
            assert sent["orderbook_delta"] + sent["orderbook_snapshot"] == statistics.sinks["books"].offered
            assert 0 == statistics.sinks["none"].offered
            assert (sent["trade"], 0) == (
                statistics.sinks["patient"].offered,
                statistics.sinks["patient"].dropped,
            )
    assert sent == {kind: router.statistics().types.get(kind, 0) for kind in TYPES}


def test_what_nobody_wants_is_counted() -> None:
    """It is routed to none, and that shows."""
    router = Router([Bounded("books", frozenset({"trade"}), room=9, drops=True)])
    router.route(frame("ticker"))
    assert (1, 1) == (router.statistics().routed, router.statistics().unwanted)


def test_types_that_a_stranger_makes_up_do_not_fill_the_memory() -> None:
    """Beyond some hundred they are counted together, and still routed."""
    sink = Bounded("all", None, room=9_999, drops=True)
    router = Router([sink])
    for number in range(1_000):
        router.route(frame(f"novelty-{number}"))
    assert 1_000 == sink.offered == router.statistics().routed
    assert 300 > len(router.statistics().types)
    assert 744 == router.statistics().types["other"]


def test_notices_go_to_all_sinks() -> None:
    """In the order of frames."""
    sinks = [Bounded(name, frozenset(), room=1, drops=True) for name in "ab"]
    notice = Notice("stale", "gap")
    Router(sinks).tell(notice)
    assert [[notice], [notice]] == [sink.notices for sink in sinks]


@pytest.mark.trio
async def test_who_reads_sockets_waits_for_room(autojump_clock: trio.testing.MockClock) -> None:
    """The wait ends when the full sink has worked, and is counted."""
    sink = Bounded("patient", None, room=1, drops=False)
    router = Router([sink])
    await router.room()
    router.route(frame("trade"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(router.room)
        await trio.sleep(3)
        assert nursery.child_tasks
        sink.work(1)
    assert 1 == router.statistics().waits
    assert 3_000_000 <= router.statistics().waited_us <= 3_010_000
