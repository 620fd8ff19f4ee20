import random

import pytest
from hypothesis import given, settings, strategies as st

from kalshibook.store import EMPTY_LADDER, ImpossibleChange, Ladder, Stamps
from tests.store.builders import STAMPS, levels

# Kalshi's tick grids as bands of (end, step) in $0.0001.
GRIDS = {
    "linear_cent": [(10_000, 100)],
    "tapered_deci_cent": [(1_000, 10), (9_000, 100), (10_000, 10)],
    "deci_cent": [(10_000, 10)],
    "center_whole_edge_half_cent": [(1_000, 50), (9_000, 100), (10_000, 50)],
    "center_whole_edge_quint_cent": [(1_000, 20), (9_000, 100), (10_000, 20)],
    "center_half_edge_half_cent": [(10_000, 50)],
    "center_half_edge_quint_cent": [(1_000, 20), (9_000, 50), (10_000, 20)],
    "center_half_edge_deci_cent": [(1_000, 10), (9_000, 50), (10_000, 10)],
    "center_quint_edge_quint_cent": [(10_000, 20)],
    "center_quint_edge_deci_cent": [(1_000, 10), (9_000, 20), (10_000, 10)],
    "center_deci_edge_centi_cent": [(100, 1), (9_900, 10), (10_000, 1)],
    "center_centi_edge_centi_cent": [(10_000, 1)],
}


def prices_of(bands: list[tuple[int, int]]) -> list[int]:
    prices: list[int] = []
    start = 0
    for end, step in bands:
        prices.extend(range(start + step, end + 1, step))
        start = end
    return prices[:-1]


@pytest.mark.parametrize("grid", GRIDS)
def test_a_million_random_changes_equal_a_plain_dict(grid: str) -> None:
    """A ladder equals a dict after any history of changes, impossible ones included."""
    source = random.Random(grid)
    prices = prices_of(GRIDS[grid])
    model: dict[int, int] = {}
    ladder = EMPTY_LADDER
    rounds, between = 40, 25_000
    for _ in range(rounds):
        # Each round works on another stretch of the grid, so that ladders fill, move and drain.
        stretch = source.sample(prices, source.choice([1, 3, 20, 60, len(prices)]) % (len(prices) + 1) or 1)
        drawn = zip(source.choices(stretch, k=between), source.choices(range(7), k=between), strict=True)
        for price, kind in drawn:
            held = model.get(price, 0)
            change = (100, 1, -held, -1, 2_500, -held - 1, 0)[kind]
            if held + change < 0:
                # Not by `pytest.raises`, which costs more than all else here.
                try:
                    ladder.changed(price, change, STAMPS)
                except ImpossibleChange as found:
                    assert held == found.resting  # noqa: PT017
                    continue
                pytest.fail(f"{change} of {held} was taken")
            ladder = ladder.changed(price, change, STAMPS)
            model[price] = held + change
            if not model[price]:
                del model[price]
            best = ladder.best
            if best is not None and best.price == price:
                assert model[price] == best.size
        assert model == levels(ladder)
        assert sorted(model, reverse=True) == [level.price for level in ladder]
        assert max(model, default=None) == (ladder.best.price if ladder.best else None)
        assert len(model) == len(ladder)
        assert bool(model) is bool(ladder)
        assert all(ladder.at(price) is not None for price in model)


SIZES = st.integers(1, 2**63 - 1)


@given(st.dictionaries(st.integers(1, 9_999), SIZES, max_size=60))
def test_a_replaced_ladder_holds_exactly_what_it_was_given(given_levels: dict[int, int]) -> None:
    """A ladder made from a snapshot holds its levels and no other, best first."""
    ladder = EMPTY_LADDER.replaced(given_levels.items(), STAMPS)

    assert sorted(given_levels.items(), reverse=True) == [(level.price, level.size) for level in ladder]
    assert all(given_levels[price] == level.size for price in given_levels if (level := ladder.at(price)))


@given(
    st.dictionaries(st.integers(1, 9_999), SIZES, min_size=1, max_size=20),
    st.integers(1, 9_999),
    st.integers(1, 10_000),
)
@settings(max_examples=300)
def test_a_change_moves_the_stamps_of_its_level_only(held: dict[int, int], price: int, change: int) -> None:
    """A change stamps its own level, keeps every other level object, and leaves the old ladder alone."""
    before = EMPTY_LADDER.replaced(held.items(), STAMPS)
    stamps = Stamps(None, None, None, None, None, 7)

    after = before.changed(price, change, stamps)

    assert held == levels(before)
    for level in after:
        if level.price == price:
            assert stamps is level.stamps
        else:
            assert before.at(level.price) is level


def test_a_finer_price_refines_the_grid_and_keeps_every_level() -> None:
    """A ladder on cents takes a tenth and a hundredth of a cent and forgets nothing."""
    ladder = EMPTY_LADDER.replaced([(100, 1), (9_900, 2)], STAMPS)
    assert ladder.step == 100

    ladder = ladder.changed(1_230, 5, STAMPS)
    assert ladder.step == 10
    ladder = ladder.changed(4, 6, STAMPS)

    assert ladder.step == 1
    assert levels(ladder) == {4: 6, 100: 1, 1_230: 5, 9_900: 2}


def test_a_delta_of_zero_returns_the_identical_ladder() -> None:
    """A change of 0 makes no level and no new ladder, on the grid and off it."""
    ladder = EMPTY_LADDER.replaced([(4_000, 10)], STAMPS)

    assert ladder.changed(4_000, 0, STAMPS) is ladder
    assert ladder.changed(4_100, 0, STAMPS) is ladder
    assert ladder.changed(4_101, 0, STAMPS) is ladder


@pytest.mark.parametrize(("price", "change", "resting"), [(4_000, -11, 10), (4_100, -1, 0), (4_101, -1, 0)])
def test_taking_more_than_rests_is_impossible(price: int, change: int, resting: int) -> None:
    """A change below zero is refused with what rests, and never clamps."""
    ladder = EMPTY_LADDER.replaced([(4_000, 10)], STAMPS)

    with pytest.raises(ImpossibleChange) as found:
        ladder.changed(price, change, STAMPS)

    assert resting == found.value.resting
    assert levels(ladder) == {4_000: 10}


def test_an_off_grid_price_is_not_found() -> None:
    """Looking for a price between the slots of the grid finds nothing."""
    ladder: Ladder = EMPTY_LADDER.replaced([(4_000, 10)], STAMPS)

    assert ladder.at(4_001) is None
    assert ladder.at(4_100) is None
