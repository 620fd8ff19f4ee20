"""
What a gatherer has received and its database has not stored yet: files of records, drained in order.

Everything goes through it, also while the database keeps up. What `append` has returned from outlives
the process, killed at any moment; it outlives the machine once the operating system has written it,
or `sync` has returned. A file goes as a whole, after all of its records were stored; whoever is killed
in between reads it again from its beginning, and its records make rows that are there already.

A file begins with eight bytes that name the format. A record is a head (a mark, the length and the
CRC-32 of its data, the CRC-32 of the head so far; four bytes each) and its data. Where a record is
damaged, reading goes on at the next one that is whole, and what lies between is kept in a file beside.
"""

import errno
import logging
import os
import re
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Final, Generic, TypeVar, final

from kalshibook.errors import ArchiveError

__all__ = ["Journal", "NoRoom"]

_log = logging.getLogger(__name__)

_MAGIC: Final = b"KBJOURN1"
# Begins with a byte that stands in no UTF-8 text, so that frames are not taken for marks.
_MARK: Final = b"\xf5KBR"
_HEAD: Final = struct.Struct(">4sII")
_CHECK: Final = struct.Struct(">I")
_HEAD_BYTES: Final = _HEAD.size + _CHECK.size
_FILE: Final = re.compile(r"journal-(\d{10})\.bin")
_FILE_BYTES: Final = 4 * 1024 * 1024
"""When the next file is begun, while the database is behind: what a drainer holds in memory at once."""

Read = TypeVar("Read")


class NoRoom(Exception):  # noqa: N818 - reads as the fact it states
    """The bound is reached, or the disk takes nothing; nothing was written."""


@final
class Journal(Generic[Read]):
    """
    A bounded queue of records in a folder of one process: one thread appends, one drains.

    Args:
        folder: where its files lie; it is made.
        limit: most bytes on the disk.
        decode: reads a record; an `ArchiveError` says that it cannot be read.
        file_bytes: when the next file is begun.

    Raises:
        ArchiveError: the folder cannot be used, or another process uses it.
    """

    def __init__(
        self,
        folder: str | Path,
        limit: int,
        decode: Callable[[bytes], Read],
        *,
        file_bytes: int = _FILE_BYTES,
    ) -> None:
        self._folder = Path(folder)
        self._limit = limit
        self._decode = decode
        self._file_bytes = min(file_bytes, max(limit // 2, 1))
        self._lock = threading.Lock()
        self._output: int | None = None
        self._messages = 0
        self._synced: set[int] = set()
        self.damaged = 0
        """Pieces of files that could not be read; they are kept beside."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._claim = _claimed(self._folder)
            self._sizes = {
                int(match[1]): file.stat().st_size
                for file in self._folder.iterdir()
                if (match := _FILE.fullmatch(file.name))
            }
        except OSError as error:
            raise ArchiveError(f"archive.spill_folder {str(folder)!r}: {error.strerror}") from error
        self._next = max(self._sizes, default=0) + 1

    @property
    def size(self) -> int:
        """Bytes on the disk; from any thread."""
        # Copied in one step, and without the lock: who asks must not wait for the disk.
        return sum(list(self._sizes.values()))

    @property
    def is_empty(self) -> bool:
        """Whether all that was appended has been removed."""
        return not self._sizes

    def append(self, data: bytes, messages: int = 1) -> int:
        """
        Write a record behind all others.

        Args:
            data: the record.
            messages: how many there are in it, for counting.

        Returns:
            How many messages the file that grows holds now.

        Raises:
            NoRoom: nothing was written.
        """
        head = _HEAD.pack(_MARK, len(data), zlib.crc32(data))
        record = head + _CHECK.pack(zlib.crc32(head)) + data
        with self._lock:
            if self._sizes and self.size + len(record) + len(_MAGIC) > self._limit:
                raise NoRoom(f"archive.spill_bytes, {self._limit:,}, are in use")
            try:
                output = self._opened()
                size = self._sizes[self._next - 1]
                try:
                    _write(output, record)
                except OSError:
                    os.ftruncate(output, size)
                    raise
            except OSError as error:
                raise NoRoom(f"{self._folder}: {error.strerror}") from error
            self._sizes[self._next - 1] = size + len(record)
            self._messages += messages
            return self._messages

    def seal(self) -> None:
        """Let the file that grows grow no more: what is appended from now on goes into the next one."""
        with self._lock:
            self._seal()

    def oldest(self) -> int | None:
        """Return the number of the oldest file that grows no more, or None when there is none."""
        with self._lock:
            sealed = self._sizes if self._output is None else [n for n in self._sizes if n < self._next - 1]
            return min(sealed, default=None)

    def read(self, number: int) -> list[Read]:
        """
        Return what the records of a file say; what cannot be read is set aside.

        Raises:
            OSError: the disk cannot be read.
        """
        found: list[Read] = []
        try:
            data = self._path(number).read_bytes()
        except FileNotFoundError:
            # Not waited for: it would hold up all that came after it, for ever.
            self.damaged += 1
            _log.error("%s is gone, and so is what was in it", self._path(number))
            return found
        for place, record in self._records(number, data):
            try:
                found.append(self._decode(record))
            except ArchiveError as error:
                self._set_aside(number, record, f"has a record at {place} that cannot be read ({error})")
        return found

    def remove(self, number: int) -> None:
        """
        Forget a file: everything in it is stored.

        Raises:
            OSError: the disk does not let it go.
        """
        self._path(number).unlink(missing_ok=True)
        with self._lock:
            del self._sizes[number]
        self._synced.discard(number)

    def sync(self) -> None:
        """
        Have the disk keep what was appended, for the thread that drains.

        Raises:
            OSError: the disk does not.
        """
        with self._lock:
            sealed = set(self._sizes) - ({self._next - 1} if self._output is not None else set())
            wanted = set(self._sizes) - self._synced
        for number in sorted(wanted):
            _sync(self._path(number))
        if wanted:
            # The name of a new file is on the disk only when its folder is.
            _sync(self._folder)
        self._synced |= wanted & sealed

    def close(self) -> None:
        """Close the files, and let another process have the folder; what is in them stays."""
        self.seal()
        claim, self._claim = self._claim, None
        if claim is not None:
            os.close(claim)

    def _opened(self) -> int:
        if self._output is not None and self._sizes[self._next - 1] < self._file_bytes:
            return self._output
        self._seal()
        path = self._path(self._next)
        output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            _write(output, _MAGIC)
        except OSError:
            # Not begun: the next attempt makes it anew.
            os.close(output)
            path.unlink()
            raise
        self._output = output
        self._sizes[self._next] = len(_MAGIC)
        self._next += 1
        return output

    def _seal(self) -> None:
        output, self._output = self._output, None
        self._messages = 0
        if output is not None:
            os.close(output)

    def _records(self, number: int, data: bytes) -> Iterator[tuple[int, bytes]]:
        if not data.startswith(_MAGIC):
            # One that was cut off at its beginning holds nothing.
            if not _MAGIC.startswith(data):
                self._set_aside(number, data, "is no journal")
            return
        place = len(_MAGIC)
        while place < len(data):
            record = _record(data, place)
            if record is not None:
                yield place, record
                place += _HEAD_BYTES + len(record)
                continue
            end = _next_record(data, place + 1)
            if end is None and _is_cut_off(data, place):
                _log.warning("%s ends within a record: whoever wrote it was killed then", self._path(number))
                return
            end = len(data) if end is None else end
            self._set_aside(number, data[place:end], f"is damaged from {place} to {end}")
            place = end

    def _set_aside(self, number: int, piece: bytes, finding: str) -> None:
        self.damaged += 1
        path = self._path(number)
        # Numbers of files begin anew some time, and what was set aside before must not be overwritten.
        names = (path.with_name(f"{path.name}.damaged-{turn}") for turn in count(1))
        beside = next(name for name in names if not name.exists() or name.read_bytes() == piece)
        beside.write_bytes(piece)
        _log.error("%s %s; its bytes are kept in %s", path, finding, beside.name)

    def _path(self, number: int) -> Path:
        return self._folder / f"journal-{number:010d}.bin"


def _record(data: bytes, place: int) -> bytes | None:
    """Return the data of the record at a place, or None where there is none that is whole."""
    head = data[place : place + _HEAD_BYTES]
    if not _is_head(head):
        return None
    _, length, checksum = _HEAD.unpack_from(head)
    start = place + _HEAD_BYTES
    record = data[start : start + length]
    return record if len(record) == length and zlib.crc32(record) == checksum else None


def _next_record(data: bytes, place: int) -> int | None:
    while (place := data.find(_MARK, place)) >= 0:
        if _record(data, place) is not None:
            return place
        place += 1
    return None


def _is_cut_off(data: bytes, place: int) -> bool:
    """Tell whether what is at a place is how a record begins, and the file ends before its end."""
    head = data[place : place + _HEAD_BYTES]
    if len(head) < _HEAD_BYTES:
        return head[: len(_MARK)] == _MARK[: len(head)]
    return _is_head(head) and place + _HEAD_BYTES + _HEAD.unpack_from(head)[1] > len(data)


def _is_head(head: bytes) -> bool:
    return (
        len(head) == _HEAD_BYTES
        and head.startswith(_MARK)
        and _CHECK.unpack_from(head, _HEAD.size)[0] == zlib.crc32(head[: _HEAD.size])
    )


def _write(output: int, data: bytes) -> None:
    if os.write(output, data) != len(data):
        # A part was written.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _claimed(folder: Path) -> int | None:
    """Take a folder for this process, however it ends; two would drain each other's files."""
    with suppress(ImportError):  # nothing of the kind here
        import fcntl  # noqa: PLC0415 - Unix has it

        claim = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(claim)
            raise ArchiveError(
                f"archive.spill_folder {str(folder)!r} is used by another process; each needs its own"
            ) from None
        return claim
    return None
