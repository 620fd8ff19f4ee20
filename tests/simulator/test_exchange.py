import pytest
from hypothesis import given, strategies as st

from kalshibook.simulator import GRIDS, ExchangeModel, Grid, ModelMarket
from kalshibook.wire import Side


def market(grid: str = "linear_cent") -> ModelMarket:
    return ModelMarket("KXFROG-T40", GRIDS[grid])


def test_changes_add_up() -> None:
    """Levels ascend by price, and one that reaches 0 is gone."""
    one = market()
    assert 4_000 == one.change("yes", one.grid.slot(4_000), 100)
    one.change("yes", one.grid.slot(3_900), 5)
    one.change("yes", one.grid.slot(4_000), -40)
    assert [(3_900, 5), (4_000, 60)] == one.levels("yes")
    one.change("yes", one.grid.slot(4_000), -60)
    assert [(3_900, 5)] == one.levels("yes")


def test_more_than_rests_cannot_be_taken() -> None:
    """An impossible change is an error and changes nothing."""
    one = market()
    one.change("no", 10, 100)
    with pytest.raises(ValueError, match="101 cannot be taken from 100"):
        one.change("no", 10, -101)
    with pytest.raises(ValueError, match="cannot be taken from 0"):
        one.change("no", 11, -1)
    assert [(1_100, 100)] == one.levels("no")


def test_a_bid_that_would_trade_is_refused() -> None:
    """YES at 45 cents and NO at 55 cents sum to a dollar: they would match."""
    one = market()
    one.change("no", one.grid.slot(5_500), 1)
    with pytest.raises(ValueError, match="would trade"):
        one.change("yes", one.grid.slot(4_500), 1)
    one.change("yes", one.grid.slot(4_400), 1)


@pytest.mark.parametrize("slot", [-1, 99])
def test_a_bid_off_the_grid_is_refused(slot: int) -> None:
    """Prices of $0 and $1, and beyond, are on no grid."""
    with pytest.raises((ValueError, IndexError)):
        market().change("yes", slot, 1)


def test_room_is_what_fits_between_the_sides() -> None:
    """Room counts the slots in which a better bid would not trade."""
    one = market()
    assert 99 == one.room("yes")
    one.change("no", one.grid.slot(5_500), 1)
    one.change("yes", one.grid.slot(4_200), 1)
    assert (2, 2) == (one.room("yes"), one.room("no"))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
def test_grids_are_symmetric(grid: Grid) -> None:
    """Slot i and slot n-1-i sum to one dollar, on which the comparison of sides rests."""
    pairs = zip(grid.prices, reversed(grid.prices), strict=True)
    assert {10_000} == {low + high for low, high in pairs}


def test_grids_have_the_documented_sizes() -> None:
    """Interior prices per grid, as computed from the exchange's bands."""
    assert {
        "linear_cent": 99,
        "tapered_deci_cent": 279,
        "deci_cent": 999,
        "center_whole_edge_half_cent": 119,
        "center_whole_edge_quint_cent": 179,
        "center_half_edge_half_cent": 199,
        "center_half_edge_quint_cent": 259,
        "center_half_edge_deci_cent": 359,
        "center_quint_edge_quint_cent": 499,
        "center_quint_edge_deci_cent": 599,
        "center_deci_edge_centi_cent": 1_179,
        "center_centi_edge_centi_cent": 9_999,
    } == {name: len(grid.prices) for name, grid in GRIDS.items()}


def test_a_ticker_is_listed_once() -> None:
    """A second market of the same name is refused; a removed one may come back."""
    exchange = ExchangeModel()
    exchange.add(market())
    with pytest.raises(ValueError, match="listed already"):
        exchange.add(market())
    exchange.remove("KXFROG-T40")
    exchange.add(market())
    assert ["KXFROG-T40"] == [one.ticker for one in exchange]


@given(
    st.lists(
        st.tuples(st.sampled_from(["yes", "no"]), st.integers(0, 98), st.integers(-300, 300)), max_size=200
    )
)
def test_a_model_equals_plain_dicts(operations: list[tuple[Side, int, int]]) -> None:
    """Whatever is tried, the book equals two dicts and is never crossed."""
    one = market()
    plain: dict[Side, dict[int, int]] = {"yes": {}, "no": {}}
    for side, slot, change in operations:
        try:
            one.change(side, slot, change)
        except ValueError:
            continue
        plain[side][slot] = plain[side].get(slot, 0) + change
    for side, sizes in plain.items():
        expected = [((slot + 1) * 100, size) for slot, size in sorted(sizes.items()) if size]
        assert expected == one.levels(side)
    best = [max((price for price, _ in one.levels(side)), default=0) for side in plain]
    assert sum(best) < 10_000
