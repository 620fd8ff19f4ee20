"""The Kafka feed: a thread that keeps a store equal to a topic of envelopes."""

import logging
import threading
import time
from contextlib import ExitStack
from typing import Final, Self, final

from kalshibook.errors import FeedError, StoreError
from kalshibook.feeds.base import FeedHealth, FeedState
from kalshibook.feeds.link import KafkaLink, connection_settings
from kalshibook.feeds.options import KafkaOptions
from kalshibook.feeds.quarantine import NoQuarantine, Quarantine, open_quarantine
from kalshibook.feeds.session import ReadingSession
from kalshibook.feeds.warm_start import Restored
from kalshibook.store import BookStore, IncidentKind, StoreWriter

__all__ = ["KafkaFeed"]

_log = logging.getLogger(__name__)

_TROUBLES: Final = frozenset(
    {
        FeedState.LAGGING,
        FeedState.BROKER_DOWN,
        FeedState.TOPIC_MISSING,
        FeedState.AUTHENTICATION_FAILED,
        FeedState.FAILED,
    }
)
_ENDED: Final = frozenset({FeedState.STOPPED, FeedState.FAILED})


class _Status:
    """The state, its reason and its beginning: one reference, so that they are read together."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.now: tuple[FeedState, str, int] = (FeedState.STARTING, "not started", _now_us())

    def show(self, state: FeedState, reason: str) -> bool:
        """Take over a state, and tell whether it differs from the one before."""
        before = self.now
        if before[0] is state and before[1] == reason:
            return False
        since_us = before[2] if before[0] is state else _now_us()
        with self._changed:
            self.now = (state, reason, since_us)
            self._changed.notify_all()
        return before[0] is not state

    def wait(self, states: frozenset[FeedState], timeout: float | None) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.now[0] in states, timeout)


@final
class KafkaFeed:
    """
    Reads all partitions of a topic into a store, on a thread of its own.

    The store becomes ready when every partition has been read up to the end that it had at the
    start, and what came meanwhile; it is not while records wait for longer than `lag_limit_s`.
    Records that cannot be read go to quarantine; brokers that are down, a topic that is missing
    and a refused login are states of `health`, and are tried again for ever.

    Args:
        store: what to fill; the feed is its only writer while it runs.
        options: which brokers, which topic, where to begin.
        name: its name in health and logs.

    Example:
        >>> from kalshibook.feeds import EmbeddedBroker
        >>> store = BookStore()
        >>> with EmbeddedBroker({"market-data-all": 2}) as broker:
        ...     options = KafkaOptions(bootstrap_servers=str(broker), start="beginning")
        ...     with KafkaFeed(store, options) as feed:
        ...         feed.wait_ready(timeout=10)
        True
    """

    def __init__(self, store: BookStore, options: KafkaOptions | None = None, *, name: str = "kafka") -> None:
        self.options: Final = options or KafkaOptions()
        self.name: Final = name
        self._store = store
        self._status = _Status()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._session: ReadingSession | None = None
        self._link: KafkaLink | None = None
        self._quarantine: Quarantine = NoQuarantine()

    def start(self) -> None:
        """
        Begin to read, without waiting for a broker.

        Raises:
            FeedError: librdkafka refuses a setting, or the quarantine cannot be opened.
            StoreError: the store has a writer already, or this feed was started before.
        """
        if self._thread is not None:
            raise StoreError("a feed is started once; make another one")
        with ExitStack() as stack:
            writer = stack.enter_context(self._store.writer())
            link = KafkaLink(self.options)
            stack.callback(link.close)
            quarantine = open_quarantine(self.options, connection_settings(self.options), self._on_loss)
            stack.callback(quarantine.close)
            session = ReadingSession(
                self._store, writer, self.options, link, quarantine, self._show, self._stopping
            )
            self._link, self._quarantine, self._session = link, quarantine, session
            self._thread = threading.Thread(
                target=self._run,
                args=(session, writer, stack.pop_all()),
                name=f"feed-{self.name}",
                daemon=True,
            )
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> bool:
        """
        Apply what was taken out of Kafka, disconnect, and tell whether that was done in time.

        It takes a fraction of a second, also while no broker answers. The store keeps its books.

        Args:
            timeout: seconds to wait at most; the thread ends on its own after that.
        """
        self._stopping.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        if self._thread.is_alive():
            _log.warning("feed %s has not ended within %.1f s", self.name, timeout)
            return False
        return True

    def wait_ready(self, timeout: float | None = None) -> bool:
        """
        Wait until the feed is live: caught up, and connected.

        Args:
            timeout: seconds at most; None waits for ever.

        Returns:
            Whether it is; not so once it was stopped.

        Raises:
            FeedError: the feed has failed.
        """
        reached = self.wait_state(FeedState.LIVE, *_ENDED, timeout=timeout)
        state, reason, _ = self._status.now
        if state is FeedState.FAILED:
            raise FeedError(f"feed {self.name} has failed: {reason}")
        return reached and state is FeedState.LIVE

    def wait_state(self, *states: FeedState, timeout: float | None = None) -> bool:
        """
        Wait until the feed is in one of these states.

        Args:
            states: which.
            timeout: seconds at most; None waits for ever.

        Returns:
            Whether it is.
        """
        return self._status.wait(frozenset(states), timeout)

    def restored(self) -> Restored | None:
        """Return what was restored from saved books, or None when nothing was (yet)."""
        return None if self._session is None else self._session.restored

    def health(self) -> FeedHealth:
        """Return what the feed is doing; from any thread, at once."""
        state, reason, since_us = self._status.now
        session, link = self._session, self._link
        if session is None or link is None:
            return FeedHealth(name=self.name, state=state, reason=reason, since_us=since_us)
        intake = session.intake
        last_us = intake.last_record_us
        silence = session.silence(_now_us()) if state is FeedState.LIVE else None
        if state is FeedState.LIVE and (stall := session.stall()) is not None:
            state, reason = FeedState.LAGGING, stall
        if silence is not None:
            reason = f"{silence}; {reason}"
        return FeedHealth(
            name=self.name,
            state=state,
            reason=reason,
            since_us=since_us,
            partitions=session.positions.health(),
            records=intake.records,
            bytes=intake.bytes,
            rejected=intake.rejected,
            tombstones=intake.tombstones,
            quarantined=self._quarantine.kept,
            quarantine_lost=self._quarantine.lost,
            queued=link.watch.queued,
            waiting_us=session.waiting_us,
            last_record_us=last_us,
            silent=silence is not None,
        )

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _run(self, session: ReadingSession, writer: StoreWriter, resources: ExitStack) -> None:
        try:
            with resources:
                reason = f"feed {self.name} was stopped"
                try:
                    session.run()
                except BaseException as error:
                    reason = f"feed {self.name} has failed: {error}"
                    raise
                finally:
                    # While the writer is still ours. A store that nobody fills must not look ready.
                    writer.set_ready(False, reason)
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise to: it is shown and logged
            _log.exception("feed %s has failed", self.name)
            self._show(FeedState.FAILED, f"{type(error).__name__}: {error}")
        else:
            self._show(FeedState.STOPPED, "stopped on request")

    def _show(self, state: FeedState, reason: str) -> None:
        if self._status.show(state, reason):
            level = logging.WARNING if state in _TROUBLES else logging.INFO
            self._store.incidents.record(
                IncidentKind.FEED, f"feed {self.name} is {state}: {reason}", level=level
            )

    def _on_loss(self, reason: str) -> None:
        self._store.incidents.record(IncidentKind.FEED, reason)


def _now_us() -> int:
    return time.time_ns() // 1_000
