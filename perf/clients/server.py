"""
The process that is measured: the real feed and the real server, with ears for a load test.

It is told what to do on standard input, which a thread of its own reads; nothing of that runs while a
measurement does.
"""

import gc
import sys
import threading
import time
from array import array
from collections.abc import Callable, Mapping
from typing import Any, Final, final

import msgspec
import trio

from kalshibook.collecting import served_collector
from kalshibook.feeds import KafkaFeed
from kalshibook.feeds.broker import EmbeddedBroker
from kalshibook.feeds.options import KafkaOptions
from kalshibook.http.options import HttpOptions
from kalshibook.http.server import serve as serve_http
from kalshibook.numbers import format_price, format_size
from kalshibook.server import BookServer
from kalshibook.store import Book, BookStore
from kalshibook.stream.options import StreamOptions
from perf.clients.load import Load, LoadSettings, PartitionSums, wrong_books
from perf.clients.plain_http import make_plain_app
from perf.clients.readers import Readers
from perf.clients.worker import answer_commands, cpu_seconds, raise_descriptor_limit, resident_bytes, settings

_WAIT_S: Final = 120
_LOOK_S: Final = 0.02


@final
class MeasuredServer:
    """A store, its feed, its server, and readers beside them; every public method is a command."""

    def __init__(
        self,
        *,
        address: str,
        load: Mapping[str, Any],
        stream: Mapping[str, Any],
        plain_http: bool,
        descriptors: int,
        late: bool,
        set_aside: Callable[[], None],
    ) -> None:
        self._set_aside = set_aside
        self._load = LoadSettings(**load)
        self._descriptors = raise_descriptor_limit(descriptors)
        self.store: Final = BookStore()
        options = KafkaOptions(
            bootstrap_servers=address,
            start="beginning",
            # How late it is, is what is measured; one that calls itself lagging would end subscriptions.
            lag_limit_s=0,
            extra={**EmbeddedBroker.CONSUMER_SETTINGS},
        )
        self.feed: Final = KafkaFeed(self.store, options)
        self.server: Final = BookServer(
            self.store,
            http=HttpOptions(port=0),
            stream=StreamOptions(port=0, **stream),
            feeds=[self.feed],
        )
        self._plain_http = plain_http
        self._starts = not late
        self._readers: Readers | None = None
        self._trio_thread = threading.get_native_id()
        self._feed_thread = 0
        self._collector = _CollectorWatch()
        self._began = (0.0, 0.0)

    async def run(self) -> None:
        """Serve until standard input ends."""
        with trio.CancelScope() as scope:
            token = trio.lowlevel.current_trio_token()
            async with self.server, trio.open_nursery() as nursery:
                addresses = self.server.addresses
                greeting = {
                    "stream": addresses.stream,
                    "http": addresses.http,
                    "descriptors": self._descriptors,
                    "interval_us": round(sys.getswitchinterval() * 1_000_000),
                }
                if self._plain_http:
                    plain = make_plain_app(self.store)
                    greeting["plain"] = await nursery.start(serve_http, plain, HttpOptions(port=0))
                if self._starts:
                    self._start_feed()
                thread = threading.Thread(target=self._obey, args=(greeting, token, scope), daemon=True)
                thread.start()
                await trio.sleep_forever()
        self.feed.stop()

    def start_feed(self) -> None:
        """Start to read Kafka, where that was not done at the beginning."""
        self._start_feed()

    def wait_records(self, count: int) -> dict[str, float]:
        """Wait until that many records were applied and every client has been written all of it."""
        deadline = time.monotonic() + _WAIT_S
        applied_s: float | None = None
        started = time.perf_counter()
        while True:
            if applied_s is None and self.feed.health().records >= count:
                applied_s = time.perf_counter() - started
            if applied_s is not None and self._is_drained():
                return {"applied_s": applied_s, "drained_s": time.perf_counter() - started}
            if time.monotonic() > deadline:
                health = self.feed.health()
                message = (
                    f"{health.records} of {count} records after {_WAIT_S} s: {health.state} {health.reason}"
                )
                raise TimeoutError(message)
            time.sleep(_LOOK_S)

    def wait_applied(self, count: int) -> dict[str, float]:
        """Wait until that many records were applied; return the seconds since the first of them."""
        deadline = time.monotonic() + _WAIT_S
        while self.feed.health().records == 0 and time.monotonic() < deadline:
            time.sleep(0.001)
        started = time.perf_counter()
        while (records := self.feed.health().records) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{records} of {count} records after {_WAIT_S} s")
            time.sleep(_LOOK_S)
        return {"seconds": time.perf_counter() - started}

    def wait_no_clients(self) -> None:
        """Wait until the last client is gone."""
        assert self.server.stream is not None
        deadline = time.monotonic() + _WAIT_S
        while open_now := self.server.stream.statistics().open:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{open_now} clients are still there after {_WAIT_S} s")
            time.sleep(_LOOK_S)

    def usage(self) -> dict[str, Any]:
        """Return what this process has used until now."""
        return {
            "clock": time.perf_counter(),
            "cpu": time.process_time(),
            "trio_cpu": cpu_seconds(self._trio_thread),
            "feed_cpu": cpu_seconds(self._feed_thread) if self._feed_thread else 0.0,
            "resident": resident_bytes(),
            "records": self.feed.health().records,
            "rejected": self.feed.health().rejected,
            **{f"collector_{name}": value for name, value in self._collector.counts().items()},
        }

    def stream_counts(self) -> dict[str, Any]:
        """Return the counts of the WebSocket server."""
        assert self.server.stream is not None
        counts: dict[str, Any] = msgspec.to_builtins(self.server.stream.statistics())
        return counts

    def incidents(self) -> dict[str, int]:
        """Return how often what went wrong."""
        return dict(self.store.incidents.counts())

    def set_aside(self) -> None:
        """Do as `kalshibook serve` does when the feed has caught up."""
        self._set_aside()

    def collect(self) -> None:
        """Run the collector, so that memory is comparable."""
        gc.collect()

    def start_readers(self, threads: int, steps: int) -> None:
        """Begin to read in threads, checking cuts against a load of that many changes."""
        sums = PartitionSums(self._load, steps) if steps else None
        self._readers = Readers(self.store, Load(self._load).tickers, threads, sums, self._load.partitions)
        self._readers.start()

    def stop_readers(self) -> dict[str, Any]:
        """End the readers and return their latencies and what they found torn."""
        assert self._readers is not None
        return self._readers.stop()

    def verify(self, steps: int) -> dict[str, Any]:
        """Compare every book with the load after that many changes."""
        load = Load(self._load)
        for _ in range(steps):
            load.step()
        return {"wrong": wrong_books(self.store, load)}

    def books(self) -> dict[str, Any]:
        """Return every top and every book, as clients should have them."""
        cut = self.store.cut()
        return {
            ticker: {
                "top": _top(book),
                "yes": {format_price(level.price): format_size(level.size) for level in book.yes},
                "no": {format_price(level.price): format_size(level.size) for level in book.no},
            }
            for ticker, book in cut.items()
        }

    def _is_drained(self) -> bool:
        counts = self.server.stream.statistics() if self.server.stream else None
        if counts is None or counts.changes is None:
            return True
        return counts.changes.waiting == 0 and counts.hub.waiting == 0

    def _start_feed(self) -> None:
        before = {thread.native_id for thread in threading.enumerate()}
        self.feed.start()
        for thread in threading.enumerate():
            if thread.native_id not in before and thread.name.startswith("feed-"):
                self._feed_thread = thread.native_id or 0

    def _obey(
        self, greeting: Mapping[str, Any], token: trio.lowlevel.TrioToken, scope: trio.CancelScope
    ) -> None:
        names = [name for name in vars(type(self)) if not name.startswith("_") and name != "run"]
        answer_commands({name: getattr(self, name) for name in names}, greeting)
        token.run_sync_soon(scope.cancel)


@final
class _CollectorWatch:
    def __init__(self) -> None:
        self._began = 0
        self._pauses_ns = array("q")
        gc.callbacks.append(self._note)

    def counts(self) -> dict[str, float]:
        pauses = self._pauses_ns
        return {
            "passes": len(pauses),
            "longest_ms": max(pauses, default=0) / 1e6,
            "total_ms": sum(pauses) / 1e6,
        }

    def _note(self, phase: str, _: Mapping[str, int]) -> None:
        if phase == "start":
            self._began = time.perf_counter_ns()
        else:
            self._pauses_ns.append(time.perf_counter_ns() - self._began)


def _top(book: Book) -> list[str | None]:
    quotes = (book.yes_bid, book.no_bid)
    return [
        text
        for quote in quotes
        for text in ((None, None) if quote is None else (format_price(quote.price), format_size(quote.size)))
    ]


def main(
    address: str,
    load: dict[str, Any],
    stream: dict[str, Any] | None = None,
    *,
    plain_http: bool = False,
    descriptors: int = 1_024,
    late: bool = False,
) -> None:
    """
    Serve a topic until standard input ends.

    Args:
        address: of the broker.
        load: what the topic holds, to check against.
        stream: settings of the WebSocket server.
        plain_http: serve the plain Quart application for comparison too.
        descriptors: how many open files are wanted.
        late: start to read when told to, not at once.
    """
    with served_collector() as set_aside:
        server = MeasuredServer(
            address=address,
            load=load,
            stream=stream or {},
            plain_http=plain_http,
            descriptors=descriptors,
            late=late,
            set_aside=set_aside,
        )
        trio.run(server.run)


if __name__ == "__main__":
    main(**settings())
