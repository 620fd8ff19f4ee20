"""The registry among the sinks of the router: lifecycle frames act within the millisecond."""

import logging
from typing import Final, Protocol, final

from kalshibook.errors import WireError
from kalshibook.gather.records import Notice, Received, SinkCounts
from kalshibook.wire import MarketLifecycle, decode_frame, read_frame

__all__ = ["LifecycleSink", "TakesLifecycle"]

_log = logging.getLogger(__name__)

_TYPES: Final = frozenset({"market_lifecycle_v2", "multivariate_market_lifecycle"})


class TakesLifecycle(Protocol):
    """What lifecycle messages go to, such as `MarketSync`."""

    def on_lifecycle(self, event: MarketLifecycle) -> None:
        """Take it over; at once, without waiting."""


@final
class LifecycleSink:
    """
    Reads lifecycle frames and hands on what they say.

    The lifecycle channels are subscribed twice over, so each message comes twice; the registry does not
    mind.
    """

    def __init__(self, target: TakesLifecycle) -> None:
        self._target = target
        self._processed = 0
        self._dropped = 0

    @property
    def name(self) -> str:
        """Of this sink."""
        return "registry"

    @property
    def types(self) -> frozenset[str] | None:
        """The frame types that it wants."""
        return _TYPES

    @property
    def is_full(self) -> bool:
        """Never: nothing waits here."""
        return False

    def offer(self, received: Received) -> None:
        """Act on a frame; one that cannot be read is counted as dropped."""
        try:
            event = read_frame(decode_frame(received.frame))
        except WireError as error:
            self._dropped += 1
            _log.warning("a lifecycle message cannot be read: %s", error)
            return
        if isinstance(event, MarketLifecycle):
            self._target.on_lifecycle(event)
        self._processed += 1

    def notify(self, notice: Notice) -> None:
        """Ignore it: what was lost is found by the next sweep."""

    def counts(self) -> SinkCounts:
        """Return the counts of frames."""
        return SinkCounts(self._processed + self._dropped, self._processed, self._dropped)
