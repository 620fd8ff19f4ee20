"""Invented markets with the shape of real names: series, event, market."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from kalshibook.simulator.exchange import COMBO_PREFIX, ModelMarket
from kalshibook.simulator.grids import GRIDS

__all__ = ["lasting_combo", "lasting_market", "market_id_of", "ordinal_of", "passing_market"]

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

_SIZES: Final = ("T1.5", "T2.5", "T3.5", "T4.5", "T5.5", "T6.5")

# Series, title, grid, and the markets of one event. Dots in tickers are legal and catch naive patterns.
_SERIES: Final = (
    ("KXFROGCHOIR", "Most frogs in the choir", "linear_cent", ("T20", "T30", "T40", "T50", "T60", "T70")),
    (
        "KXDRIZZLE",
        "Drizzle in millimetres",
        "tapered_deci_cent",
        ("T0.5", "T1.5", "T2.5", "T4.5", "T7.5", "T12.5"),
    ),
    (
        "KXSNAILRACE",
        "Winner of the snail race",
        "linear_cent",
        ("AMBER", "BASIL", "CEDAR", "DUSTY", "EMBER", "FIG"),
    ),
    (
        "KXTEAPRICE",
        "Price of a chest of tea",
        "center_centi_edge_centi_cent",
        ("B90", "B95", "B100", "B105", "B110", "B115"),
    ),
    (
        "KXMOTHCOUNT",
        "Moths at the lantern",
        "tapered_deci_cent",
        ("T100", "T200", "T300", "T400", "T500", "T600"),
    ),
    ("KXOTTERS", "Otters on the bank", "deci_cent", ("T1", "T2", "T3", "T5", "T8", "T13")),
    ("KXHAILSTONE", "Largest hailstone", "center_whole_edge_half_cent", _SIZES),
    ("KXPEBBLE", "Roundest pebble", "center_whole_edge_quint_cent", _SIZES),
    ("KXACORN", "Heaviest acorn", "center_half_edge_half_cent", _SIZES),
    ("KXFERN", "Tallest fern", "center_half_edge_quint_cent", _SIZES),
    ("KXPUDDLE", "Deepest puddle", "center_half_edge_deci_cent", _SIZES),
    ("KXICICLE", "Longest icicle", "center_quint_edge_quint_cent", _SIZES),
    ("KXHEDGEHOG", "Fastest hedgehog", "center_quint_edge_deci_cent", _SIZES),
    ("KXSTORK", "First stork of spring", "center_deci_edge_centi_cent", _SIZES),
)
_RACERS: Final = ("SNAIL", "NEWT", "SLUG", "TOAD", "MOLE", "DUCK", "CRAB", "WORM")


def _stamp(moment: datetime) -> str:
    return f"{moment:%y}{_MONTHS[moment.month - 1]}{moment:%d%H}"


# Odd, so that multiplying by it can be undone: an id is looked up without a table.
_MIX: Final = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835
_UNMIX: Final = pow(_MIX, -1, 1 << 128)
_MASK: Final = (1 << 128) - 1


def market_id_of(ordinal: int) -> str:
    """Return the exchange's other name of a market."""
    digits = f"{(ordinal + 1) * _MIX & _MASK:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def ordinal_of(market_id: str) -> int:
    """
    Return whose id this is; a number that no market has if nobody's.

    Raises:
        ValueError: it is not the text of a UUID.
    """
    if not _UUID.fullmatch(market_id):
        raise ValueError(f"{market_id!r} is no UUID")
    return (int(market_id.replace("-", ""), 16) * _UNMIX & _MASK) - 1


def lasting_market(number: int, start_s: int) -> ModelMarket:
    """Return a market that outlives any run: one of six in an event, one event an hour and series."""
    series, title, grid, members = _SERIES[number % len(_SERIES)]
    place = number // len(_SERIES)
    moment = datetime.fromtimestamp(start_s, UTC) + timedelta(days=60, hours=place // len(members))
    member = members[place % len(members)]
    event = f"{series}-{_stamp(moment)}"
    market = ModelMarket(
        f"{event}-{member}",
        GRIDS[grid],
        event=event,
        series=series,
        title=f"{title}: {member}",
    )
    market.open_s, market.close_s = start_s - 86_400, int(moment.timestamp())
    return market


def lasting_combo(number: int, start_s: int) -> ModelMarket:
    """Return a multivariate market that outlives any run: ten in an event."""
    event_number, member = divmod(number, 10)
    series = f"{COMBO_PREFIX}PONDGAMES"
    event = f"{series}-S{start_s // 86_400 * 4_096 + event_number:09X}"
    market = ModelMarket(
        f"{event}-{member * 0x1357_9BD + 0x2468_ACE & 0xFFF_FFFF:07X}",
        GRIDS["center_deci_edge_centi_cent"],
        event=event,
        series=series,
        title=f"yes {_RACERS[member % 8].title()}, yes {_RACERS[(member + 3) % 8].title()}",
    )
    market.exchange_index = 1
    market.open_s, market.close_s = start_s - 86_400, start_s + 60 * 86_400
    return market


def passing_market(number: int, open_s: int, close_s: int) -> ModelMarket:
    """Return a market of a few minutes, the only one of its event, named after its closing time."""
    lap, racer = divmod(number, len(_RACERS))
    minutes = max(1, (close_s - open_s) // 60)
    series = f"KX{_RACERS[racer]}{lap or ''}X{minutes}M"
    moment = datetime.fromtimestamp(close_s, UTC)
    event = f"{series}-{_stamp(moment)}{moment:%M%S}"
    title = f"{_RACERS[racer].title()} ahead in the next {minutes} minutes?"
    market = ModelMarket(
        f"{event}-{moment:%M}",
        GRIDS["linear_cent"],
        event=event,
        series=series,
        title=title,
    )
    market.open_s, market.close_s = open_s, close_s
    return market
