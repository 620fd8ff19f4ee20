"""`kalshibook snapshots`: books saved beside a topic, so that others start warm."""

from collections.abc import Callable
from typing import Final

import click
import msgspec
import structlog
import trio

from kalshibook.cli.logs import configure_logs
from kalshibook.cli.options import BROKER_FLAGS, Flag, with_settings
from kalshibook.cli.signals import stopped_by_signals
from kalshibook.collecting import served_collector
from kalshibook.errors import FeedError
from kalshibook.feeds import FeedState, KafkaFeed, SnapshotWriter
from kalshibook.settings import Loaded, Settings
from kalshibook.store import BookStore

__all__ = ["snapshots"]

_LOOK_S: Final = 0.25
_FLAGS: Final = (
    Flag("--interval", "Seconds between rounds of saving.", ["snapshots.interval_s"]),
    Flag("--log-level", "debug, info, warning or error.", ["log.level"]),
)

log = structlog.stdlib.get_logger("kalshibook.snapshots")


@click.command()
@with_settings(*BROKER_FLAGS, *_FLAGS)
def snapshots(loaded: Loaded) -> None:
    """
    Save the books of a Kafka topic to the compacted topic kafka.snapshots_topic, until Ctrl-C or SIGTERM.

    Instances with kafka.start = "snapshots" begin with what is saved and read only what came after. Exactly
    one process may save to a topic; this one starts warm itself unless told otherwise.
    """
    configure_logs(loaded.settings.log)
    with served_collector() as filled:
        trio.run(_save, loaded, filled)


async def _save(loaded: Loaded, filled: Callable[[], None]) -> None:
    settings = _warm(loaded)
    store = BookStore(settings.store)
    feed = KafkaFeed(store, settings.kafka)
    saver = SnapshotWriter(store, settings.kafka, settings.snapshots, restored=feed.restored)
    async with stopped_by_signals():
        feed.start()
        saver.start()
        log.info("saving", topic=settings.kafka.topic, to=settings.kafka.snapshots_topic)
        try:
            await _watch(feed, saver, store, filled)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(saver.stop)
                await trio.to_thread.run_sync(feed.stop)
    log.info("stopped")


async def _watch(
    feed: KafkaFeed, saver: SnapshotWriter, store: BookStore, filled: Callable[[], None]
) -> None:
    """
    Tell when the books are filled, and wait for what should never happen.

    Raises:
        FeedError: reading or saving has failed. Whoever supervises the process starts it again.
    """
    is_filled = False
    while True:
        for health in (feed.health(), saver.health()):
            if health.state is FeedState.FAILED:
                raise FeedError(f"{health.name} has failed: {health.reason}")
        if not is_filled and store.ready:
            is_filled = True
            filled()
        await trio.sleep(_LOOK_S)


def _warm(loaded: Loaded) -> Settings:
    settings = loaded.settings
    if loaded.origin("kafka.start") != "default":
        return settings
    return msgspec.structs.replace(settings, kafka=msgspec.structs.replace(settings.kafka, start="snapshots"))
