"""Steering single markets by requests: what `Venue` does by methods, by the name of the action. Pure."""

from collections.abc import Callable, Mapping
from typing import Final, Literal

import msgspec

from kalshibook.simulator.venue import Venue
from kalshibook.wire import Side

__all__ = ["ACTIONS", "Steering", "steer"]


class Steering(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The parameters of all actions; each takes those of the method of its name."""

    side: Side = "yes"
    """Of ``change``: whose bids. Of ``trade``: the taker's."""
    price: int = 0
    """Of ``change``: $0.0001, on the side's scale."""
    size: int = 0
    """Of ``change``, signed, and of ``trade``: 0.01 contract."""
    open_s: int | None = None
    """Of ``create``: Unix seconds."""
    close_s: int | None = None
    """Of ``create``, ``set_close`` and ``reopen``: Unix seconds."""
    grid: str = "linear_cent"
    """Of ``create`` and ``set_grid``."""
    result: Literal["yes", "no"] = "yes"
    """Of ``determine``."""


def _create(venue: Venue, ticker: str, order: Steering) -> None:
    venue.create(ticker, open_s=order.open_s, close_s=order.close_s, grid=order.grid)
    venue.advance(venue.now_us)


def _close_of(order: Steering) -> int:
    if order.close_s is None:
        raise ValueError("close_s is missing")
    return order.close_s


ACTIONS: Final[Mapping[str, Callable[[Venue, str, Steering], object]]] = {
    "create": _create,
    "change": lambda venue, ticker, it: venue.change(ticker, it.side, it.price, it.size),
    "trade": lambda venue, ticker, it: venue.trade(ticker, it.side, it.size),
    "pause": lambda venue, ticker, _: venue.pause(ticker),
    "resume": lambda venue, ticker, _: venue.resume(ticker),
    "set_close": lambda venue, ticker, it: venue.set_close(ticker, _close_of(it)),
    "set_grid": lambda venue, ticker, it: venue.set_grid(ticker, it.grid),
    "close": lambda venue, ticker, _: venue.close(ticker),
    "reopen": lambda venue, ticker, it: venue.reopen(ticker, _close_of(it)),
    "determine": lambda venue, ticker, it: venue.determine(ticker, it.result),
    "dispute": lambda venue, ticker, _: venue.dispute(ticker),
    "delist": lambda venue, ticker, _: venue.delist(ticker),
}
"""What can be done to a market."""


def steer(venue: Venue, ticker: str, action: str, order: Steering) -> None:
    """
    Do something to a market.

    Raises:
        KeyError: there is no such market, action or grid.
        ValueError: it cannot be done.
    """
    ACTIONS[action](venue, ticker, order)
