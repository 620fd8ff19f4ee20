from hypothesis import given, strategies as st

from kalshibook.store.directory import Directory

TICKERS = st.text("ABK-1.", min_size=1, max_size=5)


@given(
    st.lists(TICKERS, unique=True),
    st.text("ABK", max_size=2),
    st.text("AB-1", max_size=2),
    TICKERS,
    st.integers(0, 9),
)
def test_search_equals_filtering_a_sorted_list(
    tickers: list[str], prefix: str, contains: str, after: str, limit: int
) -> None:
    """Searching by prefix, part, position and count gives what plain filtering gives."""
    directory = Directory()
    for ticker in tickers:
        directory.add(ticker)
    directory.sorted()
    count = len(tickers) // 2
    expected = [
        ticker
        for ticker in sorted(tickers[:count])
        if ticker.startswith(prefix) and contains in ticker and ticker > after
    ]

    found = directory.search(count=count, prefix=prefix, contains=contains, after=after, limit=limit)

    assert expected[:limit] == found


def test_tickers_added_after_a_search_are_found_by_the_next() -> None:
    """The sorted list follows the table, and a list handed out before does not change."""
    directory = Directory()
    directory.add("B")
    first = directory.sorted()
    directory.add("A")

    assert directory.sorted() == ["A", "B"]
    assert first == ["B"]
    assert directory.number("A") == 1
    assert directory.number("C") is None
