"""A process that gathers from a simulated exchange: for the `gather` scenario."""

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, final

import trio

from kalshibook.collecting import served_collector
from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.gather.gatherer import Gatherer
from kalshibook.gather.ledger import GapLedger
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.session import BOOKS_CHANNEL
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.store import BookStore
from kalshibook.wire import GapRecord
from perf.clients.worker import answer_commands, resident_bytes, settings

_LOOK_S: Final = 0.002
_WAIT_S: Final = 300


@final
class Measured:
    """A gatherer, and what is asked of it; every public method is a command."""

    def __init__(self, gatherer: Gatherer) -> None:
        self._gatherer = gatherer

    def wait_live(self, markets: int) -> dict[str, Any]:
        """Wait until so many markets are live."""
        trio.from_thread.run(self._until, lambda: self._live() == markets)
        return self.counts()

    def counts(self) -> dict[str, Any]:
        """Return what passed so far, at which cost."""
        health = trio.from_thread.run_sync(self._gatherer.health)
        return {
            "time": time.perf_counter(),
            "frames": health.router.routed,
            "delivered": health.published.delivered,
            "cpu": time.process_time(),
            "resident": resident_bytes(),
            "waits": health.router.waits,
            "gaps": health.gaps.found,
        }

    def reconnect(self) -> dict[str, Any]:
        """Wait for a connection to be lost, and for all markets to be live again; return how long it took."""
        return trio.from_thread.run(self._reconnect)

    async def _reconnect(self) -> dict[str, Any]:
        markets = self._live()
        taken = self._gatherer.budget.taken
        await self._until(lambda: self._gatherer.incidents.counts()["disconnected"] > 0)
        lost = time.perf_counter()
        await self._until(lambda: self._gatherer.pool.is_live and self._live() == markets)
        return {"seconds": time.perf_counter() - lost, "snapshots": self._gatherer.budget.taken - taken}

    def _live(self) -> int:
        return self._gatherer.pool.health().by_state.get("live", 0)

    @staticmethod
    async def _until(condition: Callable[[], bool]) -> None:
        with trio.fail_after(_WAIT_S):
            while not condition():  # noqa: ASYNC110 - no event says so
                await trio.sleep(_LOOK_S)


async def socket_campaign(changes: int, faults: int, seed: int) -> dict[str, Any]:
    """Let faults happen to real sockets and a real broker, all in this process, and compare the books."""
    topics = {"market-data-all": 4, "market-data-gaps": 1}
    simulator = SimulatorOptions(
        open=True, markets=50, short_lived=0, speed=1e-6, seed=seed, faults="campaign", fault_seed=seed
    )
    with EmbeddedBroker(topics) as broker:
        kafka = KafkaOptions(
            bootstrap_servers=str(broker), start="beginning", extra={**EmbeddedBroker.CONSUMER_SETTINGS}
        )
        store = BookStore()
        feed = KafkaFeed(store, kafka)
        feed.start()
        async with SimulatedExchange(simulator) as exchange:
            options = GatherOptions(
                environment="custom",
                rest_url=exchange.rest_url,
                stream_url=exchange.stream_url,
                backoff_first_s=0.05,
                heartbeat_ms=100,
            )
            async with Gatherer(options, kafka, markets=exchange.tickers, seed=seed) as gatherer:
                await gatherer.wait_live()
                exchange.injector.campaign(faults, changes)
                for _ in range(changes // 50):
                    exchange.step(50)
                    # As fast as it is read: what piles up is another fault, error 25.
                    await trio.sleep(_LOOK_S)
                with trio.move_on_after(_WAIT_S):
                    # A book may be right again before the ledger hears of it.
                    while _differing(store, exchange) or _curable(gatherer.ledger):
                        exchange.step(1)
                        await trio.sleep(0.05)
                differing = _differing(store, exchange)
                counts = gatherer.incidents.counts()
                frames = gatherer.router.statistics().routed
                curable, ledger = _curable(gatherer.ledger), gatherer.ledger.counts()
        await trio.to_thread.run_sync(feed.stop)
        done = [fault for fault in exchange.faults if fault.exposed_us is not None]
    return {
        "frames": frames,
        "faults": len(done),
        "incidents": {kind: count for kind, count in counts.items() if count},
        "gaps": ledger.found,
        "open": [f"{gap.id} {gap.channel} {gap.cause}" for gap in curable],
        "lost": ledger.open - len(curable),
        "differing": differing,
    }


def _curable(ledger: GapLedger) -> list[GapRecord]:
    """Return the open gaps that are not to stay: what is lost of trades no snapshot brings back."""
    return [
        gap
        for gap in ledger.recent(1_000)
        if gap.healed_us is None and (gap.channel == BOOKS_CHANNEL or gap.cause != "gap")
    ]


def _differing(store: BookStore, exchange: SimulatedExchange) -> list[str]:
    cut = store.cut()
    differing = []
    for ticker in exchange.tickers:
        truth, book = exchange.truth(ticker), cut.get(ticker)
        if book is None or book.copy != "live":
            differing.append(ticker)
            continue
        yes = tuple(sorted((level.price, level.size) for level in book.yes))
        no = tuple(sorted((level.price, level.size) for level in book.no))
        if (yes, no) != (truth.yes, truth.no):
            differing.append(ticker)
    return differing


async def main(*, rest_url: str, stream_url: str, address: str, **options: Any) -> None:
    """Gather until standard input ends."""
    found = GatherOptions(
        environment="custom", rest_url=rest_url, stream_url=stream_url, read_budget=1_000_000, **options
    )
    with served_collector() as filled:
        async with Gatherer(found, KafkaOptions(bootstrap_servers=address)) as gatherer:
            measured = Measured(gatherer)
            filled()
            commands = {name: getattr(measured, name) for name in ("wait_live", "counts", "reconnect")}
            await trio.to_thread.run_sync(answer_commands, commands, {})


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    given = settings()
    if "campaign" in given:
        with contextlib.suppress(KeyboardInterrupt):
            answer_commands({"run": partial(trio.run, partial(socket_campaign, **given["campaign"]))}, {})
    else:
        trio.run(partial(main, **given))
