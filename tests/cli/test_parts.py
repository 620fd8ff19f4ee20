import os
import select
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from kalshibook.cli.parts import PartStopped, started_part

ARGUMENTS = ("--markets", "3", "--rate", "100")
PATIENCE_MS = 30_000

PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.trio
async def test_a_part_says_where_it_is_and_ends_with_the_block(tmp_path: Path) -> None:
    """Its addresses answer as long as the block lasts, and not after it."""
    async with httpx.AsyncClient() as client:
        async with started_part("simulate", ARGUMENTS, tmp_path) as part:
            status = f"{part.addresses['control_url']}/status"
            assert 3 <= (await client.get(status)).json()["markets"]
            part.require_alive()

        with pytest.raises(httpx.ConnectError):
            await client.get(status)


@pytest.mark.trio
async def test_a_part_that_does_not_come_up_says_why(tmp_path: Path) -> None:
    """What it printed is in the error."""
    with pytest.raises(PartStopped, match=r"odd has ended with code 2: [^$]*--rhubarb"):
        async with started_part("simulate", ("--rhubarb",), tmp_path, name="odd"):
            pass


def test_a_part_does_not_outlive_a_killed_parent() -> None:
    """Its standard input closes when its parent dies, however that dies."""
    command = [sys.executable, "-um", "kalshibook", "simulate", *ARGUMENTS, "--until-stdin-closes"]
    with subprocess.Popen([sys.executable, "-c", PARENT, *command], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        part = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    try:
        ended = select.poll()
        ended.register(part, select.POLLIN)
        assert ended.poll(PATIENCE_MS)
    finally:
        os.close(part)
