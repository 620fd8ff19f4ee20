"""The collector while servers run."""

import gc

from kalshibook.collecting import served_collector


def test_no_full_pass_comes_by_itself_in_the_block_only() -> None:
    """The threshold of the oldest generation is out of reach inside, and what it was before outside."""
    before = gc.get_threshold()
    with served_collector():
        young, middle, full = gc.get_threshold()
        assert before[:2] == (young, middle)
        assert full > 1_000_000
    assert before == gc.get_threshold()


def test_what_was_filled_is_set_aside_until_the_block_ends() -> None:
    """What lived at the call is in no pass; afterwards it is again, for whoever runs the process on."""
    with served_collector() as filled:
        filled()
        assert gc.get_freeze_count() > 0
    assert 0 == gc.get_freeze_count()
