"""
A whole gatherer: sockets, router, Kafka, its own books, the ledger, and watching over others. On Trio.

It stops in the order in which things flow: sockets first, then the queue, then Kafka's last reports.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from math import ceil
from types import TracebackType
from typing import Any, Final, Self, final

import msgspec
import trio

from kalshibook.errors import FeedError, SettingsError
from kalshibook.feeds.options import KafkaOptions
from kalshibook.feeds.publisher import PublisherStatistics
from kalshibook.gather.audit import Auditor, auditor_of
from kalshibook.gather.books import Shared
from kalshibook.gather.connection import SignsHandshake
from kalshibook.gather.credentials import Credentials
from kalshibook.gather.describing import MarketDescriber
from kalshibook.gather.incidents import GatherIncidentKind, GatherIncidents
from kalshibook.gather.ledger import GapLedger, LedgerCounts
from kalshibook.gather.lifecycle import LifecycleSink
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.owned import OwnBooks
from kalshibook.gather.peers import PeerReader, PeerWatch, Wish
from kalshibook.gather.plan import Limits, SnapshotBudget
from kalshibook.gather.poller import BookPoller
from kalshibook.gather.pool import Pool, PoolHealth
from kalshibook.gather.publishing import KafkaSink
from kalshibook.gather.records import Received, Sink
from kalshibook.gather.rest import ExchangeClient
from kalshibook.gather.router import Router, RouterStatistics
from kalshibook.gather.selection import Selection
from kalshibook.gather.session import CHANNELS, Role
from kalshibook.gather.sync import MarketSync, registry_of
from kalshibook.store import BookStore, StoreOptions
from kalshibook.wire import GapRecord

__all__ = ["Attachment", "Gatherer", "GathererHealth"]

_log = logging.getLogger(__name__)

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_STALE_SHARE: Final = 0.05
"""Of the markets; with more in doubt the gatherer is not ready."""

_LOST_PATIENCE_S: Final = 10.0
"""A market of which Kafka refused a record is asked for at once, and again not before so long."""

Attachment = Callable[["Gatherer"], Awaitable[Any]]
"""Runs beside the sockets until cancelled: what finds markets, polls, or answers HTTP."""


class GathererHealth(msgspec.Struct, frozen=True):
    """How a gatherer is, at one moment."""

    source: str
    is_ready: bool
    reasons: tuple[str, ...]
    """Why it is not ready; empty when it is."""
    pool: PoolHealth
    router: RouterStatistics
    published: PublisherStatistics
    gaps: LedgerCounts
    peers: dict[str, bool]
    """Other gatherers, and whether they are at work."""


@final
class Gatherer:
    """
    Gathers from one exchange into one topic; ``async with`` runs it.

    Which markets there are it finds by itself, over REST and by lifecycle messages, unless `markets` says so.

    Args:
        options: what to gather, from where.
        kafka: where to.
        signer: signs handshakes; the key that `options` names unless given.
        markets: the markets to begin with; then REST is not used, and `add` and `remove` say what changes.
        sinks: what else takes frames, beside Kafka and the gatherer's own books.
        book_stores: which of those also take the books that are polled over REST.
        gap_listeners: told of each entry of the gap ledger, when it is found and when it is healed.
        attachments: what runs beside the sockets.
        store: settings of its own books.
        clock_us: the time, microseconds since the epoch.
        seed: of all that is at random, for tests.
    """

    def __init__(
        self,
        options: GatherOptions,
        kafka: KafkaOptions,
        *,
        signer: SignsHandshake | None = None,
        markets: Iterable[str] | None = None,
        sinks: Sequence[Sink] = (),
        book_stores: Sequence[Sink] = (),
        gap_listeners: Sequence[Callable[[GapRecord], None]] = (),
        attachments: Sequence[Attachment] = (),
        store: StoreOptions | None = None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1_000,
        seed: int | None = None,
    ) -> None:
        self.options: Final = options
        self.started_us: Final = clock_us()
        self.incidents: Final = GatherIncidents(clock_us=clock_us)
        credentials = Credentials.load(options)
        signer = signer or credentials
        if signer is None and options.environment != "custom":
            raise SettingsError(
                "no key: Kalshi wants every WebSocket signed; set gather.key_id and gather.private_key_file"
            )
        self._clock_us = clock_us
        self._markets = list(markets or ())
        self._attachments = attachments
        self._book_stores = book_stores
        self._kafka = KafkaSink(
            kafka, options, self.incidents, on_lost=self._on_unpublished, clock_us=clock_us
        )
        self._lost_at: dict[str, float] = {}
        self.ledger: Final = GapLedger(options.source, on_record=self._on_gap)
        self._gap_listeners: list[Callable[[GapRecord], None]] = [self._kafka.record, *gap_listeners]
        self._own = (
            OwnBooks(options.source, on_divergence=self._on_divergence, options=store, clock_us=clock_us)
            if options.own_books
            else None
        )
        self.auditor: Final = auditor_of(options, self.incidents, self.heal)
        self.client: Final = None if markets is not None else ExchangeClient.of(options, credentials)
        self.sync: Final = None if self.client is None else self._sync(self.client, self.auditor)
        inner: list[Sink] = [self._kafka]
        if self._own is not None:
            inner.append(self._own)
        if self.auditor is not None:
            inner.append(self.auditor.books)
        if self.sync is not None:
            inner.append(LifecycleSink(self.sync))
        self.router: Final = Router((*inner, *sinks))
        shared = Shared(
            options,
            Limits(per_connection=options.markets_per_connection, per_command=options.markets_per_command),
            SnapshotBudget(per_second=options.snapshots_per_second, burst=options.snapshot_burst),
            self.ledger,
            random.Random(seed),  # noqa: S311 - spreads retries, keeps no secret
        )
        self.budget: Final = shared.budget
        self._listeners: list[Callable[[Received], None]] = []
        self._unheard: set[str] = set()
        self.pool: Final = Pool(
            options.endpoints().stream_url,
            signer,
            shared,
            self.router,
            self.incidents,
            run_id=_base36(self.started_us),
            clock_us=clock_us,
            on_left=self._kafka.forget,
            on_frame=self._on_frame,
        )
        self.watch: Final = PeerWatch(options.source, silence_us=options.peer_silence_ms * 1_000)
        self._peers = (
            PeerReader(kafka, options.gap_topic, self.watch, self._on_wish) if options.peers else None
        )
        self.poller: Final = None if self.client is None else self._poller(self.client)
        self._token: trio.lowlevel.TrioToken | None = None
        self._stack = AsyncExitStack()
        self._nursery: trio.Nursery | None = None
        self._live = trio.Event()
        self.failed_records = 0
        """After the stop: records that Kafka did not take."""

    # Running.

    async def __aenter__(self) -> Self:
        """
        Check Kafka, connect, and return; connections come up meanwhile.

        Raises:
            FeedError: no broker answers, or a topic is missing.
        """
        self._token = trio.lowlevel.current_trio_token()
        await trio.to_thread.run_sync(self._kafka.start)
        if self._own is not None:
            self._own.start()
        try:
            if self._peers is not None:
                self._peers.start()
            await self.pool.add(self._markets)
            nursery = self._nursery = await self._stack.enter_async_context(trio.open_nursery())
            nursery.start_soon(self._keep_time)
            await nursery.start(self.pool.run)
            if self.client is not None:
                nursery.start_soon(self._find_markets, self.client)
            for attachment in self._attachments:
                nursery.start_soon(attachment, self)
        except BaseException:
            await self._shut()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Stop: sockets, then the queue, then Kafka; the end is told to all partitions."""
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        try:
            if error is None or isinstance(error, trio.Cancelled):
                return await self._stack.__aexit__(kind, error, trace)
            # The block's own error leaves as it is, not inside the group of a nursery.
            await self._stack.aclose()
            return None
        finally:
            await self._shut()

    async def _shut(self) -> None:
        with trio.CancelScope(shield=True):
            if self._peers is not None:
                await trio.to_thread.run_sync(self._peers.stop)
            stop = partial(self._kafka.stop, self.options.stop_timeout_s)
            self.failed_records = await trio.to_thread.run_sync(stop)
            if self._own is not None:
                self._own.stop()
        if self.failed_records:
            _log.error("Kafka did not take %d records before the stop's end", self.failed_records)

    async def _find_markets(self, client: ExchangeClient) -> None:
        assert self.sync is not None
        assert self.poller is not None
        async with client, trio.open_nursery() as nursery:
            nursery.start_soon(self.sync.run)
            nursery.start_soon(self.poller.run)

    def _sync(self, client: ExchangeClient, auditor: Auditor | None) -> MarketSync:
        selection = Selection(self.options)
        registry = registry_of(self.options, selection)
        describer = MarketDescriber(
            registry,
            self.offer,
            self._room,
            connection=f"{self.options.source}/lists",
            sweeps_per_refresh=ceil(self.options.refresh_minutes / self.options.reconcile_minutes),
            now_us=self._clock_us,
        )
        return MarketSync(
            client,
            registry,
            selection,
            self,
            self.options,
            describe=describer.take,
            on_removed=(lambda _: None) if auditor is None else auditor.forget,
            now_us=self._clock_us,
        )

    def _poller(self, client: ExchangeClient) -> BookPoller:
        assert self.sync is not None
        return BookPoller(
            client,
            self.sync.registry,
            self.options,
            auditor=self.auditor,
            unhealed=self.pool.unhealed,
            is_unhealed=self.pool.is_unhealed,
            publish=self.offer,
            stores=self._book_stores,
            now_us=self._clock_us,
        )

    async def _keep_time(self) -> None:
        while True:
            is_live = self.pool.is_live
            if is_live:
                self._live.set()
            self._kafka.alive()
            if self._own is not None:
                self._own.tick(self._clock_us(), is_ready=is_live)
            if self._kafka.failure is not None:
                raise FeedError(f"publishing has failed: {self._kafka.failure}") from self._kafka.failure
            await trio.sleep(self.options.heartbeat_ms / 1_000)

    # Markets.

    async def add(self, tickers: Iterable[str]) -> None:
        """Follow the books of markets; those already followed stay as they are."""
        await self.pool.add(tickers)

    async def remove(self, tickers: Iterable[str]) -> None:
        """Follow them no more; unknown ones are no error."""
        await self.pool.remove(tickers)

    def heal(self, tickers: Sequence[str]) -> int:
        """Ask at once for markets whose books cannot be right; return of how many."""
        return self.pool.heal(tickers)

    def listen(self, listener: Callable[[Received], None]) -> None:
        """Show each frame that is handed on to a function first, on Trio's thread; it must not raise."""
        self._listeners.append(listener)

    # Looking.

    @property
    def books(self) -> BookStore | None:
        """Its own books, or None where it keeps none."""
        return None if self._own is None else self._own.store

    async def wait_live(self) -> None:
        """Wait until every connection is open and whole for the first time."""
        await self._live.wait()

    def offer(self, received: Received) -> None:
        """Hand on a frame that came another way than by a socket, such as a snapshot of a REST answer."""
        self.router.route(received)

    async def _room(self) -> None:
        await self.router.room()

    def health(self) -> GathererHealth:
        """Return how it is."""
        pool = self.pool.health()
        reasons = [f"connection {text}" for text in pool.down]
        if not self._live.is_set():
            reasons.append("not every connection has been whole yet")
        missing = pool.by_state.get("missing", 0)
        in_doubt = pool.markets - pool.by_state.get("live", 0) - missing
        if pool.markets and in_doubt > pool.markets * _STALE_SHARE:
            reasons.append(f"{in_doubt:,} of {pool.markets:,} markets are not live")
        if missing > pool.markets * _STALE_SHARE:
            reasons.append(f"the exchange does not answer for {missing:,} of {pool.markets:,} markets")
        if pool.homeless:
            reasons.append(f"{pool.homeless:,} markets have no connection")
        if self.sync is not None:
            reasons += self.sync.reasons_against()
        if self.router.is_full:
            reasons.append("Kafka does not keep pace: sockets are not read")
        if self._kafka.failure is not None:
            reasons.append(f"publishing has failed: {self._kafka.failure}")
        return GathererHealth(
            self.options.source,
            not reasons,
            tuple(reasons),
            pool,
            self.router.statistics(),
            self._kafka.statistics(),
            self.ledger.counts(),
            self.watch.peers,
        )

    # What others say.

    def _on_frame(self, received: Received) -> None:
        for listener in self._listeners:
            listener(received)

    def _on_gap(self, record: GapRecord) -> None:
        for listener in self._gap_listeners:
            listener(record)
        if self.sync is not None and record.channel in CHANNELS[Role.LIFECYCLE]:
            self._make_up_for(record, self.sync)

    def _make_up_for(self, record: GapRecord, sync: MarketSync) -> None:
        """Have the lists looked at when lifecycle messages were lost that no twin has heard."""
        if record.healed_us is None and not self.pool.has_twin(record.connection):
            # A loss that ends is made up for at its end, one that does not at once.
            self._unheard.add(record.id)
            sync.hurry()
        elif record.healed_us is not None and record.id in self._unheard:
            self._unheard.discard(record.id)
            sync.hurry()

    def _on_divergence(self, ticker: str, reason: str) -> None:
        self.incidents.record(GatherIncidentKind.DIVERGED, reason, ticker=ticker)
        self.pool.heal([ticker])

    def _on_unpublished(self, key: str) -> None:
        assert self._token is not None
        with suppress(trio.RunFinishedError):
            self._token.run_sync_soon(self._make_good, key)

    def _make_good(self, ticker: str) -> None:
        # Readers would learn of the loss with the next change of the market, if there is one. Not again
        # at once: what Kafka refuses of a market may be its snapshot, each time.
        now = trio.current_time()
        if now - self._lost_at.get(ticker, -_LOST_PATIENCE_S) >= _LOST_PATIENCE_S:
            self._lost_at = {name: at for name, at in self._lost_at.items() if now - at < _LOST_PATIENCE_S}
            self._lost_at[ticker] = now
            self.pool.heal([ticker])

    def _on_wish(self, wish: Wish) -> None:
        assert self._token is not None
        with suppress(trio.RunFinishedError):  # it came while everything ends
            self._token.run_sync_soon(self._help, wish)

    def _help(self, wish: Wish) -> None:
        count = self.pool.request(wish.tickers)
        if count:
            detail = f"{wish.source}: {wish.reason}; {count:,} markets are asked for"
            self.incidents.record(GatherIncidentKind.PEER, detail)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits or "0"
