"""What every demo has: a broker, a feed, a store, a server, and something to look at."""

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Final, Protocol, final

import click
import msgspec
import trio
from rich.console import Console
from rich.table import Table

from kalshibook import __version__
from kalshibook.cli.dashboard import Dashboard
from kalshibook.cli.invocation import own_command
from kalshibook.cli.latency import duration_text
from kalshibook.cli.meter import Meter
from kalshibook.cli.signals import stopped_by_signals
from kalshibook.errors import FeedError
from kalshibook.feeds import EmbeddedBroker, FeedState, KafkaFeed, KafkaOptions
from kalshibook.server import BookServer, ServerAddresses
from kalshibook.settings import Settings
from kalshibook.store import BookStore

__all__ = ["Source", "Stage"]

_PARTITIONS: Final = 4
_LOOK_S: Final = 0.05
_READY_S: Final = 30.0


class Source(Protocol):
    """What fills Kafka in a demo."""

    @property
    def title(self) -> str:
        """What is shown."""

    @property
    def is_live(self) -> bool:
        """Whether messages carry the exchange's time of now, so that their way can be measured from there."""

    @property
    def has_time_to_try(self) -> bool:
        """Whether it lasts long enough for somebody to type a command."""

    def running(
        self, kafka: KafkaOptions, producer: Mapping[str, str | int | bool], store: BookStore
    ) -> AbstractAsyncContextManager[Mapping[str, str]]:
        """
        Publish during the block, and return the addresses that it adds, by what they are.

        Args:
            kafka: where to.
            producer: librdkafka settings of whoever publishes.
            store: what comes of it.
        """

    async def until_over(self) -> None:
        """
        Return when it has ended by itself.

        Raises:
            KalshiBookError: it could not go on.
        """

    async def settle(self) -> None:
        """Publish nothing more, and wait until what was published is in the store."""

    def report(self, console: Console) -> bool:
        """Print what became of it, and tell whether all is right."""


@final
class Stage:
    """
    Runs a demo.

    Args:
        source: what fills Kafka.
        settings: of server and store.
        broker: a Kafka to publish to, or None for an embedded one.
        duration_s: how long at most.
    """

    def __init__(
        self, source: Source, settings: Settings, *, broker: str | None, duration_s: float | None
    ) -> None:
        self._source = source
        self._settings = settings
        self._broker = broker
        self._duration_s = duration_s
        self._console = Console()
        self._store = BookStore(settings.store)
        self._meter = Meter(self._store, from_exchange=source.is_live)

    async def run(self) -> None:
        """Run until a signal, or until it is over."""
        with ExitStack() as stack:
            kafka, producer = self._kafka(stack)
            feed = KafkaFeed(self._store, kafka)
            stack.enter_context(self._meter)
            server = BookServer(
                self._store,
                http=self._settings.http,
                stream=self._settings.stream,
                feeds=[feed],
                switch_interval_us=self._settings.server.switch_interval_us,
            )
            async with stopped_by_signals(), server:
                feed.start()
                try:
                    # So that nothing is published past it.
                    await self._caught_up(feed)
                    async with self._source.running(kafka, producer, self._store) as addresses:
                        self._introduce(kafka, server.addresses, addresses)
                        try:
                            async with Dashboard(self._store, self._meter, self._console).shown():
                                with trio.move_on_after(self._duration_s or float("inf")):
                                    await self._source.until_over()
                        finally:
                            # Producer first, then what is in Kafka, then the feed: so that the last
                            # book is the last frame's.
                            with trio.CancelScope(shield=True):
                                await self._source.settle()
                finally:
                    # In a thread, because the server says goodbye to its clients meanwhile.
                    with trio.CancelScope(shield=True):
                        await trio.to_thread.run_sync(feed.stop)

    def report(self) -> bool:
        """Print what the run measured, and tell whether all is right."""
        meter = self._meter
        if not meter.changes:
            self._console.print("Nothing was played.")
            return True
        count = len(self._store.cut())
        books = "1 book" if count == 1 else f"{count:,} books"
        self._console.print(
            f"\n[bold]{meter.rate():,.0f} changes per second[/] through Kafka into {books}",
            highlight=False,
            soft_wrap=True,
        )
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("latency")
        for name in ("p50", "p90", "p99", "max"):
            table.add_column(name, justify="right")
        for hop, durations in meter.hops.items():
            shares = (duration_text(durations.percentile_us(share)) for share in (0.5, 0.9, 0.99))
            table.add_row(hop, *shares, duration_text(durations.largest_us))
        self._console.print(table)
        if meter.conflated:
            self._console.print(
                f"{meter.conflated:,} changes reached the meter merged with newer ones", style="dim"
            )
        return self._source.report(self._console)

    def _kafka(self, stack: ExitStack) -> tuple[KafkaOptions, Mapping[str, str | int | bool]]:
        """Return where to read and how to write; only a broker that this command was given is written to."""
        if self._broker is not None:
            options = msgspec.structs.replace(self._settings.kafka, bootstrap_servers=self._broker)
            return options, options.extra
        topic = KafkaOptions().topic
        gaps = self._settings.gather.gap_topic
        embedded = stack.enter_context(EmbeddedBroker({topic: _PARTITIONS, gaps: 1}))
        options = KafkaOptions(
            bootstrap_servers=str(embedded),
            topic=topic,
            start="beginning",
            extra=dict(EmbeddedBroker.CONSUMER_SETTINGS),
        )
        return options, EmbeddedBroker.PRODUCER_SETTINGS

    async def _caught_up(self, feed: KafkaFeed) -> None:
        """
        Wait for the feed.

        Raises:
            FeedError: it does not get there.
        """
        with trio.move_on_after(_READY_S):
            while (health := feed.health()).state is not FeedState.LIVE:
                if health.state is FeedState.FAILED:
                    break
                await trio.sleep(_LOOK_S)
        if (health := feed.health()).state is not FeedState.LIVE:
            raise FeedError(f"the feed is {health.state}: {health.reason}")

    def _introduce(self, kafka: KafkaOptions, addresses: ServerAddresses, others: Mapping[str, str]) -> None:
        rest, stream = str(addresses.http_url), str(addresses.stream_url)
        kind = "embedded" if self._broker is None else "given"
        shown = {
            "page": f"{rest}/",
            "REST": f"{rest}/v1/tops?prefix=KX",
            "REST docs": f"{rest}/docs",
            "WebSocket": stream,
            "Kafka": f"{kafka.bootstrap_servers} ({kind})",
            **others,
        }
        width = max(map(len, shown))
        lines = [f"kalshibook {__version__}: {self._source.title}", ""]
        lines += [f"  {name:<{width}}  {address}" for name, address in shown.items()]
        lines.append("")
        if self._source.has_time_to_try:
            lines += ["Try in another terminal:", *self._to_try(rest, stream), ""]
        click.echo("\n".join(lines))

    def _to_try(self, rest: str, stream: str) -> list[str]:
        defaults = Settings()
        usual = (self._settings.http.port, self._settings.stream.port) == (
            defaults.http.port,
            defaults.stream.port,
        )
        at_rest, at_stream = ("", "") if usual else (f" --url {rest}", f" --url {stream}")
        command = own_command()
        return [
            f"  {command} top{at_rest}",
            f"  {command} watch{at_stream}",
            f"  curl '{rest}/v1/tops?prefix=KX&limit=3'",
        ]
