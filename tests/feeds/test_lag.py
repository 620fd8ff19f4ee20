"""Since when the oldest unread record has been waiting, judged without its producer's clock."""

from hypothesis import given, strategies as st

from kalshibook.feeds.lag import LagClock


def test_nothing_waits_before_an_end_was_seen() -> None:
    """A reader that knows no end claims no lag."""
    assert 0 == LagClock().waiting_us({0: 5}, now_us=9)


def test_a_record_waits_since_its_end_was_seen() -> None:
    """Reading a part of what was there, or what came later in another partition, changes nothing."""
    clock = LagClock()
    clock.ends_are({0: 10, 1: 5}, now_us=100)
    clock.ends_are({0: 20, 1: 9}, now_us=200)

    assert 900 == clock.waiting_us({0: 9, 1: 9}, now_us=1_000)
    assert 800 == clock.waiting_us({0: 10, 1: 9}, now_us=1_000)
    assert 0 == clock.waiting_us({0: 20, 1: 9}, now_us=1_000)


def test_the_same_ends_again_are_no_later_ones() -> None:
    """They are shown ten times a second and are new once a second."""
    clock = LagClock()
    ends = {0: 10}
    clock.ends_are(ends, now_us=100)
    clock.ends_are(ends, now_us=200)

    assert 200 == clock.waiting_us({0: 9}, now_us=300)
    assert 0 == clock.waiting_us({0: 10}, now_us=300)


def test_a_partition_that_is_not_read_does_not_count() -> None:
    """It may have been added a moment ago."""
    clock = LagClock()
    clock.ends_are({0: 10, 7: 3}, now_us=100)

    assert 0 == clock.waiting_us({0: 10}, now_us=300)


def test_a_log_that_was_cut_off_is_not_waited_for() -> None:
    """Offsets that no longer exist are never reached, also where an end was unknown in between."""
    clock = LagClock()
    clock.ends_are({0: 5_000}, now_us=100)
    clock.ends_are({}, now_us=200)
    clock.ends_are({0: 3}, now_us=300)

    assert 0 == clock.waiting_us({0: 3}, now_us=400)


def test_a_clock_that_is_set_back_makes_no_negative_lag() -> None:
    """A caller may have nothing steadier."""
    clock = LagClock()
    clock.ends_are({0: 5}, now_us=100)

    assert 0 == clock.waiting_us({0: 4}, now_us=50)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 60)), min_size=1, max_size=500))
def test_agrees_with_one_that_forgets_nothing(steps: list[tuple[int, int]]) -> None:
    """It never claims more than is true, and of a long lag it knows the time to a few of its sightings."""
    clock = LagClock()
    written: list[int] = []  # when each record was first seen
    read = 0
    for now_us, (more, taken) in enumerate(steps):
        written += [now_us] * more
        clock.ends_are({0: len(written)}, now_us)
        read = min(read + taken, len(written))
        waiting = clock.waiting_us({0: read}, now_us)
        truth = now_us - written[read] if read < len(written) else 0
        assert truth - (16 if now_us > 128 else 0) <= waiting <= truth
