"""`kalshibook replay`: recordings, or a stretch of an archive, into Kafka."""

import gzip
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from rich.progress import Progress

from kalshibook.cli.logs import configure_logs
from kalshibook.cli.main import INTERRUPTED
from kalshibook.cli.moments import MOMENT
from kalshibook.cli.options import BROKER_FLAGS, with_settings
from kalshibook.cli.progress import progress_bar, shown
from kalshibook.cli.signals import set_by_signals
from kalshibook.feeds.pacing import parse_speed
from kalshibook.feeds.player import play
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.tape import RecordedFrame, Tape
from kalshibook.settings import Loaded

if TYPE_CHECKING:
    from kalshibook.archive.tape import ArchiveTape

__all__ = ["replay"]

_MOST_PAUSE_MS: Final = 2_000
_PATIENCE_S: Final = 5.0


@click.command()
@click.argument("path", metavar="DIR|FILE|ARCHIVE")
@click.option("--speed", default="1", show_default=True, help="How many times faster than recorded, or max.")
@click.option("--loop", is_flag=True, help="Begin again at the end, until Ctrl-C.")
@click.option("--align", is_flag=True, help="Let all markets begin at the same moment.")
@click.option(
    "--skip-bad-lines", is_flag=True, help="Count lines that cannot be read instead of ending there."
)
@click.option("--from", "from_us", type=MOMENT, help="Begin in an archive: RFC 3339 time, or a date.")
@click.option("--to", "until_us", type=MOMENT, help="End in an archive, exclusive.")
@click.option("--ticker", "tickers", multiple=True, help="Of an archive only this market; may be repeated.")
@click.option("--source", default="replay", show_default=True, help="The gatherer that envelopes name.")
@with_settings(*BROKER_FLAGS)
def replay(
    loaded: Loaded,
    *,
    path: str,
    speed: str,
    loop: bool,
    align: bool,
    skip_bad_lines: bool,
    from_us: int | None,
    until_us: int | None,
    tickers: tuple[str, ...],
    source: str,
) -> None:
    """
    Play recordings into Kafka, as envelopes keyed by market, at their own pace or faster.

    An archive is played likewise: a database (postgresql://…), or a folder or s3://… of Parquet, with
    --from and --to. Times of receipt are those of the playing. Longer pauses are cut to 2 seconds. The
    topic must exist. The exit code is 0 when everything has been acknowledged.
    """
    configure_logs(loaded.settings.log)
    kafka = loaded.settings.kafka
    factor = parse_speed(speed)
    frames: Tape | ArchiveTape
    if _is_archive(path):
        frames = _archive_tape(loaded, path, from_us, until_us, tickers)
    elif from_us is not None or until_us is not None or tickers:
        raise click.UsageError("--from, --to and --ticker choose from an archive, not from recordings")
    else:
        frames = Tape(path, strict=not skip_bad_lines, align=align)
    publisher = Publisher(kafka.bootstrap_servers, source=source, topic=kafka.topic, settings=kafka.extra)
    publisher.check(_PATIENCE_S)
    began = time.monotonic()
    with set_by_signals() as stop, publisher, progress_bar("frames") as progress:
        click.echo(f"playing {path} into {kafka.topic} at {kafka.bootstrap_servers}, Ctrl-C ends")
        report = play(
            _Shown(frames, progress),
            publisher,
            speed=factor,
            max_pause_ms=_MOST_PAUSE_MS,
            loop=loop,
            stop=stop,
        )
    seconds = time.monotonic() - began
    done = publisher.statistics()
    rate = done.delivered / max(seconds, 0.001)
    click.echo(
        f"{done.delivered:,} of {report.frames:,} frames published to {kafka.topic}"
        f" in {seconds:.1f} s ({rate:,.0f} per second), markets: {len(frames.markets)}"
    )
    if isinstance(frames, Tape) and frames.bad_lines:
        click.echo(f"{frames.bad_lines:,} lines could not be read, the last: {frames.last_error}", err=True)
    if done.failed or report.rejected:
        raise click.ClickException(
            f"{done.failed:,} frames refused by Kafka, {report.rejected:,} not publishable"
        )
    if not report.complete:
        raise click.exceptions.Exit(INTERRUPTED)


class _Shown:
    """A tape whose iterations show their progress."""

    def __init__(self, tape: "Tape | ArchiveTape", progress: Progress) -> None:
        self._tape = tape
        self._progress = progress
        self._total: int | None = None
        if isinstance(tape, Tape) and not progress.disable:
            # Reading twice is a small price on a terminal, and none elsewhere.
            self._total = sum(map(_lines_in, tape.markets.values()))

    def __iter__(self) -> Iterator[RecordedFrame]:
        name = self._tape.path if isinstance(self._tape, Tape) else "the archive"
        return shown(self._tape, self._progress, f"playing {name}", self._total)


def _is_archive(path: str) -> bool:
    return "://" in path or (Path(path) / "manifests").is_dir()


def _archive_tape(
    loaded: Loaded, path: str, from_us: int | None, until_us: int | None, tickers: tuple[str, ...]
) -> "ArchiveTape":
    # Only who plays an archive pays for pyarrow, and needs it.
    from kalshibook.archive.reading import open_archive  # noqa: PLC0415
    from kalshibook.archive.tape import ArchiveTape  # noqa: PLC0415

    if from_us is None or until_us is None:
        raise click.UsageError("an archive is played from --from to --to")
    archive = open_archive(path, dict(loaded.settings.export.s3_credentials))
    click.get_current_context().call_on_close(archive.close)
    return ArchiveTape(archive, from_us, until_us, tickers)


def _lines_in(files: Iterable[Path]) -> int:
    count = 0
    for file in files:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as lines:
            count += sum(1 for _ in lines)
    return count
