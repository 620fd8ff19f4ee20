import io

import pytest
from rich.console import Console

from kalshibook.cli.tables import TopLine, plain_line, price_text, size_text, tops_table

FULL = TopLine("KXFROG-T40", 4000, 7550, 4025, 1_234_500, "live", "active", "0.3 s")
ONE_SIDED = TopLine("KXFROG-T41[x]", None, None, 9999, 1, "stale", None, "gap")


@pytest.mark.parametrize(
    ("price", "text"),
    [(None, "-"), (0, "0.00"), (4000, "0.40"), (4010, "0.401"), (1, "0.0001"), (10_000, "1.00")],
)
def test_prices_have_the_decimals_they_need(price: int | None, text: str) -> None:
    """Two decimals at least, no rounding, and an absent side is not 0."""
    assert text == price_text(price)


@pytest.mark.parametrize(("size", "text"), [(None, "-"), (7550, "75.50"), (1_234_500, "12,345"), (1, "0.01")])
def test_sizes_have_decimals_only_if_any(size: int | None, text: str) -> None:
    """Whole contracts are written whole."""
    assert text == size_text(size)


@pytest.mark.parametrize(
    ("bid", "ask", "spread"), [(4000, 4025, 25), (None, 4025, None), (4000, None, None), (60, 50, -10)]
)
def test_spread(bid: int | None, ask: int | None, spread: int | None) -> None:
    """The spread needs both sides; of a crossed book it is negative."""
    assert spread == FULL._replace(yes_bid=bid, yes_ask=ask).spread


def test_plain_line() -> None:
    """A line for a pipe holds everything that the table does."""
    assert plain_line(FULL) == "KXFROG-T40  yes bid 0.40 x 75.50  yes ask 0.4025 x 12,345  live  0.3 s"
    assert plain_line(ONE_SIDED) == "KXFROG-T41[x]  yes bid - x -  yes ask 0.9999 x 0.01  stale  gap"


def test_table() -> None:
    """The table shows both books; brackets in a ticker are text, not markup."""
    out = io.StringIO()
    Console(file=out, width=120).print(tops_table([FULL, ONE_SIDED], "age", 120))

    head, full, one_sided = (line.split() for line in out.getvalue().splitlines())
    assert head[0] == "market"
    assert " ".join(full) == "KXFROG-T40 75.50 0.40 0.4025 12,345 0.0025 live active 0.3 s"
    assert " ".join(one_sided) == "KXFROG-T41[x] - - 0.9999 0.01 - stale - gap"


@pytest.mark.parametrize("width", [80, 105, 120])
def test_table_keeps_its_numbers_whole(width: int) -> None:
    """Where room is short, tickers and reasons are cut, and what follows from other columns is left out."""
    out, reason = io.StringIO(), "gap: 15 came where 12 was expected"
    lines = [FULL._replace(ticker="KXFROG" * 10), FULL._replace(condition="stale", note=reason)]

    Console(file=out, width=width).print(tops_table(lines, "age", width))

    head, long, stale = (line.split() for line in out.getvalue().splitlines())
    assert "condition" in head
    assert ("spread" in head) == ("status" in head) == (width >= 105)
    assert long[0].startswith("KXFROGKXFROG")
    assert long[0].endswith("…")
    assert {"75.50", "0.40", "0.4025", "12,345", "live"} <= set(long)
    assert {"75.50", "0.40", "0.4025", "12,345", "stale", "gap:"} <= set(stale)
