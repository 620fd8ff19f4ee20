"""Archives that books are rebuilt from, by their addresses."""

from kalshibook.archive.reading_database import DatabaseArchive
from kalshibook.archive.reading_parquet import ParquetArchive

__all__ = ["open_archive"]


def open_archive(address: str, options: dict[str, str] | None = None) -> DatabaseArchive | ParquetArchive:
    """
    Return the archive at an address: ``postgresql://…``, a folder, or ``s3://bucket/prefix``.

    Raises:
        ArchiveError: there is none.
    """
    if address.startswith(("postgresql://", "postgres://")):
        return DatabaseArchive(address)
    return ParquetArchive(address, options)
