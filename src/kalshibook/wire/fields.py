"""
Pieces that frames of the socket and answers of REST have in common: levels, price ranges, legacy numbers.

Before March 2026 prices came as integers of a cent and counts as integers of a contract.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal

import msgspec
from msgspec import UnsetType

from kalshibook.errors import WireError
from kalshibook.numbers import (
    CENTS_PER_CONTRACT,
    MAX_SIZE,
    ONE_DOLLAR,
    TICKS_PER_CENT,
    known_level_price,
    known_size_change,
    parse_level_price,
    parse_price,
    parse_size,
)
from kalshibook.wire.events import PriceRange, Side
from kalshibook.wire.messages import PriceRangeMessage

__all__ = [
    "read_body",
    "read_cents",
    "read_contracts",
    "read_fixed_levels",
    "read_level_cents",
    "read_levels",
    "read_price_ranges",
    "read_signed_contracts",
    "read_taker",
]


def read_levels(
    pairs: list[tuple[Any, Any]] | None | UnsetType,
    path: str,
    read_price: Callable[[Any, str], int],
    read_size: Callable[[Any, str], int],
) -> tuple[tuple[int, int], ...]:
    """
    Read one side of a book; what is absent is empty, and a size of 0 is no level.

    Raises:
        WireError: a price stands twice, or a number cannot be read.
    """
    if not pairs:
        return ()
    # Without paths first: they are for errors only, and cost as much as all that they lead to.
    try:
        levels = {read_price(price, path): read_size(size, path) for price, size in pairs}
    except WireError:
        levels = {}
    if len(levels) != len(pairs):
        levels = _judge_levels(pairs, path, read_price, read_size)
    return tuple([level for level in levels.items() if level[1]])


def read_fixed_levels(
    pairs: list[tuple[str, str]] | None | UnsetType, path: str
) -> tuple[tuple[int, int], ...]:
    """
    Read one side of a book in fixed-point strings, as `read_levels`.

    Raises:
        WireError: a price stands twice, or a number cannot be read.
    """
    if not pairs:
        return ()
    # By the tables, without a call of Python for a number that is known: a start reads millions of them.
    try:
        levels = {
            known_level_price(price): known_size_change(size) or parse_size(size, path)
            for price, size in pairs
        }
    except WireError:
        return read_levels(pairs, path, parse_level_price, parse_size)
    if len(levels) != len(pairs) or None in levels or min(levels.values()) <= 0:
        return read_levels(pairs, path, parse_level_price, parse_size)
    return tuple(levels.items())  # type: ignore[arg-type]  # no key is None


def _judge_levels(
    pairs: list[tuple[Any, Any]],
    path: str,
    read_price: Callable[[Any, str], int],
    read_size: Callable[[Any, str], int],
) -> dict[int, int]:
    levels: dict[int, int] = {}
    for index, (price_found, size_found) in enumerate(pairs):
        price = read_price(price_found, f"{path}[{index}][0]")
        if price in levels:
            raise WireError(f"{path}[{index}][0]", f"price {price_found!r} stands twice; neither is chosen")
        levels[price] = read_size(size_found, f"{path}[{index}][1]")
    return levels


def read_price_ranges(items: Sequence[PriceRangeMessage], path: str) -> tuple[PriceRange, ...]:
    """Read the bands of a tick grid; markets on one grid share one tuple."""
    return _shared(tuple(_range(item, f"{path}[{index}]") for index, item in enumerate(items)))


# A dozen grids are in use, by a million markets.
@lru_cache(maxsize=256)
def _shared(ranges: tuple[PriceRange, ...]) -> tuple[PriceRange, ...]:
    return ranges


def _range(item: PriceRangeMessage, path: str) -> PriceRange:
    return PriceRange(
        parse_price(item.start, f"{path}.start"),
        parse_price(item.end, f"{path}.end"),
        parse_price(item.step, f"{path}.step"),
    )


def read_cents(found: int, path: str) -> int:
    """Read a price in cents, 0 to 100."""
    if not 0 <= found <= ONE_DOLLAR // TICKS_PER_CENT:
        raise WireError(path, f"{found} is not a price in cents, 0 to 100")
    return found * TICKS_PER_CENT


def read_level_cents(found: int, path: str) -> int:
    """Read the price of a resting level in cents, 1 to 99."""
    price = read_cents(found, path)
    if not 0 < price < ONE_DOLLAR:
        raise WireError(path, f"{found} is not between 0 and 100 cents, where levels rest")
    return price


def read_signed_contracts(found: int, path: str) -> int:
    """Read a signed count of whole contracts."""
    size = found * CENTS_PER_CONTRACT
    if abs(size) > MAX_SIZE:
        raise WireError(path, f"{found} contracts do not fit 64 bits")
    return size


def read_contracts(found: int, path: str) -> int:
    """Read a count of whole contracts that cannot be negative."""
    size = read_signed_contracts(found, path)
    if size < 0:
        raise WireError(path, f"{found} contracts is negative")
    return size


def read_taker(outcome: Side | None, legacy: Side | None, book: Literal["bid", "ask"] | None) -> Side | None:
    """Choose the outcome that a trade's taker ends up long from whichever field is there."""
    if outcome or legacy or book is None:
        return outcome or legacy
    return "yes" if book == "bid" else "no"


def read_body(body: msgspec.Raw, path: str) -> bytes:
    """
    Take a body over as it came.

    Raises:
        WireError: it is not UTF-8.
    """
    # The decoder skips what no field asks for without looking at its encoding; a body goes out to
    # WebSocket clients as text, and one byte that is not UTF-8 would end every one of them.
    raw = bytes(body)
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise WireError(path, f"not UTF-8: {error}") from None
    return raw
