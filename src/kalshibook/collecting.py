"""
The garbage collector's times, set while a process serves.

Reference counts free what an update replaces; the collector only looks for cycles, and stops every
thread while it looks. Books are out of its sight, but the versions of the last moments and all else
in the process are not: with a million markets a full pass took 77 ms, and one comes whenever Python
thinks fit. So no full pass happens by itself while serving, and what is there when the feed has
caught up is set aside for ever. Only for processes that are a server: a library has no business with
its host's collector.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["served_collector"]

_NEVER: Final = 2**30


@contextmanager
def served_collector() -> Iterator[Callable[[], None]]:
    """
    Set the collector for serving in the block; its thresholds are restored at the end.

    Yields:
        What sets everything aside that lives now, at once: call it when the books are filled.
    """
    before = gc.get_threshold()
    # Young and middle passes as Python has them: few survivors wait for each, so each is short.
    gc.set_threshold(before[0], before[1], _NEVER)
    try:
        yield gc.freeze
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
