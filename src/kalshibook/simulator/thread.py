"""A simulated exchange in a thread of its own, for tests and programs that are not Trio's."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Final, TypeVar, final

import trio

from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.server import SimulatedExchange

__all__ = ["ThreadedExchange", "exchange_in_thread"]

T = TypeVar("T")
_STOP_S: Final = 20.0


@final
class ThreadedExchange:
    """A handle on an exchange that runs in another thread."""

    def __init__(self, exchange: SimulatedExchange, token: trio.lowlevel.TrioToken) -> None:
        self._exchange = exchange
        self._token = token
        self.rest_url: Final = exchange.rest_url
        """Base of the REST addresses, up to ``/trade-api/v2``."""
        self.stream_url: Final = exchange.stream_url
        """Address of the WebSocket."""
        self.control_url: Final = exchange.control_url
        """Base of the addresses for truth and faults, up to ``/simulator``."""

    def do(self, action: Callable[[SimulatedExchange], T]) -> T:
        """Call a function with the exchange, in the exchange's thread, and return what it returns."""
        return trio.from_thread.run_sync(action, self._exchange, trio_token=self._token)


@contextmanager
def exchange_in_thread(options: SimulatorOptions | None = None) -> Iterator[ThreadedExchange]:
    """
    Run an exchange during a ``with`` block.

    Example:
        >>> with exchange_in_thread(SimulatorOptions(open=True, messages_per_second=0)) as exchange:
        ...     exchange.do(lambda it: it.create("KXNEWT-T1"))
        ...     exchange.do(lambda it: it.change("KXNEWT-T1", "yes", 4_000, 100))
        ...     exchange.do(lambda it: it.truth("KXNEWT-T1")).yes
        ((4000, 100),)

    Args:
        options: what it is like.

    Raises:
        SettingsError: on entering, an address cannot be listened on.
    """
    begun: Future[ThreadedExchange] = Future()
    scope = trio.CancelScope()

    async def main() -> None:
        with scope:
            async with SimulatedExchange(options) as exchange:
                begun.set_result(ThreadedExchange(exchange, trio.lowlevel.current_trio_token()))
                await trio.sleep_forever()

    def run() -> None:
        try:
            trio.run(main)
        except BaseException as error:
            if begun.done():
                raise
            begun.set_exception(error)

    thread = threading.Thread(target=run, name="kalshibook-simulator", daemon=True)
    thread.start()
    handle = begun.result()
    try:
        yield handle
    finally:
        with suppress(trio.RunFinishedError):
            handle._token.run_sync_soon(scope.cancel)  # noqa: SLF001 - the two belong together
        thread.join(_STOP_S)
        if thread.is_alive():
            raise RuntimeError(f"the exchange's thread did not end within {_STOP_S:g} s")
