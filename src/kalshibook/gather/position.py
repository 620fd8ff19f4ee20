"""Where the lists were left, in a small file: an interrupted sync goes on from there."""

import logging
import os
from pathlib import Path
from typing import Final, final

import msgspec

from kalshibook.errors import SettingsError

__all__ = ["Position", "PositionFile"]

_log = logging.getLogger(__name__)

# A cursor is opaque text; one that long is none.
_LARGEST: Final = 65_536


class Position(msgspec.Struct, frozen=True):
    """The page that would have been asked for next."""

    list: str
    """The list's own first request: with another selection of markets the position means nothing."""
    cursor: str
    """Empty is the list's beginning."""


@final
class PositionFile:
    """
    One position in one file, replaced whole; without a path nothing is kept.

    Raises:
        SettingsError: its folder is not there, which is better told at once than at the first save.
    """

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        if self._path is not None and not self._path.parent.is_dir():
            raise SettingsError(f"gather.state_file {path!r}: there is no folder {str(self._path.parent)!r}")

    def load(self) -> Position | None:
        """Return the position, or None where there is none that can be read."""
        if self._path is None:
            return None
        try:
            with self._path.open("rb") as file:
                return msgspec.json.decode(file.read(_LARGEST), type=Position)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeError) as error:
            _log.warning("%s is no position (%s); the lists are begun anew", self._path, error)
            return None

    def save(self, position: Position | None) -> None:
        """Replace the file; None says that nothing is unfinished."""
        if self._path is None:
            return
        try:
            if position is None:
                self._path.unlink(missing_ok=True)
                return
            fresh = self._path.with_name(f"{self._path.name}.new")
            fresh.write_bytes(msgspec.json.encode(position))
            os.replace(fresh, self._path)  # noqa: PTH105 - the same, and says that it replaces
        except OSError as error:
            # Losing a position costs one repeated sync; a full disk must not end the gathering.
            _log.warning("%s cannot be written: %s", self._path, error)
