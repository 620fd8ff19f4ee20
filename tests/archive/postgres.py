"""
PostgreSQL from Debian's package: a server on 127.0.0.1 in a folder of its own, thrown away afterwards.

It does not run as root, so root runs it as the user `postgres`, which the package brings.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import psycopg

__all__ = ["DatabaseUnavailable", "PostgresServer", "why_no_postgres"]

START_TIMEOUT_S: Final = 30
STOP_TIMEOUT_S: Final = 30
OLDEST: Final = 15
ROOM_BYTES: Final = 4 * 1024**3

# Tests wait for every commit. Only a power cut would tell the difference: a killed server's writes are
# with the kernel already.
SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "synchronous_commit": "on",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "timezone": "America/New_York",  # nothing may depend on it
    # In the data folder: a killed server leaves its shared memory behind.
    "dynamic_shared_memory_type": "mmap",
    "log_min_messages": "warning",
}


class DatabaseUnavailable(Exception):  # noqa: N818 - reads as the fact it states
    """A database server cannot be had or does not start here; the message says why."""


def why_no_postgres() -> str | None:
    """Return what is missing to run PostgreSQL here, or None when nothing is."""
    if _programs() is None:
        return f"needs PostgreSQL {OLDEST} or newer: no /usr/lib/postgresql/*/bin/initdb (postgresql-15)"
    if os.geteuid() == 0 and shutil.which("runuser") is None:
        return "PostgreSQL does not run as root, and there is no runuser"
    return None


class PostgresServer:
    """A server that can be stopped, killed and started again on the same data and the same port."""

    def __init__(self, folder: Path | None = None, **settings: str) -> None:
        """
        Make a cluster in `folder`, or in a temporary one; `start` runs it.

        Raises:
            DatabaseUnavailable: it is not installed, or the cluster cannot be made.
        """
        self._settings = SETTINGS | settings
        # Not in pytest's folder, which another run shuts for all users but its own at any moment.
        self.folder: Final = folder or Path(
            tempfile.mkdtemp(prefix="kalshibook-postgres-", dir=_memory_folder())
        )
        self.port: Final = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self._programs = self._find_programs()
        self._own()
        self._checked(
            self._command(
                *("initdb", "--pgdata", self._data(), "--username=postgres"),
                *("--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"),
            )
        )

    @property
    def dsn(self) -> str:
        """Where the server's first database is."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Return where a database is."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}?connect_timeout=10"

    def create_database(self) -> str:
        """Make a database that nobody else uses, and return its address."""
        self._databases += 1
        name = f"archive_{self._databases}"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.dsn_of(name)

    @property
    def described(self) -> str:
        """Version and edition, for whoever reads a test's output."""
        with psycopg.connect(self.dsn) as connection:
            found = connection.execute("SHOW server_version").fetchone()
        assert found is not None
        return f"PostgreSQL {found[0]}"

    def start(self) -> None:
        """
        Run the server and return when it answers.

        Raises:
            DatabaseUnavailable: it ended or did not answer in time, with the end of its log.
        """
        assert self._process is None, "it is running"
        log = self.folder / "server.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", self._data(), *self._arguments()),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                start_new_session=True,
            )
        self._wait_until_it_answers(self._process, log)
        # A test run that is cut off runs no clean-up. Its end closes this pipe, whatever its cause.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -9 "$1"', "sh", str(self._server_pid())],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    @property
    def running(self) -> bool:
        """Whether it was started and not ended since."""
        return self._process is not None

    def stop(self) -> None:
        """End the server in good order, its clients cut off; one that is not running is no error."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server and all its children as a power cut would (kill -9)."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], log: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and process.poll() is None:
            try:
                psycopg.connect(self.dsn).close()
            except psycopg.OperationalError:
                # No event tells that a port has opened.
                time.sleep(0.02)
                continue
            return
        self.kill()
        raise DatabaseUnavailable(f"PostgreSQL did not start:\n{log.read_text(errors='replace')[-2_000:]}")

    def _arguments(self) -> list[str]:
        settings = self._settings | {"port": str(self.port)} | self._extra_settings()
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _extra_settings(self) -> dict[str, str]:
        return {}

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        guard, self._guard = self._guard, None
        if guard is not None:
            # Before the server is ended: after that its number may be another process's.
            guard.kill()
            guard.communicate()
        server = self._server_pid()
        if process.poll() is None and server is not None:
            # Each backend is a session of its own, and would go on until its statement is done.
            backends = _children(server) if number is signal.SIGKILL else []
            for pid in (server, *backends):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            for pid in backends:
                _wait_until_gone(pid)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(STOP_TIMEOUT_S)

    def _server_pid(self) -> int | None:
        file = self.folder / "data" / "postmaster.pid"
        return int(file.read_text().split()[0]) if file.exists() else None

    def _find_programs(self) -> Path:
        reason, found = why_no_postgres(), _programs()
        if reason is not None or found is None:
            raise DatabaseUnavailable(str(reason))
        return found

    def _own(self) -> None:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")

    def _data(self) -> str:
        return str(self.folder / "data")

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._programs / program), *arguments]
        return ["runuser", "-u", "postgres", "--", *command] if os.geteuid() == 0 else command

    @staticmethod
    def _checked(command: Sequence[str]) -> None:
        ended = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd="/"
        )
        if ended.returncode != 0:
            output = f"{ended.stdout[-2_000:]}{ended.stderr[-2_000:]}"
            raise DatabaseUnavailable(f"{' '.join(command)} failed:\n{output}")


def _programs() -> Path | None:
    found = [
        (int(folder.name), folder / "bin")
        for folder in Path("/usr/lib/postgresql").glob("[0-9]*")
        if folder.name.isdigit() and int(folder.name) >= OLDEST and (folder / "bin" / "initdb").exists()
    ]
    return max(found)[1] if found else None


def _memory_folder() -> Path | None:
    """Return a folder in memory, if there is one with room: a database is 8 MB of files that nobody keeps."""
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK) or shutil.disk_usage(folder).free < ROOM_BYTES:
        return None
    return folder


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # The second field is the program's name, in brackets, and may hold spaces.
            if int(status.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(status.parent.name))
    return found


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
