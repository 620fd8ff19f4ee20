"""What every scenario with a network stands on: a broker, a publisher and the server, each a process."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, final

from perf.clients.load import LoadSettings
from perf.clients.worker import Worker
from perf.result import Check

__all__ = ["Stage", "all_read", "client_checks", "per_unit_us", "staged"]

_TOPIC: Final = "market-data-all"


@final
class Stage:
    """The processes of one scenario."""

    def __init__(
        self, load: LoadSettings, address: str, publisher: Worker, server: Worker, stack: ExitStack
    ) -> None:
        self._address = address
        self.load: Final = load
        self.publisher: Final = publisher
        self.server: Final = server
        self.published = 0
        """Changes published so far, without snapshots."""
        self._stack = stack

    def sockets(self, descriptors: int = 1_024) -> Worker:
        """Start a process of WebSocket clients of the server."""
        address = self.server.greeting["stream"]
        return self._stack.enter_context(Worker("sockets", address=address, descriptors=descriptors))

    def requests(self, listener: str = "http") -> Worker:
        """Start a process of an HTTP client."""
        return self._stack.enter_context(Worker("requests", address=self.server.greeting[listener]))

    def player(self, folder: str, speed: float) -> Worker:
        """Start a process that plays recordings into the same topic."""
        return self._stack.enter_context(Worker("player", address=self._address, folder=folder, speed=speed))

    def begin(self, count: int, rate: float | None) -> None:
        """Start to publish changes."""
        self.publisher.tell("changes", count=count, rate=rate)
        self.published += count

    def finish(self) -> dict[str, Any]:
        """Wait until they are published."""
        answer: dict[str, Any] = self.publisher.hear()
        return answer

    def settle(self) -> dict[str, Any]:
        """Wait until the server has applied and written out everything published."""
        answer: dict[str, Any] = self.server.ask("wait_records", count=self.load.markets + self.published)
        return answer

    def checks(self) -> list[Check]:
        """Compare the store with the load, to the last level."""
        wrong = self.server.ask("verify", steps=self.published)["wrong"]
        incidents = self.server.ask("incidents")
        losses = {
            kind: count
            for kind, count in incidents.items()
            if kind in {"gap", "reject", "conflict"} and count
        }
        return [
            Check(
                f"all {self.load.markets:,} books are the load's after {self.published:,} changes",
                not wrong,
                ", ".join(wrong[:5]),
            ),
            Check("no gap and no rejected record", not losses, str(losses or "")),
        ]


@contextmanager
def staged(load: LoadSettings, *, late: bool = False, apache: bool = False, **server: Any) -> Iterator[Stage]:
    """
    Start broker, publisher and server, with every market's snapshot in the store.

    Args:
        load: what is published.
        late: leave the feed to be started by the scenario.
        apache: on Apache Kafka, which keeps what is published, instead of the embedded broker.
        server: further settings of the server process.
    """
    with ExitStack() as stack:
        broker = stack.enter_context(Worker("broker", topics={_TOPIC: load.partitions}, apache=apache))
        address = broker.greeting["address"]
        # What is read later is published in large batches, which compress well: the embedded broker
        # keeps 5 MiB of a partition.
        linger_ms = 100 if late else 1
        publisher = stack.enter_context(
            Worker("publisher", address=address, load=load._asdict(), linger_ms=linger_ms)
        )
        publisher.ask("snapshots")
        process = stack.enter_context(
            Worker("server", address=address, load=load._asdict(), late=late, **server)
        )
        stage = Stage(load, address, publisher, process, stack)
        if not late:
            stage.settle()
            process.ask("set_aside")
        yield stage


def all_read(sockets: Worker) -> dict[str, Any]:
    """Return the counts of clients that were told to read, once they have read all that was written."""
    sockets.hear()
    # A server that is far behind may have been silent for longer than the clients waited.
    counts: dict[str, Any] = sockets.ask("read", quiet=0.5)
    return counts


def client_checks(sockets: Worker, stage: Stage, expected: dict[str, Any] | None = None) -> list[Check]:
    """Compare what clients hold with the store, and their numbers with none missing."""
    counts = sockets.ask("counts")
    expected = stage.server.ask("books") if expected is None else expected
    found = sockets.ask("wrong", expected=expected)
    return [
        Check(
            f"the {found['compared']:,} books and tops that clients rebuilt are the store's",
            not found["wrong"] and not counts["wrong"] and found["compared"] > 0,
            ", ".join(found["wrong"][:5]),
        ),
        Check("no number missing in any client's stream", not counts["holes"], f"{counts['holes']} holes"),
    ]


def per_unit_us(seconds: float, units: float) -> float:
    """Return the microseconds per unit; 0 without units."""
    return seconds / units * 1e6 if units else 0.0
