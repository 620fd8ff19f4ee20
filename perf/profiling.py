"""Profiles by py-spy, which looks on from outside and slows little."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from perf.result import Table

__all__ = ["ProfileUnavailable", "recorded", "top_functions"]

_ROWS: Final = 16
_STARTING: Final = "importlib"
_PROCESS: Final = re.compile(r'process \d+:"')
_THREAD: Final = re.compile(r"thread \(\d+\): ")
_MEASURED: Final = tuple(f"-m perf.clients.{name} " for name in ("server", "markets", "applier"))
_PLACE: Final = re.compile(r"^(?P<name>.*) \((?P<file>.*?)(?::\d+)?\)$")


class ProfileUnavailable(Exception):  # noqa: N818 - reads as the fact it states
    """There is no py-spy, or it may not look: attaching needs the right to trace processes."""


@contextmanager
def recorded(target: Path) -> Iterator[None]:
    """
    Record what this process and its children do in the block.

    Args:
        target: what to write: a flame graph where it ends in ``.svg``, else stacks as text, one a line,
            with how often each was seen (speedscope.app and flamegraph.pl read it).

    Raises:
        ProfileUnavailable: nothing was recorded; the message says why.
    """
    program = shutil.which(
        "py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if program is None:
        raise ProfileUnavailable("there is no py-spy: pip install py-spy")
    form = "flamegraph" if target.suffix == ".svg" else "raw"
    command = [program, "record", "--pid", str(os.getpid()), "--output", str(target), "--format", form]
    spy = subprocess.Popen(
        [*command, "--rate", "200", "--threads", "--subprocesses", "--nonblocking"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        # SIGINT is how py-spy is told to write what it has.
        spy.send_signal(signal.SIGINT)
        _, complaint = spy.communicate(timeout=60)
        if not target.exists():
            raise ProfileUnavailable(f"py-spy: {complaint.decode(errors='replace').strip()[-300:]}")


def top_functions(stacks: Path) -> Table:
    """
    Return where the measured process spends its time, from stacks that `recorded` wrote.

    That is the server where a scenario has one, else the worker that holds a store, else this process.
    """
    own: Counter[tuple[str, str]] = Counter()
    whole: Counter[tuple[str, str]] = Counter()
    total = 0
    lines = [line.rpartition(" ") for line in stacks.read_text(errors="replace").splitlines()]
    worker = next((name for name in _MEASURED if any(name in stack for stack, _, _ in lines)), None)
    for stack, _, seen in lines:
        frames = stack.split(";")
        processes = [frame for frame in frames if _PROCESS.match(frame)]
        # A process of its own has its parent before it, whose own stacks have no second one.
        if not (worker in processes[-1] if worker else len(processes) == 1):
            continue
        thread, functions = _parted(frames)
        if not functions or _STARTING in stack:
            continue
        count = int(seen)
        total += count
        own[thread, functions[-1]] += count
        whole.update(dict.fromkeys(((thread, name) for name in functions), count))
    rows = tuple(
        (thread, name, 100 * count / total, 100 * whole[thread, name] / total)
        for (thread, name), count in own.most_common(_ROWS)
    )
    title = "where the time goes: py-spy on a short run of the same, samples in which a thread ran"
    return Table(title, ("thread", "function", "itself, %", "with all it calls, %"), rows)


def _parted(frames: list[str]) -> tuple[str, list[str]]:
    thread = ""
    functions: list[str] = []
    for frame in frames:
        if _THREAD.match(frame):
            thread = _THREAD.sub("", frame)
        elif thread and (found := _PLACE.match(frame)):
            functions.append(f"{found['name']} ({found['file']})")
    return thread, functions
