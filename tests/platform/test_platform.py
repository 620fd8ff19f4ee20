"""
The whole platform at once, while it is broken in many ways: nothing is forgotten, nothing is invented.

`nox -s platform` runs it; `nox -s platform -- --minutes 2` is the small form.
"""

import random
import sys
import time
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.table import Table

from tests.archive.postgres import why_no_postgres
from tests.platform.processes import LOOK_S, until
from tests.platform.proofs import (
    SHOWN,
    Finding,
    books_are_rebuilt,
    faults_are_told,
    gaps_are_judged,
    nothing_is_double,
    parquet_is_production,
    production_is_the_truth,
    store_is_the_truth,
    true_books,
    untold_faults,
    wrong_books,
)
from tests.platform.running import COMPRESSION, SOURCES, Platform, running_platform
from tests.platform.troubles import acts

pytestmark = pytest.mark.platform

SETTLE_S = 60.0
WHOLE_MINUTES = 10.0


@pytest.mark.timeout(3_600)
def test_the_platform_forgets_nothing(request: pytest.FixtureRequest) -> None:
    """Production, Parquet, rebuilt books and Kafka's store equal what truly happened, whatever was killed."""
    minutes = request.config.getoption("--minutes")
    if minutes is None:
        pytest.skip("takes a minute and many processes: run `nox -s platform`")
    if (reason := why_no_postgres()) is not None:
        pytest.fail(reason)
    begun = time.monotonic()
    console = Console(file=sys.__stderr__, soft_wrap=True)

    def say(text: str) -> None:
        console.print(f"{time.monotonic() - begun:6.1f} s  {text}", highlight=False, markup=False)

    seed = request.config.getoption("--seed")
    seconds = minutes * 60 / COMPRESSION
    say(f"{minutes:g} minutes of markets in {seconds:.0f} s, seed {seed}")
    with running_platform(seed, say) as platform:
        go_through(platform, seconds, seed, say)
        findings = settle_and_prove(platform, 100 if minutes >= WHOLE_MINUTES else 20, seed, say)
    show(findings, console)
    wrong = [f"{finding.what}: {line}" for finding in findings for line in finding.wrong[:SHOWN]]
    assert [] == wrong


def go_through(platform: Platform, seconds: float, seed: int, say: Callable[[str], None]) -> None:
    """Let the markets move, and do what the schedule says."""
    begun = time.monotonic()
    due = acts(seconds, seed)
    while (now_s := time.monotonic() - begun) < seconds:
        platform.require_alive()
        while due and due[0].at_s <= now_s:
            act = due.pop(0)
            say(act.what)
            act.do(platform)
        time.sleep(LOOK_S)
    assert not due


def settle_and_prove(platform: Platform, books: int, seed: int, say: Callable[[str], None]) -> list[Finding]:
    """Freeze the exchange, let everything arrive, and compare."""
    platform.exchange.do(lambda exchange: exchange.freeze())
    frozen_us = platform.exchange.do(lambda exchange: exchange.venue.now_us)
    truth = platform.exchange.do(lambda _: platform.witness.truth())
    say(f"frozen after {len(truth.changes):,} changes and {len(truth.trades):,} trades; all of it settles")
    true = platform.exchange.do(true_books)
    until(
        lambda: wrong_books(platform.store, true) or True, "the store from Kafka has the true books", SETTLE_S
    )
    for source in SOURCES:
        until(lambda source=source: platform.is_ready(source), f"gatherer {source} is ready again", SETTLE_S)  # type: ignore[misc]
        until(lambda source=source: not platform.spilt(source), f"the spill of {source} is drained", SETTLE_S)  # type: ignore[misc]
    until(lambda: untold_faults(platform) or True, "every fault is in a ledger", SETTLE_S)
    findings = [store_is_the_truth(platform, truth)]
    say("gatherers and deduplicator stop, and the rest is merged")
    platform.stop()
    platform.merge_the_rest()
    # First: what all have missed of trades is fetched by it.
    judged = gaps_are_judged(platform)
    findings += production_is_the_truth(platform, truth)
    findings.append(nothing_is_double(platform))
    findings.append(judged)
    findings.append(faults_are_told(platform))
    say("Parquet is written and read again")
    platform.export()
    findings += parquet_is_production(platform)
    say(f"{books} books are rebuilt at random moments")
    findings.append(books_are_rebuilt(platform, truth, books, frozen_us, random.Random(seed)))
    say("done")
    return findings


def show(findings: list[Finding], console: Console) -> None:
    """Print what was proven, with its numbers."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("proven", "what", "numbers"):
        table.add_column(name, overflow="fold")
    for finding in findings:
        verdict = "[red]NO[/]" if finding.wrong else "[green]yes[/]"
        table.add_row(verdict, finding.what, finding.numbers)
    console.print(table)
