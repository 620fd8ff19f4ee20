"""Routes: the index equals a plain list of selections, after any history."""

from hypothesis import given, strategies as st

from kalshibook.stream.routes import Routes, Selection

TICKERS = ["A", "AB", "ABC", "B", "BC"]


def selection(every: bool, tickers: list[str], prefixes: tuple[str, ...]) -> Selection:
    """Return a selection."""
    made = Selection()
    made.every, made.tickers, made.prefixes = every, dict.fromkeys(tickers), prefixes
    return made


selections = st.builds(
    selection,
    st.booleans(),
    st.lists(st.sampled_from(TICKERS), unique=True),
    st.sampled_from([(), ("A",), ("AB",), ("B",), ("AB", "B")]),
)


@given(st.lists(st.tuples(st.integers(0, 4), selections), max_size=20))
def test_finds_each_subscription_once(history: list[tuple[int, Selection]]) -> None:
    """Whoever selects a market is found once, nobody else is, and an emptied index is empty."""
    routes: Routes[int] = Routes()
    held: dict[int, Selection] = {}
    for who, wanted in history:
        if who in held:
            routes.remove(who, held.pop(who))
        else:
            routes.add(who, wanted)
            held[who] = wanted
        for ticker in TICKERS:
            assert sorted(who for who, found in held.items() if found.has(ticker)) == sorted(
                routes.find(ticker)
            )
        assert len(routes) == sum(
            1 if found.every else len(found.prefixes) + len(found.routed(found.tickers))
            for found in held.values()
        )
        assert {
            who for who, found in held.items() if found.every or found.tickers or found.prefixes
        } == routes.all()
    for who in [*held]:
        routes.remove(who, held.pop(who))
    assert (0, False) == (len(routes), bool(routes))
