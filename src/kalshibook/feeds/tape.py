"""
Reading recordings: what came off a socket, one JSON object a line, merged over markets by time.

A recording is `<ticker>/<date>.ndjson` or `.ndjson.gz` with lines of `recv_ms` (Unix milliseconds)
and `event` (the frame). The files of a market follow each other by name. Numbers in it are those of
the subscription, which counts over all its markets, so they jump; where they fall back the recorder
had reconnected, and from there on the frames belong to another connection.
"""

import gzip
import heapq
import secrets
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Final, final

import msgspec

from kalshibook.errors import FeedError

__all__ = ["RecordedFrame", "Tape"]

_SUFFIXES: Final = (".ndjson", ".ndjson.gz")
_DAMAGE: Final = (OSError, EOFError, zlib.error)
"""What reading a missing, damaged or truncated file raises."""


class _Line(msgspec.Struct, frozen=True, gc=False):
    recv_ms: Annotated[int, msgspec.Meta(ge=0)]
    event: msgspec.Raw


class _Head(msgspec.Struct, frozen=True, gc=False):
    type: str
    sid: int | None = None
    seq: int | None = None


_line_decoder: Final = msgspec.json.Decoder(_Line)
_head_decoder: Final = msgspec.json.Decoder(_Head)


class RecordedFrame(msgspec.Struct, frozen=True, gc=False):
    """One line of a recording."""

    received_ms: int
    """When the recorder received it, Unix milliseconds."""
    connection: str
    """Id of the recorder's connection, different in every playing."""
    frame: bytes
    """As received."""


@final
class Tape:
    """
    The recordings below a folder, of one market's folder, or of one file.

    Each iteration reads from the start, in constant memory, and gives new connection ids: what is
    played a second time is no duplicate of the first.

    Args:
        path: where they are.
        strict: whether a line that cannot be read ends the reading; else it is counted in `bad_lines`.
        align: let all markets begin at the same moment, instead of when they were recorded.
        run: begin of the connection ids; random unless given.
    """

    def __init__(
        self, path: Path | str, *, strict: bool = True, align: bool = False, run: str | None = None
    ) -> None:
        """
        Look for files, without reading them.

        Raises:
            FeedError: there is nothing, or no recording in it.
        """
        self.path: Final = Path(path)
        self.markets: Final = _files(self.path)
        """Ticker to its files, in order."""
        self.bad_lines = 0
        """Lines, and ends of files, that could not be read; over all iterations."""
        self.last_error: str | None = None
        """What was wrong with the last of them, with its file and line."""
        self._strict = strict
        self._align = align
        self._run = secrets.token_hex(4) if run is None else run
        self._plays = 0

    def __iter__(self) -> Iterator[RecordedFrame]:
        """
        Yield the frames of all markets by the time of their receipt.

        Raises:
            FeedError: a line cannot be read, and the tape is strict; with its file and line.
        """
        self._plays += 1
        prefix = f"{self._run}.{self._plays}"
        waiting: list[tuple[int, int, int, Iterator[RecordedFrame], RecordedFrame | None]] = []
        for number, (ticker, files) in enumerate(self.markets.items()):
            first_ms = next((frame.received_ms for frame in self._market(files, "")), None)
            if first_ms is not None:
                shift_ms = first_ms if self._align else 0
                # Not opened before its time comes: files of thousands of markets are not open at once.
                frames = self._market(files, f"{prefix}.{ticker}")
                waiting.append((first_ms - shift_ms, number, shift_ms, frames, None))
        heapq.heapify(waiting)
        while waiting:
            _, number, shift_ms, frames, current = waiting[0]
            if current is not None:
                yield current
            following = next(frames, None)
            if following is None:
                heapq.heappop(waiting)
            else:
                due_ms = following.received_ms - shift_ms
                heapq.heapreplace(waiting, (due_ms, number, shift_ms, frames, following))

    def _market(self, files: tuple[Path, ...], connection: str) -> Iterator[RecordedFrame]:
        epochs: dict[int | None, int] = {}
        last: dict[int | None, int] = {}
        report = self._bad if connection else _ignore
        for file in files:
            for number, line in _lines(file, report):
                try:
                    record = _line_decoder.decode(line)
                    head = _head_decoder.decode(record.event)
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    report(file, number, error)
                    continue
                if head.seq is not None:
                    # By subscription, since after a reconnect one of them speaks before the other.
                    if head.seq < last.get(head.sid, 0):
                        epochs[head.sid] = epochs.get(head.sid, 0) + 1
                    last[head.sid] = head.seq
                epoch = epochs.get(head.sid, 0)
                yield RecordedFrame(record.recv_ms, f"{connection}.{epoch}", bytes(record.event))

    def _bad(self, file: Path, number: int, error: Exception) -> None:
        reason = f"{file}, line {number}: {error}"
        if self._strict:
            raise FeedError(f"the recording cannot be read: {reason}") from None
        self.bad_lines += 1
        self.last_error = reason


def _ignore(file: Path, number: int, error: Exception) -> None:
    """Pass over a bad line while the first time of a market is looked for: it is met again in playing."""


def _lines(file: Path, report: Callable[[Path, int, Exception], None]) -> Iterator[tuple[int, bytes]]:
    number = 0
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            for line in stream:
                number += 1
                if line.strip():
                    yield number, line
    except _DAMAGE as error:
        report(file, number + 1, error)


def _files(path: Path) -> dict[str, tuple[Path, ...]]:
    if path.is_file():
        return {_stem(path): (path,)}
    if not path.is_dir():
        raise FeedError(f"there are no recordings at {path}: no such file or folder")
    found = _recordings_in(path)
    if found:
        return {path.name: found}
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    markets = {folder.name: files for folder in folders if (files := _recordings_in(folder))}
    if not markets:
        raise FeedError(f"there are no recordings at {path}: expected <ticker>/<date>.ndjson or .ndjson.gz")
    return markets


def _recordings_in(folder: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for file in folder.iterdir() if file.name.endswith(_SUFFIXES)))


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".ndjson")
