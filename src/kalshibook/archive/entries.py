"""What a writer is given: rows, the bytes that they were made of, and how both lie in a spill. Pure."""

from collections.abc import Iterable
from typing import Any, Final

import msgspec

from kalshibook.archive.rows import GapRow, StoredRow
from kalshibook.archive.tables import TABLE_OF
from kalshibook.errors import ArchiveError

__all__ = ["Counts", "Entry", "decode_entries", "encode_entries"]


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One message on its way into the database."""

    place: str
    """Where it came from, for dead letters."""
    payload: bytes
    """The message itself."""
    rows: tuple[StoredRow, ...] = ()
    refused: str | None = None
    """Why it cannot be read: it becomes a dead letter."""


class Counts(msgspec.Struct, frozen=True):
    """
    What became of rows: ``taken == stored + duplicates + dead_letters``.

    A message that cannot be read counts as one.
    """

    taken: int = 0
    stored: int = 0
    duplicates: int = 0
    dead_letters: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.taken + other.taken,
            self.stored + other.stored,
            self.duplicates + other.duplicates,
            self.dead_letters + other.dead_letters,
        )


_NAMES: Final[dict[type[StoredRow], str]] = {row: table.name for row, table in TABLE_OF.items()} | {
    GapRow: "gaps"
}
_ROWS: Final[dict[str, Any]] = {name: row for row, name in _NAMES.items()}


class _Spilt(msgspec.Struct, array_like=True, gc=False):
    place: str
    payload: bytes
    rows: list[tuple[str, list[Any]]]
    refused: str | None = None


_decoder: Final = msgspec.msgpack.Decoder(list[_Spilt])
_encoder: Final = msgspec.msgpack.Encoder()


def encode_entries(entries: Iterable[Entry]) -> bytes:
    """Return entries as bytes; a row carries the name of its table, so that a later release can read it."""
    return _encoder.encode(
        [
            (
                entry.place,
                entry.payload,
                [(_NAMES[type(row)], row) for row in entry.rows],
                entry.refused,
            )
            for entry in entries
        ]
    )


def decode_entries(data: bytes) -> list[Entry]:
    """
    Read what `encode_entries` wrote.

    Raises:
        ArchiveError: it is something else.
    """
    try:
        return [
            Entry(spilt.place, spilt.payload, tuple(_row(*row) for row in spilt.rows), spilt.refused)
            for spilt in _decoder.decode(data)
        ]
    except (msgspec.MsgspecError, TypeError, KeyError, UnicodeError) as error:
        raise ArchiveError(f"a spilt batch cannot be read: {type(error).__name__}: {error}") from None


def _row(table: str, values: list[Any]) -> StoredRow:
    row: StoredRow = _ROWS[table](*(tuple(value) if isinstance(value, list) else value for value in values))
    return row
