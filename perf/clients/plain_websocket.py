"""What one would write without this library's writer: trio-websocket and its `send_message`."""

import threading
from functools import partial
from typing import Any, Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from perf.clients.worker import answer_commands, cpu_seconds, settings

_FRAME: Final = "x" * 360
"""As long as a frame of `top_of_book`."""


class PlainServer:
    """Sends frames one by one to each client."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._thread = threading.get_native_id()
        self._connections: list[WebSocketConnection] = []

    async def serve(self, request: WebSocketRequest) -> None:
        """Hold one client until it goes."""
        connection = await request.accept()
        self._connections.append(connection)
        try:
            while True:
                await connection.get_message()
        except ConnectionClosed:
            return

    def send(self, rounds: int) -> dict[str, float]:
        """Send that many frames to every client; return the CPU time of the sending thread."""
        before = cpu_seconds(self._thread)
        trio.from_thread.run(self._send, rounds, trio_token=self._token)
        return {"frames": rounds * len(self._connections), "cpu": cpu_seconds(self._thread) - before}

    async def _send(self, rounds: int) -> None:
        for _ in range(rounds):
            for connection in self._connections:
                await connection.send_message(_FRAME)


async def _run() -> None:
    token = trio.lowlevel.current_trio_token()
    server = PlainServer(token)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            started = await nursery.start(
                partial(serve_websocket, server.serve, "127.0.0.1", 0, ssl_context=None)
            )
            greeting = {"address": ["127.0.0.1", started.port]}

            def obey() -> None:
                answer_commands({"send": server.send}, greeting)
                token.run_sync_soon(scope.cancel)

            threading.Thread(target=obey, daemon=True).start()
            await trio.sleep_forever()


def main(**_: Any) -> None:
    """Serve until standard input ends."""
    trio.run(_run)


if __name__ == "__main__":
    main(**settings())
