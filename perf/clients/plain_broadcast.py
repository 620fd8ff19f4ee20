"""What one would write with `websockets`: its `broadcast`, on asyncio."""

import asyncio
import threading
from typing import Any, Final

from websockets.asyncio.server import ServerConnection, broadcast, serve

from perf.clients.worker import answer_commands, cpu_seconds, settings

_FRAME: Final = "x" * 360
"""As long as a frame of `top_of_book`."""


class PlainServer:
    """Broadcasts frames one by one to all clients."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_native_id()
        self._connections: set[ServerConnection] = set()

    async def serve(self, connection: ServerConnection) -> None:
        """Hold one client until it goes."""
        self._connections.add(connection)
        await connection.wait_closed()

    def send(self, rounds: int) -> dict[str, float]:
        """Send that many frames to every client; return the CPU time of the sending thread."""
        before = cpu_seconds(self._thread)
        asyncio.run_coroutine_threadsafe(self._send(rounds), self._loop).result()
        return {"frames": rounds * len(self._connections), "cpu": cpu_seconds(self._thread) - before}

    async def _send(self, rounds: int) -> None:
        for _ in range(rounds):
            broadcast(self._connections, _FRAME)
            await asyncio.sleep(0)


async def _run() -> None:
    server = PlainServer(asyncio.get_running_loop())
    # Without compression, as all others here.
    async with serve(server.serve, "127.0.0.1", 0, compression=None) as listening:
        port = next(iter(listening.sockets)).getsockname()[1]
        greeting = {"address": ["127.0.0.1", port]}
        await asyncio.to_thread(answer_commands, {"send": server.send}, greeting)


def main(**_: Any) -> None:
    """Serve until standard input ends."""
    asyncio.run(_run())


if __name__ == "__main__":
    main(**settings())
