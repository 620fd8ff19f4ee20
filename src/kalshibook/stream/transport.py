"""The stream under a WebSocket: a frame is never torn by another, and every write has a deadline."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, final

import trio

from kalshibook.stream.options import StreamOptions

__all__ = ["Transport"]

_CLOSE_OPCODE: Final = 0x88
_READ_BYTES: Final = 16_384


@final
class Transport(trio.abc.Stream):
    """
    The TCP stream under one WebSocket: one write at a time, each with a deadline.

    After a write that was cut short the frame is partial and the other side can make no sense of
    what follows, a close frame included: the stream is aborted.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, options: StreamOptions) -> None:
        self._stream = stream
        self._options = options
        self._lock = trio.StrictFIFOLock()
        self._close_sent = False
        self._rest = b""
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None
        self.agreed = False
        """The other side spoke WebSocket: its handshake was read."""
        self.farewell: Callable[[], bytes] = bytes
        """Makes the close frame that is still owed when the stream is hung up; empty for none."""
        self.timed_out = False
        self.hanging_up = False
        self.close_written = trio.Event()
        """A close frame is out, or none will be."""
        self.ended = trio.Event()
        """Nothing more is read."""
        self.gone = trio.Event()
        """The stream is closed."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write what trio-websocket made."""
        async with self._lock:
            # No data frame may follow a close frame. Marked here because trio-websocket marks
            # some closes only after they are written, while a data frame waits for the lock.
            self._close_sent = self._close_sent or (len(data) > 0 and data[0] == _CLOSE_OPCODE)
            await self._write(data)
        if self._close_sent:
            self.close_written.set()

    async def send_frames(self, frames: bytes) -> None:
        """Write whole data frames."""
        # `acquire` of a free lock still costs a round of the scheduler, a quarter of a write
        # (14.0 against 10.6 µs), and a batch of changes is a write to each of many clients.
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()
        try:
            if self._close_sent:
                raise trio.ClosedResourceError("a close frame was sent")
            await self._write(frames)
        finally:
            self._lock.release()

    @property
    def has_rest(self) -> bool:
        """Whether `send_nowait` left bytes, which precede whatever is written next."""
        return bool(self._rest)

    def send_nowait(self, frames: bytes) -> bool:
        """
        Write whole data frames as far as the socket takes them at once.

        A write that does not wait needs no task, no deadline and no round of the scheduler.

        Returns:
            Whether all was taken. What was not is kept: write on with `send_frames`, of nothing at least.
        """
        if self._close_sent:
            return False
        if self._rest or self._socket is None or self._lock.locked():
            self._rest += frames
            return False
        try:
            # Trio's sockets never block. Asked each time: the number of a closed socket is -1, and
            # may by now be another client's.
            taken = os.write(self._socket.fileno(), frames)
        except OSError:
            # Full, or broken: the next `send_frames` waits, or fails and says why.
            taken = 0
        self._rest = frames[taken:]
        return not self._rest

    async def _write(self, data: bytes | bytearray | memoryview) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        written = False
        try:
            with trio.move_on_after(self._options.send_timeout_s) as scope:
                await self._stream.send_all(data)
                written = True
        finally:
            if not written:
                # Before the abort, which wakes the reader: it must see why.
                self.timed_out = scope.cancelled_caught
                await self.abort()
        if not written:
            raise trio.BrokenResourceError("the other side did not take a write in time")

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until a write has a chance."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read what has arrived; empty at the end."""
        data: bytes | bytearray = b""
        try:
            data = await self._stream.receive_some(max_bytes)
        finally:
            if not data:
                self.ended.set()
        return data

    async def aclose(self) -> None:
        """
        Hang up so that the other side can read all that was sent.

        Closing a TCP socket that holds unread bytes resets it, and the reset may overtake the
        close frame. RFC 6455, 7.1.1 therefore asks to end the sending half and to read on until
        the other side hangs up.
        """
        if self.hanging_up or self.gone.is_set():
            await self.gone.wait()
            return
        self.hanging_up = True
        self.ended.set()
        try:
            with (
                trio.move_on_after(self._options.close_timeout_s),
                suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                async with self._lock:
                    if not self._close_sent and (frame := self.farewell()):
                        await self._write(frame)
                    await self._stream.send_eof()
                while await self._stream.receive_some(_READ_BYTES):
                    pass
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Close at once."""
        self._close_sent = True
        self.close_written.set()
        self.ended.set()
        self.gone.set()
        await trio.aclose_forcefully(self._stream)
