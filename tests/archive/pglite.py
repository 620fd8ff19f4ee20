"""
TimescaleDB's full edition, for statements only: PGlite, which is PostgreSQL as WebAssembly, in a Node.

It has compression, policies and continuous aggregates. It has one session, knows no COPY, and runs no
background workers: a policy is accepted, and run by hand.
"""

import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Final, Self, final

from kalshibook.archive.database import connect
from kalshibook.archive.upkeep import edition_of
from tests.archive.postgres import DatabaseUnavailable

__all__ = ["PgliteServer", "why_no_pglite"]

FOLDER: Final = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kalshibook" / "pglite"
SCRIPT: Final = Path(__file__).with_name("pglite.mjs")
START_TIMEOUT_S: Final = 60
STOP_TIMEOUT_S: Final = 10


def why_no_pglite() -> str | None:
    """Return what is missing to run PGlite here, or None when nothing is."""
    if shutil.which("node") is None:
        return "needs Node"
    if not (FOLDER / ".complete").exists():
        return f"needs PGlite with TimescaleDB in {FOLDER}: run .ci/databases"
    return None


@final
class PgliteServer:
    """One database that is gone when it ends; one client at a time."""

    def __init__(self) -> None:
        """
        Start it.

        Raises:
            DatabaseUnavailable: it is not installed, or does not start.
        """
        reason = why_no_pglite()
        if reason is not None:
            raise DatabaseUnavailable(reason)
        self._process: Final = subprocess.Popen(
            ["node", str(SCRIPT), str(FOLDER)],
            stdin=subprocess.PIPE,  # closed with this process, whatever its end: it ends by that
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port: Final = self._port()

    @property
    def dsn(self) -> str:
        """Where the database is; it asks for a password, and takes any."""
        address = f"postgresql://postgres:any@127.0.0.1:{self.port}/postgres"
        return f"{address}?sslmode=disable&gssencmode=disable"

    @property
    def described(self) -> str:
        """Version and edition, for whoever reads a test's output."""
        with connect(self.dsn) as connection:
            return f"{edition_of(connection)}, as PGlite"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=STOP_TIMEOUT_S)

    def _port(self) -> int:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], START_TIMEOUT_S)
        line = self._process.stdout.readline() if ready else ""
        if not line.strip().isdigit():
            self._process.kill()
            _, said = self._process.communicate(timeout=STOP_TIMEOUT_S)
            raise DatabaseUnavailable(f"PGlite did not start:\n{said[-2_000:]}")
        return int(line)
