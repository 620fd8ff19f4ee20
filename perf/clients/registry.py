"""A process that syncs a registry from an exchange over REST: for the `registry` scenario."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import msgspec
import trio

from kalshibook.gather.options import GatherOptions
from kalshibook.gather.rest import ExchangeClient
from kalshibook.gather.selection import Selection
from kalshibook.gather.sync import MarketSync, registry_of
from perf.clients.worker import answer_commands, resident_bytes, settings

_LOOK_S: Final = 0.02


class Counted:
    """A follower that takes markets over at once, and notes when the first ones came."""

    def __init__(self) -> None:
        self.markets = 0
        self.first_s: float | None = None

    async def add(self, tickers: Sequence[str]) -> None:
        """Count them."""
        if self.first_s is None:
            self.first_s = time.perf_counter()
        self.markets += len(tickers)

    async def remove(self, tickers: Sequence[str]) -> None:
        """Count them."""
        self.markets -= len(tickers)


async def registry_sync(rest_url: str) -> dict[str, Any]:
    """Sync all markets of an exchange that sets no limit, and tell what it cost."""
    options = GatherOptions(
        environment="custom", rest_url=rest_url, stream_url="ws://nowhere", read_budget=1_000_000
    )
    selection, follower = Selection(options), Counted()
    registry = registry_of(options, selection)
    base, began_s, began_cpu_s = resident_bytes(), time.perf_counter(), time.process_time()
    async with ExchangeClient.of(options, None) as client, trio.open_nursery() as nursery:
        sync = MarketSync(client, registry, selection, follower, options)
        await nursery.start(sync.run)
        while not sync.statistics().sweeps or sync.statistics().waiting:  # noqa: ASYNC110 - no event says so
            await trio.sleep(_LOOK_S)
        nursery.cancel_scope.cancel()
    assert follower.first_s is not None
    return {
        "seconds": time.perf_counter() - began_s,
        "first_s": follower.first_s - began_s,
        "cpu_s": time.process_time() - began_cpu_s,
        "bytes": resident_bytes() - base,
        "markets": follower.markets,
        "pages": sync.statistics().pages,
        "statistics": msgspec.to_builtins(registry.statistics()),
    }


def main(rest_url: str) -> None:
    """Answer commands until standard input ends."""
    answer_commands({"sync": partial(trio.run, registry_sync, rest_url)}, {})


if __name__ == "__main__":
    main(**settings())
