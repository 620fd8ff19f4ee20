"""
What every feed is: a small protocol, the health it reports, and how one is found by name.

A feed is the one writer of a `BookStore`. It runs beside its caller, never blocks a reader, and
says at any moment what it is doing. Others can be installed: a package that declares an entry
point in the group `kalshibook.feeds` is found by `load_feed`.
"""

from collections.abc import Callable
from enum import StrEnum
from importlib.metadata import entry_points
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable

import msgspec

from kalshibook.errors import FeedError

__all__ = ["ENTRY_POINTS", "Feed", "FeedHealth", "FeedState", "PartitionHealth", "load_feed"]

ENTRY_POINTS: Final = "kalshibook.feeds"
"""The entry-point group in which feeds are declared."""


class FeedState(StrEnum):
    """What a feed is doing; only `live` is well."""

    STARTING = "starting"
    """Made, and not yet at work."""
    CONNECTING = "connecting"
    """Looking for its source and for where to begin."""
    CATCHING_UP = "catching_up"
    """Reading what was there before it started."""
    LIVE = "live"
    """Everything that was there at the start has been read; what comes is read as it comes."""
    LAGGING = "lagging"
    """Reading, but later than is allowed: records wait for too long until they are read."""
    BROKER_DOWN = "broker_down"
    """No broker answers; it is tried again, and reading goes on from where it was."""
    TOPIC_MISSING = "topic_missing"
    """The brokers do not know the topic; it is looked for again until it appears."""
    AUTHENTICATION_FAILED = "authentication_failed"
    """The brokers refuse who we are, or what we may read; it is tried again."""
    STOPPED = "stopped"
    """Stopped on request."""
    FAILED = "failed"
    """Ended by an error that it does not know; the store is not ready any more."""


class PartitionHealth(msgspec.Struct, frozen=True, gc=False):
    """How far one partition has been read."""

    partition: int
    next_offset: int
    """The offset after the last record consumed."""
    end_offset: int | None
    """The newest end of the partition that is known, or None."""
    caught_up: bool
    """Whether everything that was there when reading began has been consumed."""

    @property
    def lag(self) -> int | None:
        """Return how many offsets are still to be read, or None when the end is not known."""
        return None if self.end_offset is None else max(self.end_offset - self.next_offset, 0)


class FeedHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What a feed says about itself; counters run from its start."""

    name: str
    state: FeedState
    reason: str
    """Why it is in this state, for people."""
    since_us: int
    """When this state began, microseconds since the epoch."""
    partitions: tuple[PartitionHealth, ...] = ()
    """Ascending by number; empty for a feed without partitions."""
    records: int = 0
    """Records read, of every kind."""
    bytes: int = 0
    """Bytes of their values."""
    rejected: int = 0
    """Records that could not be read."""
    tombstones: int = 0
    """Records without a value, passed over."""
    quarantined: int = 0
    """Rejected records that the quarantine keeps."""
    quarantine_lost: int = 0
    """Rejected records that the quarantine did not take."""
    queued: int = 0
    """Records fetched ahead and not yet read."""
    waiting_us: int = 0
    """For how long, at least, the oldest record that is not read yet has been there, microseconds."""
    last_record_us: int | None = None
    """When the last record was read, microseconds since the epoch."""
    silent: bool = False
    """Whether nothing has come for longer than the feed is set to find normal."""
    essential: bool = True
    """Whether answers rest on it. Books are right although who only saves them may be in trouble."""

    @property
    def ok(self) -> bool:
        """Tell whether the feed is caught up, connected and not silent, or whether nothing rests on that."""
        if not self.essential:
            return self.state is not FeedState.FAILED
        return self.state is FeedState.LIVE and not self.silent

    @property
    def lag(self) -> int | None:
        """Return how many offsets are still to be read, or None when some end is not known."""
        lags = [partition.lag for partition in self.partitions]
        return None if None in lags else sum(lag for lag in lags if lag is not None)


@runtime_checkable
class Feed(Protocol):
    """What fills a store. A feed is started once; as a context manager it starts and stops."""

    def start(self) -> None:
        """
        Begin, without waiting for anything.

        Raises:
            FeedError: it cannot run with the options it was given.
            StoreError: the store has a writer already, or the feed was started before.
        """

    def stop(self, timeout: float = 5.0) -> bool:
        """
        Apply what was taken in, end, and tell whether it ended within `timeout` seconds.

        A feed that was never started, or has ended already, is no error.
        """

    def health(self) -> FeedHealth:
        """Return what the feed is doing; from any thread, at once."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def load_feed(name: str) -> Callable[..., Feed]:
    """
    Return what makes feeds of that name: call it with a store and the feed's own options.

    Args:
        name: as declared in the entry-point group `kalshibook.feeds`; `kafka` and `recording` are ours.

    Raises:
        FeedError: no installed package declares that name, or what it declares cannot be imported.
    """
    declared = entry_points(group=ENTRY_POINTS)
    if name not in declared.names:
        known = ", ".join(sorted(declared.names)) or "none"
        raise FeedError(f"no feed is named {name!r}; installed: {known}")
    entry = declared[name]
    try:
        factory: Any = entry.load()
    except (ImportError, AttributeError) as error:
        raise FeedError(f"feed {name!r} ({entry.value}) cannot be imported: {error}") from error
    if not callable(factory):
        raise FeedError(f"feed {name!r} ({entry.value}) is not a class or a function that makes a feed")
    made: Callable[..., Feed] = factory
    return made
