"""A profile of this process by py-spy, which looks on from outside and slows little."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["recorded"]


@contextmanager
def recorded(target: Path) -> Iterator[None]:
    """
    Record what this process and its children do in the block, as a flame graph.

    Args:
        target: the SVG to write.

    Raises:
        SystemExit: there is no py-spy, or it may not look: attaching needs the right to trace processes.
    """
    program = shutil.which(
        "py-spy", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    )
    if program is None:
        raise SystemExit("--profile needs py-spy: pip install py-spy")
    command = [program, "record", "--pid", str(os.getpid()), "--output", str(target), "--rate", "200"]
    spy = subprocess.Popen(
        [*command, "--threads", "--nonblocking"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        # SIGINT is how py-spy is told to write what it has.
        spy.send_signal(signal.SIGINT)
        _, complaint = spy.communicate(timeout=60)
        if not target.exists():
            raise SystemExit(f"py-spy wrote nothing: {complaint.decode(errors='replace').strip()[-300:]}")
