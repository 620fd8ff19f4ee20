"""Which share of what is known each source saw, by market and hour."""

from typing import Any, Final, NamedTuple

import psycopg

__all__ = ["Share", "completeness"]


class Share(NamedTuple):
    """One hour, of one market or of all."""

    ticker: str
    """Empty where all markets are taken together."""
    hour_us: int
    """Its begin."""
    events: int
    """Changes that are known, by whomever they were seen."""
    seen: dict[str, int]
    """Source to how many of them it saw; a source that saw none is there with 0."""

    def share(self, source: str) -> float:
        """Return the part that a source saw, 0 to 1."""
        return self.seen[source] / self.events


def completeness(
    connection: psycopg.Connection[tuple[Any, ...]],
    from_us: int,
    until_us: int,
    *,
    ticker: str | None = None,
    by_market: bool = False,
) -> list[Share]:
    """
    Return the shares of every hour in which anything happened, by time and market.

    Args:
        connection: production.
        from_us: begin.
        until_us: end, exclusive.
        ticker: of this market only.
        by_market: whether markets are told apart.
    """
    names: dict[int, str] = dict(connection.execute("SELECT source_id, name FROM sources").fetchall())
    found: dict[tuple[str, int], tuple[int, dict[str, int]]] = {}
    rows = connection.execute(
        _SHARES,
        {"from": from_us, "until": until_us, "ticker": ticker, "by_market": by_market or ticker is not None},
    )
    for market, hour_us, bits, events in rows:
        total, seen = found.get((market, hour_us), (0, dict.fromkeys(names.values(), 0)))
        for source_id, name in names.items():
            if bits >> (source_id - 1) & 1:
                seen[name] += events
        found[market, hour_us] = (total + events, seen)
    return [Share(market, hour_us, *found[market, hour_us]) for market, hour_us in found]


# Grouped by the set of sources first: there are few of them.
_SHARES: Final = """
    SELECT
        CASE WHEN %(by_market)s THEN t.ticker ELSE '' END AS market,
        (extract(epoch FROM date_bin('1 hour', t.exchange_at, 'epoch')) * 1000000)::bigint AS hour_us,
        t.sources, count(*)
    FROM orderbook_deltas AS t
    WHERE t.exchange_at >= timestamptz 'epoch' + %(from)s * interval '1 microsecond'
        AND t.exchange_at < timestamptz 'epoch' + %(until)s * interval '1 microsecond'
        AND (%(ticker)s::text IS NULL OR t.ticker = %(ticker)s)
    GROUP BY market, hour_us, t.sources
    ORDER BY hour_us, market
"""
