"""Books at any time: whatever gatherers lost, a book that is called live equals the exchange's then."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from kalshibook.archive.gaps import Coverage, Seen, coverage_of
from kalshibook.archive.merging import Stream
from kalshibook.archive.rebuild import KnownChange, KnownSnapshot, Sum, book_from, counted_after
from kalshibook.store import Condition
from tests.archive.rebuilding import InMemory, compared, moments_of
from tests.archive.scenario import Scenario


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    loss=st.sampled_from([0.0, 0.004, 0.05]),
    cuts=st.sampled_from([0.0, 0.01]),
    sources=st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]),
)
def test_a_live_book_is_the_exchanges(seed: int, loss: float, cuts: float, sources: tuple[str, ...]) -> None:
    """Over any losses, cuts and refreshes: live means equal, and without losses every book is live."""
    scenario = Scenario(seed, frames=400, sources=sources, loss=loss, cuts=cuts)
    archive = InMemory(scenario.rows, scenario.gaps)

    live, total = compared(archive, scenario, moments_of(scenario, 12))

    if not loss and not cuts:
        assert live == total


def test_three_sources_leave_little_in_doubt() -> None:
    """What one source lost another saw: nearly all books are live though every source has gaps."""
    scenario = Scenario(5, loss=0.01)
    moments = moments_of(scenario, 60)

    live, total = compared(InMemory(scenario.rows, scenario.gaps), scenario, moments)
    alone = [row for row in scenario.rows if row.source == "a"]
    gaps = [gap for gap in scenario.gaps if gap.source == "a"]
    live_alone, _ = compared(InMemory(alone, gaps), scenario, moments)

    assert live > 0.8 * total
    assert live_alone < live


A, B = Stream("a", "a.1", 1), Stream("b", "b.1", 1)
SNAPSHOT = KnownSnapshot("KXA-1", 1_000, ((A, 10),), ((4_000, 100),), ())


@pytest.mark.parametrize(
    ("at_us", "count", "places", "after"),
    [
        (1_000, 1, [(A, 10)], 0),
        (1_000, 1, [(A, 11)], 1),
        (1_000, 2, [(A, 9), (A, 11)], 1),
        (1_000, 2, [(A, 11), (B, 70), (B, 71)], 2),
        (1_000, 2, [(A, 9), (B, 70), (B, 71)], 0),
        (1_000, 1, [(B, 70)], 0),
        (1_001, 1, [(B, 70)], 1),
        (999, 1, [(A, 11), (B, 70)], 1),
    ],
    ids=["in", "after", "one-each", "lost-twin-after", "lost-twin-in", "unseen-then", "unseen-later", "slow"],
)
def test_what_a_snapshot_contains(at_us: int, count: int, places: list[Any], after: int) -> None:
    """Its own stream's numbers decide; where that saw nothing, the exchange's times do."""
    change = KnownChange(at_us, "yes", 4_000, 100, count, tuple(places))

    assert after == counted_after(SNAPSHOT, change)


class Fixed(InMemory):
    """An archive in which something does not fit."""

    def __init__(self, changes: Sequence[Sum]) -> None:
        super().__init__([], [])
        self._sums = changes

    def snapshots_before(self, ticker: str, at_us: int) -> Sequence[KnownSnapshot]:
        """Return the one there is."""
        return [SNAPSHOT]

    def sums_after(self, snapshot: KnownSnapshot, at_us: int) -> Sequence[Sum]:
        """Return what was given."""
        return self._sums

    def coverage(self, ticker: str, from_us: int, until_us: int) -> Coverage:
        """Claim that nothing is missing."""
        return coverage_of([Seen(A, 0, 0)], {A: ("a", 10**18)}, [])


def test_more_taken_than_rests_is_never_clamped() -> None:
    """The book is stale and says where."""
    book = book_from(Fixed([Sum("yes", 4_000, -101, 1_500)]), "KXA-1", 2_000)

    assert (Condition.STALE, "yes at 4000: -1 (0.01 contract)") == (book.condition, book.stale_reason)
    assert 0 == len(book.yes)


def test_levels_bear_the_time_of_their_last_change() -> None:
    """What was not touched since the snapshot bears the snapshot's."""
    book = book_from(Fixed([Sum("no", 3_000, 70, 1_500)]), "KXA-1", 2_000)

    assert [1_000] == [level.stamps.exchange_us for level in book.yes]
    assert [(3_000, 70, 1_500)] == [(one.price, one.size, one.stamps.exchange_us) for one in book.no]
    assert book.stamps is not None
    assert 1_500 == book.stamps.exchange_us
