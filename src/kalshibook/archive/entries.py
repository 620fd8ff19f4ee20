"""What a batch is made of: rows, and the bytes that they were made of. Pure."""

import msgspec

from kalshibook.archive.rows import StoredRow

__all__ = ["Counts", "Entry"]


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
