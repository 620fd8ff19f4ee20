"""Coverage: what at least one subscription watched without a doubt is complete, and nothing else is."""

from collections.abc import Hashable
from itertools import pairwise

from hypothesis import given, strategies as st

from kalshibook.archive.gaps import SLACK_US, Coverage, Doubt, Gap, Seen, Watch, coverage_of, union

SECOND_US = 1_000_000
END_US = 100 * SECOND_US


def coverage(*gaps: Gap) -> Coverage:
    """Return that of two sources, which both watch from second 10 on."""
    snapshots = [
        Seen("a1", 10 * SECOND_US, 10 * SECOND_US + 5),
        Seen("b1", 10 * SECOND_US, 10 * SECOND_US + 7),
    ]
    snapshots += [
        Seen(gap.streams[0], gap.detected_us + SECOND_US, gap.detected_us + SECOND_US) for gap in gaps
    ]
    return coverage_of(snapshots, {"a1": ("a", END_US), "b1": ("b", END_US)}, gaps)


def spans(found: Coverage, from_s: int = 10, until_s: int = 90) -> list[tuple[int, int]]:
    """Return what is lost, in seconds."""
    lost = found.lost(from_s * SECOND_US, until_s * SECOND_US)
    return [(one.from_us // SECOND_US, one.until_us // SECOND_US) for one in lost]


def test_what_one_lost_the_other_fills() -> None:
    """A gap of one source leaves nothing lost."""
    assert [] == spans(coverage(Gap("g", ("a1",), 20 * SECOND_US, 30 * SECOND_US)))


def test_what_all_lost_is_named() -> None:
    """Where the gaps of all sources overlap, from the last frame to the next snapshot, it is lost."""
    found = coverage(
        Gap("a-gap", ("a1",), 22 * SECOND_US, 30 * SECOND_US),
        Gap("b-gap", ("b1",), 27 * SECOND_US, 40 * SECOND_US),
    )

    assert [(25, 31)] == spans(found)
    assert "a-gap, b-gap" in found.lost(0, END_US)[1].reason


def test_before_the_first_snapshot_nobody_watched() -> None:
    """A market is not complete from before anyone had its book."""
    (lost,) = coverage().lost(5 * SECOND_US, 50 * SECOND_US)

    assert (5 * SECOND_US, 10 * SECOND_US) == (lost.from_us, lost.until_us)
    assert "nobody watched" in lost.reason


def test_what_is_not_known_yet_is_not_called_lost() -> None:
    """After the last frame of all sources nothing is said."""
    (lost,) = coverage().lost(50 * SECOND_US, 2 * END_US)

    assert END_US - SLACK_US == lost.from_us
    assert "nothing is known of this time yet" == lost.reason


def test_a_gap_without_a_beginning_begins_a_minute_earlier() -> None:
    """Where no frame before it is known, the doubt is wide rather than wrong."""
    found = coverage_of(
        [Seen("a1", 0, 0)], {"a1": ("a", 200 * SECOND_US)}, [Gap("g", ("a1",), None, 100 * SECOND_US)]
    )

    assert found.doubted("a1", 40 * SECOND_US)
    assert not found.doubted("a1", 39 * SECOND_US)
    assert found.doubted("a1", 10**15), "no snapshot has ended it"


def moved(old_end_s: int, *gaps: Gap, new_source: str = "a", back_s: int | None = None) -> Coverage:
    """Return that of a market which a source sees on one subscription, and from second 200 on another."""
    times = [("a1", 10), ("a2", 200)] + ([] if back_s is None else [("a1", back_s)])
    snapshots = [Seen(stream, second * SECOND_US, second * SECOND_US + 5) for stream, second in times]
    streams: dict[Hashable, tuple[str, int]] = {
        "a1": ("a", old_end_s * SECOND_US),
        "a2": (new_source, 400 * SECOND_US),
    }
    return coverage_of(snapshots, streams, gaps)


def test_a_market_that_moved_is_not_watched_where_it_was() -> None:
    """Its old subscription goes on without it, so what nobody saw between the two is not called complete."""
    assert [(140, 200)] == spans(moved(300), 10, 390)
    assert "moved" in moved(300).lost(10 * SECOND_US, 390 * SECOND_US)[0].reason
    assert [(140, 200)] == spans(moved(300, back_s=250), 10, 390)
    assert not moved(300, back_s=250).doubted("a1", 260 * SECOND_US)


def test_another_source_and_a_connection_that_ended_are_no_move() -> None:
    """Two sources follow a market both; and what ends with its connection was watched until then."""
    assert [] == spans(moved(300, new_source="b"), 10, 390)
    assert [(188, 200)] == spans(moved(190), 10, 390)


def test_a_subscription_that_was_lost_did_not_move() -> None:
    """The gap says exactly when it was; no minute before it is doubted."""
    gap = Gap("g", ("a1",), 195 * SECOND_US, 196 * SECOND_US)

    assert [(193, 200)] == spans(moved(300, gap), 10, 390)


def test_a_doubt_concerns_its_own_subscription() -> None:
    """Another subscription of the same source is not doubted with it."""
    found = Coverage(
        (Watch("a1", "a", 0, END_US), Watch("a2", "a", 0, END_US)), (Doubt("a1", 0, END_US, "g"),), END_US
    )

    assert {"a": [(0, END_US)]} == found.by_source()


parts = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8)


@given(parts)
def test_a_union_holds_what_any_part_holds(some: list[tuple[int, int]]) -> None:
    """Second by second, and its pieces do not touch."""
    found = union(some)

    assert {second for start, end in some for second in range(start, end)} == {
        second for start, end in found for second in range(start, end)
    }
    assert all(one[1] < other[0] for one, other in pairwise(found))


watches = st.lists(
    st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 40), st.integers(0, 40)), max_size=6
)
doubts = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40), st.integers(0, 40)), max_size=6)


@given(watches, doubts, st.integers(0, 45))
def test_lost_is_what_nobody_watched_without_a_doubt(
    watched: list[tuple[str, int, int, int]], doubted: list[tuple[int, int, int]], known: int
) -> None:
    """Second by second, against the plain definition."""
    found = Coverage(
        tuple(Watch(stream, source, start, end) for source, stream, start, end in watched),
        tuple(Doubt(stream, start, end, "g") for stream, start, end in doubted),
        known,
    )

    def covered(second: int) -> bool:
        return any(
            start <= second < end and not any(s == stream and b <= second < e for s, b, e in doubted)
            for _, stream, start, end in watched
        )

    lost = {second for one in found.lost(0, 50) for second in range(one.from_us, one.until_us)}

    assert {second for second in range(50) if not covered(second)} == lost
