"""A gatherer process that is killed, again and again, against an exchange and a broker that live on."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from kalshibook.feeds import EmbeddedBroker
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from kalshibook.store import BookStore
from tests.gather.gathering import EXCHANGE, TOPICS, same_books, store_of, until

pytestmark = pytest.mark.trio

KILLS = 6


def process(exchange: SimulatedExchange, broker: EmbeddedBroker, folder: Path) -> subprocess.Popen[bytes]:
    settings = {
        "gather.environment": "custom",
        "gather.rest_url": exchange.rest_url,
        "gather.stream_url": exchange.stream_url,
        "gather.source": "g1",
        "gather.heartbeat_ms": "50",
        "gather.backoff_first_s": "0.05",
        "kafka.bootstrap_servers": str(broker),
        "log.level": "error",
    }
    flags = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KALSHIBOOK_")}
    return subprocess.Popen(
        [sys.executable, "-m", "kalshibook", "gather", *flags],
        cwd=folder,
        env=clean,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.timeout(300)
async def test_killed_at_random_points_the_books_are_those_of_a_run_that_never_stopped(
    tmp_path: Path,
) -> None:
    """After each start the books in doubt are healed; at the end a reader's books equal the truth."""
    source = random.Random(9)
    with EmbeddedBroker(TOPICS) as broker:
        async with SimulatedExchange(SimulatorOptions(**{**EXCHANGE, "markets": 20})) as exchange:
            with store_of(broker) as store:
                for _ in range(KILLS):
                    running = process(exchange, broker, tmp_path)
                    try:
                        await lives_until_killed(exchange, store, source)
                    finally:
                        running.send_signal(signal.SIGKILL)
                        await trio.to_thread.run_sync(running.wait)
                    exchange.step(source.randrange(50, 300))
                running = process(exchange, broker, tmp_path)
                try:
                    await until(lambda: same_books(store, exchange))
                    exchange.step(500)
                    await until(lambda: same_books(store, exchange))
                finally:
                    running.send_signal(signal.SIGTERM)
                    code = await trio.to_thread.run_sync(running.wait)
                assert 0 == code
                # The goodbye is heard: what is followed no more is not shown as live.
                await until(lambda: store.cut().counts.live == 0)
            # Who reads the topic from its beginning comes to the same books.
            with store_of(broker) as fresh:
                await until(lambda: fresh.ready)
                assert levels(store) == levels(fresh)


async def lives_until_killed(exchange: SimulatedExchange, store: BookStore, source: random.Random) -> None:
    """Let it work for a random while: from before its first snapshot to long after its last."""
    records = store.cut().version
    await until(lambda: store.cut().version > records + source.randrange(1, 60))
    for _ in range(source.randrange(8)):
        exchange.step(source.randrange(20, 200))
        await trio.sleep(source.random() * 0.02)


def levels(store: BookStore) -> dict[str, object]:
    """Return all books as numbers."""
    return {
        ticker: (
            sorted((level.price, level.size) for level in book.yes),
            sorted((level.price, level.size) for level in book.no),
        )
        for ticker, book in store.cut().items()
    }
