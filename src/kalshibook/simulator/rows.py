"""Pages of markets, written fast: a million markets are listed in a minute, not in ten. Pure."""

import re
from typing import Final, final

import msgspec

from kalshibook.numbers import ONE_DOLLAR, format_price, format_size
from kalshibook.simulator.exchange import ExchangeModel, ModelMarket
from kalshibook.simulator.listing import Page
from kalshibook.simulator.shapes import market_shape

__all__ = ["RowWriter"]

_encode = msgspec.json.Encoder().encode

# What differs from one quiet market to the next of the same kind, by the key it stands under.
_NAMES: Final = (
    "ticker",
    "event_ticker",
    "title",
    "subtitle",
    "yes_sub_title",
    "no_sub_title",
    "rules_primary",
)
_QUOTES: Final = (
    "yes_bid_dollars",
    "yes_bid_size_fp",
    "yes_ask_dollars",
    "yes_ask_size_fp",
    "no_bid_dollars",
    "no_ask_dollars",
)
_VARIABLE = re.compile(rf'"({"|".join((*_NAMES, *_QUOTES, "mve_collection_ticker"))})":"[^"]*"')


@final
class RowWriter:
    """
    Writes pages of one exchange's markets.

    Quiet markets are alike but for names and quotes: each kind has a template, cut from the shape that
    `market_shape` gives any market, so that the two cannot differ.
    """

    def __init__(self, model: ExchangeModel) -> None:
        self._model = model
        self._templates: dict[tuple[str, bool], str] = {}

    def page(self, page: Page) -> bytes:
        """Write a page."""
        rows = ",".join(self._row(market) for market in page.markets)
        return b'{"markets":[%b],"cursor":"%b"}' % (rows.encode(), page.cursor.encode())

    def _row(self, market: ModelMarket | int) -> str:
        return self._quiet_row(market) if isinstance(market, int) else _encode(market_shape(market)).decode()

    def _quiet_row(self, ordinal: int) -> str:
        quiet = self._model.quiet
        assert quiet is not None
        series, event, ticker = quiet.names(ordinal)
        (bid, bid_size), (no_bid, ask_size) = quiet.tops(ordinal)
        title, label = quiet.title(ordinal), ticker.rpartition("-")[2]
        return self._template(ordinal) % {
            "ticker": ticker,
            "event_ticker": event,
            "title": title,
            "subtitle": label,
            "yes_sub_title": label,
            "no_sub_title": label,
            "rules_primary": f"Resolves to yes if: {title}",
            "mve_collection_ticker": series,
            "yes_bid_dollars": format_price(bid),
            "yes_bid_size_fp": format_size(bid_size),
            "yes_ask_dollars": format_price(ONE_DOLLAR - no_bid),
            "yes_ask_size_fp": format_size(ask_size),
            "no_bid_dollars": format_price(no_bid),
            "no_ask_dollars": format_price(ONE_DOLLAR - bid),
        }

    def _template(self, ordinal: int) -> str:
        quiet = self._model.quiet
        assert quiet is not None
        kind = quiet.kind(ordinal)
        template = self._templates.get(kind)
        if template is None:
            text = _encode(market_shape(quiet.bare(ordinal))).decode().replace("%", "%%")
            template = self._templates[kind] = _VARIABLE.sub(r'"\1":"%(\1)s"', text)
        return template
