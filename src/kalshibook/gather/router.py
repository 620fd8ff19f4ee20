"""Hands frames to the sinks that want their type, and counts them; as fast as those that must not drop."""

from collections.abc import Sequence
from typing import Final, final

import msgspec
import trio

from kalshibook.gather.records import Notice, Received, Sink, SinkCounts

__all__ = ["Router", "RouterStatistics"]

_LOOK_S: Final = 0.005
_TYPES_KEPT: Final = 256
"""The exchange knows some twenty; what a stranger makes up must not fill the memory."""


class RouterStatistics(msgspec.Struct, frozen=True):
    """What was routed since the start."""

    routed: int
    """Frames."""
    unwanted: int
    """Frames that no sink wanted."""
    types: dict[str, int]
    """Frames by type; of the types beyond the first 256 under ``other``."""
    sinks: dict[str, SinkCounts]
    waits: int
    """How often sockets were not read because a sink was full."""
    waited_us: int


@final
class Router:
    """
    Routes by type.

    Args:
        sinks: whom to hand frames to, in this order.
    """

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks: Final = tuple(sinks)
        self._routes: dict[str, tuple[Sink, ...]] = {}
        self._types: dict[str, int] = {}
        self._unwanted = 0
        self._waits = self._waited_us = 0

    def route(self, received: Received) -> None:
        """Offer a frame to every sink that wants it."""
        kind = received.type
        sinks = self._routes.get(kind)
        if sinks is None:
            sinks, kind = self._new_type(kind)
        self._types[kind] += 1
        if not sinks:
            self._unwanted += 1
        for sink in sinks:
            sink.offer(received)

    def tell(self, notice: Notice) -> None:
        """Hand a notice to every sink, in the order of frames."""
        for sink in self._sinks:
            sink.notify(notice)

    @property
    def is_full(self) -> bool:
        """Whether sockets should not be read now."""
        return any(sink.is_full for sink in self._sinks)

    async def room(self) -> None:
        """Wait until sockets may be read."""
        if not self.is_full:
            return
        self._waits += 1
        start = trio.current_time()
        # Sinks live in threads, which set no Trio event.
        while any(sink.is_full for sink in self._sinks):  # noqa: ASYNC110
            await trio.sleep(_LOOK_S)
        self._waited_us += int((trio.current_time() - start) * 1_000_000)

    def statistics(self) -> RouterStatistics:
        """Return the counts."""
        return RouterStatistics(
            sum(self._types.values()),
            self._unwanted,
            dict(self._types),
            {sink.name: sink.counts() for sink in self._sinks},
            self._waits,
            self._waited_us,
        )

    def _new_type(self, kind: str) -> tuple[tuple[Sink, ...], str]:
        sinks = tuple(sink for sink in self._sinks if sink.types is None or kind in sink.types)
        if len(self._routes) >= _TYPES_KEPT:
            self._types.setdefault("other", 0)
            return sinks, "other"
        self._routes[kind] = sinks
        self._types.setdefault(kind, 0)
        return sinks, kind
