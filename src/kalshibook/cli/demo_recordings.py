"""The demo's recordings: played into Kafka, and compared with a plain fold of the same frames."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, final

import trio
from rich.console import Console

from kalshibook.cli.playing import Playing
from kalshibook.cli.progress import progress_bar, shown
from kalshibook.cli.verify import Moments, verify
from kalshibook.feeds import KafkaOptions
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.tape import Tape
from kalshibook.store import BookStore

__all__ = ["RecordingSource"]

_MOMENTS: Final = 10
_LOOK_S: Final = 0.05
_SETTLE_S: Final = 0.5
_SHOWN_DIFFERENCES: Final = 10
_SOURCE: Final = "demo"


@final
class RecordingSource:
    """
    Recordings as the source of a demo.

    Args:
        recordings: folder or file.
        speed: times faster than real time; infinity for as fast as possible.
        seed: chooses the moments at which books are compared.
        exit_when_done: end with the recordings, at any speed.

    Raises:
        FeedError: there is nothing to play; found before anything starts.
    """

    is_live: Final = False

    def __init__(self, recordings: Path, *, speed: float, seed: int, exit_when_done: bool) -> None:
        self._recordings = recordings
        self._speed = speed
        self._seed = seed
        # At full speed a recording is over in seconds: then the numbers are what was wanted.
        self._ends_by_itself = exit_when_done or speed == float("inf")
        # Distinguishes this playing's connections from those of any other.
        self._run = secrets.token_hex(4)
        self._store: BookStore | None = None
        self._moments: Moments | None = None
        self._playing: Playing | None = None
        self._tape()

    @property
    def title(self) -> str:
        """What is shown."""
        return f"recordings of {self._recordings}"

    @property
    def has_time_to_try(self) -> bool:
        """At full speed it is over before anything is typed."""
        return self._speed < float("inf")

    @asynccontextmanager
    async def running(
        self, kafka: KafkaOptions, producer: Mapping[str, str | int | bool], store: BookStore
    ) -> AsyncIterator[Mapping[str, str]]:
        """Play during the block."""
        publisher = Publisher(kafka.bootstrap_servers, source=_SOURCE, topic=kafka.topic, settings=producer)
        self._store = store
        self._moments = Moments(store, _MOMENTS, self._seed)
        self._playing = Playing(
            self._moments.among(self._tape()),
            publisher,
            speed=self._speed,
            consumed=lambda: store.cut().offsets,
        )
        self._playing.start()
        yield {}

    async def until_over(self) -> None:
        """Return when it is played, if it ends by itself."""
        assert self._playing is not None
        while not (self._playing.error or (self._ends_by_itself and self._playing.arrived)):  # noqa: ASYNC110 - threads
            await trio.sleep(_LOOK_S)
        if self._playing.error:
            raise self._playing.error

    async def settle(self) -> None:
        """Stop the player, and wait for what it has published."""
        assert self._playing is not None
        await trio.to_thread.run_sync(self._playing.stop)
        with trio.move_on_after(_SETTLE_S):
            while not self._playing.arrived:  # noqa: ASYNC110 - another thread's work
                await trio.sleep(_LOOK_S / 10)

    def report(self, console: Console) -> bool:
        """Compare the books with the recordings, and print the outcome."""
        assert self._playing is not None
        assert self._store is not None
        assert self._moments is not None
        report, cuts = self._playing.report, self._moments.cuts
        if report is None:
            return True
        state = "played to the end" if report.complete else "stopped"
        console.print(f"{report.frames:,} frames, {state}", highlight=False)
        if report.rejected:
            console.print(f"{report.rejected:,} frames could not be published", style="yellow")
        with progress_bar("frames") as progress:
            frames = shown(
                self._tape(), progress, "comparing with a plain fold of the recordings", report.frames
            )
            verdict = verify(frames, cuts, self._store.cut(), complete=report.complete)
        if not verdict.differences:
            console.print(
                f"[green]Equal[/]: {verdict.books} books, at the end and at {len(cuts)} random"
                " moments, are those of a plain fold of the recordings.",
                highlight=False,
                soft_wrap=True,
            )
            return True
        console.print(f"[bold red]{len(verdict.differences)} differences[/] from a plain fold:")
        for line in verdict.differences[:_SHOWN_DIFFERENCES]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        return False

    def _tape(self) -> Tape:
        """Return the recordings from their start, with the same connections each time."""
        return Tape(self._recordings, align=True, run=self._run)
