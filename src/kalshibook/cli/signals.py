"""Stopping on Ctrl-C and on SIGTERM, as one cancellation."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

__all__ = ["stopped_by_signals"]


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
