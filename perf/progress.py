"""How far a run is: a bar on a terminal, else one line per step."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

__all__ = ["shown_progress"]


@contextmanager
def shown_progress(names: Sequence[str]) -> Iterator[Callable[[str, float | None], None]]:
    """
    Yield what takes the text of each step and, where it is known, the share that is done.

    Args:
        names: of the scenarios; a step that is called as one of them begins it.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        whole = progress.add_task("scenarios", total=len(names) + 1)
        current = progress.add_task("", total=None)

        def show(text: str, done: float | None) -> None:
            if text in names:
                progress.advance(whole)
                progress.update(whole, description=text)
            progress.update(
                current, description=f"  {text}", total=None if done is None else 1, completed=done or 0
            )

        yield show


def _lines() -> Callable[[str, float | None], None]:
    started = time.monotonic()
    last = ""

    def show(text: str, _done: float | None) -> None:
        nonlocal last
        if text != last:
            print(f"{time.monotonic() - started:7.1f} s  {text}", file=sys.stderr, flush=True)
        last = text

    return show
