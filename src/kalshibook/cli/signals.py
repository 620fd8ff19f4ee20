"""Stopping on Ctrl-C and on SIGTERM: a cancellation for what runs on Trio, an event for threads."""

import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

__all__ = ["set_by_signals", "stopped_by_signals"]


@asynccontextmanager
async def stopped_by_signals() -> AsyncIterator[trio.Nursery]:
    """
    Open a nursery that SIGINT or SIGTERM cancels; leaving the block cancels it too.

    A second signal ends the process at once: whoever presses Ctrl-C twice does not want to wait.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def cancel_on_signal() -> None:
                async for number in signals:
                    signal.signal(number, signal.SIG_DFL)
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(cancel_on_signal)
            yield nursery
            nursery.cancel_scope.cancel()


@contextmanager
def set_by_signals(event: threading.Event | None = None) -> Iterator[threading.Event]:
    """Set an event, a new one unless given, on SIGINT or SIGTERM; a second one ends the process at once."""
    stop = threading.Event() if event is None else event

    def on_signal(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
