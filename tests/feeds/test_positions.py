import random

import pytest
from hypothesis import given, strategies as st

from kalshibook.feeds.positions import (
    Bounds,
    Positions,
    start_at_beginning,
    start_at_offsets,
    start_at_time,
    without_hole,
    without_strangers,
)

BOUNDS = {0: Bounds(5, 20), 1: Bounds(0, 0), 2: Bounds(30, 30)}


class TestStart:
    def test_at_beginning(self) -> None:
        """The beginning is the oldest record that is kept."""
        assert {0: 5, 1: 0, 2: 30} == start_at_beginning(BOUNDS).offsets

    def test_at_time(self) -> None:
        """A partition with no record so young begins at its end, when the broker can tell."""
        start = start_at_time(BOUNDS | {3: Bounds(0, 9)}, {0: 12, 1: -1, 2: -1, 3: -1}, {0: 5, 3: 0}, 60)

        assert {0: 12, 1: 0, 2: 30, 3: 9} == start.offsets
        assert "from 60 minutes ago" == start.note

    def test_beyond_what_was_consumed_before(self) -> None:
        """What lies between an earlier reading's end and the start is lost; what is read again is not."""
        start = without_hole(start_at_beginning(BOUNDS), {0: 4, 1: 3, 7: 1})

        assert {0: "offsets 4 to 5 of partition 0 were not read"} == start.overtaken
        assert {} == without_hole(start_at_beginning(BOUNDS), {0: 5, 2: 31}).overtaken

    def test_at_time_without_search(self) -> None:
        """A broker that does not find even its oldest record cannot search: all of it is read."""
        unknown = dict.fromkeys(BOUNDS, -1)
        start = start_at_time(BOUNDS, unknown, unknown, 60)

        assert {0: 5, 1: 0, 2: 30} == start.offsets
        assert "cannot search by time" in start.note

    @pytest.mark.parametrize(
        ("wanted", "offset", "is_overtaken"),
        [(4, 5, True), (5, 5, False), (13, 13, False), (20, 20, False), (21, 5, True)],
    )
    def test_at_offsets(self, wanted: int, offset: int, is_overtaken: bool) -> None:
        """An offset that is kept, or the next one, is taken; any other is a loss and means the beginning."""
        start = start_at_offsets(BOUNDS, {0: wanted})

        assert {0: offset, 1: 0, 2: 30} == start.offsets
        assert ({0} if is_overtaken else set()) == start.overtaken.keys()
        assert all(f"offset {wanted}" in reason for reason in start.overtaken.values())

    @pytest.mark.parametrize(
        ("younger", "offset"),
        [(-1, 13), (13, 13), (19, 13), (12, 5), (5, 5)],
        ids=["none", "next", "later", "before", "first"],
    )
    def test_at_offsets_of_a_topic_that_was_made_anew(self, younger: int, offset: int) -> None:
        """No record before a checkpoint is younger; where one is, the offset is another topic's."""
        wanted = {0: 13}
        start = without_strangers(start_at_offsets(BOUNDS, wanted), wanted, {0: younger, 2: 1}, BOUNDS)

        assert {0: offset, 1: 0, 2: 30} == start.offsets
        assert (offset == 5) == ("the topic was made anew" in start.overtaken.get(0, ""))

    def test_at_offsets_of_a_broker_that_is_unsure(self) -> None:
        """Where beginning and end are the same, nothing is given up: the first fetch will tell."""
        start = start_at_offsets(BOUNDS, {2: 29})

        assert (29, {}) == (start.offsets[2], start.overtaken)


def positions_at(offsets: dict[int, int]) -> Positions:
    """Return positions that have begun."""
    positions = Positions()
    positions.begin(offsets, BOUNDS)
    return positions


class TestPositions:
    def test_nothing_has_caught_up_before_the_start(self) -> None:
        """A feed that knows no partition yet is not ready."""
        assert not Positions().caught_up

    def test_empty_partitions_have_caught_up(self) -> None:
        """Where nothing is to be read, nothing is waited for."""
        assert positions_at({1: 0, 2: 30}).caught_up

    def test_catches_up_by_offset(self) -> None:
        """The record before the end seen at the start is the last to wait for."""
        positions = positions_at({0: 5, 1: 0})
        positions.consumed({0: 19})
        assert not positions.caught_up
        positions.consumed({0: 20})

        assert positions.caught_up

    def test_catches_up_by_the_end(self) -> None:
        """A partition whose last offsets carry no record has caught up when the broker says so."""
        positions = positions_at({0: 5})
        positions.consumed({0: 17})
        positions.end_reached(0, 20)

        assert positions.caught_up
        assert {0: 20} == positions.next_offsets

    def test_an_added_partition_undoes_nothing(self) -> None:
        """A partition that appears later is read from its beginning and does not take readiness away."""
        positions = positions_at({1: 0})
        positions.add(3)
        positions.consumed({3: 4})

        assert positions.caught_up
        assert {1: 0, 3: 4} == positions.next_offsets

    def test_a_restarted_partition_waits_for_the_end(self) -> None:
        """After a loss only the broker's word ends catching up: the old end means nothing."""
        positions = positions_at({0: 20})
        positions.restart(0)
        positions.consumed({0: 25})
        assert not positions.caught_up
        positions.end_reached(0, 26)

        assert positions.caught_up

    def test_lag(self) -> None:
        """The lag counts from the newest end known, and never below the position."""
        positions = positions_at({0: 5, 1: 0})
        positions.ends_at({0: 30, 9: 1})
        assert [25, 0] == [one.lag for one in positions.health()]
        positions.consumed({0: 31})

        assert [0, 0] == [one.lag for one in positions.health()]
        assert [31, 0] == [one.end_offset for one in positions.health()]

    @given(
        st.dictionaries(st.integers(0, 5), st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1),
        st.randoms(),
    )
    def test_is_ready_exactly_when_all_is_read(
        self, partitions: dict[int, tuple[int, int]], choice: random.Random
    ) -> None:
        """In whatever order records come, readiness comes with the last of them and not before."""
        bounds = {number: Bounds(low, low + count) for number, (low, count) in partitions.items()}
        records = [
            (number, offset) for number, kept in bounds.items() for offset in range(kept.low, kept.high)
        ]
        choice.shuffle(records)
        # Within a partition the order is Kafka's.
        ordered = {number: iter(range(*kept)) for number, kept in bounds.items()}
        positions = Positions()
        positions.begin(start_at_beginning(bounds).offsets, bounds)
        for number, _ in records:
            assert not positions.caught_up
            positions.consumed({number: next(ordered[number]) + 1})

        assert positions.caught_up
