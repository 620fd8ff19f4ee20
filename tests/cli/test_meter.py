import io

import pytest
import trio
from rich.console import Console

from kalshibook.cli.dashboard import Dashboard
from kalshibook.cli.meter import HOPS, Meter
from kalshibook.store import BookStore
from tests.store.builders import TICKER, Script, trade


def _measured(store: BookStore, changes: int) -> Meter:
    """Let a market change, and return its meter after it has seen all of that."""
    script = Script(store)
    with Meter(store) as meter:
        script.snapshot({4000: 100}, {5500: 100})
        for _ in range(changes - 2):
            script.delta("yes", 4000, 100)
        script.apply(trade())
    return meter


def test_counts_and_measures() -> None:
    """Every change is counted, and each hop has its durations, in the clock of the stamps."""
    meter = _measured(BookStore(), 20)

    assert meter.changes == 20
    assert {TICKER: 20} == meter.updates
    assert meter.conflated == 0
    assert meter.rate() > 0
    assert {hop for hop, durations in meter.hops.items() if durations.count} == set(HOPS)
    assert meter.hops["producer to feed"].percentile_us(1) == 20


def test_nothing_measured() -> None:
    """A run without changes has no rate and no latency, and is no error."""
    with Meter(BookStore()) as meter:
        pass

    assert meter.rate() == 0
    assert meter.hops[HOPS[-1]].percentile_us(0.5) is None


def test_dashboard_shows_the_busiest_books() -> None:
    """On a terminal there is a table of books and a line of totals."""
    store, out = BookStore(), io.StringIO()
    meter = _measured(store, 12)
    console = Console(file=out, width=140, height=30, force_terminal=True, color_system=None)

    console.print(Dashboard(store, meter, console)._content())

    head, row, totals = out.getvalue().splitlines()
    assert head.split()[0] == "market"
    assert row.split()[0] == TICKER
    assert row.split()[-1] == "12"
    assert totals.startswith("12 changes")
    assert "1 live" in totals


@pytest.mark.trio
async def test_dashboard_prints_lines_in_a_pipe(
    capsys: pytest.CaptureFixture[str], autojump_clock: trio.testing.MockClock
) -> None:
    """Without a terminal a line of totals appears after a second, and then every five."""
    store = BookStore()
    meter = _measured(store, 5)

    async with Dashboard(store, meter, Console(file=io.StringIO())).shown():
        await trio.sleep(12)

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("5 changes") for line in lines)


def test_a_trade_is_no_latency() -> None:
    """A trade leaves the book the stamps of an older message, whose time has long been measured."""
    store = BookStore()
    script = Script(store)
    script.snapshot({4000: 100}, {5500: 100})

    with Meter(store) as meter:
        script.apply(trade())

    assert 1 == meter.changes
    assert not any(durations.count for durations in meter.hops.values())
