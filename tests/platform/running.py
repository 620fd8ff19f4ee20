"""Everything at once: an exchange, three gatherers, Kafka, their databases, and what is made of them."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import httpx
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from kalshibook.archive.chores import Chores
from kalshibook.archive.exchange import Exchange
from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.thread import ThreadedExchange, exchange_in_thread
from kalshibook.store import BookStore
from tests.archive.object_store import ObjectStore, why_no_object_store
from tests.archive.postgres import PostgresServer
from tests.platform.processes import START_S, Command, settings, until
from tests.platform.truth import Witness

__all__ = ["COMPRESSION", "SOURCES", "Platform", "running_platform"]

COMPRESSION: Final = 10
"""
So many minutes' worth of markets happen in one: they move so much faster and live so much shorter.

The exchange's clock itself is that of the machine, as the real one's is: completeness compares the
exchange's times with times of receipt, and nothing could be said of a clock that runs ahead of both.
"""

SOURCES: Final = ("a", "b", "c")
TOPIC: Final = KafkaOptions().topic
GAPS: Final = "market-data-gaps"
PARTITIONS: Final = 4
COMMAND_S: Final = 120.0


def exchange_options(seed: int) -> SimulatorOptions:
    """Return an exchange whose markets live fast."""
    return SimulatorOptions(
        markets=60,
        messages_per_second=30 * COMPRESSION,
        seed=seed,
        short_lived=0.3,
        life_seconds=600 // COMPRESSION,
        created_ahead_seconds=30 // COMPRESSION,
        settled_seconds=60 // COMPRESSION,
        rest_lag_ms=2_000 // COMPRESSION,
        pauses_per_hour=0,
        # Thrice at once, and a gatherer that comes back asks for all of it again.
        read_tokens_per_second=2_000,
    )


class Platform:
    """
    What runs; made by `running_platform`.

    Args:
        folder: for logs, keys and spills.
        seed: of the markets.
        stack: what ends all of it.
    """

    def __init__(self, folder: Path, seed: int, stack: ExitStack) -> None:
        self.folder: Final = folder
        self.exchange: Final[ThreadedExchange] = stack.enter_context(
            exchange_in_thread(exchange_options(seed))
        )
        self.witness: Final = self.exchange.do(Witness)
        self.broker: Final = stack.enter_context(EmbeddedBroker({TOPIC: PARTITIONS, GAPS: 1}))
        self.server: Final = stack.enter_context(PostgresServer())
        self.mortal_server: Final = stack.enter_context(PostgresServer())
        """Of the gatherer whose database is killed."""
        self.production: Final = self.server.create_database()
        self.databases: Final = {
            source: (self.mortal_server if source == SOURCES[-1] else self.server).create_database()
            for source in SOURCES
        }
        self.object_store: ObjectStore | None = None
        if why_no_object_store() is None:
            objects = folder / "objects"
            objects.mkdir()
            self.object_store = stack.enter_context(ObjectStore(objects))
        self._migrate()
        self.gatherers: Final = {source: self._gatherer(source) for source in SOURCES}
        self.deduplicator: Final = Command("dedup", self._dedup(), folder)
        self.first_export: Final = Command("first-export", self._export(), folder)
        """Started in the middle; what grows or ends after it comes again at the end."""
        stack.callback(self.first_export.kill)
        self.store: Final = BookStore()
        feed = KafkaFeed(self.store, self._kafka())
        feed.start()
        stack.callback(feed.stop)
        feed.wait_ready(timeout=START_S)
        for command in (*self.gatherers.values(), self.deduplicator):
            stack.enter_context(command)
        for source in SOURCES:
            until(lambda source=source: self.is_ready(source), f"gatherer {source} is ready", START_S)  # type: ignore[misc]

    @property
    def target(self) -> tuple[str, dict[str, str]]:
        """Where Parquet files go, and what the bucket's client must be told."""
        if self.object_store is None:
            return str(self.folder / "parquet"), {}
        return f"s3://{self.object_store.bucket}/kalshi", self.object_store.options

    def is_ready(self, source: str) -> bool:
        """Tell whether a gatherer says that it can be relied on."""
        addresses = self.gatherers[source].addresses()
        if addresses is None:
            return False
        try:
            return httpx.get(f"{addresses['http_url']}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def require_alive(self) -> None:
        """Insist that nothing has ended that was not killed."""
        for command in (*self.gatherers.values(), self.deduplicator):
            command.require_alive()

    def spilt(self, source: str) -> int:
        """Return how many bytes a gatherer has journaled and not stored."""
        return sum(file.stat().st_size for file in self._spill(source).glob("journal-*.bin"))

    def stop(self) -> None:
        """End gatherers and deduplicator in good order, once the latter is up again; the export has ended."""
        until(lambda: self.deduplicator.has_said("merging"), "the deduplicator is up", START_S)
        for command in (*self.gatherers.values(), self.deduplicator):
            command.interrupt()
        for command in (*self.gatherers.values(), self.deduplicator):
            command.finish(COMMAND_S)
        self.first_export.finish(COMMAND_S)

    def merge_the_rest(self) -> None:
        """Merge what the deduplicator has left, and describe what has changed since it did."""
        self._run(Command("dedup-once", [*self._dedup(), "--once"], self.folder))
        Chores(self.production, lambda: Exchange(self.exchange.rest_url)).describe()

    def export(self) -> None:
        """Export what is new, by the command."""
        self._run(Command("export", self._export(), self.folder))

    @staticmethod
    def _run(*commands: Command) -> None:
        """Run commands at the same time, to their ends."""
        with ExitStack() as stack:
            for command in commands:
                stack.enter_context(command)
            for command in commands:
                command.finish(COMMAND_S)

    def _migrate(self) -> None:
        kinds = {self.production: ["--production"]}
        self._run(
            *(
                Command(
                    f"migrate-{name}",
                    ["archive", "migrate", *kinds.get(dsn, []), "--dsn", dsn],
                    self.folder,
                )
                for name, dsn in (*self.databases.items(), ("production", self.production))
            )
        )

    def _exchange_settings(self) -> dict[str, object]:
        return {
            "gather.environment": "custom",
            "gather.rest_url": self.exchange.rest_url,
            "gather.stream_url": self.exchange.stream_url,
        }

    def _gatherer(self, source: str) -> Command:
        values = {
            **self._exchange_settings(),
            "gather.source": source,
            "gather.key_id": source,
            "gather.private_key_file": self._new_key(source),
            "gather.http_port": 0,
            "gather.book_connections": 2,
            "gather.reconcile_minutes": 0.2,
            # Minutes are seconds here: what is broken is noticed and mended so much sooner.
            "gather.silence_s": 1,
            "gather.ping_interval_s": 3,
            "gather.command_timeout_s": 3,
            "gather.backoff_first_s": 0.1,
            "gather.backoff_limit_s": 1,
            "gather.peer_silence_ms": 2_000,
            "kafka.bootstrap_servers": self.broker,
            "kafka.topic": TOPIC,
            **{f"kafka.extra.{name}": value for name, value in EmbeddedBroker.PRODUCER_SETTINGS.items()},
            "archive.in_gatherer": "true",
            "archive.dsn": self.databases[source],
            "archive.spill_folder": self._spill(source),
            "archive.batch_ms": 200,
        }
        return Command(f"gatherer-{source}", ["gather", *settings(values)], self.folder, tells_ready=True)

    def _dedup(self) -> list[str]:
        values = {
            **self._exchange_settings(),
            "archive.dsn": self.production,
            **{f"dedup.source_dsns.{name}": dsn for name, dsn in self.databases.items()},
            "dedup.pause_ms": 200,
            "dedup.retry_s": 1,
            "dedup.refresh_s": 2,
        }
        return ["archive", "dedup", *settings(values)]

    def _export(self) -> list[str]:
        url, options = self.target
        values = {
            "archive.dsn": self.production,
            "export.target": url,
            "export.settle_s": 0,
            **{f"export.s3_credentials.{name}": value for name, value in options.items()},
        }
        return ["archive", "export", *settings(values)]

    def _spill(self, source: str) -> Path:
        return self.folder / f"spill-{source}"

    def _new_key(self, source: str) -> Path:
        key = ed25519.Ed25519PrivateKey.generate()
        file = self.folder / f"{source}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.exchange.do(lambda exchange: exchange.register_key(source, public))
        return file

    def _kafka(self) -> KafkaOptions:
        return KafkaOptions(
            bootstrap_servers=str(self.broker),
            topic=TOPIC,
            start="beginning",
            extra=dict(EmbeddedBroker.CONSUMER_SETTINGS),
        )


@contextmanager
def running_platform(seed: int, say: Callable[[str], None]) -> Iterator[Platform]:
    """Run all of it during the block; whatever happens, nothing is left of it but the logs of a failure."""
    folder = Path(tempfile.mkdtemp(prefix="kalshibook-platform-"))
    begun = time.monotonic()
    with ExitStack() as stack:
        say("starting the exchange, Kafka, PostgreSQL, the object store, gatherers and deduplicator")
        platform = Platform(folder, seed, stack)
        say(f"all is up after {time.monotonic() - begun:.0f} s")
        try:
            yield platform
        except BaseException:
            say(f"the logs are in {folder}")
            raise
    shutil.rmtree(folder)
