"""Commands of ours as processes that can be killed and started again, and that never outlive the run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["Command", "settings", "until"]

LOOK_S: Final = 0.05
START_S: Final = 60.0
STOP_S: Final = 45.0
LAST_WORDS: Final = 2_000


def until(condition: Callable[[], object], what: str, within_s: float) -> None:
    """
    Wait until a condition is true.

    Args:
        condition: asked again and again; what it returns stands in the error.
        what: it is.
        within_s: how long at most.

    Raises:
        AssertionError: it does not come true in time.
    """
    begun = time.monotonic()
    while (found := condition()) is not True:
        if time.monotonic() - begun > within_s:
            raise AssertionError(f"not within {within_s:.0f} s: {what}; {found}")
        # What is waited for is in another process, and sets no event here.
        time.sleep(LOOK_S)


def settings(values: Mapping[str, object]) -> list[str]:
    """Return settings as a command takes them."""
    return [part for name, value in values.items() for part in ("--set", f"{name}={value}")]


class Command:
    """
    `kalshibook` with some arguments, in a process of its own.

    Args:
        name: what to call it; its log and its ready file are called so too.
        arguments: the command line.
        folder: where it runs.
        tells_ready: whether it takes `--ready-file`.
    """

    def __init__(self, name: str, arguments: list[str], folder: Path, *, tells_ready: bool = False) -> None:
        self.name: Final = name
        self.log: Final = folder / f"{name}.log"
        self._begins = 0
        self._ready: Final = folder / f"{name}.json"
        self._arguments = [*arguments, *(("--ready-file", str(self._ready)) if tells_ready else ())]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it."""
        assert self._process is None, f"{self.name} is running"
        self._ready.unlink(missing_ok=True)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("KALSHIBOOK_")}
        with self.log.open("ab") as output:
            self._begins = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "kalshibook", *self._arguments],
                cwd=self._folder,
                env=clean,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        # A run that is cut off runs no clean-up. Its end closes this pipe, whatever its cause.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -9 "$1"', "sh", str(self._process.pid)],
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def addresses(self) -> dict[str, str] | None:
        """Return where it listens, once it has said so."""
        self.require_alive()
        return dict(json.loads(self._ready.read_text())) if self._ready.exists() else None

    def require_alive(self) -> None:
        """Insist that it has not ended by itself."""
        code = None if self._process is None else self._process.poll()
        assert code is None, f"{self.name} has ended with code {code}: {self.said()}"

    def said(self) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-LAST_WORDS:]

    def has_said(self, text: str) -> bool:
        """Tell whether a text is in its log since it was started last."""
        self.require_alive()
        return text.encode() in self.log.read_bytes()[self._begins :]

    def kill(self) -> None:
        """End it as a power cut would; one that does not run is no error."""
        process, self._process = self._process, None
        guard, self._guard = self._guard, None
        if guard is not None:
            # Before the process is ended: after that its number may be another one's.
            guard.kill()
            guard.communicate()
        if process is not None:
            process.kill()
            process.wait(STOP_S)

    def interrupt(self) -> None:
        """Tell it to end in good order; `finish` waits for that."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)

    def finish(self, within_s: float) -> None:
        """Wait for its end, and insist that all went well."""
        assert self._process is not None
        try:
            code = self._process.wait(within_s)
            assert code == 0, f"{self.name} has ended with code {code}: {self.said()}"
        finally:
            self.kill()
