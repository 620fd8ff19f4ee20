"""
Whole books over REST, of all active markets in turn.

They are for the audit, for markets whose book no socket can heal, and for storage. A call gives a
hundred books and costs ten tokens, so the budget sets the pace: what a minute does not suffice for
takes longer, and that is said.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple, final

import msgspec
import trio

from kalshibook.errors import ExchangeError, WireError
from kalshibook.gather.audit import Auditor, Polled
from kalshibook.gather.limiter import READ_COST
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.records import Received, Sink
from kalshibook.gather.registry import MarketRegistry
from kalshibook.gather.rest import ExchangeClient
from kalshibook.numbers import format_price, format_size
from kalshibook.wire import BookSnapshot
from kalshibook.wire.rest import ORDERBOOKS_PER_CALL

__all__ = ["BookPoller", "Pace", "PollStatistics", "snapshot_frame"]

_log = logging.getLogger(__name__)

# Markets that no socket heals are asked for this often, if the budget allows.
_URGENT_US: Final = 10_000_000
_TICK_S: Final = 0.1
_IDLE_S: Final = 1.0
# Answers take longer than the distance of two calls, where the budget is large.
_CALLS_IN_FLIGHT: Final = 16


class Pace(NamedTuple):
    """How fast the books are gone through."""

    calls: int
    """A round's."""
    interval_s: float
    """Between two calls."""
    cadence_s: float
    """A round's length: how often each book is asked for."""

    @classmethod
    def of(cls, markets: int, *, every_s: float, tokens_per_second: float) -> "Pace":
        """
        Return the pace: evenly over `every_s`, or as fast as the budget allows.

        >>> Pace.of(20_000, every_s=60, tokens_per_second=100)
        Pace(calls=200, interval_s=0.3, cadence_s=60.0)
        >>> Pace.of(1_000_000, every_s=60, tokens_per_second=100).cadence_s
        1000.0
        """
        calls = -(-markets // ORDERBOOKS_PER_CALL)
        cadence_s = max(float(every_s), calls * READ_COST / tokens_per_second)
        return cls(calls, cadence_s / max(1, calls), cadence_s)


class PollStatistics(msgspec.Struct, frozen=True):
    """What was polled, and how fast."""

    rounds: int
    calls: int
    books: int
    missing: int
    """Markets that were asked for and not in the answer."""
    rejected: int
    """Books that could not be read."""
    failures: int
    """Calls without an answer, each after the client's own attempts."""
    published: int
    """Books handed on for markets that no socket can heal."""
    unstored: int
    """Books that were not stored, the store being full."""
    wanted_s: int
    """How often each book should be asked for."""
    cadence_s: float
    """How often it is, by the present round's plan."""
    failing: str | None
    """Why books cannot be had at present."""


@final
class BookPoller:
    """
    Asks for all books, round by round.

    Args:
        client: the exchange.
        registry: which markets are active.
        options: how often, and with which share of the budget.
        auditor: compares what comes with our own books; None compares nothing.
        unhealed: returns markets whose book the sockets cannot make whole, each with the reason.
        is_unhealed: tells whether one of them is still like that: a book over REST that is published after
            the socket's own would put in doubt what has just been made whole.
        publish: takes frames for those markets, each marked as in doubt.
        stores: each takes every book, as the frame of a snapshot without a number; a full one is
            passed over, which is counted.
        now_us: the system's clock.
    """

    def __init__(
        self,
        client: ExchangeClient,
        registry: MarketRegistry,
        options: GatherOptions,
        *,
        auditor: Auditor | None = None,
        unhealed: Callable[[], Mapping[str, str]] = dict,
        is_unhealed: Callable[[str], bool] = lambda _: True,
        publish: Callable[[Received], None] = lambda _: None,
        stores: Sequence[Sink] = (),
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
    ) -> None:
        self._client = client
        self._registry = registry
        self._every_s = options.poll_seconds
        self._tokens = client.read_budget * options.poll_share
        self._connection = f"{options.source}/rest"
        self._auditor = auditor
        self._unhealed = unhealed
        self._is_unhealed = is_unhealed
        self._publish = publish
        self._stores = tuple(stores)
        self._now_us = now_us
        self._in_flight = trio.Semaphore(_CALLS_IN_FLIGHT)
        self._urgent: dict[str, int] = {}
        self._pace = Pace.of(0, every_s=self._every_s, tokens_per_second=self._tokens)
        self._rounds = self._calls = self._books = self._missing = 0
        self._rejected = self._failures = self._published = self._unstored = 0
        self._failing: str | None = None

    def statistics(self) -> PollStatistics:
        """Return the counts; from any thread."""
        return PollStatistics(
            rounds=self._rounds,
            calls=self._calls,
            books=self._books,
            missing=self._missing,
            rejected=self._rejected,
            failures=self._failures,
            published=self._published,
            unstored=self._unstored,
            wanted_s=self._every_s,
            cadence_s=self._pace.cadence_s,
            failing=self._failing,
        )

    def remarks(self) -> list[str]:
        """Return what an operator should know, though nothing is wrong with the books."""
        found = []
        if self._pace.cadence_s > self._every_s:
            found.append(
                f"each order book is asked for every {self._pace.cadence_s:.0f} s instead of every "
                f"{self._every_s} s: {self._pace.calls} calls have {self._tokens:.0f} tokens a second "
                "(gather.read_budget, gather.poll_share)"
            )
        if self._failing is not None:
            found.append(f"order books over REST cannot be had: {self._failing}")
        return found

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Poll until cancelled; with `poll_seconds` 0 do nothing."""
        task_status.started()
        if not self._every_s:
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._judge)
            nursery.start_soon(self._poll, nursery)

    async def _judge(self) -> None:
        auditor = self._auditor
        while auditor is not None:
            auditor.judge(self._now_us())
            await trio.sleep(_TICK_S)

    async def _poll(self, nursery: trio.Nursery) -> None:
        while True:
            markets = self._registry.count("active")
            if not markets and not self._unhealed():
                await trio.sleep(_IDLE_S)
                continue
            pace = self._pace = Pace.of(markets, every_s=self._every_s, tokens_per_second=self._tokens)
            slot = trio.current_time()
            for batch in self._batches():
                await self._start(nursery, batch)
                # From the plan and not from now: a slow call does not slow the round down.
                slot += pace.interval_s
                await self._wait_until(slot, nursery)
            self._rounds += 1

    async def _wait_until(self, moment: float, nursery: trio.Nursery) -> None:
        """Wait for the next call's time; what is urgent does not wait for it."""
        while (left_s := moment - trio.current_time()) > _IDLE_S:
            await trio.sleep(min(_IDLE_S, left_s))
            if urgent := self._take_urgent():
                await self._start(nursery, urgent)
        await trio.sleep(max(0, left_s))

    async def _start(self, nursery: trio.Nursery, tickers: Sequence[str]) -> None:
        await self._in_flight.acquire()
        nursery.start_soon(self._ask, tickers)

    def _batches(self) -> Iterator[list[str]]:
        """Yield the round's markets a hundred at a time, and among them what is urgent."""
        tickers = self._registry.tickers("active")
        while True:
            urgent = self._take_urgent()
            batch = dict.fromkeys(urgent)
            # An urgent one may be on its turn as well; the exchange is asked once.
            batch.update(dict.fromkeys(islice(tickers, ORDERBOOKS_PER_CALL - len(urgent))))
            if batch:
                yield list(batch)
            if len(batch) == len(urgent):
                return

    def _take_urgent(self) -> list[str]:
        now_us = self._now_us()
        wanted = list(self._unhealed())
        if self._auditor is not None:
            wanted += self._auditor.suspects(now_us)
        if not wanted:
            self._urgent.clear()
            return []
        self._urgent = {
            ticker: asked_us for ticker, asked_us in self._urgent.items() if asked_us > now_us - _URGENT_US
        }
        # At most half a call: a flood of them must not stop the round.
        found = [ticker for ticker in dict.fromkeys(wanted) if ticker not in self._urgent]
        found = found[: ORDERBOOKS_PER_CALL // 2]
        self._urgent.update(dict.fromkeys(found, now_us))
        return found

    async def _ask(self, tickers: Sequence[str]) -> None:
        asked_us = self._now_us()
        try:
            page = await self._client.orderbooks(tickers)
        except (ExchangeError, WireError) as error:
            self._failures += 1
            if self._failing is None:
                _log.warning("order books over REST cannot be had: %s", error)
            self._failing = str(error)
            return
        finally:
            self._in_flight.release()
        self._failing = None
        self._calls += 1
        self._books += len(page.items)
        self._rejected += len(page.rejected)
        self._missing += len(tickers) - len(page.items) - len(page.rejected)
        if page.rejected:
            _log.warning(
                "%d books of a call cannot be read, such as %s", len(page.rejected), page.rejected[0]
            )
        self._hand_on(page.items, asked_us, self._now_us())

    def _hand_on(self, books: Sequence[BookSnapshot], asked_us: int, answered_us: int) -> None:
        unhealed = self._unhealed()
        for book in books:
            polled = Polled(book, asked_us, answered_us)
            if self._auditor is not None:
                self._auditor.take(polled)
            for store in self._stores:
                if store.is_full:
                    self._unstored += 1
                else:
                    store.offer(self._received(polled, ""))
            reason = unhealed.get(book.ticker)
            if reason is not None and self._is_unhealed(book.ticker):
                self._published += 1
                doubt = f"{reason}; this is its book over REST, which may be 15 s old"
                self._publish(self._received(polled, doubt))

    def _received(self, polled: Polled, doubt: str) -> Received:
        frame = snapshot_frame(polled.book)
        return Received(frame, self._connection, polled.answered_us, "orderbook_snapshot", doubt=doubt)


def snapshot_frame(book: BookSnapshot) -> bytes:
    """Return a book as the frame that a socket would have brought, without a subscription and its numbers."""
    message: dict[str, object] = {"market_ticker": book.ticker, "market_id": ""}
    for side, levels in (("yes", book.yes), ("no", book.no)):
        # As the exchange does: ascending, and no key for a side without levels.
        if levels:
            pairs = [(format_price(price), format_size(size)) for price, size in sorted(levels)]
            message[f"{side}_dollars_fp"] = pairs
    return msgspec.json.encode({"type": "orderbook_snapshot", "msg": message})
