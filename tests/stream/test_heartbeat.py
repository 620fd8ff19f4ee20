"""Heartbeats of many connections in one task."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from kalshibook.stream.heartbeat import Heartbeat


class Peer:
    """Answers its pings after a while, or never."""

    def __init__(self, nursery: trio.Nursery, answers_after_s: float | None) -> None:
        self.nursery = nursery
        self.answers_after_s = answers_after_s
        self.pinged_s: list[float] = []
        self.given_up_s: list[float] = []

    def ping(self, on_pong: Callable[[], None]) -> None:
        """Note when."""
        self.pinged_s.append(round(trio.current_time(), 3))
        if self.answers_after_s is not None:
            self.nursery.start_soon(self._answer, self.answers_after_s, on_pong)

    def on_no_pong(self) -> None:
        """Note when."""
        self.given_up_s.append(round(trio.current_time(), 3))

    async def _answer(self, after_s: float, on_pong: Callable[[], None]) -> None:
        await trio.sleep(after_s)
        on_pong()


@asynccontextmanager
async def beating() -> AsyncIterator[tuple[Heartbeat, trio.Nursery]]:
    """Run heartbeats: pings ten seconds apart, pongs within seven."""
    heartbeat = Heartbeat(10, 7)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(heartbeat.run)
        yield heartbeat, nursery
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_the_next_ping_comes_an_interval_after_the_pong(autojump_clock: MockClock) -> None:
    """Each connection has its own rhythm, however late another one began or answers."""
    async with beating() as (heartbeat, nursery):
        prompt, slow = Peer(nursery, 0), Peer(nursery, 6)
        heartbeat.start(prompt)
        await trio.sleep(3)
        heartbeat.start(slow)
        await trio.sleep(37.5)

        assert [10, 20, 30, 40] == prompt.pinged_s
        assert [13, 29] == slow.pinged_s
        assert [] == prompt.given_up_s + slow.given_up_s


@pytest.mark.trio
async def test_who_does_not_answer_is_given_up_once(autojump_clock: MockClock) -> None:
    """The pong timeout counts from the ping; an answer after it changes nothing for the others."""
    async with beating() as (heartbeat, nursery):
        dead, late, alive = Peer(nursery, None), Peer(nursery, 8), Peer(nursery, 5)
        for peer in (dead, late, alive):
            heartbeat.start(peer)
        await trio.sleep(24)

        assert [17] == dead.given_up_s == late.given_up_s
        assert [] == alive.given_up_s
        assert [10] == dead.pinged_s


@pytest.mark.trio
async def test_who_has_gone_is_neither_pinged_nor_given_up(autojump_clock: MockClock) -> None:
    """A connection that ended leaves the queues, before its ping as well as while one is unanswered."""
    async with beating() as (heartbeat, nursery):
        early, pinged = Peer(nursery, None), Peer(nursery, None)
        beats = [heartbeat.start(early), heartbeat.start(pinged)]
        await trio.sleep(5)
        beats[0].stop()
        await trio.sleep(7)
        beats[1].stop()
        await trio.sleep(60)

        assert ([], [10]) == (early.pinged_s, pinged.pinged_s)
        assert [] == early.given_up_s + pinged.given_up_s


@pytest.mark.trio
async def test_a_connection_that_comes_after_all_have_gone_is_pinged(autojump_clock: MockClock) -> None:
    """The task sleeps while there is nobody, and wakes for the next one."""
    async with beating() as (heartbeat, nursery):
        await trio.sleep(100)
        peer = Peer(nursery, 0)
        heartbeat.start(peer)
        await trio.sleep(10.5)

        assert [110] == peer.pinged_s


@pytest.mark.trio
async def test_many_pings_share_a_wake_up(autojump_clock: MockClock) -> None:
    """Pings due within 20 ms of each other are at most so much late."""
    async with beating() as (heartbeat, nursery):
        peers = []
        for _ in range(50):
            peers.append(Peer(nursery, 0))
            heartbeat.start(peers[-1])
            await trio.sleep(0.002)
        await trio.sleep(10)

        assert len({peer.pinged_s[0] for peer in peers}) <= 6
        late_s = [peer.pinged_s[0] - (10 + 0.002 * place) for place, peer in enumerate(peers)]
        assert 0 <= min(late_s) + 1e-9
        assert max(late_s) <= 0.0201
