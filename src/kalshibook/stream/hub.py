"""
The hub: every client of a server, and the way of a batch of changes to all of them.

Everything here runs on one thread, the server's, and never waits. It knows neither sockets nor
clocks: the time is an argument, bytes go in and out of `Client`.
"""

from collections import Counter
from collections.abc import Iterator
from typing import final

import msgspec

from kalshibook.errors import KalshiBookError
from kalshibook.store import BookStore, ChangeBatch, Readiness
from kalshibook.stream.options import StreamOptions
from kalshibook.stream.publish import Publisher
from kalshibook.stream.session import Client
from kalshibook.stream.shared import Shared
from kalshibook.wire import EventFrame

__all__ = ["Client", "Hub", "HubFull", "HubStatistics"]


class HubFull(KalshiBookError):  # noqa: N818 - reads as the fact it states
    """
    As many clients as allowed are connected; one that asks again later may be let in.

    Attributes:
        limit: how many are allowed.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"{limit} clients are connected, which is the limit; try again later")
        self.limit = limit


class HubStatistics(msgspec.Struct, frozen=True):
    """A hub's counts at one moment; those below `waiting` run from its start."""

    clients: int
    subscriptions: dict[str, int]
    """Open subscriptions by channel."""
    routes: int
    """Entries of the routing tables."""
    waiting: int
    """Frames that wait in all clients."""
    refused: int
    """Clients that were not let in."""
    commands: int
    errors: dict[int, int]
    """Error frames by code."""
    routed: int
    """Items handed to subscriptions."""
    conflated: int
    """Items that newer ones of the same market have replaced, before or after they were handed over."""
    snapshots_resent: int
    """Snapshots ordered in place of deltas that did not fit."""
    overflowed: int
    """Subscriptions ended with error 25."""
    frames: int
    """Frames given out to be written."""
    bytes: int
    """Bytes of those frames."""
    closed: dict[int, int]
    """Connections ended by the session, by close code."""


@final
class Hub:
    """
    Connects a store's changes with clients.

    Example:
        >>> hub = Hub(BookStore(), StreamOptions())
        >>> client = hub.connect(now_us=0)
        >>> client.receive('{"id":1,"cmd":"list_subscriptions"}', now_us=0)
        >>> client.take(65_536, now_us=0)[2:]
        b'{"id":1,"type":"ok","sending_ts_ms":0,"msg":[]}'
    """

    def __init__(self, store: BookStore, options: StreamOptions) -> None:
        self._shared = Shared(store, options)
        self._publisher = Publisher(self._shared)
        self._clients: dict[Client, None] = {}
        self.is_behind = False
        """Whether the store is behind its feed, as far as the clients were told."""

    def connect(self, now_us: int) -> Client:  # noqa: ARG002 - the seam has the time everywhere
        """
        Admit a client.

        Args:
            now_us: the time, microseconds since the epoch.

        Raises:
            HubFull: the limit of connections is reached.
        """
        limit = self._shared.options.max_connections
        if len(self._clients) >= limit:
            self._shared.counters.refused += 1
            raise HubFull(limit)
        client = Client(self._shared)
        self._clients[client] = None
        return client

    @property
    def clients(self) -> int:
        """How many clients are connected."""
        return len(self._clients)

    def deliver(self, batch: ChangeBatch, now_us: int) -> None:
        """
        Hand one batch to every client that subscribes to any of it; `hand_out` ends a round of batches.

        Args:
            batch: as a reader of the store's changes took it; each batch once, in order.
            now_us: the time, microseconds since the epoch.
        """
        publisher, shared = self._publisher, self._shared
        if not self._clients:
            # Nobody to hand anything to, often while a store is filled at a start.
            told = [notice for notice in batch.changes if type(notice) is Readiness]
            if told:
                self.is_behind = told[-1].behind is not None
            return
        if batch.lost:
            publisher.lost()
            self._end_doomed()
        for notice in batch.changes:
            if type(notice) is EventFrame:
                publisher.event(notice)
            elif type(notice) is Readiness:
                self.is_behind = notice.behind is not None
                for client in self._clients:
                    client.tell_readiness(notice.behind, notice.version)
            else:
                publisher.change(notice, now_us)  # type: ignore[arg-type]  # the only other kind
            if shared.doomed:
                self._end_doomed()

    def hand_out(self, at_once: int) -> Iterator[int]:
        """
        Hand out the newest states of top of book and ticker, once all batches of a round were delivered.

        Args:
            at_once: how many items are handed to subscriptions between two yields, about.

        Yields:
            How many were handed over since the last time; what waits for clients may be written between.
        """
        return self._publisher.hand_out(at_once)

    def disconnect(self, client: Client) -> None:
        """Forget a client: its routes and all that waits for it. Doing it twice does no harm."""
        self._clients.pop(client, None)
        client.leave()

    def statistics(self) -> HubStatistics:
        """Return the counts. From another thread they may be of slightly different moments."""
        counters = self._shared.counters
        subscriptions: Counter[str] = Counter(dict.fromkeys(self._shared.routes, 0))
        waiting = 0
        for client in [*self._clients]:
            waiting += client.backlog
            subscriptions.update(held.channel.name for held in client.subscriptions)
        return HubStatistics(
            clients=len(self._clients),
            subscriptions=dict(subscriptions),
            routes=sum(map(len, self._shared.all_routes())),
            waiting=waiting,
            refused=counters.refused,
            commands=counters.commands,
            errors=dict(counters.errors),
            routed=counters.routed,
            conflated=counters.conflated,
            snapshots_resent=counters.snapshots_resent,
            overflowed=counters.overflowed,
            frames=counters.frames,
            bytes=counters.bytes,
            closed=dict(counters.closed),
        )

    def _end_doomed(self) -> None:
        doomed, self._shared.doomed = self._shared.doomed, []
        for subscription in doomed:
            subscription.owner.end_overflowed(subscription)
