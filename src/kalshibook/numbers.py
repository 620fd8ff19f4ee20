"""
Fixed-point numbers: prices in $0.0001, sizes in 0.01 contract, times in microseconds.

On the wire prices and sizes are decimal strings (Kalshi WebSocket reference, "fixed-point
migration", March 2026); inside they are integers and nothing else. Both directions go through
tables: real traffic repeats few prices and few sizes, and a table look-up is an order of
magnitude cheaper than parsing.
"""

import re
from collections.abc import Callable
from typing import Final

from kalshibook.errors import WireError

__all__ = [
    "CENTS_PER_CONTRACT",
    "MAX_SIZE",
    "ONE_DOLLAR",
    "TICKS_PER_CENT",
    "format_price",
    "format_size",
    "known_level_price",
    "known_size_change",
    "parse_level_price",
    "parse_price",
    "parse_size",
    "parse_size_change",
]

ONE_DOLLAR: Final = 10_000
"""The notional of a binary market, in $0.0001."""

TICKS_PER_CENT: Final = 100
"""$0.0001 per cent."""

CENTS_PER_CONTRACT: Final = 100
"""Hundredths of a contract per contract."""

MAX_SIZE: Final = 2**63 - 1
"""Largest size, in 0.01 contract: what a 64-bit column holds."""

_PRICE = re.compile(r"([0-9]{1,2})(?:\.([0-9]{1,6}))?", re.ASCII)
_SIZE = re.compile(r"(-?)([0-9]{1,18})(?:\.([0-9]{1,2}))?", re.ASCII)

_PRICE_TEXTS: Final = tuple(f"{tick // ONE_DOLLAR}.{tick % ONE_DOLLAR:04d}" for tick in range(ONE_DOLLAR + 1))
_LEVEL_PRICES: Final = {text: tick for tick, text in enumerate(_PRICE_TEXTS) if 0 < tick < ONE_DOLLAR}

# Sizes are unbounded in number, so their table is: it is emptied when full. 2**16 entries
# hold every size that a thousand busy markets repeat, in about 8 MB.
_SIZE_TABLE_LIMIT: Final = 65_536
_PLAIN_DIGITS: Final = 18
_sizes: dict[str, int] = {}

known_level_price: Final[Callable[[object], int | None]] = _LEVEL_PRICES.get  # type: ignore[assignment]
"""Look a level's price up as Kalshi writes it; None means that `parse_level_price` must judge."""

known_size_change: Final[Callable[[object], int | None]] = _sizes.get  # type: ignore[assignment]
"""Look up a signed size read before; None means that `parse_size_change` must read it."""


def parse_price(text: object, path: str = "$") -> int:
    """
    Read a dollar string as an integer of $0.0001, from 0 to 10,000.

    Args:
        text: what the wire carried, for example ``"0.4000"``, ``"0.4"`` or ``"1"``.
        path: where it stood, for the error.

    Raises:
        WireError: not a plain decimal string, finer than $0.0001, or over one dollar.
    """
    if type(text) is not str:
        raise WireError(
            path, f"{text!r} is not a decimal string; prices are quoted, a JSON number loses precision"
        )
    price = _LEVEL_PRICES.get(text)
    if price is not None:
        return price
    match = _PRICE.fullmatch(text)
    if match is None:
        raise WireError(path, f"{text!r} is not a plain decimal of dollars such as '0.4000'")
    whole, fraction = match.groups(default="")
    if fraction[4:].strip("0"):
        raise WireError(path, f"{text!r} is finer than $0.0001; it is not rounded")
    price = int(whole) * ONE_DOLLAR + int(fraction[:4].ljust(4, "0"))
    if price > ONE_DOLLAR:
        raise WireError(path, f"{text!r} is over one dollar")
    return price


def parse_level_price(text: object, path: str = "$") -> int:
    """
    Read the price of a resting level: strictly between $0 and $1, as an integer of $0.0001.

    Raises:
        WireError: as `parse_price`, or the price is $0 or $1, where nothing can rest.
    """
    price = _LEVEL_PRICES.get(text) if type(text) is str else None
    if price is None:
        price = parse_price(text, path)
        if not 0 < price < ONE_DOLLAR:
            raise WireError(path, f"{text!r} is not between $0 and $1, where levels rest")
    return price


def parse_size_change(text: object, path: str = "$") -> int:
    """
    Read a signed count of contracts as an integer of 0.01 contract.

    Raises:
        WireError: not a plain decimal string, finer than 0.01, a signed zero, or beyond 64 bits.
    """
    if type(text) is not str:
        raise WireError(
            path, f"{text!r} is not a decimal string; counts are quoted, a JSON number loses precision"
        )
    known = _sizes.get(text)
    if known is not None:
        return known
    digits = text[:-3] + text[-2:]
    if text[-3:-2] == "." and 3 <= len(digits) <= _PLAIN_DIGITS and digits.isdecimal() and digits.isascii():
        # As nearly all sizes are written, at a third of what the expression takes.
        size = int(digits)
        _remember(text, size)
        return size
    match = _SIZE.fullmatch(text)
    if match is None:
        raise WireError(
            path, f"{text!r} is not a plain decimal of contracts such as '75.50', at most 18 digits long"
        )
    sign, whole, fraction = match.groups(default="")
    size = int(whole) * CENTS_PER_CONTRACT + int(fraction.ljust(2, "0"))
    if size > MAX_SIZE:
        raise WireError(path, f"{text!r} does not fit 64 bits")
    if sign:
        if size == 0:
            raise WireError(path, f"{text!r} is a signed zero")
        size = -size
    _remember(text, size)
    return size


def _remember(text: str, size: int) -> None:
    if len(_sizes) >= _SIZE_TABLE_LIMIT:
        _sizes.clear()
    _sizes[text] = size


def parse_size(text: object, path: str = "$") -> int:
    """
    Read a count of contracts that cannot be negative, as an integer of 0.01 contract.

    Raises:
        WireError: as `parse_size_change`, or negative.
    """
    size = _sizes.get(text) if type(text) is str else None
    if size is None:
        size = parse_size_change(text, path)
    if size < 0:
        raise WireError(path, f"{text!r} is negative")
    return size


def format_price(price: int) -> str:
    """Write a price of $0.0001 as Kalshi does: ``4000`` as ``"0.4000"``."""
    if price < 0:
        raise ValueError(f"price {price} is negative")
    return _PRICE_TEXTS[price]


def format_size(size: int) -> str:
    """Write a size of 0.01 contract as Kalshi does: ``7550`` as ``"75.50"``."""
    if size < 0:
        return f"-{-size // 100}.{-size % 100:02d}"
    return f"{size // 100}.{size % 100:02d}"
