"""Since when the oldest unread record has been waiting, judged without its producer's clock."""

from hypothesis import given, strategies as st

from kalshibook.feeds.lag import LagClock, LagJudge


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


S = 1_000_000


def test_a_reader_is_late_until_it_has_read_all() -> None:
    """Near the limit is not in time: what is still to be read may be a sign of life."""
    judge = LagJudge(5 * S)
    assert not judge.judge(0, 0)
    assert not judge.judge(5 * S, 1_000 * S)
    assert judge.judge(5 * S + 1, 1_001 * S)
    assert judge.judge(501_000, 1_002 * S)
    assert not judge.judge(499_000, 1_003 * S)


def test_a_start_is_late_until_all_is_read() -> None:
    """What came while much was read is read before the present begins, and once that is so, at once."""
    judge = LagJudge(5 * S)
    assert judge.judge(3 * S, 10 * S)
    assert not judge.judge(0, 11 * S)
    judge.begin()
    assert judge.judge(3 * S, 12 * S)


def test_each_relapse_takes_longer_calm() -> None:
    """Being late is less work than being in time: who is always a little too slow must not come and go."""
    judge = LagJudge(5 * S)
    now = 0
    judge.judge(0, now)
    calms = []
    for _ in range(7):
        now += 20 * S
        assert judge.judge(6 * S, now)
        began = now = now + S
        while judge.judge(0, now):
            now += S
        calms.append((now - began) // S)
    assert [5, 10, 20, 40, 60, 60, 60] == calms
    now += 601 * S
    assert judge.judge(6 * S, now)
    assert not judge.judge(0, now + 1)


def test_calm_is_without_a_break() -> None:
    """A moment of lag begins it anew."""
    judge = LagJudge(5 * S)
    judge.judge(0, 0)
    judge.judge(6 * S, 10 * S)
    for now in (11, 15):
        judge.judge(0, now * S)
    judge.judge(2 * S, 15 * S + 1)
    judge.judge(0, 16 * S)
    assert judge.judge(0, 20 * S)
    assert not judge.judge(0, 21 * S)


def test_without_a_limit_nobody_is_late() -> None:
    """Not at the start, and not ever."""
    judge = LagJudge(0)
    assert not judge.judge(3_600 * S, 0)
    judge.begin()
    assert not judge.judge(3_600 * S, S)
