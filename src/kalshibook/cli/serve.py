"""`kalshibook serve`: the real job."""

import inspect
from collections.abc import Callable
from typing import Final

import click
import msgspec
import structlog
import trio

from kalshibook.cli.descriptors import allow_many_sockets
from kalshibook.cli.logs import configure_logs
from kalshibook.cli.options import BROKER_FLAGS, SERVER_FLAGS, Flag, with_settings
from kalshibook.cli.progress import progress_bar
from kalshibook.cli.signals import stopped_by_signals
from kalshibook.collecting import served_collector
from kalshibook.errors import FeedError
from kalshibook.feeds import Feed, FeedState, KafkaFeed, SnapshotWriter, load_feed
from kalshibook.server import BookServer
from kalshibook.settings import Loaded, Settings
from kalshibook.store import BookStore

__all__ = ["make_feed", "make_saver", "serve"]

_LOOK_S: Final = 0.25
_SETTLED: Final = frozenset({FeedState.LIVE, FeedState.STOPPED, FeedState.FAILED})
_FEED: Final = Flag("--feed", "Where books come from: kafka, or an installed plug-in.", ["server.feed"])

log = structlog.stdlib.get_logger("kalshibook.serve")


@click.command()
@with_settings(*BROKER_FLAGS, *SERVER_FLAGS, _FEED)
def serve(loaded: Loaded) -> None:
    """
    Serve the books of a Kafka topic over REST and WebSocket, until Ctrl-C or SIGTERM.

    The server answers at once; /readyz turns green when the topic has been read up to its end. A
    broker that is down is waited for.
    """
    configure_logs(loaded.settings.log)
    allow_many_sockets()
    with served_collector() as filled:
        trio.run(_serve, loaded.settings, filled)


def make_feed(settings: Settings, store: BookStore) -> Feed:
    """
    Make the feed that the settings name.

    Raises:
        FeedError: there is none of that name, or it does not take its options.
    """
    name = settings.server.feed
    factory = load_feed(name)
    if name == "kafka":
        return factory(store, settings.kafka)
    model = _options_model(factory)
    if model is None:
        if settings.server.feed_options:
            raise FeedError(f"feed {name!r} takes no options; remove server.feed_options")
        return factory(store)
    try:
        return factory(store, msgspec.convert(settings.server.feed_options, model, strict=False))
    except msgspec.ValidationError as error:
        raise FeedError(f"feed {name!r} does not take server.feed_options: {error}") from None


def make_saver(settings: Settings, store: BookStore, feed: Feed) -> SnapshotWriter:
    """
    Make what saves books beside a feed.

    Raises:
        FeedError: the feed is not Kafka's: only there it is known at which offset a book stands.
    """
    if not isinstance(feed, KafkaFeed):
        raise FeedError("snapshots.write needs the feed 'kafka': only there a book stands at an offset")
    return SnapshotWriter(store, settings.kafka, settings.snapshots, restored=feed.restored)


def _options_model(factory: Callable[..., Feed]) -> type[msgspec.Struct] | None:
    """Return the type of a feed's second parameter, after the store: a struct of its options."""
    parameters = list(inspect.signature(factory, eval_str=True).parameters.values())
    model = parameters[1].annotation if len(parameters) > 1 else None
    return model if isinstance(model, type) and issubclass(model, msgspec.Struct) else None


async def _serve(settings: Settings, filled: Callable[[], None]) -> None:
    store = BookStore(settings.store)
    feed = make_feed(settings, store)
    saver = make_saver(settings, store, feed) if settings.snapshots.write else None
    server = BookServer(
        store,
        http=settings.http,
        stream=settings.stream,
        feeds=[feed] if saver is None else [feed, saver],
        switch_interval_us=settings.server.switch_interval_us,
    )
    # The server first: a port that is in use is found before anything is read.
    async with stopped_by_signals() as nursery, server:
        log.info("serving", rest=server.addresses.http_url, websocket=server.addresses.stream_url)
        feed.start()
        if saver is not None:
            saver.start()
        try:
            nursery.start_soon(_catch_up, feed, filled)
            await _wait_for_failure(feed)
        finally:
            # In a thread, because the server says goodbye to its clients meanwhile.
            with trio.CancelScope(shield=True):
                if saver is not None:
                    # Before the feed: books are saved as of offsets that are still to be trusted.
                    await trio.to_thread.run_sync(saver.stop)
                await trio.to_thread.run_sync(feed.stop)
    log.info("stopped")


async def _wait_for_failure(feed: Feed) -> None:
    """
    Wait for what should never happen.

    Raises:
        FeedError: the feed has failed. Whoever supervises the process starts it again.
    """
    while (health := feed.health()).state is not FeedState.FAILED:  # noqa: ASYNC110 - a feed is no Trio task
        await trio.sleep(_LOOK_S)
    raise FeedError(f"feed {health.name} has failed: {health.reason}")


async def _catch_up(feed: Feed, filled: Callable[[], None]) -> None:
    """Draw how far the feed is, until it has caught up; then tell that the books are filled."""
    with progress_bar("records") as progress:
        task = progress.add_task("catching up", total=None)
        while (health := feed.health()).state not in _SETTLED:
            total = None if health.lag is None else health.records + health.lag
            progress.update(task, completed=health.records, total=total)
            await trio.sleep(_LOOK_S)
    filled()
