"""
Where files go: a folder, or a bucket of any S3.

Nobody ever sees a half-written file: a folder gets it under a temporary name and then by its own, and
an object appears as a whole. `create` never overwrites, so that two exporters cannot mix.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, final

from kalshibook.errors import ArchiveError

if TYPE_CHECKING:
    from obstore.store import S3Store

__all__ = ["Bucket", "Folder", "Target", "open_target", "put"]


class Target(Protocol):
    """A place for files, by relative paths with slashes."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one of that name, and tell whether it was written."""

    def replace(self, path: str, data: bytes) -> None:
        """Write a file, whatever was there."""

    def read(self, path: str) -> bytes | None:
        """Return a file, or None when there is none."""

    def paths(self, prefix: str = "") -> list[str]:
        """Return the paths below a folder, sorted."""


def open_target(url: str, options: Mapping[str, str] | None = None) -> Target:
    """
    Return the target that an address names.

    Args:
        url: a folder, or ``s3://bucket/prefix``.
        options: of the bucket: ``endpoint``, ``access_key_id``, ``secret_access_key``, ``region`` and
            whatever else obstore's S3 configuration has; what is not given is taken from the
            environment, as AWS's own tools do.

    Raises:
        ArchiveError: the address or an option is unfit.
    """
    if "://" not in url:
        return Folder(Path(url))
    if not url.startswith("s3://"):
        raise ArchiveError(f"{url!r} is neither a folder nor s3://bucket/prefix")
    from obstore.store import S3Store  # noqa: PLC0415 - only who exports to a bucket pays for it

    known = dict(options or {})
    try:
        store = S3Store.from_url(
            url,
            config=known,  # type: ignore[arg-type]  # its keys are what obstore judges
            client_options={"allow_http": known.get("endpoint", "").startswith("http://")},
        )
    except Exception as error:  # noqa: BLE001 - obstore's errors have no common base that it names
        raise ArchiveError(f"{url} cannot be used with these options: {error}") from None
    return Bucket(store)


def put(target: Target, path: str, data: bytes) -> bool:
    """
    Make sure that a file holds exactly this, and tell whether it did not before.

    What an export that died has left under the name is the same bytes, or is replaced.
    """
    if target.create(path, data):
        return True
    if target.read(path) == data:
        return False
    target.replace(path, data)
    return True


@final
class Folder:
    """Files below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def create(self, path: str, data: bytes) -> bool:
        """Write under a temporary name, then link: unlike a rename, that never overwrites."""
        final = self.root / path
        temporary = self._write(final, data)
        try:
            os.link(temporary, final)
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync(final.parent)
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Write under a temporary name, then rename."""
        final = self.root / path
        self._write(final, data).replace(final)
        _sync(final.parent)

    def read(self, path: str) -> bytes | None:
        """Return the file's content."""
        with suppress(FileNotFoundError):
            return (self.root / path).read_bytes()
        return None

    def paths(self, prefix: str = "") -> list[str]:
        """Walk the folder; temporary files are not listed."""
        found = (self.root / prefix).rglob("*")
        return sorted(
            file.relative_to(self.root).as_posix()
            for file in found
            if file.is_file() and not file.name.startswith(".")
        )

    def _write(self, final: Path, data: bytes) -> Path:
        final.parent.mkdir(parents=True, exist_ok=True)
        # Always the same name, so that what a crash leaves is overwritten by the next attempt. It begins
        # with a dot, which readers of a whole folder pass over.
        temporary = final.with_name(f".{final.name}.tmp")
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return temporary


@final
class Bucket:
    """Objects below a prefix."""

    def __init__(self, store: "S3Store") -> None:
        self._store = store

    def create(self, path: str, data: bytes) -> bool:
        """Put on the condition that there is none (`If-None-Match`)."""
        from obstore import put as put_object  # noqa: PLC0415
        from obstore.exceptions import AlreadyExistsError  # noqa: PLC0415

        try:
            put_object(self._store, path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def replace(self, path: str, data: bytes) -> None:
        """Put without a condition."""
        from obstore import put as put_object  # noqa: PLC0415

        put_object(self._store, path, data)

    def read(self, path: str) -> bytes | None:
        """Get the object."""
        from obstore import get as get_object  # noqa: PLC0415

        with suppress(FileNotFoundError):
            return bytes(get_object(self._store, path).bytes())
        return None

    def paths(self, prefix: str = "") -> list[str]:
        """List the objects."""
        from obstore import list as list_objects  # noqa: PLC0415

        return sorted(
            str(found["path"]) for page in list_objects(self._store, prefix or None) for found in page
        )


def _sync(folder: Path) -> None:
    # A name is safe only when its folder is written too.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
