"""What a running demo shows: a live table on a terminal, a line now and then elsewhere."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import click
import trio
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from kalshibook.cli.latency import duration_text
from kalshibook.cli.meter import HOPS, Meter
from kalshibook.cli.tables import TopLine, tops_table
from kalshibook.store import BookStore

__all__ = ["Dashboard"]

_REFRESHES_PER_SECOND: Final = 2
_FIRST_LINE_S: Final = 1.0
_LINE_EVERY_S: Final = 5.0
_LINES_AROUND: Final = 17
_MOST_ROWS: Final = 25


class Dashboard:
    """Shows a store and its meter."""

    def __init__(self, store: BookStore, meter: Meter, console: Console) -> None:
        self._store = store
        self._meter = meter
        self._console = console
        self._seen = (time.monotonic(), 0)
        self._rate = 0.0

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        """Show it during the block."""
        if self._console.is_terminal:
            # Drawn by rich's own thread: it reads a version of the store, like any other reader.
            with Live(
                get_renderable=self._content,
                console=self._console,
                refresh_per_second=_REFRESHES_PER_SECOND,
                transient=True,
            ):
                yield
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._print_lines)
            yield
            nursery.cancel_scope.cancel()

    async def _print_lines(self) -> None:
        await trio.sleep(_FIRST_LINE_S)
        while True:
            click.echo(self._summary())
            await trio.sleep(_LINE_EVERY_S)

    def _summary(self) -> str:
        now, changes = time.monotonic(), self._meter.changes
        before, changes_before = self._seen
        if now - before >= 1 / _REFRESHES_PER_SECOND:
            self._rate = (changes - changes_before) / (now - before)
            self._seen = (now, changes)
        counts = self._store.cut().counts
        whole = self._meter.hops[HOPS[-1]].percentile_us
        found = {name: getattr(counts, name) for name in counts.__struct_fields__}
        conditions = "  ".join(f"{count:,} {name}" for name, count in found.items() if count)
        return (
            f"{changes:,} changes  {self._rate:,.0f}/s  {conditions or 'no markets yet'}"
            f"  latency p50 {duration_text(whole(0.5))} p99 {duration_text(whole(0.99))}"
        )

    def _content(self) -> RenderableType:
        cut, updates = self._store.cut(), self._meter.updates.copy()
        room = max(min(self._console.size.height - _LINES_AROUND, _MOST_ROWS), 3)
        busiest = sorted(updates, key=updates.__getitem__, reverse=True)[:room]
        lines = [
            TopLine.of(cut[ticker], f"{updates[ticker]:,}") for ticker in sorted(busiest) if ticker in cut
        ]
        hidden = f"   the busiest {len(lines)} of {len(cut):,} markets" if len(cut) > len(lines) else ""
        return Group(
            tops_table(lines, "changes", self._console.width),
            Text(f"{self._summary()}{hidden}   Ctrl-C ends", style="dim"),
        )
