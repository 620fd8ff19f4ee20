import pytest
from hypothesis import given, strategies as st

from kalshibook.store import Book, BookStore, views
from tests.store.builders import TICKER, Script


def make(yes: dict[int, int], no: dict[int, int]) -> Book:
    store = BookStore()
    Script(store).snapshot(yes, no)
    return store.cut()[TICKER]


BOOK = make({4_000: 500, 3_900: 1_000}, {5_500: 300, 5_400: 700})


def test_both_points_of_view_mirror_each_other() -> None:
    """Bids of one outcome are asks of the other at one dollar less."""
    assert [(quote.price, quote.size) for quote in views.bids(BOOK)] == [(4_000, 500), (3_900, 1_000)]
    assert [(quote.price, quote.size) for quote in views.asks(BOOK)] == [(4_500, 300), (4_600, 700)]
    assert [(quote.price, quote.size) for quote in views.asks(BOOK, "no")] == [(6_000, 500), (6_100, 1_000)]
    assert [(quote.price, quote.size) for quote in views.bids(BOOK, "no", depth=1)] == [(5_500, 300)]


def test_spread_mid_and_imbalance_are_whole_numbers() -> None:
    """Spread in $0.0001, mid in $0.00005, imbalance in parts per million; None when a side is missing."""
    assert views.spread(BOOK) == 500
    assert views.mid_half_ticks(BOOK) == 8_500
    assert views.mid_half_ticks(BOOK, "no") == 11_500
    assert views.imbalance_ppm(BOOK) == 250_000
    assert views.imbalance_ppm(BOOK, "no") == -250_000
    one_sided = make({4_000: 5}, {})
    assert views.spread(one_sided) is None
    assert views.mid_half_ticks(one_sided) is None
    assert views.imbalance_ppm(one_sided) == 1_000_000
    assert views.imbalance_ppm(make({}, {})) is None


def test_the_cost_of_a_quantity_walks_the_book() -> None:
    """Buying takes asks from the best on, selling hits bids, and a thin book fills what it has."""
    bought = views.cost_to_buy(BOOK, 500)
    assert (bought.size, bought.micro_dollars, bought.worst_price) == (500, 300 * 4_500 + 200 * 4_600, 4_600)
    sold = views.proceeds_of_sale(BOOK, 5_000)
    assert (sold.size, sold.micro_dollars, sold.worst_price) == (1_500, 500 * 4_000 + 1_000 * 3_900, 3_900)
    nothing = views.cost_to_buy(make({}, {}), 100)
    assert (nothing.size, nothing.micro_dollars, nothing.worst_price) == (0, 0, None)
    with pytest.raises(ValueError, match="negative"):
        views.cost_to_buy(BOOK, -1)
    with pytest.raises(ValueError, match="negative"):
        views.bids(BOOK, depth=-1)


@given(st.integers(0, 2_000))
def test_no_quantity_costs_less_than_at_the_best_price(size: int) -> None:
    """What buying costs lies between the best and the worst price touched."""
    fill = views.cost_to_buy(BOOK, size)

    assert fill.size == min(size, 1_000)
    assert fill.size * 4_500 <= fill.micro_dollars <= fill.size * (fill.worst_price or 0)
