"""
Whether a market is complete in a stretch of time, and where it is not. Pure.

A source has *watched* a market from the first snapshot on a subscription until the last frame that
came on its connection. It is *in doubt* from the last frame before a gap until the market's next
snapshot on that subscription, and so it is from a minute before the market came to another subscription
of the same source: a source follows a market once, so it had been taken off. What at least one source
watched without a doubt is complete; what remains is lost, or not known yet.

Completeness is said per subscription, never piece by piece within one: if two sources have each
lost a part of the same millisecond, no rule could tell whether the parts make a whole.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

__all__ = ["SLACK_US", "Coverage", "Doubt", "Gap", "Lost", "Seen", "Watch", "coverage_of", "union"]

ENDLESS_US: Final = 2**62
_MARGIN_US: Final = 60_000_000
"""How far before its detection a gap, or a move, is taken to begin where nothing says when."""
_MOVED: Final = "moved to another subscription"
SLACK_US: Final = 2_000_000
"""
How long before a receipt the exchange's time of a frame that did not come may lie: the way from the
exchange, and clocks that differ. A gap begins, and a watch ends, that much earlier.
"""


class Lost(msgspec.Struct, frozen=True):
    """A stretch in which something may be missing."""

    from_us: int
    until_us: int
    """Exclusive."""
    reason: str


class Seen(NamedTuple):
    """A snapshot of the market, by a subscription."""

    stream: Hashable
    at_us: int
    """When the exchange sent it, else when it was received."""
    received_us: int


class Watch(NamedTuple):
    """A subscription that carried the market."""

    stream: Hashable
    source: str
    from_us: int
    until_us: int


class Doubt(NamedTuple):
    """A stretch of a subscription in which something is missing."""

    stream: Hashable
    from_us: int
    until_us: int
    reason: str


class Gap(NamedTuple):
    """A record of the ledger, as far as it concerns a market."""

    gap_id: str
    streams: tuple[Hashable, ...]
    """The subscriptions that it is about: one, or all of a connection."""
    since_us: int | None
    detected_us: int


class Coverage(msgspec.Struct, frozen=True):
    """Who watched a market when, and when in doubt."""

    watches: tuple[Watch, ...]
    doubts: tuple[Doubt, ...]
    known_until_us: int
    """Up to when anything at all is known; what comes later is not called lost."""

    def doubted(self, stream: Hashable, at_us: int) -> bool:
        """Tell whether a subscription was in doubt at a time."""
        return any(
            doubt.stream == stream and doubt.from_us <= at_us < doubt.until_us for doubt in self.doubts
        )

    def by_source(self) -> dict[str, list[tuple[int, int]]]:
        """Return the stretches that each source watched without a doubt."""
        found: dict[str, list[tuple[int, int]]] = {}
        for watch in self.watches:
            parts = [(watch.from_us, watch.until_us)]
            for doubt in self.doubts:
                if doubt.stream == watch.stream:
                    hole = (doubt.from_us, doubt.until_us)
                    parts = [rest for part in parts for rest in _without(part, hole)]
            found.setdefault(watch.source, []).extend(parts)
        return {source: union(parts) for source, parts in found.items()}

    def lost(self, from_us: int, until_us: int) -> list[Lost]:
        """Return the parts of a stretch, its end exclusive, that nobody watched without a doubt."""
        rest = [(from_us, until_us)]
        for part in union(part for parts in self.by_source().values() for part in parts):
            rest = [left for whole in rest for left in _without(whole, part)]
        lost: list[Lost] = []
        for start_us, end_us in rest:
            known_us = min(end_us, self.known_until_us)
            if start_us < known_us:
                lost.append(Lost(start_us, known_us, self._why(start_us, known_us)))
            if end_us > self.known_until_us:
                begin_us = max(start_us, self.known_until_us)
                lost.append(Lost(begin_us, end_us, "nothing is known of this time yet"))
        return lost

    def _why(self, from_us: int, until_us: int) -> str:
        gaps = {
            doubt.reason for doubt in self.doubts if doubt.from_us < until_us and from_us < doubt.until_us
        }
        if not gaps:
            return "nobody watched this market"
        return f"lost by every source that watched: {', '.join(sorted(gaps))}"


def coverage_of(
    snapshots: Sequence[Seen], streams: Mapping[Hashable, tuple[str, int]], gaps: Iterable[Gap]
) -> Coverage:
    """
    Return the coverage of a market.

    Args:
        snapshots: of the market, by any subscription; the first begins its watch, the next one after a
            gap ends the doubt.
        streams: subscription to its source and the last receipt on its connection.
        gaps: of the ledger, those that concern the market.
    """
    first: dict[Hashable, Seen] = {}
    for seen in snapshots:
        if seen.stream in streams:
            first[seen.stream] = min(seen, first.get(seen.stream, seen), key=lambda one: one.at_us)
    watches = [
        Watch(stream, streams[stream][0], seen.at_us, streams[stream][1] - SLACK_US)
        for stream, seen in first.items()
    ]

    def doubt(stream: Hashable, since_us: int, detected_us: int, reason: str) -> Doubt:
        healing = (
            seen.at_us for seen in snapshots if seen.stream == stream and seen.received_us >= detected_us
        )
        return Doubt(stream, since_us, min(healing, default=ENDLESS_US), reason)

    doubts: list[Doubt] = []
    for gap in gaps:
        since_us = gap.detected_us - _MARGIN_US if gap.since_us is None else gap.since_us - SLACK_US
        doubts += (doubt(stream, since_us, gap.detected_us, gap.gap_id) for stream in gap.streams)
    # A connection that had ended by then is none that the market was moved from; its watch ends with it.
    doubts += [
        doubt(old.stream, new.at_us - _MARGIN_US, new.received_us, _MOVED)
        for new in first.values()
        for old in first.values()
        if streams[old.stream][0] == streams[new.stream][0]
        and old.received_us < new.received_us < streams[old.stream][1]
        and not any(one.stream == old.stream and one.from_us <= new.at_us < one.until_us for one in doubts)
    ]
    known_until_us = max((last_us - SLACK_US for _, last_us in streams.values()), default=0)
    return Coverage(tuple(watches), tuple(doubts), known_until_us)


def union(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the union of stretches, ascending and apart; the empty ones are dropped."""
    apart: list[tuple[int, int]] = []
    for start_us, end_us in sorted(part for part in parts if part[0] < part[1]):
        if apart and start_us <= apart[-1][1]:
            apart[-1] = (apart[-1][0], max(apart[-1][1], end_us))
        else:
            apart.append((start_us, end_us))
    return apart


def _without(part: tuple[int, int], hole: tuple[int, int]) -> list[tuple[int, int]]:
    left = (part[0], min(part[1], hole[0]))
    right = (max(part[0], hole[1]), part[1])
    return [piece for piece in (left, right) if piece[0] < piece[1]]
