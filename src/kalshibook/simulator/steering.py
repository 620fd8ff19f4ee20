"""Steering single markets by requests: what `Venue` does by methods, by the name of the action. Pure."""

import msgspec

from kalshibook.simulator.venue import Venue
from kalshibook.wire import Side

__all__ = ["ACTIONS", "Steering", "steer"]

ACTIONS = ("create", "change", "trade", "pause", "resume", "set_close", "close", "delist")
"""What can be done to a market."""


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
    """Of ``create`` and ``set_close``: Unix seconds."""
    grid: str = "linear_cent"
    """Of ``create``."""


def steer(venue: Venue, ticker: str, action: str, order: Steering) -> None:
    """
    Do something to a market.

    Raises:
        KeyError: there is no such market, action or grid.
        ValueError: it cannot be done.
    """
    if action not in ACTIONS:
        raise KeyError(action)
    if action == "create":
        venue.create(ticker, open_s=order.open_s, close_s=order.close_s, grid=order.grid)
        venue.advance(venue.now_us)
    elif action == "change":
        venue.change(ticker, order.side, order.price, order.size)
    elif action == "trade":
        venue.trade(ticker, order.side, order.size)
    elif action == "set_close":
        if order.close_s is None:
            raise ValueError("set_close needs close_s")
        venue.set_close(ticker, order.close_s)
    else:
        {
            "pause": venue.pause,
            "resume": venue.resume,
            "close": venue.close,
            "delist": venue.delist,
        }[action](ticker)
