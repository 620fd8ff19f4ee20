"""A process that is a simulated exchange for load tests; its control addresses steer it."""

from functools import partial
from typing import Any

import trio

from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange
from perf.clients.worker import answer_commands, settings


async def main(**options: Any) -> None:
    """Run an exchange until standard input ends."""
    async with SimulatedExchange(SimulatorOptions(**options)) as exchange:
        greeting = {
            "rest_url": exchange.rest_url,
            "stream_url": exchange.stream_url,
            "control_url": exchange.control_url,
        }
        await trio.to_thread.run_sync(answer_commands, {}, greeting)


if __name__ == "__main__":
    trio.run(partial(main, **settings()))
