"""A `kalshibook` command as a process of its own, driven by what it prints."""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import IO, Self

TIMEOUT_S = 60


class Running:
    """A command that runs until it ends or is told to; its lines arrive as it prints them."""

    def __init__(self, *arguments: str, folder: Path, environ: dict[str, str] | None = None) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KALSHIBOOK_")}
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "kalshibook", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=clean | (environ or {}),
        )
        self._arrived: queue.Queue[str] = queue.Queue()
        self.out: list[str] = []
        self.error: list[str] = []
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines), daemon=True)
            for stream, lines in ((self._process.stdout, self.out), (self._process.stderr, self.error))
        ]

    def __enter__(self) -> Self:
        for reader in self._readers:
            reader.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self.ended()

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                lines.append(line.rstrip("\n"))
                self._arrived.put(line)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line, on either stream, in which the pattern is found."""
        seen: list[str] = []
        while True:
            try:
                line = self._arrived.get(timeout=TIMEOUT_S)
            except queue.Empty:
                raise AssertionError(f"no line matches {pattern!r} in {seen}") from None
            seen.append(line)
            if match := re.search(pattern, line):
                return match

    def ended(self, timeout: float = TIMEOUT_S) -> int:
        """Wait for the end and return the exit code."""
        code = self._process.wait(timeout)
        for reader in self._readers:
            reader.join()
        return code

    def stopped(self, number: signal.Signals = signal.SIGINT, within: float = TIMEOUT_S) -> int:
        """Send a signal, and return the exit code if the command ends in time."""
        self._process.send_signal(number)
        return self.ended(within)
