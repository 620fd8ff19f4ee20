"""Invented markets with the shape of real names: series, event, market."""

from datetime import UTC, datetime, timedelta
from typing import Final

from kalshibook.simulator.exchange import ModelMarket
from kalshibook.simulator.grids import GRIDS

__all__ = ["lasting_market", "passing_market"]

_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")

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
)
_RACERS: Final = ("SNAIL", "NEWT", "SLUG", "TOAD", "MOLE", "DUCK", "CRAB", "WORM")


def _stamp(moment: datetime) -> str:
    return f"{moment:%y}{_MONTHS[moment.month - 1]}{moment:%d%H}"


def lasting_market(number: int, start_s: int, market_id: str) -> ModelMarket:
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
        market_id=market_id,
    )
    market.open_s, market.close_s = start_s - 86_400, int(moment.timestamp())
    return market


def passing_market(number: int, open_s: int, close_s: int, market_id: str) -> ModelMarket:
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
        market_id=market_id,
    )
    market.open_s, market.close_s = open_s, close_s
    return market
