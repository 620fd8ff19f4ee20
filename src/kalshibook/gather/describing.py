"""
What the lists say of the markets that are gathered, published among the frames.

Lifecycle messages tell only what changes: of a market that was there before, a store would learn neither
status nor title nor when it closes. So each is described when it is taken in, when a list shows a change,
and again every `refresh_minutes`, spread over the sweeps, for stores that begin to read later.
"""

import zlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, final

from kalshibook.gather.records import Received
from kalshibook.gather.registry import MarketRegistry, MarketRemoved, RegistryEvent
from kalshibook.wire import MarketDescription, market_frame
from kalshibook.wire.rest import Listing

__all__ = ["MarketDescriber"]

_TYPE: Final = "gatherer_market"


@final
class MarketDescriber:
    """
    Decides which markets of a page are described, and makes the frames.

    Args:
        registry: which markets are gathered, and what is known of them.
        publish: takes the frames.
        room: waits until frames may be published.
        connection: what stands for a connection in their envelopes.
        sweeps_per_refresh: over how many sweeps all markets are described anew; 0 describes none anew.
        now_us: the system's clock.
    """

    def __init__(
        self,
        registry: MarketRegistry,
        publish: Callable[[Received], None],
        room: Callable[[], Awaitable[None]],
        *,
        connection: str,
        sweeps_per_refresh: int,
        now_us: Callable[[], int],
    ) -> None:
        self._registry = registry
        self._publish = publish
        self._room = room
        self._connection = connection
        self._sweeps_per_refresh = sweeps_per_refresh
        self._now_us = now_us
        self.described = 0
        """Frames handed on so far."""

    async def take(self, listings: Sequence[Listing], events: Iterable[RegistryEvent]) -> None:
        """
        Describe what is new on a page of the lists, what it changed, and what is due anew.

        Args:
            listings: the page.
            events: what became of it in the registry, which has taken it already.
        """
        await self._room()
        news = {event.ticker for event in events if not isinstance(event, MarketRemoved)}
        for listing in listings:
            ticker = listing.ticker
            if ticker in news or (ticker in self._registry and self._is_due(ticker)):
                self._describe(listing)

    def _is_due(self, ticker: str) -> bool:
        count = self._sweeps_per_refresh
        return count > 0 and zlib.crc32(ticker.encode()) % count == self._registry.sweep % count

    def _describe(self, listing: Listing) -> None:
        registry, ticker = self._registry, listing.ticker
        # Status and times as the registry has them: it also knows the messages, and the clock.
        description = MarketDescription(
            ticker,
            registry.status(ticker) or listing.status,
            registry.open_us(ticker),
            registry.close_us(ticker),
            listing.event_ticker or None,
            listing.title or None,
            listing.price_ranges,
        )
        self.described += 1
        self._publish(Received(market_frame(description), self._connection, self._now_us(), _TYPE))
