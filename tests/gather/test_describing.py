import pytest

from kalshibook.gather.describing import MarketDescriber
from kalshibook.gather.records import Received
from kalshibook.gather.registry import MarketRegistry
from kalshibook.wire import MarketDescription, PriceRange, decode_frame, read_frame
from kalshibook.wire.rest import Listing

pytestmark = pytest.mark.trio

NOW_US = 1_790_000_000_000_000
CLOSE_US = NOW_US + 3_600_000_000
GRID = (PriceRange(0, 10_000, 100),)


def listing(ticker: str, status: str = "active") -> Listing:
    """Return a market as a list shows it."""
    opened_us, title = NOW_US - 1_000_000, f"Title of {ticker}"
    return Listing(ticker, "E", status, opened_us, CLOSE_US, is_combo=False, title=title, price_ranges=GRID)


class Stage:
    """A registry, and what is said of it."""

    def __init__(self, sweeps_per_refresh: int = 0) -> None:
        self.registry = MarketRegistry()
        self.now_us = NOW_US
        self.rooms = 0
        self.said: list[Received] = []
        self._describer = MarketDescriber(
            self.registry,
            self.said.append,
            self._room,
            connection="g1/lists",
            sweeps_per_refresh=sweeps_per_refresh,
            now_us=lambda: self.now_us,
        )

    async def _room(self) -> None:
        self.rooms += 1

    async def sweep(self, *listings: Listing) -> list[MarketDescription]:
        """Let a page of the lists come, and return what is said then."""
        self.said.clear()
        self.now_us += 600_000_000
        self.registry.begin_sweep()
        events = self.registry.apply_page(listings, asked_us=self.now_us, now_us=self.now_us)
        await self._describer.take(listings, events)
        found = [read_frame(decode_frame(received.frame)) for received in self.said]
        assert all(isinstance(one, MarketDescription) for one in found)
        return found  # type: ignore[return-value]  # as was just checked


async def test_a_market_is_described_when_it_is_taken_in() -> None:
    """All that a store wants to know of it, in a frame that says when and where it comes from."""
    stage = Stage()

    (said,) = await stage.sweep(listing("A"))

    opened_us = NOW_US - 1_000_000
    assert MarketDescription("A", "active", opened_us, CLOSE_US, "E", "Title of A", GRID) == said
    (received,) = stage.said
    assert ("gatherer_market", "g1/lists", NOW_US + 600_000_000) == (
        received.type,
        received.connection,
        received.received_us,
    )
    assert received.sequence is None


async def test_only_what_a_list_changes_is_said_again() -> None:
    """A pause that no message told is; what stays as it was is not."""
    stage = Stage()
    await stage.sweep(listing("A"), listing("B"))

    (said,) = await stage.sweep(listing("A"), listing("B", "inactive"))

    assert ("B", "inactive") == (said.ticker, said.status)


async def test_every_market_is_described_anew_within_a_refresh() -> None:
    """Spread over the sweeps, each once: for stores that begin to read later."""
    stage = Stage(sweeps_per_refresh=3)
    markets = [listing(f"M-{number}") for number in range(60)]
    await stage.sweep(*markets)

    rounds = [{said.ticker for said in await stage.sweep(*markets)} for _ in range(3)]

    assert {market.ticker for market in markets} == set.union(*rounds)
    assert 60 == sum(map(len, rounds))
    assert all(rounds)


async def test_what_is_not_gathered_is_not_described() -> None:
    """A market that was over before it was met is on the lists, and no business of ours."""
    stage = Stage(sweeps_per_refresh=1)

    assert [] == await stage.sweep(listing("A", "finalized"))


async def test_room_is_waited_for() -> None:
    """A page of descriptions is not pushed into a queue that is full."""
    stage = Stage()
    await stage.sweep(listing("A"))

    assert 1 == stage.rooms
