"""A thread that plays frames into Kafka, for the demo."""

import threading
from collections.abc import Callable, Iterable, Mapping
from typing import final

from kalshibook.errors import KalshiBookError
from kalshibook.feeds.player import PlayReport, play
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.tape import RecordedFrame

__all__ = ["Playing"]


@final
class Playing:
    """Plays until the frames end or `stop` is called."""

    def __init__(
        self,
        frames: Iterable[RecordedFrame],
        publisher: Publisher,
        *,
        speed: float,
        consumed: Callable[[], Mapping[int, int]],
    ) -> None:
        self._frames = frames
        self._publisher = publisher
        self._speed = speed
        self._consumed = consumed
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="player", daemon=True)
        self.report: PlayReport | None = None
        """What was played, once it has ended."""
        self.error: KalshiBookError | None = None
        """Why it could not go on."""

    @property
    def ended(self) -> bool:
        """Whether the thread is done, for whatever reason."""
        return self._ended.is_set()

    @property
    def arrived(self) -> bool:
        """Whether everything that was published has been consumed."""
        read = self._consumed()
        return self.ended and all(read.get(place, 0) >= end for place, end in self._publisher.ends().items())

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End soon, and wait for that; also if it was never started."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with self._publisher:
                self.report = play(
                    self._frames,
                    self._publisher,
                    speed=self._speed,
                    consumed=self._consumed,
                    stop=self._stop,
                )
        except KalshiBookError as error:
            self.error = error
        finally:
            self._ended.set()
