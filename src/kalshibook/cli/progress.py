"""Progress of long work, on a terminal only."""

from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["progress_bar", "shown"]

T = TypeVar("T")

# Moving the bar costs several times as much as playing a frame.
_ADVANCE: Final = 256


def progress_bar(unit: str) -> Progress:
    """Return a progress bar on standard error that is gone when the work is done, and silent in a pipe."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def shown(items: Iterable[T], progress: Progress, description: str, total: int | None = None) -> Iterator[T]:
    """Pass items on, and show how many have passed."""
    task = progress.add_task(description, total=total)
    for number, item in enumerate(items, 1):
        yield item
        if number % _ADVANCE == 0:
            progress.update(task, completed=number)
