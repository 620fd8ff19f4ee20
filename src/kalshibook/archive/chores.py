"""
What the deduplicator does beside merging: it judges gaps, fetches missing trades and descriptions.

In a thread of its own with a connection of its own, so that a slow exchange never holds up the merging.
A failure is counted and logged, and the next pass tries again.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias, final

import msgspec
import psycopg

from kalshibook.archive.database import parsed
from kalshibook.archive.describing import describe_events, describe_markets, describe_series
from kalshibook.archive.exchange import Exchange
from kalshibook.archive.judging import judge
from kalshibook.errors import KalshiBookError

__all__ = ["ChoreCounts", "Chores"]

_log = logging.getLogger(__name__)

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_JUDGE_EVERY_S: Final = 30.0
_FULL_EVERY_S: Final = 86_400.0
_OVERLAP_S: Final = 60


class ChoreCounts(msgspec.Struct):
    """Counts since the start."""

    gaps: dict[str, int] = {}
    """By outcome."""
    backfilled_trades: int = 0
    described: dict[str, int] = {}
    """New states, by table."""
    failures: dict[str, int] = {}
    """By chore."""


@final
class Chores:
    """
    Passes over the ledger and the exchange's lists.

    Args:
        production: address of the database.
        exchange: makes a client of the exchange, or None where none may be asked.
        refresh_s: between two passes over the lists; 0 for none.
        settle_s: how long after its healing a gap is judged.
        clock_s: Unix time.
    """

    def __init__(
        self,
        production: str,
        exchange: Callable[[], Exchange] | None,
        *,
        refresh_s: float = 300.0,
        settle_s: float = 300.0,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self.counts: Final = ChoreCounts()
        self._production = production
        self._exchange = exchange
        self._refresh_s = refresh_s
        self._settle_s = settle_s
        self._clock_s = clock_s
        self._refresh_at_s = 0.0
        self._full_at_s = 0.0
        self._listed_s: int | None = None

    def run(self, stop: threading.Event) -> None:
        """Do what is due, until `stop` is set."""
        while not stop.is_set():
            self.once()
            stop.wait(min(_JUDGE_EVERY_S, self._refresh_s or _JUDGE_EVERY_S))

    def once(self) -> None:
        """Do what is due now."""
        self._do("gaps", self.judge)
        now_s = self._clock_s()
        if self._exchange is not None and self._refresh_s and now_s >= self._refresh_at_s:
            self._refresh_at_s = now_s + self._refresh_s
            self._do("lists", self.describe)

    def judge(self) -> None:
        """Judge the gaps that have settled."""
        with psycopg.connect(parsed(self._production), autocommit=True) as connection:
            if self._exchange is None:
                self._count(connection, None)
            else:
                with self._exchange() as exchange:
                    self._count(connection, exchange)

    def describe(self) -> None:
        """Take over series, events and markets; once a day all markets, else those that changed."""
        assert self._exchange is not None
        now_s = self._clock_s()
        since_s = None if now_s >= self._full_at_s else self._listed_s
        with (
            psycopg.connect(parsed(self._production), autocommit=True) as connection,
            self._exchange() as exchange,
        ):
            passes = (
                ("series", describe_series(connection, exchange.series(), clock_us=self._clock_us)),
                ("events", describe_events(connection, exchange.events(), clock_us=self._clock_us)),
                (
                    "markets",
                    describe_markets(
                        connection, exchange.markets(updated_since_s=since_s), clock_us=self._clock_us
                    ),
                ),
            )
        for table, done in passes:
            self.counts.described[table] = self.counts.described.get(table, 0) + done.changed
            if done.rejected:
                _log.warning("%d of %d %s cannot be read", done.rejected, done.rejected + done.seen, table)
        # Only after all went well: what was missed is asked for again.
        self._listed_s = int(now_s) - _OVERLAP_S
        if since_s is None:
            self._full_at_s = now_s + _FULL_EVERY_S

    def _count(self, connection: Connection, exchange: Exchange | None) -> None:
        for judged in judge(connection, exchange, settle_s=self._settle_s, clock_us=self._clock_us):
            self.counts.gaps[judged.outcome] = self.counts.gaps.get(judged.outcome, 0) + 1
            self.counts.backfilled_trades += judged.trades

    def _clock_us(self) -> int:
        return int(self._clock_s() * 1_000_000)

    def _do(self, chore: str, work: Callable[[], None]) -> None:
        try:
            work()
        except (KalshiBookError, psycopg.Error) as error:
            self.counts.failures[chore] = self.counts.failures.get(chore, 0) + 1
            _log.warning("the pass over %s failed and is tried again: %s", chore, error)
