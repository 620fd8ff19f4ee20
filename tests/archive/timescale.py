"""
TimescaleDB: a server in a folder that holds a small Debian of its own, made by `.ci/databases`.

Debian's package is the Apache edition: hypertables and `drop_chunks`, but neither compression nor
policies nor continuous aggregates.
"""

import os
import shutil
from pathlib import Path
from typing import Final, final

import psycopg

from tests.archive.postgres import DatabaseUnavailable, PostgresServer

__all__ = ["TimescaleServer", "why_no_timescale"]

ROOT: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kalshibook" / "timescale-trixie"
)


def why_no_timescale() -> str | None:
    """Return what is missing to run TimescaleDB here, or None when nothing is."""
    if not (ROOT / ".complete").exists():
        return f"needs TimescaleDB in {ROOT}: run .ci/databases"
    if os.geteuid() != 0 or shutil.which("chroot") is None:
        return "TimescaleDB runs in a folder of its own: only root may chroot"
    return None


@final
class TimescaleServer(PostgresServer):
    """As `PostgresServer`, but below `ROOT`, where its data lie too."""

    def __init__(self, name: str) -> None:
        """
        Make a cluster; `start` runs it.

        Raises:
            DatabaseUnavailable: it is not installed, or the cluster cannot be made.
        """
        reason = why_no_timescale()
        if reason is not None:
            raise DatabaseUnavailable(reason)
        self._inside = Path("/var/tmp") / name
        folder = ROOT / self._inside.relative_to("/")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        super().__init__(folder)

    def remove(self) -> None:
        """End the server and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def described(self) -> str:
        """Version and edition."""
        # The library and its settings are loaded only where the extension is.
        with psycopg.connect(self.create_database()) as connection:
            connection.execute("CREATE EXTENSION timescaledb")
            version = connection.execute(
                "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"
            ).fetchone()
            licence = connection.execute("SHOW timescaledb.license").fetchone()
        assert version is not None
        assert licence is not None
        return f"{super().described}, TimescaleDB {version[0]} ({licence[0]} edition)"

    def _find_programs(self) -> Path:
        found = sorted(ROOT.glob("usr/lib/postgresql/*/bin"))
        return Path("/") / found[-1].relative_to(ROOT)

    def _own(self) -> None:
        self._chroot("chown", "postgres:postgres", str(self._inside))

    def _data(self) -> str:
        return str(self._inside / "data")

    def _extra_settings(self) -> dict[str, str]:
        return {
            "shared_preload_libraries": "timescaledb",
            "timescaledb.telemetry_level": "off",
        }

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._programs / program), *arguments]
        return ["chroot", str(ROOT), "runuser", "-u", "postgres", "--", *command]

    def _chroot(self, *command: str) -> None:
        self._checked(["chroot", str(ROOT), *command])
