"""
A simulated exchange that listens: REST, WebSocket and its own clock, on Trio, in this process.

The clock is Trio's, begun at the system's time: under `trio.testing.MockClock` it is virtual, and
with a speed other than 1 it runs faster or slower. Signatures and the `Date` header go by the
system's clock all the same, because clients sign by theirs.
"""

import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Final, ParamSpec, Self, TypeVar, final

import trio

from kalshibook.http.options import HttpOptions
from kalshibook.http.server import serve
from kalshibook.simulator.auth import Denied, KeyRing
from kalshibook.simulator.faults import FaultInjector
from kalshibook.simulator.ledger import Fault, FaultKind
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.playback import Playback
from kalshibook.simulator.rest import REST_ROOT, make_exchange_app
from kalshibook.simulator.stream import STREAM_PATH, ExchangeStream
from kalshibook.simulator.truth import TrueBook, Truth
from kalshibook.simulator.venue import Venue
from kalshibook.stream.socket import Refusal
from kalshibook.wire import Side

__all__ = ["SimulatedExchange"]

P = ParamSpec("P")
T = TypeVar("T")

_AT_ONCE: Final = 2_000
"""Changes between two looks at the rest of the world."""
_SHORTEST_S: Final = 0.001
_LONGEST_S: Final = 3_600.0
_ROOM: Final = 2_000
"""Frames that may wait for a client when time passes as fast as clients read."""
_PATIENCE_S: Final = 1.0


@final
class SimulatedExchange:
    """
    An exchange to test against; use it with ``async with``.

    Example:
        >>> async def book_of(ticker: str) -> TrueBook:
        ...     async with SimulatedExchange(SimulatorOptions(open=True, messages_per_second=0)) as exchange:
        ...         exchange.create(ticker)
        ...         exchange.change(ticker, "yes", 4_000, 100)
        ...         return exchange.truth(ticker)
        >>> trio.run(book_of, "KXNEWT-T1").yes
        ((4000, 100),)
    """

    def __init__(self, options: SimulatorOptions | None = None) -> None:
        self.options: Final = options or SimulatorOptions()
        self._stack = AsyncExitStack()
        self._keys = KeyRing(self.options.clock_tolerance_ms)
        self._nudged = trio.Event()
        self._stop_at: int | None = None
        self._stopped = trio.Event()
        self._begun_s = 0.0
        self._venue: Venue | None = None
        self._stream: ExchangeStream | None = None
        self._rest_address = ("", 0)

    async def __aenter__(self) -> Self:
        options = self.options
        self._begun_s = trio.current_time()
        venue = self._venue = Venue(options, start_us=time.time_ns() // 1_000)
        if options.frozen:
            venue.freeze()
        stream = self._stream = ExchangeStream(venue, self, self.tick)
        app = make_exchange_app(venue, self, self.tick, self._nudge, self._begin_changes)
        http = HttpOptions(host=options.host, port=options.rest_port, drain_ms=100)
        nursery = await self._stack.enter_async_context(trio.open_nursery())
        self._stack.callback(nursery.cancel_scope.cancel)
        try:
            await nursery.start(stream.run, options.host, options.stream_port)
            self._rest_address = await nursery.start(self._serve_rest, app, http)
        except BaseException:
            await self._stack.aclose()
            raise
        nursery.start_soon(self._play)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        if error is None or isinstance(error, trio.Cancelled):
            return await self._stack.__aexit__(kind, error, trace)
        # The block's own error leaves as it is, not inside the group of a nursery it knows nothing of.
        await self._stack.aclose()
        return None

    @staticmethod
    async def _serve_rest(
        app: object, http: HttpOptions, *, task_status: trio.TaskStatus[tuple[str, int]]
    ) -> None:
        await serve(app, http, date_header=False, task_status=task_status)  # type: ignore[arg-type]

    # Where it is.

    @property
    def rest_url(self) -> str:
        """Base of the REST addresses, up to ``/trade-api/v2``."""
        return "http://{}:{}{}".format(*self._rest_address, REST_ROOT)

    @property
    def control_url(self) -> str:
        """Base of the addresses for truth and faults, up to ``/simulator``."""
        return "http://{}:{}/simulator".format(*self._rest_address)

    @property
    def stream_url(self) -> str:
        """Address of the WebSocket."""
        assert self._stream is not None
        return "ws://{}:{}{}".format(*self._stream.address, STREAM_PATH)

    @property
    def venue(self) -> Venue:
        """The exchange behind the sockets; before the start there is none."""
        assert self._venue is not None, "the exchange is entered with `async with` first"
        return self._venue

    # Who may come.

    def register_key(self, key_id: str, public_key_pem: str | bytes, *, user: str = "") -> None:
        """
        Make a key known.

        Args:
            key_id: its name.
            public_key_pem: an RSA or Ed25519 key.
            user: whose it is; a user of its own unless given. Limits are per user.

        Raises:
            ValueError: it is no such key.
        """
        self._keys.register(key_id, public_key_pem, user=user)

    def admit(self, key_id: str | None, timestamp: str | None, signature: str | None, text: str) -> str:
        """
        Return the user of a signed request.

        Raises:
            Denied: it is not signed as it should be.
        """
        if self.options.open:
            return key_id or "anonymous"
        return self._keys.user_of(key_id, timestamp, signature, text, self.wall_ms)

    @property
    def wall_ms(self) -> int:
        """What the exchange takes for the time of day, Unix milliseconds."""
        return time.time_ns() // 1_000_000 + self.venue.faults.skew_ms

    def turned_away(self) -> Refusal | None:
        """Return why nobody, or not this one, is let in just now."""
        faults = self.venue.faults
        if faults.is_on(FaultKind.MAINTENANCE):
            return Refusal(503, '{"code":"service_unavailable","message":"maintenance"}', "application/json")
        if faults.denied():
            return Refusal(
                401, Denied("authentication_error", "UNAUTHORIZED").body().decode(), "application/json"
            )
        return None

    # What is true.

    def truth(self, ticker: str) -> TrueBook:
        """
        Return a market's true book as it is now.

        Raises:
            KeyError: there is no such market.
        """
        self.tick()
        return self.venue.truth(ticker)

    def checksum(self) -> Truth:
        """Return one number over all books as they are now."""
        self.tick()
        return self.venue.checksum()

    @property
    def tickers(self) -> list[str]:
        """All markets that are listed, in the order of the lists."""
        return [market.ticker for market in self.venue.model.listed()]

    # What goes wrong.

    @property
    def faults(self) -> list[Fault]:
        """The record of all faults so far."""
        return list(self.venue.ledger)

    def inject(
        self,
        kind: FaultKind | str,
        *,
        connection: int | None = None,
        sid: int | None = None,
        channel: str | None = None,
        count: int = 1,
        duration_ms: int | None = None,
    ) -> list[Fault]:
        """
        Do harm to a client now, or to what it is sent next; see `FaultInjector.inject`.

        Raises:
            ValueError: there is no such kind of fault.
            NothingToHarm: there is nobody to do it to.
        """
        return self._steer(
            self.venue.faults.inject,
            kind,
            connection=connection,
            sid=sid,
            channel=channel,
            count=count,
            duration_ms=duration_ms,
        )

    @property
    def injector(self) -> FaultInjector:
        """What does the harm."""
        return self.venue.faults

    # Steering single markets; each as the method of `Venue` says.

    def create(
        self,
        ticker: str,
        *,
        open_s: int | None = None,
        close_s: int | None = None,
        event: str = "",
        series: str = "",
        title: str = "",
        grid: str = "linear_cent",
    ) -> None:
        """List a market that moves only by command; it opens now and closes in an hour, or as told."""
        self._steer(
            self.venue.create,
            ticker,
            open_s=open_s,
            close_s=close_s,
            event=event,
            series=series,
            title=title,
            grid=grid,
        )
        self.tick()

    def change(self, ticker: str, side: Side, price: int, change: int) -> None:
        """Change the size of one level: price in $0.0001 on the side's scale, change in 0.01 contract."""
        self._steer(self.venue.change, ticker, side, price, change)

    def trade(self, ticker: str, taker: Side, size: int) -> None:
        """Let a taker hit the best bid of the other side, for 0.01 contract times `size`."""
        self._steer(self.venue.trade, ticker, taker, size)

    def play(self, frames: Iterable[tuple[int, bytes]]) -> Playback:
        """Let the books move as recorded ones did: frames, each with its time in Unix milliseconds."""
        return self._steer(self.venue.play, frames)

    def pause(self, ticker: str) -> None:
        """Deactivate a market."""
        self._steer(self.venue.pause, ticker)

    def resume(self, ticker: str) -> None:
        """Activate a market again, with a new book."""
        self._steer(self.venue.resume, ticker)

    def set_close(self, ticker: str, close_s: int) -> None:
        """Move a market's close, Unix seconds."""
        self._steer(self.venue.set_close, ticker, close_s)

    def close(self, ticker: str) -> None:
        """Close a market now; it is determined and settled some seconds later."""
        self._steer(self.venue.close, ticker)

    def reopen(self, ticker: str, close_s: int) -> None:
        """Let a closed market trade again until a later time, Unix seconds."""
        self._steer(self.venue.reopen, ticker, close_s)

    def dispute(self, ticker: str) -> None:
        """Let a market's result be challenged."""
        self._steer(self.venue.dispute, ticker)

    def determine(self, ticker: str, result: str) -> None:
        """Announce a market's result, ``yes`` or ``no``; it is settled some seconds later."""
        self._steer(self.venue.determine, ticker, result)

    def set_grid(self, ticker: str, grid: str) -> None:
        """Put a market on another tick grid, by its name."""
        self._steer(self.venue.set_grid, ticker, grid)

    def delist(self, ticker: str) -> None:
        """Take a market off the lists at once, which nobody is told."""
        self._steer(self.venue.delist, ticker)

    def step(self, changes: int) -> None:
        """Let about so many changes happen at once, whatever the clock says."""
        self._steer(self.venue.stir, changes)

    def freeze(self) -> None:
        """Let nothing happen to any market until `thaw`, so that everybody can catch up and compare."""
        self._steer(self.venue.freeze)

    def thaw(self) -> None:
        """Go on; a market whose close time has passed meanwhile closes now."""
        self._steer(self.venue.thaw)

    async def run_changes(self, changes: int) -> None:
        """Go on until so many more changes have happened, or a few more, and freeze."""
        await self._begin_changes(changes).wait()

    def _begin_changes(self, changes: int) -> trio.Event:
        """Begin what `run_changes` does, and return what is set at the end."""
        self._stop_at = self.venue.lives.steps + changes
        self._stopped = trio.Event()
        self.thaw()
        return self._stopped

    def _steer(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.tick()
        result = action(*args, **kwargs)
        self._nudge()
        return result

    def _nudge(self) -> None:
        """Let the player look again at what is due."""
        self._nudged.set()

    # Time.

    def clock_us(self) -> int:
        """Return the exchange's time, microseconds since the epoch."""
        if not self.options.speed:
            return self.venue.now_us
        return self.venue.start_us + int(
            (trio.current_time() - self._begun_s) * self.options.speed * 1_000_000
        )

    def tick(self) -> None:
        """Let happen what is due by now."""
        if self.options.speed:
            self.venue.advance(self.clock_us())

    async def _play(self) -> None:
        while True:
            self._nudged = trio.Event()
            if self.options.speed:
                done, until_us, most = True, self.clock_us(), _AT_ONCE
            else:
                done, until_us, most = False, 2**62, _AT_ONCE // 4
            if self._stop_at is not None:
                most = max(1, min(most, self._stop_at - self.venue.lives.steps))
            if self.options.speed or not self.venue.is_frozen:
                done = self.venue.advance(until_us, most=most) and done
            else:
                done = True
            if self._stop_at is not None and self.venue.lives.steps >= self._stop_at:
                self._stop_at = None
                self.venue.freeze()
                self._stopped.set()
            elif done:
                with trio.move_on_after(self._pause_s()):
                    await self._nudged.wait()
            elif self.options.speed:
                await trio.lowlevel.checkpoint()
            else:
                await self._readers()

    def _pause_s(self) -> float:
        if not self.options.speed:
            return _LONGEST_S
        wait_s = (self.venue.next_us - self.clock_us()) / 1_000_000 / self.options.speed
        return max(_SHORTEST_S, min(wait_s, _LONGEST_S))

    async def _readers(self) -> None:
        """Wait until clients have read most of what there is."""
        await trio.lowlevel.checkpoint()
        # Whoever does not read at all is not waited for: it gets its error 25.
        with trio.move_on_after(_PATIENCE_S):
            while any(session.backlog > _ROOM for session in self.venue.sessions.values()):  # noqa: ASYNC110
                # An event would cost something for each frame, and this is asked once a millisecond.
                await trio.sleep(_SHORTEST_S)
