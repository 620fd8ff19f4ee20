"""The recording feed: plays recordings straight into a store, without Kafka."""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Final, Self, final

import msgspec

from kalshibook.errors import FeedError, SettingsError, StoreError, WireError
from kalshibook.feeds.base import FeedHealth, FeedState
from kalshibook.feeds.pacing import Pacer, parse_speed
from kalshibook.feeds.tape import RecordedFrame, Tape
from kalshibook.store import Arrival, BookStore, StoreWriter
from kalshibook.wire import decode_frame, read_frame

__all__ = ["RecordingFeed", "RecordingOptions"]

_log = logging.getLogger(__name__)

_BATCH: Final = 500
_TICK_S: Final = 0.1


class RecordingOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `RecordingFeed`."""

    path: str
    """A folder of recordings ``<ticker>/<date>.ndjson(.gz)``, one market's folder, or one file."""

    speed: str | float = "1"
    """How many times faster than recorded, or ``max``."""

    loop: bool = False
    """Begin again at the end, on new connections; trades that were seen count as duplicates then."""

    align: bool = False
    """Let all markets begin at the same moment, instead of when they were recorded."""

    restamp: bool = True
    """Stamp the time of receipt now, instead of the recorded one; the exchange's time is never touched."""

    max_pause_ms: int = 2_000
    """Longest recorded time between two frames; what is longer is cut to it."""

    strict: bool = True
    """Whether a line that cannot be read ends the feed; else it is counted and passed over."""

    source: str = "recording"
    """Name of the gatherer that the store is told."""

    def __post_init__(self) -> None:
        parse_speed(self.speed)
        if not self.path:
            raise SettingsError("recording.path is empty; give a folder or a file of recordings")
        if self.max_pause_ms < 0:
            raise SettingsError(f"recording.max_pause_ms is {self.max_pause_ms}; it cannot be negative")
        if self.loop and not self.restamp:
            raise SettingsError(
                "recording.loop needs recording.restamp: a store takes older receipts for replays"
            )

    @property
    def factor(self) -> float:
        """How many times faster than recorded; infinity for ``max``."""
        return parse_speed(self.speed)


@final
class RecordingFeed:
    """
    Plays recordings into a store, on a thread of its own; a plug-in like `KafkaFeed`.

    The store is ready once the first batch is applied: a recording has nothing to catch up with.
    Offsets count frames, on partition 0.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> line = (
        ...     '{"recv_ms":1,"event":{"type":"orderbook_snapshot","sid":1,"seq":1,'
        ...     '"msg":{"market_ticker":"KXFROG-T40","yes_dollars_fp":[["0.4000","75.50"]]}}}'
        ... )
        >>> store = BookStore()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder, "KXFROG-T40.ndjson")
        ...     _ = file.write_text(line)
        ...     with RecordingFeed(store, RecordingOptions(path=str(file), speed="max")) as feed:
        ...         feed.wait_finished(10)
        ...     store.book("KXFROG-T40").yes_bid
        True
        Quote(price=4000, size=7550)
    """

    def __init__(
        self,
        store: BookStore,
        options: RecordingOptions,
        *,
        name: str = "recording",
        on_frame: Callable[[RecordedFrame], None] | None = None,
        tape: Iterable[RecordedFrame] | None = None,
    ) -> None:
        """
        Prepare; nothing is read yet.

        Args:
            store: what to fill; the feed is its only writer while it runs.
            options: what to play, and how.
            name: its name in health and logs.
            on_frame: told of each frame after it is applied, on the feed's thread.
            tape: what to play instead of recordings, such as an `ArchiveTape`; the path is then only shown.
        """
        self.options: Final = options
        self.name: Final = name
        self._store = store
        self._on_frame = on_frame
        self._stopping = threading.Event()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        self._given = tape
        self._tape: Tape | None = None
        self._records = self._bytes = self._rejected = 0
        self._last_us: int | None = None
        self._now = (FeedState.STARTING, "not started", _now_us())

    def start(self) -> None:
        """
        Begin to play.

        Raises:
            FeedError: there are no recordings.
            StoreError: the store has a writer already, or this feed was started before.
        """
        if self._thread is not None:
            raise StoreError("a feed is started once; make another one")
        tape = self._given
        if tape is None:
            tape = Tape(self.options.path, strict=self.options.strict, align=self.options.align)
        with ExitStack() as stack:
            writer = stack.enter_context(self._store.writer())
            self._tape = tape if isinstance(tape, Tape) else None
            self._thread = threading.Thread(
                target=self._run, args=(tape, writer, stack.pop_all()), name=f"feed-{self.name}", daemon=True
            )
        self._thread.start()

    def stop(self, timeout: float = 5.0) -> bool:
        """End after the frame at hand, and tell whether that was done within `timeout` seconds."""
        self._stopping.set()
        if self._thread is None:
            return True
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def wait_finished(self, timeout: float | None = None) -> bool:
        """
        Wait until the recording was played to its end, or the feed was stopped.

        Args:
            timeout: seconds at most; None waits for ever.

        Returns:
            Whether it has ended.

        Raises:
            FeedError: it ended by an error.
        """
        ended = self._finished.wait(timeout)
        state, reason, _ = self._now
        if state is FeedState.FAILED:
            raise FeedError(f"feed {self.name} has failed: {reason}")
        return ended

    def health(self) -> FeedHealth:
        """Return what the feed is doing; from any thread, at once."""
        state, reason, since_us = self._now
        bad_lines = self._tape.bad_lines if self._tape is not None else 0
        return FeedHealth(
            name=self.name,
            state=state,
            reason=reason,
            since_us=since_us,
            records=self._records,
            bytes=self._bytes,
            rejected=self._rejected + bad_lines,
            last_record_us=self._last_us,
        )

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self.stop()

    def _run(self, tape: Iterable[RecordedFrame], writer: StoreWriter, resources: ExitStack) -> None:
        try:
            with resources:
                try:
                    self._show(FeedState.LIVE, f"playing {self.options.path} at speed {self.options.speed}")
                    ended = self._play(tape, writer)
                except BaseException:
                    # While the writer is still ours. A store that nobody fills must not look ready.
                    writer.set_ready(False, f"feed {self.name} has failed")
                    raise
                finally:
                    writer.commit()
        except FeedError as error:
            _log.error("feed %s has failed: %s", self.name, error)
            self._show(FeedState.FAILED, str(error))
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise to: it is shown and logged
            _log.exception("feed %s has failed", self.name)
            self._show(FeedState.FAILED, f"{type(error).__name__}: {error}")
        else:
            self._show(FeedState.STOPPED, "played to the end" if ended else "stopped on request")
        finally:
            self._finished.set()

    def _play(self, tape: Iterable[RecordedFrame], writer: StoreWriter) -> bool:
        while True:
            before = self._records
            pacer = Pacer(self.options.factor, self.options.max_pause_ms)
            for frame in tape:
                pacer.schedule(frame.received_ms)
                self._wait(pacer, writer)
                if self._stopping.is_set():
                    return False
                self._apply(frame, writer)
            if not self._records:
                raise FeedError(f"there is no frame in the recordings at {self.options.path}")
            if not self.options.loop or self._records == before:
                self._end_batch(writer)
                return True

    def _wait(self, pacer: Pacer, writer: StoreWriter) -> None:
        if self._records % _BATCH == 0 and self._records:
            self._end_batch(writer)
        while (delay_s := pacer.delay_s()) > 0:
            self._end_batch(writer)
            if self._stopping.wait(min(delay_s, _TICK_S)):
                return

    def _end_batch(self, writer: StoreWriter) -> None:
        writer.tick(_now_us())
        writer.commit()
        writer.set_ready(True)

    def _apply(self, frame: RecordedFrame, writer: StoreWriter) -> None:
        now_us = _now_us()
        arrival = Arrival(
            self.options.source,
            frame.connection,
            None,
            None,
            None,
            now_us if self.options.restamp else frame.received_ms * 1_000,
            None,
            None,
            now_us,
            0,
            self._records,
        )
        try:
            decoded = decode_frame(frame.frame)
            event = read_frame(decoded)
        except WireError as error:
            self._rejected += 1
            hint = _hint(frame.frame)
            writer.reject(error, arrival, hint.msg.market_ticker or None, channel=hint.type)
        else:
            sid, sequence = getattr(decoded, "sid", None), getattr(decoded, "seq", None)
            writer.apply(event, msgspec.structs.replace(arrival, sid=sid, sequence=sequence))
        self._records += 1
        self._bytes += len(frame.frame)
        self._last_us = now_us
        if self._on_frame is not None:
            self._on_frame(frame)

    def _show(self, state: FeedState, reason: str) -> None:
        self._now = (state, reason, _now_us())


class _Subject(msgspec.Struct, frozen=True, gc=False):
    market_ticker: str = ""


class _Hint(msgspec.Struct, gc=False):
    type: str = ""
    msg: _Subject = _Subject()


_NO_HINT: Final = _Hint()


_hint_decoder: Final = msgspec.json.Decoder(_Hint)


def _hint(frame: bytes) -> _Hint:
    """Return what an unreadable frame is about, as far as it tells."""
    try:
        return _hint_decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return _NO_HINT


def _now_us() -> int:
    return time.time_ns() // 1_000
