"""
Processes of a load test and the way to speak to them: JSON lines, one command and one answer at a time.

Load generators and clients do not share an interpreter with what they measure.
"""

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self, final

import msgspec

__all__ = [
    "Worker",
    "WorkerError",
    "answer_commands",
    "cpu_seconds",
    "raise_descriptor_limit",
    "resident_bytes",
]

Handler = Callable[..., Any]

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class WorkerError(Exception):
    """A process of a load test ended, or answered a command with an error."""


@final
class Worker:
    """
    A process that runs one module of this package.

    Args:
        module: its name in `perf.clients`.
        settings: keyword arguments of its `main`.
    """

    def __init__(self, module: str, **settings: Any) -> None:
        self.module: Final = module
        arguments = msgspec.json.encode(settings).decode()
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"perf.clients.{module}", arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.greeting: Final[dict[str, Any]] = self._read()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, command: str, **arguments: Any) -> None:
        """Send a command; `hear` returns its answer, when there is one."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode([command, arguments]) + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(f"process {self.module} has ended") from None

    def hear(self) -> Any:
        """Wait for the answer to the last command."""
        return self._read()

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command and return its answer."""
        self.tell(command, **arguments)
        return self._read()

    def close(self) -> None:
        """End the process, by force when it does not go."""
        process = self._process
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(f"process {self.module} has ended with code {self._process.wait()}")
        answer = msgspec.json.decode(line)
        if isinstance(answer, dict) and "error" in answer:
            raise WorkerError(f"process {self.module}: {answer['error']}")
        return answer


def answer_commands(handlers: Mapping[str, Handler], greeting: Mapping[str, Any]) -> None:
    """Be a worker: greet, then carry out commands until standard input ends."""
    _say(greeting)
    for line in sys.stdin.buffer:
        command, arguments = msgspec.json.decode(line)
        try:
            answer = handlers[command](**arguments)
        except Exception as error:  # noqa: BLE001 - it is handed to the process that asked
            answer = {"error": f"{command}: {type(error).__name__}: {error}"}
        _say({} if answer is None else answer)


def settings() -> dict[str, Any]:
    """Return the keyword arguments that `Worker` was given."""
    decoded: dict[str, Any] = msgspec.json.decode(sys.argv[1])
    return decoded


def raise_descriptor_limit(wanted: int) -> int:
    """Allow this process as many descriptors as it wants, or as the machine gives; return how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(allowed, soft)


def resident_bytes() -> int:
    """Return this process's resident memory."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - read often
        return int(file.read().split()[1]) * _PAGE


def cpu_seconds(thread: int | None = None) -> float:
    """Return the CPU time of this process, or of one of its threads by native id."""
    if thread is None:
        return time.process_time()
    # In nanoseconds, where `stat` counts ticks of 10 ms.
    with open(f"/proc/self/task/{thread}/schedstat", encoding="ascii") as file:  # noqa: PTH123 - as above
        return int(file.read().split()[0]) / 1e9


def _say(answer: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()
