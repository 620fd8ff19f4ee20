"""Whether simulated traffic, as a client's socket receives it, has the statistics of recorded traffic."""

import statistics
from pathlib import Path

import pytest
import trio

from kalshibook.feeds.tape import Tape
from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from tests.simulator.test_generator import Traffic, traffic_of
from tests.simulator.test_server import raw

FRAMES = 60_000


async def received() -> list[bytes]:
    """Return what a client of forty markets reads."""
    options = SimulatorOptions(
        open=True, markets=40, messages_per_second=2_000, short_lived=0, combos=0, seed=3, speed=0
    )
    frames: list[bytes] = []
    async with SimulatedExchange(options) as exchange, raw(exchange, within_s=100) as client:
        channels = ["orderbook_delta", "trade"]
        await client.command(1, "subscribe", channels=channels, market_tickers=exchange.tickers)
        while len(frames) < FRAMES:
            frame = await client.frame()
            if frame.opcode == 1 and b'"subscribed"' not in frame.payload:
                frames.append(frame.payload)
    return frames


def figures(traffic: Traffic) -> dict[str, float]:
    """Return what is compared."""
    levels, spreads = statistics.quantiles(traffic.levels, n=10), statistics.quantiles(traffic.spreads, n=10)
    return {
        "trades per change": traffic.trades / traffic.deltas,
        "new levels": traffic.share("new"),
        "levels that end": traffic.share("gone"),
        "levels that grow": traffic.share("grow"),
        "changes of the top": traffic.top_changes / traffic.deltas,
        "levels, median": levels[4],
        "levels, 90th percentile": levels[8],
        "spread in cents, median": spreads[4] / 100,
        "spread in cents, 90th percentile": spreads[8] / 100,
        "size in contracts, median": statistics.median(traffic.sizes) / 100,
    }


TOLERANCES = {
    "trades per change": 0.006,
    "new levels": 0.04,
    "levels that end": 0.04,
    "levels that grow": 0.05,
    "changes of the top": 0.05,
    "levels, median": 7,
    "levels, 90th percentile": 12,
    "spread in cents, median": 1.5,
    "spread in cents, 90th percentile": 5,
    "size in contracts, median": 16,
}


@pytest.mark.recordings
def test_a_client_cannot_tell_it_from_the_recordings() -> None:
    """Mix, kinds of change, depth, spread and sizes off the socket are close to those of real traffic."""
    folder = Path(__file__).parents[3] / "shared" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}")
    real = figures(traffic_of([frame.frame for frame in Tape(folder)]))
    simulated = figures(traffic_of(trio.run(received)))

    assert {name: pytest.approx(value, abs=TOLERANCES[name]) for name, value in real.items()} == simulated
