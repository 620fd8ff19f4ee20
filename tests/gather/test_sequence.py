import random

import pytest

from kalshibook.gather.sequence import RULINGS, SequenceWatch, Verdict

NEXT, DUPLICATE, GAP, LATE, RESET = (
    Verdict.NEXT,
    Verdict.DUPLICATE,
    Verdict.GAP,
    Verdict.LATE,
    Verdict.RESET,
)

CASES = [
    ("a quiet stream", [1, 2, 3], [NEXT, NEXT, NEXT], ()),
    ("a frame twice", [1, 2, 2, 3], [NEXT, NEXT, DUPLICATE, NEXT], ()),
    ("one frame lost", [1, 3, 4], [NEXT, GAP, NEXT], ((2, 2),)),
    ("the first frame lost", [3, 4], [GAP, NEXT], ((1, 2),)),
    ("two gaps", [1, 4, 6], [NEXT, GAP, GAP], ((2, 3), (5, 5))),
    ("neighbours change places", [1, 3, 2, 4], [NEXT, GAP, LATE, NEXT], ()),
    ("a late frame in the middle of a gap", [1, 6, 4, 7], [NEXT, GAP, LATE, NEXT], ((2, 3), (5, 5))),
    ("a late frame twice", [1, 3, 2, 2], [NEXT, GAP, LATE, RESET], ()),
    ("a replay", [1, 2, 3, 2], [NEXT, NEXT, NEXT, RESET], ()),
    ("a counter that begins again", [1, 2, 3, 1], [NEXT, NEXT, NEXT, RESET], ()),
    ("a second frame numbered 1", [1, 1], [NEXT, DUPLICATE], ()),
]


@pytest.mark.parametrize(
    ("numbers", "verdicts", "missing"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_verdicts(numbers: list[int], verdicts: list[Verdict], missing: tuple[tuple[int, int], ...]) -> None:
    """Each way in which numbers can go wrong has its own verdict."""
    watch = SequenceWatch()

    assert verdicts == [watch.judge(number) for number in numbers]
    assert missing == watch.missing


def test_what_was_made_good_is_no_longer_missed() -> None:
    """A number of a gap that was healed is a replay when it comes after all."""
    watch = SequenceWatch()
    for number in (1, 4):
        watch.judge(number)
    watch.forget_missing()

    assert RESET == watch.judge(2)


def test_a_frame_without_a_number_moves_nothing() -> None:
    """`ticker` frames have none."""
    watch = SequenceWatch()
    watch.judge(1)

    assert Verdict.UNNUMBERED == watch.judge(None)
    assert 1 == watch.last


def test_every_verdict_has_a_ruling() -> None:
    """Nothing is passed on from a subscription that is broken, and no duplicate ever."""
    assert set(Verdict) == set(RULINGS)
    assert not any(ruling.passes for ruling in RULINGS.values() if ruling.is_broken)
    assert not RULINGS[Verdict.DUPLICATE].stands_alone


def test_no_false_alarm_in_millions_of_messages_and_hundreds_of_connections() -> None:
    """Two million frames on 40 sids, which are used again by 300 connections, are all the next one."""
    source = random.Random(7)
    judged = 0
    for _ in range(300):
        watches = [SequenceWatch() for _ in range(40)]
        numbers = [0] * 40
        for sid in source.choices(range(40), weights=range(1, 41), k=7_000):
            numbers[sid] += 1
            assert watches[sid].judge(numbers[sid]) is NEXT
            judged += 1

    assert 2_100_000 == judged


def test_faults_are_told_apart_as_a_plain_model_does() -> None:
    """A million frames with losses, doubles, swaps and resets get the verdicts of a set of numbers."""
    source = random.Random(11)
    watch, last, missing = SequenceWatch(), 0, set[int]()
    for _ in range(1_000_000):
        roll = source.random()
        if roll < 0.98:
            number = last + 1
        elif roll < 0.985:
            number = last + source.randint(2, 5)
        elif roll < 0.99:
            number = max(last, 1)
        else:
            number = max(last - source.randint(0, 8), 1)
        if number == last + 1:
            expected = NEXT
        elif number > last:
            expected = GAP
            missing.update(range(last + 1, number))
        elif number == last:
            expected = DUPLICATE
        else:
            expected = LATE if number in missing else RESET
            missing.discard(number)
        found = watch.judge(number)
        # The newest gaps are remembered: what is far behind may be called a reset, never the reverse.
        assert found is expected or (found is RESET and number < last - 8)
        last = max(last, number)
        missing = {one for one in missing if one > last - 16} if len(missing) > 100 else missing
