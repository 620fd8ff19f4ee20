"""
What a writer puts aside while its database is down: files of records, appended, checked, drained in order.

A file begins with eight bytes that name the format; a record is its length and its CRC-32, four bytes
each, and its data. What `append` has returned from is on the disk. A record that is cut off at the end
of the last file was never acknowledged, so it is dropped; one that is damaged elsewhere is kept in a
file beside, and told.
"""

import logging
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from kalshibook.errors import ArchiveError

__all__ = ["Spill"]

_log = logging.getLogger(__name__)

_MAGIC: Final = b"KBSPILL1"
_HEAD: Final = struct.Struct(">II")
_FILE: Final = re.compile(r"spill-(\d{10})\.bin")
_FILE_BYTES: Final = 16 * 1024 * 1024


@final
class Spill:
    """
    A bounded queue of byte strings in a folder, for one thread of one process.

    Whoever was killed in the middle of draining a file drains it from its beginning again: its records
    make the same rows, which are there already.

    Args:
        folder: where its files lie; it is made.
        limit: most bytes on the disk.
        file_bytes: when the next file is begun.

    Raises:
        ArchiveError: the folder cannot be used.
    """

    def __init__(self, folder: str | Path, limit: int, *, file_bytes: int = _FILE_BYTES) -> None:
        self._folder = Path(folder)
        self._limit = limit
        self._file_bytes = min(file_bytes, max(limit // 2, 1))
        self._output: int | None = None
        self.damaged = 0
        """Records and pieces of files that could not be read."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sizes = {
                int(match[1]): file.stat().st_size
                for file in self._folder.iterdir()
                if (match := _FILE.fullmatch(file.name))
            }
            self._repair_last()
        except OSError as error:
            raise ArchiveError(f"archive.spill_folder {str(folder)!r}: {error.strerror}") from error
        self._next = max(self._sizes, default=0) + 1

    @property
    def size(self) -> int:
        """Bytes on the disk."""
        # Copied in one step: it is asked for by other threads too.
        return sum(list(self._sizes.values()))

    @property
    def is_empty(self) -> bool:
        """Whether everything was drained."""
        return not self._sizes

    def append(self, data: bytes) -> bool:
        """
        Put a record aside, and tell whether there was room.

        Returns:
            False when the bound is reached or the disk is full: nothing was written.
        """
        record = _HEAD.pack(len(data), zlib.crc32(data)) + data
        if self.size + len(record) + len(_MAGIC) > self._limit and not self.is_empty:
            return False
        try:
            output = self._opened()
            size = self._sizes[self._next - 1]
            try:
                if os.write(output, record) != len(record):
                    raise OSError(0, "the disk is full")  # noqa: TRY301 - a part was written
                os.fsync(output)
            except OSError:
                os.ftruncate(output, size)
                raise
        except OSError as error:
            _log.error("cannot spill to %s: %s", self._folder, error.strerror)
            return False
        self._sizes[self._next - 1] = size + len(record)
        return True

    def drain(self) -> Iterator[bytes]:
        """
        Read records in the order in which they came.

        A file is deleted when the record after its last is asked for.

        To stop early is no loss: the file at hand is read again from its beginning.
        """
        while self._sizes:
            number = min(self._sizes)
            if number == self._next - 1:
                # It grows no more: what is appended from now on goes to the next one.
                self._close()
            yield from self._records(number)
            self._path(number).unlink(missing_ok=True)
            del self._sizes[number]

    def close(self) -> None:
        """Close the files; what is in them stays."""
        self._close()

    def _opened(self) -> int:
        if self._output is not None and self._sizes[self._next - 1] < self._file_bytes:
            return self._output
        self._close()
        path = self._path(self._next)
        self._output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        try:
            if os.write(self._output, _MAGIC) != len(_MAGIC):
                raise OSError(0, "the disk is full")  # noqa: TRY301 - a part was written
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                # The name of a new file is on the disk only when its folder is.
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError:
            # Not begun: the next attempt makes it anew.
            self._close()
            path.unlink()
            raise
        self._sizes[self._next] = len(_MAGIC)
        self._next += 1
        return self._output

    def _close(self) -> None:
        output, self._output = self._output, None
        if output is not None:
            os.close(output)

    def _records(self, number: int) -> Iterator[bytes]:
        data = self._path(number).read_bytes()
        place = len(_MAGIC)
        if not data.startswith(_MAGIC):
            self._set_aside(number, data, "is no spill file")
            return
        while place < len(data):
            record, end = _record(data, place)
            if record is not None:
                yield record
            elif end is not None:
                self._set_aside(number, data[place:end], f"has a damaged record at {place}")
            else:
                self._set_aside(number, data[place:], f"cannot be read from {place} on")
                return
            assert end is not None
            place = end

    def _repair_last(self) -> None:
        if not self._sizes:
            return
        number = max(self._sizes)
        path = self._path(number)
        data = path.read_bytes()
        if len(data) < len(_MAGIC) and _MAGIC.startswith(data):
            path.unlink()
            del self._sizes[number]
            return
        place = len(_MAGIC)
        while place < len(data):
            _, end = _record(data, place)
            if end is None:
                # Its writer was killed before it could say that this was kept.
                os.truncate(path, place)
                self._sizes[number] = place
                return
            place = end

    def _set_aside(self, number: int, piece: bytes, finding: str) -> None:
        self.damaged += 1
        path = self._path(number)
        beside = path.with_name(f"{path.name}.damaged-{self.damaged}")
        beside.write_bytes(piece)
        _log.error("spill file %s %s; its bytes are kept in %s", path, finding, beside.name)

    def _path(self, number: int) -> Path:
        return self._folder / f"spill-{number:010d}.bin"


def _record(data: bytes, place: int) -> tuple[bytes | None, int | None]:
    """Return a record and where it ends; None for one that is damaged, or cut off."""
    if place + _HEAD.size > len(data):
        return None, None
    length, checksum = _HEAD.unpack_from(data, place)
    end = place + _HEAD.size + length
    if end > len(data):
        return None, None
    record = data[place + _HEAD.size : end]
    return (record if zlib.crc32(record) == checksum else None), end
