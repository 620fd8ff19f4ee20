"""How tops of books look on a terminal: one line each, the same in every command."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from rich.table import Table
from rich.text import Text

from kalshibook.numbers import CENTS_PER_CONTRACT, format_price
from kalshibook.store import Book

__all__ = ["TopLine", "plain_line", "price_text", "size_text", "tops_table"]

ABSENT: Final = "-"
_WIDE: Final = 105
"""Columns of a terminal on which everything fits beside a ticker of usual length."""

_STYLES: Final = {"live": "green", "stale": "bold yellow", "awaiting": "dim", "closed": "dim"}


class TopLine(NamedTuple):
    """What one line shows; prices in $0.0001, sizes in 0.01 contract, None where a side is absent."""

    ticker: str
    yes_bid: int | None
    yes_bid_size: int | None
    yes_ask: int | None
    yes_ask_size: int | None
    condition: str
    status: str | None
    note: str = ""
    """Age, number of updates, or why the book is stale."""

    @classmethod
    def of(cls, book: Book, note: str = "") -> "TopLine":
        """Take the line from a book."""
        bid, ask = book.yes_bid, book.yes_ask
        return cls(
            book.ticker,
            bid.price if bid else None,
            bid.size if bid else None,
            ask.price if ask else None,
            ask.size if ask else None,
            book.condition.value,
            book.market.status,
            note,
        )

    @property
    def spread(self) -> int | None:
        """Ask less bid, $0.0001; None on a one-sided book."""
        return None if self.yes_bid is None or self.yes_ask is None else self.yes_ask - self.yes_bid


def tops_table(lines: Iterable[TopLine], note_name: str, width: int) -> Table:
    """
    Lay tops out as a table for a terminal.

    Args:
        lines: one for each row.
        note_name: what the notes are.
        width: of the terminal; a narrow one is spared what the other columns tell.
    """
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2 if wide else 1, 0, 0))
    # Rich takes missing room from columns that may wrap first. A ticker has no blank to wrap at, so it
    # ends in an ellipsis, and numbers stay whole.
    table.add_column("market", overflow="ellipsis")
    for name in ("bid size", "yes bid", "yes ask", "ask size", *(["spread"] if wide else [])):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("condition", *(["status"] if wide else [])):
        table.add_column(name, no_wrap=True)
    table.add_column(note_name, no_wrap=True, max_width=24 if wide else 12)
    for line in lines:
        spread = [Text(_spread_text(line))] if wide else []
        status = [Text(line.status or ABSENT, style="dim")] if wide else []
        table.add_row(
            Text(line.ticker),
            Text(size_text(line.yes_bid_size), style="dim"),
            Text(price_text(line.yes_bid), style="green"),
            Text(price_text(line.yes_ask), style="red"),
            Text(size_text(line.yes_ask_size), style="dim"),
            *spread,
            Text(line.condition, style=_STYLES.get(line.condition, "")),
            *status,
            Text(line.note, style="dim"),
        )
    return table


def plain_line(line: TopLine) -> str:
    """Write one top for a pipe or a log."""
    bid = f"{price_text(line.yes_bid)} x {size_text(line.yes_bid_size)}"
    ask = f"{price_text(line.yes_ask)} x {size_text(line.yes_ask_size)}"
    return f"{line.ticker}  yes bid {bid}  yes ask {ask}  {line.condition}  {line.note}".rstrip()


def price_text(price: int | None) -> str:
    """Write a price in dollars with the decimals it needs, two at least."""
    if price is None:
        return ABSENT
    text = format_price(price)
    return text[:4] + text[4:].rstrip("0")


def size_text(size: int | None) -> str:
    """Write a count of contracts, with decimals only where there are any."""
    if size is None:
        return ABSENT
    whole, rest = divmod(size, CENTS_PER_CONTRACT)
    return f"{whole:,}.{rest:02d}" if rest else f"{whole:,}"


def _spread_text(line: TopLine) -> str:
    spread = line.spread
    if spread is None:
        return ABSENT
    return price_text(spread) if spread >= 0 else f"-{price_text(-spread)}"
