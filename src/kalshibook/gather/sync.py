"""
Keep the registry true: lists, lifecycle messages, questions by name and the clock. A thin shell on Trio.

What is to be gathered is handed to a follower, the pool of sockets, as it becomes known: the first page's
markets are subscribed while the second page is asked for. Between registry and follower stands what is
not handed over yet, one entry a market at most, in which an addition and a removal cancel out.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from itertools import islice
from typing import Final, NamedTuple, Protocol, TypeAlias, final

import msgspec
import trio

from kalshibook.errors import ExchangeError, ExchangeRefused, WireError
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.position import Position, PositionFile
from kalshibook.gather.registry import (
    MarketAdded,
    MarketChanged,
    MarketRegistry,
    MarketRemoved,
    RegistryEvent,
)
from kalshibook.gather.rest import ExchangeClient
from kalshibook.gather.selection import Selection
from kalshibook.wire import MarketLifecycle, rest
from kalshibook.wire.rest import Listing, Page, Request

__all__ = ["Follower", "MarketSync", "SyncStatistics", "registry_of"]

_log = logging.getLogger(__name__)

_BATCH: Final = 1_000
# The lists wait while so much is not handed over: a slow follower must not pile up a million names.
_MOST_WAITING: Final = 10_000
_CHECKS_PER_CALL: Final = 100
_TICK_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_RECHECK_US: Final = 60_000_000
_MOST_RESTARTS: Final = 3
_NOT_FOUND: Final = 404
_BAD_REQUEST: Final = 400


Describe: TypeAlias = Callable[[Sequence[Listing], Iterable[RegistryEvent]], Awaitable[None]]


class Follower(Protocol):
    """Who holds the same set of markets: the pool of sockets."""

    async def add(self, tickers: Sequence[str]) -> None:
        """Gather these too; each once."""

    async def remove(self, tickers: Sequence[str]) -> None:
        """Gather these no more."""


class SyncStatistics(msgspec.Struct, frozen=True):
    """What the sync has done and how it stands."""

    sweeps: int
    """Complete passes over all lists."""
    pages: int
    listed: int
    """Markets on those pages, each as often as it was listed."""
    rejected: int
    """Markets on pages that could not be read."""
    failures: int
    """Pages that could not be had, each after the client's own attempts."""
    checks: int
    """Markets asked for by name."""
    lifecycle: int
    """Lifecycle messages."""
    waiting: int
    """Markets that are not handed to the follower yet."""
    last_sweep_us: int | None
    """When the last pass was complete."""
    last_sweep_took_us: int | None
    failing: str | None
    """Why the lists cannot be had at present."""


class _Leg(NamedTuple):
    request: Request
    """The list's first page."""
    cursor: str
    """Where to begin."""
    until: str
    """The cursor at which to end; empty is the list's end."""


@final
class MarketSync:
    """
    Fills a registry and keeps a follower in step with it.

    Args:
        client: the exchange.
        registry: what is filled; nothing else may change it.
        selection: which markets are wanted.
        follower: who is to gather them.
        options: how often, and where the position is kept.
        describe: told of what each answer of the lists says, and what that changed; waited for.
        on_changed: called for what changes about a market that is gathered.
        on_removed: called with markets that the follower has given up.
        now_us: the system's clock.
        draw: a number from 0 to 1, for pauses.
    """

    def __init__(
        self,
        client: ExchangeClient,
        registry: MarketRegistry,
        selection: Selection,
        follower: Follower,
        options: GatherOptions,
        *,
        describe: Describe | None = None,
        on_changed: Callable[[MarketChanged], None] = lambda _: None,
        on_removed: Callable[[Sequence[str]], None] = lambda _: None,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._client = client
        self._registry = registry
        self._selection = selection
        self._follower = follower
        self._describe = describe
        self._on_changed = on_changed
        self._on_removed = on_removed
        self._now_us = now_us
        self._draw = draw
        self._reconcile_s = options.reconcile_minutes * 60
        self._file = PositionFile(options.state_file)
        # True is to be added, False to be removed.
        self._waiting: dict[str, bool] = {}
        self._has_work = trio.Event()
        self._has_room = trio.Event()
        self._has_checks = trio.Event()
        self._hurried = trio.Event()
        self._saved_at = -1.0
        self._sweeps = self._pages = self._listed = self._rejected = 0
        self._failures = self._checks = self._lifecycle = 0
        self._last_sweep_us: int | None = None
        self._last_sweep_took_us: int | None = None
        self._failing: str | None = None

    @property
    def registry(self) -> MarketRegistry:
        """What is kept true."""
        return self._registry

    def statistics(self) -> SyncStatistics:
        """Return the counts; from any thread."""
        return SyncStatistics(
            sweeps=self._sweeps,
            pages=self._pages,
            listed=self._listed,
            rejected=self._rejected,
            failures=self._failures,
            checks=self._checks,
            lifecycle=self._lifecycle,
            waiting=len(self._waiting),
            last_sweep_us=self._last_sweep_us,
            last_sweep_took_us=self._last_sweep_took_us,
            failing=self._failing,
        )

    def reasons_against(self) -> list[str]:
        """Return why the set of markets cannot be relied on; none is fine."""
        reasons = []
        if self._last_sweep_us is None:
            reasons.append(f"the exchange's markets are still being listed, {len(self._registry)} so far")
        elif (age_s := (self._now_us() - self._last_sweep_us) // 1_000_000) > 3 * self._reconcile_s:
            reasons.append(f"the exchange's markets were listed in full {age_s} s ago, and not since")
        if self._failing is not None:
            reasons.append(f"the exchange's markets cannot be listed: {self._failing}")
        if refused := self._registry.statistics().total_refused:
            reasons.append(f"{refused} times a market was refused, the registry is full (gather.max_markets)")
        return reasons

    def on_lifecycle(self, event: MarketLifecycle) -> None:
        """Take over a lifecycle message; at once, without waiting."""
        self._lifecycle += 1
        self._take(self._registry.apply_lifecycle(event, now_us=self._now_us()))
        self._has_checks.set()

    def hurry(self) -> None:
        """
        Go through the lists again soon: lifecycle messages may have been lost.

        Not before a tenth of the usual interval has passed since the last time: a line that flaps must
        not spend the budget on lists.
        """
        self._hurried.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the registry true until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver)
            nursery.start_soon(self._watch_clock)
            nursery.start_soon(self._ask_by_name)
            nursery.start_soon(self._sweep_for_ever)
            task_status.started()

    # From the registry to the follower.

    def _take(self, events: Iterable[RegistryEvent]) -> None:
        for event in events:
            if isinstance(event, MarketChanged):
                self._on_changed(event)
                continue
            wanted = isinstance(event, MarketAdded)
            assert wanted or isinstance(event, MarketRemoved)
            if self._waiting.get(event.ticker, wanted) is not wanted:
                # What was to be undone had not been done yet.
                del self._waiting[event.ticker]
            else:
                self._waiting[event.ticker] = wanted
        if self._waiting:
            self._has_work.set()

    async def _deliver(self) -> None:
        while True:
            await self._has_work.wait()
            batch: dict[bool, list[str]] = {True: [], False: []}
            for ticker in list(islice(self._waiting, _BATCH)):
                batch[self._waiting.pop(ticker)].append(ticker)
            if not self._waiting:
                self._has_work = trio.Event()
            if len(self._waiting) < _MOST_WAITING:
                self._has_room.set()
            # Removals first: they make room on the connections.
            if batch[False]:
                await self._follower.remove(batch[False])
                self._on_removed(batch[False])
            if batch[True]:
                await self._follower.add(batch[True])
            await trio.lowlevel.checkpoint()

    async def _wait_for_room(self) -> None:
        while len(self._waiting) >= _MOST_WAITING:
            self._has_room = trio.Event()
            await self._has_room.wait()

    # The clock.

    async def _watch_clock(self) -> None:
        while True:
            now_us = self._now_us()
            self._take(self._registry.advance(now_us=now_us))
            due_us = self._registry.next_due_us()
            # Never longer than a tick: the system's clock may be set meanwhile.
            pause_s = _TICK_S if due_us is None else min(_TICK_S, max(0, due_us - now_us) / 1e6)
            await trio.sleep(pause_s)

    # The lists.

    async def _sweep_for_ever(self) -> None:
        position = self._file.load()
        while True:
            await self._sweep(position)
            position = None
            await trio.sleep(self._reconcile_s / 10)
            with trio.move_on_after(self._reconcile_s * (0.8 + 0.2 * self._draw())):
                await self._hurried.wait()

    async def _sweep(self, position: Position | None) -> None:
        began_us = self._now_us()
        # What is lost from here on may be on a page that was read before.
        self._hurried = trio.Event()
        self._registry.begin_sweep()
        for leg in _legs(self._selection.requests(), position):
            await self._follow(leg)
        missing = 0
        for piece in self._registry.unseen():
            missing += sum(map(self._registry.ask_about, piece))
            await trio.lowlevel.checkpoint()
        if missing:
            _log.info("%d markets are on no list any more and are asked for by name", missing)
            self._has_checks.set()
        self._sweeps += 1
        self._last_sweep_us = self._now_us()
        self._last_sweep_took_us = self._last_sweep_us - began_us
        self._file.save(None)

    async def _follow(self, leg: _Leg) -> None:
        """Go through a list to its end, however long the exchange is away meanwhile."""
        request = leg.request if not leg.cursor else rest.next_request(leg.request, leg.cursor)
        restarts = 0
        while request is not None:
            await self._wait_for_room()
            asked_us = self._now_us()
            page = await self._page(request)
            if page is None:
                # The cursor is not known any more: it has a limited life. What is listed twice does no harm.
                restarts += 1
                request = leg.request if restarts <= _MOST_RESTARTS else None
                continue
            wanted = [listing for listing in page.items if self._selection.admits(listing, leg.request)]
            events = self._registry.apply_page(wanted, asked_us=asked_us, now_us=self._now_us())
            self._take(events)
            if self._describe is not None:
                await self._describe(wanted, events)
            self._pages += 1
            self._listed += len(page.items)
            if page.rejected:
                self._rejected += len(page.rejected)
                _log.warning(
                    "%d markets of a page cannot be read, such as %s", len(page.rejected), page.rejected[0]
                )
            if leg.until and page.cursor == leg.until:
                return
            request = self._next(request, page.cursor)
            self._save(leg, page.cursor)

    def _next(self, request: Request, cursor: str) -> Request | None:
        try:
            return rest.next_request(request, cursor)
        except WireError as error:
            # Whatever lies behind such a cursor cannot be reached; what it hides is asked for by name.
            self._failures += 1
            _log.warning("a list of markets ends early: %s", error)
            return None

    async def _page(self, request: Request) -> Page[Listing] | None:
        """Return a page, or None when its cursor is refused; anything else is waited out."""
        pause_s = 1.0
        while True:
            try:
                page = await self._client.get(request, rest.read_listings)
            except (ExchangeError, WireError) as error:
                self._failures += 1
                self._failing = str(error)
                _log.warning("the lists of markets are waited for: %s", error)
                is_refused = isinstance(error, ExchangeRefused) and error.status == _BAD_REQUEST
                if is_refused and "cursor" in dict(request.query):
                    await trio.sleep(self._draw())
                    return None
                await trio.sleep(self._draw() * pause_s)
                pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)
            else:
                self._failing = None
                return page

    def _save(self, leg: _Leg, cursor: str) -> None:
        # Once a second: a page may come every few milliseconds, and the file is written in place.
        if trio.current_time() >= self._saved_at + 1:
            self._saved_at = trio.current_time()
            self._file.save(Position(leg.request.target, cursor))

    # Questions by name.

    async def _ask_by_name(self) -> None:
        while True:
            batch = self._registry.take_checks(_CHECKS_PER_CALL, now_us=self._now_us())
            if not batch:
                # Also without a word: some questions have a time before which they make no sense.
                with trio.move_on_after(_TICK_S):
                    await self._has_checks.wait()
                    self._has_checks = trio.Event()
                continue
            self._checks += len(batch)
            remaining = batch
            if len(batch) > 1:
                remaining = await self._ask_together(batch)
            for ticker in remaining:
                await self._ask_alone(ticker)

    async def _ask_together(self, tickers: Sequence[str]) -> list[str]:
        """Ask for many in one call, and return those that were not in the answer."""
        asked_us = self._now_us()
        try:
            page = await self._client.get(rest.markets_request(tickers=tickers), rest.read_listings)
        except (ExchangeError, WireError) as error:
            self._put_off(tickers, error)
            return []
        found = {listing.ticker: listing for listing in page.items}
        for ticker in tickers:
            if ticker in found:
                await self._answered(ticker, found[ticker], asked_us)
        return [ticker for ticker in tickers if ticker not in found]

    async def _ask_alone(self, ticker: str) -> None:
        asked_us = self._now_us()
        listing: Listing | None = None
        try:
            listing = await self._client.get(rest.market_request(ticker), rest.read_listing)
        except ExchangeRefused as error:
            if error.status != _NOT_FOUND:
                self._put_off([ticker], error)
                return
        except (ExchangeError, WireError) as error:
            self._put_off([ticker], error)
            return
        await self._answered(ticker, listing, asked_us)

    async def _answered(self, ticker: str, listing: Listing | None, asked_us: int) -> None:
        events = self._registry.apply_check(ticker, listing, asked_us=asked_us, now_us=self._now_us())
        self._take(events)
        if self._describe is not None and listing is not None:
            await self._describe([listing], events)

    def _put_off(self, tickers: Sequence[str], error: Exception) -> None:
        self._failures += 1
        _log.warning("%d markets are asked for later, such as %s: %s", len(tickers), tickers[0], error)
        for ticker in tickers:
            self._registry.ask_about(ticker, not_before_us=self._now_us() + _RECHECK_US)


def registry_of(options: GatherOptions, selection: Selection) -> MarketRegistry:
    """Return an empty registry as the settings want it."""
    return MarketRegistry(
        admits=selection.admits,
        admits_created=selection.admits_created,
        may_admit=selection.may_admit,
        linger_us=options.closed_seconds * 1_000_000,
        most=options.max_markets,
    )


def _legs(requests: Sequence[Request], position: Position | None) -> list[_Leg]:
    """Return the lists in the order in which they are gone through: from a position on, then round to it."""
    targets = [request.target for request in requests]
    if position is None or position.list not in targets:
        return [_Leg(request, "", "") for request in requests]
    begun = targets.index(position.list)
    legs = [_Leg(requests[begun], position.cursor, "")]
    legs += [_Leg(request, "", "") for request in (*requests[begun + 1 :], *requests[:begun])]
    if position.cursor:
        legs.append(_Leg(requests[begun], "", position.cursor))
    return legs
