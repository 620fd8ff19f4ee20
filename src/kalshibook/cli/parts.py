"""
Commands as parts of something larger: whoever starts one learns where it listens, and ends it.

The part writes its addresses to a file when it is ready, and ends when its standard input does. So
it never outlives the one that started it, not even one that was killed.
"""

import functools
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import click
import trio

from kalshibook.errors import KalshiBookError

__all__ = ["Part", "PartOptions", "PartStopped", "part_options", "started_part"]

_LOOK_S: Final = 0.02
_READY_S: Final = 30.0
_STOP_S: Final = 10.0
_STDIN: Final = 0
_LAST_WORDS: Final = 2_000


class PartStopped(KalshiBookError):  # noqa: N818 - reads as the fact it states
    """A command that was started as a part has ended by itself."""


class PartOptions(NamedTuple):
    """How a command behaves as a part; by default it is none."""

    ready_file: Path | None
    until_stdin_closes: bool

    def announce(self, addresses: Mapping[str, str]) -> None:
        """Write where this command listens, all at once: whoever waits for the file reads a whole one."""
        if self.ready_file is None:
            return
        draft = self.ready_file.with_name(f"{self.ready_file.name}.{os.getpid()}")
        draft.write_text(json.dumps(addresses) + "\n", encoding="utf-8")
        draft.replace(self.ready_file)

    async def watch(self, scope: trio.CancelScope) -> None:
        """Cancel a scope when standard input is closed; return at once if this command is no part."""
        if not self.until_stdin_closes:
            return
        while True:
            await trio.lowlevel.wait_readable(_STDIN)
            if not os.read(_STDIN, 4_096):
                break
        scope.cancel()


def part_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--ready-file` and `--until-stdin-closes` to a command, which gets them as its `part`."""

    @functools.wraps(command)
    def run(ready_file: Path | None, until_stdin_closes: bool, **given: Any) -> Any:
        return command(part=PartOptions(ready_file, until_stdin_closes), **given)

    run = click.option(
        "--until-stdin-closes", is_flag=True, help="End with standard input, and so with who started this."
    )(run)
    return click.option(
        "--ready-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the addresses to this file, as JSON, when all is up.",
    )(run)


@final
class Part:
    """
    A command that runs as a part of this one.

    Attributes:
        name: what to call it.
        addresses: where it listens, as it said itself.
    """

    def __init__(self, name: str, process: trio.Process, log: Path) -> None:
        self.name: Final = name
        self.addresses: Mapping[str, str] = {}
        self._process = process
        self._log = log

    def require_alive(self) -> None:
        """
        Insist that it runs.

        Raises:
            PartStopped: it has ended, with what it said last.
        """
        code = self._process.poll()
        if code is not None:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip()[-_LAST_WORDS:]
            raise PartStopped(f"{self.name} has ended with code {code}: {said or 'it said nothing'}")

    async def ready(self, file: Path) -> None:
        """
        Wait until it has said where it listens.

        Raises:
            PartStopped: it has ended, or it takes longer than it ever should.
        """
        with trio.move_on_after(_READY_S):
            while not self._is_ready(file):
                self.require_alive()
                await trio.sleep(_LOOK_S)
            return
        raise PartStopped(f"{self.name} was not ready within {_READY_S:.0f} s; see {self._log}")

    def _is_ready(self, file: Path) -> bool:
        if not file.exists():
            return False
        self.addresses = json.loads(file.read_text(encoding="utf-8"))
        return True

    async def stop(self) -> None:
        """Let it end, and wait for that; what does not end is killed."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.move_on_after(_STOP_S):
            await self._process.wait()
            return
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def started_part(
    command: str, arguments: Sequence[str], folder: Path, *, name: str = ""
) -> AsyncIterator[Part]:
    """
    Run a command of ours in a process of its own during the block.

    Args:
        command: such as ``simulate``.
        arguments: what follows it.
        folder: where its addresses and its log go.
        name: what to call it, where several run the same command.

    Raises:
        PartStopped: it does not come up.
    """
    name = name or command
    ready, log = folder / f"{name}.json", folder / f"{name}.log"
    with log.open("wb") as output:
        # A session of its own, because Ctrl-C goes to a whole group, and parts end in a certain order.
        process = await trio.lowlevel.open_process(
            [
                *(sys.executable, "-m", "kalshibook", command, *arguments),
                *("--ready-file", str(ready), "--until-stdin-closes"),
            ],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    part = Part(name, process, log)
    try:
        await part.ready(ready)
        yield part
    finally:
        with trio.CancelScope(shield=True):
            await part.stop()
