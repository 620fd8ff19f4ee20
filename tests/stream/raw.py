"""A WebSocket client of bare bytes: it reads when a test says so, and breaks rules on request."""

import json
from typing import Any, NamedTuple

import trio
from trio.testing import wait_all_tasks_blocked

PATH = "/trade-api/ws/v2"

_REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
)


class Frame(NamedTuple):
    """A frame from the server."""

    opcode: int
    payload: bytes

    @property
    def close(self) -> tuple[int, str]:
        """Code and reason of a close frame."""
        assert self.opcode == 8
        return int.from_bytes(self.payload[:2], "big"), self.payload[2:].decode()

    @property
    def json(self) -> Any:
        """Content of a data frame."""
        assert self.opcode == 1
        return json.loads(self.payload)


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 65_536:
        head = bytes([0x80 | opcode, 0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 0x80 | 127]) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


class RawClient:
    """One connection, over whatever stream it is given."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def handshake(self, path: str = PATH, *, host: str = "localhost", **headers: str) -> int:
        """Ask for a WebSocket; return the status, the rest of the answer is in the buffer."""
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await self.stream.send_all(_REQUEST.format(path=path, host=host, extra=extra).encode())
        head = await self.read_until(b"\r\n\r\n")
        return int(head.split()[1])

    async def command(self, number: int, command: str, **params: object) -> None:
        """Send a command."""
        body = json.dumps({"id": number, "cmd": command, "params": params}).encode()
        await self.stream.send_all(masked(1, body))

    async def frame(self) -> Frame:
        """Read the next frame."""
        opcode, size = await self.read(2)
        if size == 126:
            size = int.from_bytes(await self.read(2), "big")
        elif size == 127:
            size = int.from_bytes(await self.read(8), "big")
        return Frame(opcode & 15, await self.read(size))

    async def read(self, size: int) -> bytes:
        """Read exactly that much."""
        while len(self.buffer) < size:
            await self._more()
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    async def read_until(self, mark: bytes) -> bytes:
        """Read up to and with a mark."""
        while mark not in self.buffer:
            await self._more()
        data, _, self.buffer = self.buffer.partition(mark)
        return data + mark

    async def rest(self) -> bytes:
        """Read until the server hangs up or resets, one way or the other."""
        try:
            while True:
                await self._more()
        except (EOFError, trio.BrokenResourceError):
            return self.buffer

    async def hang_up(self) -> None:
        """Read to the end, close, and let the server notice."""
        await self.rest()
        await self.stream.aclose()
        await wait_all_tasks_blocked()

    async def _more(self) -> None:
        data = await self.stream.receive_some(65_536)
        if not data:
            raise EOFError
        self.buffer += data
