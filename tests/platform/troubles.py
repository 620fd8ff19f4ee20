"""What goes wrong while the platform runs: a seeded schedule of faults, and three that are killed."""

import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from kalshibook.simulator.faults import NothingToHarm
from kalshibook.simulator.ledger import FaultKind
from kalshibook.simulator.server import SimulatedExchange
from tests.platform.running import SOURCES, Platform

__all__ = ["Act", "acts"]

KINDS: Final = {
    "a": (FaultKind.LOST, FaultKind.REORDERED, FaultKind.DOUBLED, FaultKind.LOST),
    "b": (FaultKind.CUT, FaultKind.OVERFLOW, FaultKind.CLOSED, FaultKind.CHANNEL_ERROR),
    "c": (FaultKind.COUNTER_RESET, FaultKind.LOST, FaultKind.HALF_OPEN, FaultKind.STALL),
}
"""
Each gatherer has troubles of its own kind. What makes the exchange itself say something untrue (a wrong
or impossible change) is not among them: production keeps what was said.
"""

CHANNELS: Final = ("orderbook_delta", "orderbook_delta", "trade", "market_lifecycle_v2")
EVERY_S: Final = 0.8
QUIET_S: Final = 3.0
"""Nothing is done to a gatherer that is about to be killed, or at the end: it would not live to tell it."""


class Act(NamedTuple):
    """Something that is done at a time after the start."""

    at_s: float
    what: str
    do: Callable[[Platform], None]


def acts(seconds: float, seed: int) -> list[Act]:
    """Return all that is done in a run of so many seconds, in its order."""
    killed_s = 0.3 * seconds
    deaths = [
        Act(killed_s, "gatherer b is killed (-9) and started again", _restart_gatherer),
        Act(0.45 * seconds, "the deduplicator is killed (-9) and started again", _restart_deduplicator),
        Act(0.55 * seconds, "the database of c is killed (-9)", lambda it: it.mortal_server.kill()),
        Act(0.75 * seconds, "the database of c is started again", lambda it: it.mortal_server.start()),
        Act(0.2 * seconds, "a market is paused", _steer(SimulatedExchange.pause)),
        Act(0.9 * seconds, "the market is resumed", _steer(SimulatedExchange.resume)),
        Act(0.4 * seconds, "Parquet is written for the first time", lambda it: it.first_export.start()),
    ]
    faults = _faults(seconds - QUIET_S, killed_s, random.Random(seed))
    return sorted([*deaths, *faults], key=lambda act: act.at_s)


def _faults(until_s: float, killed_s: float, source: random.Random) -> Iterator[Act]:
    turn, at_s = 0, 0.5
    rounds = {name: source.randrange(len(kinds)) for name, kinds in KINDS.items()}
    while at_s < until_s:
        name = SOURCES[turn % len(SOURCES)]
        turn += 1
        kind = KINDS[name][rounds[name] % len(KINDS[name])]
        rounds[name] += 1
        is_dying = name == "b" and killed_s - QUIET_S < at_s < killed_s + QUIET_S
        if not is_dying:
            channel = source.choice(CHANNELS)
            yield Act(at_s, f"{kind} for {name}", _harm(name, kind, channel, source.random()))
        at_s += EVERY_S * (0.5 + source.random())


def _harm(name: str, kind: FaultKind, channel: str, choice: float) -> Callable[[Platform], None]:
    def harm(exchange: SimulatedExchange) -> None:
        mine = [
            session.number
            for session in exchange.venue.sessions.values()
            if session.user == name and any(held.channel.name == channel for held in session.subscriptions)
        ]
        if mine:
            try:
                exchange.inject(kind, connection=mine[int(choice * len(mine))], channel=channel)
            except NothingToHarm:
                # It has just lost that subscription, by an earlier fault.
                return

    return lambda platform: platform.exchange.do(harm)


def _steer(action: Callable[[SimulatedExchange, str], None]) -> Callable[[Platform], None]:
    def steer(exchange: SimulatedExchange) -> None:
        last = max(exchange.venue.model.held(), key=lambda market: (market.close_s or 0, market.ticker))
        action(exchange, last.ticker)

    return lambda platform: platform.exchange.do(steer)


def _restart_gatherer(platform: Platform) -> None:
    platform.gatherers["b"].kill()
    platform.gatherers["b"].start()


def _restart_deduplicator(platform: Platform) -> None:
    platform.deduplicator.kill()
    platform.deduplicator.start()
