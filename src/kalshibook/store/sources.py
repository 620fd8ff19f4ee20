"""What a store knows of the gatherers it hears of, put together for people and metrics."""

from typing import Final

import msgspec

from kalshibook.store.followers import Followers
from kalshibook.store.heartbeats import Heartbeats, Pulse

__all__ = ["SourceStatistics", "source_statistics"]

_MOST: Final = 32
"""Sources shown by name: a metric's labels must stay few, whatever envelopes call their source."""
_REST: Final = "(others)"


class SourceStatistics(msgspec.Struct, frozen=True):
    """One gatherer, as a store sees it."""

    name: str
    pulse: Pulse
    """Whether it is alive; the worst of all partitions."""
    last_alive_us: int | None
    """The time of its last sign of life, microseconds since the epoch; None when it gives none."""
    markets: int
    """Books that follow it, in whatever condition."""
    live: int
    """Those of them that are live."""


def source_statistics(followers: Followers, heartbeats: Heartbeats) -> tuple[SourceStatistics, ...]:
    """Return every source that has followers or gave a sign of life, by name; the smallest of many as one."""
    counts, pulses = followers.counts(), heartbeats.pulses()
    found = []
    for name in counts.keys() | pulses.keys():
        markets, live = counts.get(name, (0, 0))
        pulse, last_us = pulses.get(name, (Pulse.UNJUDGED, None))
        found.append(SourceStatistics(name, pulse, last_us, markets, live))
    if len(found) > _MOST:
        found.sort(key=_markets, reverse=True)
        rest = found[_MOST - 1 :]
        markets, live = sum(one.markets for one in rest), sum(one.live for one in rest)
        found[_MOST - 1 :] = [SourceStatistics(_REST, Pulse.UNJUDGED, None, markets, live)]
    return tuple(sorted(found, key=_name))


def _markets(one: SourceStatistics) -> int:
    return one.markets


def _name(one: SourceStatistics) -> str:
    return one.name
