"""
The simulated exchange without its sockets: true books, what happens to them, and who is told. Pure.

Everything happens in `advance`, in `Session.receive` and in the methods that steer a market, all on
one thread; between two calls the books, the numbers and the queues fit together. So a book read
between them is exactly what the frames queued so far add up to.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Final, final

import msgspec

from kalshibook.numbers import ONE_DOLLAR
from kalshibook.simulator.activity import BookActivity, Step
from kalshibook.simulator.exchange import ExchangeModel, ModelMarket, Status
from kalshibook.simulator.faults import FaultInjector
from kalshibook.simulator.frames import delta_tail, message_tail, snapshot_tail, trade_tail
from kalshibook.simulator.grids import GRIDS
from kalshibook.simulator.ledger import Fault, FaultKind, FaultLedger
from kalshibook.simulator.lives import MarketLives
from kalshibook.simulator.options import SimulatorOptions
from kalshibook.simulator.playback import Playback
from kalshibook.simulator.quiet import QuietPond
from kalshibook.simulator.routing import Routing
from kalshibook.simulator.session import Session
from kalshibook.simulator.subscription import Subscription
from kalshibook.simulator.told import created_fields, event_fields, ticker_fields
from kalshibook.simulator.truth import TrueBook, Truth, checksum_of
from kalshibook.stream.channels import Code, Refused
from kalshibook.wire import Side

__all__ = ["TradeRecord", "Venue"]

_OPENING_DELTA: Final = b'{"type":"orderbook_delta"'
_OPENING_TRADE: Final = b'{"type":"trade"'
_OPENING_TICKER: Final = b'{"type":"ticker"'
_OPENING_LIFECYCLE: Final = b'{"type":"market_lifecycle_v2"'
_OPENING_COMBO: Final = b'{"type":"multivariate_market_lifecycle"'
_OPENING_EVENT: Final = b'{"type":"event_lifecycle"'
_KEPT_TRADES: Final = 100_000
_SECOND_US: Final = 1_000_000


class TradeRecord(msgspec.Struct, frozen=True):
    """One trade, for the tape that REST shows."""

    number: int
    trade_id: str
    ticker: str
    yes_price: int
    size: int
    taker: Side
    time_us: int


@final
class Venue:
    """All of a simulated exchange that needs neither a socket nor a clock."""

    def __init__(self, options: SimulatorOptions, *, start_us: int) -> None:
        """
        Make the markets; their books are filled at once.

        Args:
            options: what it is like.
            start_us: what its clock shows now, microseconds since the epoch.
        """
        self.options = options
        self.start_us: Final = start_us
        self.ledger = FaultLedger()
        self.sessions: dict[int, Session] = {}
        """Connections by their number."""
        self.depth: Routing[Subscription] = Routing()
        self.tickers: Routing[Subscription] = Routing()
        self.trades: Routing[Subscription] = Routing()
        self.lifecycles: Routing[Subscription] = Routing()
        self.combos: Routing[Subscription] = Routing()
        self.tape: deque[TradeRecord] = deque(maxlen=_KEPT_TRADES)
        """The latest trades."""
        self.refusals: deque[Fault] = deque()
        """Faults that the next commands are refused with."""
        quiet = None
        if options.quiet_markets:
            quiet = QuietPond(options.quiet_markets, options.combos, options.seed, start_us // _SECOND_US)
        self.model: Final = ExchangeModel(quiet)
        self.is_frozen = False
        """Whether nothing happens to any market."""
        self._numbers = count(1)
        self._trade_numbers = count(1)
        self._dirty: dict[str, ModelMarket] = {}
        self._events: set[str] = set()
        self._quiet_sum = 0
        self._reckoned = 0
        self.lives: Final = MarketLives(
            options.generator(), self.model, self, start_us=start_us, is_empty=not options.markets
        )
        self.faults: Final = FaultInjector(self)
        self.advance(start_us)

    @property
    def now_us(self) -> int:
        """The exchange's clock, as of the last `advance`."""
        return self.lives.now_us

    def advance(self, until_us: int, *, most: int | None = None) -> bool:
        """
        Let happen what is due.

        Args:
            until_us: the time that it becomes.
            most: stop after about so many changes, with the clock at the last one.

        Returns:
            Whether all of it happened.
        """
        lives, faults = self.lives, self.faults
        limit = None if most is None else lives.steps + most
        while self.next_us <= until_us:
            if faults.next_us <= lives.next_us or self.is_frozen:
                lives.now_us = max(lives.now_us, faults.next_us)
                faults.run_timer()
                continue
            lives.run()
            if self._dirty:
                self._tell_tickers()
            if lives.steps >= faults.next_step:
                faults.step()
            if limit is not None and lives.steps >= limit:
                return False
        lives.now_us = max(lives.now_us, until_us)
        return True

    @property
    def next_us(self) -> int:
        """When something happens next."""
        if self.is_frozen:
            return self.faults.next_us
        return min(self.lives.next_us, self.faults.next_us)

    def freeze(self) -> None:
        """
        Let nothing happen to any market until `thaw`, so that everybody can catch up and compare.

        What lasts of faults ends, commands are carried out, and what is steered by hand happens.
        """
        self.faults.finish()
        self.is_frozen = True

    def thaw(self) -> None:
        """Go on; a market whose close time has passed meanwhile closes now."""
        self.is_frozen = False

    # Connections.

    def connect(self, *, user: str = "", peer: str = "") -> Session:
        """Begin a connection."""
        session = Session(self, next(self._numbers), user=user, peer=peer)
        self.sessions[session.number] = session
        return session

    def disconnect(self, session: Session) -> None:
        """Forget a connection, and where its subscriptions stood."""
        if self.sessions.pop(session.number, None) is not None:
            session.leave()

    def connections_of(self, user: str) -> int:
        """Count a user's connections."""
        return sum(session.user == user for session in self.sessions.values())

    @property
    def routes(self) -> int:
        """How many routes lead to somebody; 0 when nobody is connected."""
        return sum(
            len(routing) for routing in (self.depth, self.tickers, self.trades, self.lifecycles, self.combos)
        )

    def is_listed(self, ticker: str) -> bool:
        """Tell whether there is such a market."""
        return ticker in self.model

    def ticker_at(self, ordinal: int) -> str | None:
        """Return the ticker of a market by its place in the lists."""
        market = self.model.at(ordinal)
        return None if market is None else market.ticker

    def snapshot_tail(self, ticker: str, *, yes_scale: bool) -> bytes | None:
        """Write a book as it is now; None if there is no such market."""
        market = self.model.get(ticker)
        if market is None:
            return None
        no = market.levels("no")
        if yes_scale:
            no = [(ONE_DOLLAR - price, size) for price, size in no]
        ts_ms = self.now_us // 1_000
        return snapshot_tail(ticker, market.levels("yes"), no, ts_ms=ts_ms, market_id=market.market_id)

    def ticker_tail(self, ticker: str) -> bytes | None:
        """Write a market's ticker message as it is now."""
        market = self.model.get(ticker)
        return None if market is None else self._ticker_tail(market)

    def refusal_of(self, session: Session, tickers: Sequence[str]) -> Refused | None:
        """Take the refusal that this command shall get by way of a fault, if it shall."""
        for fault in self.refusals:
            if fault.connection not in (None, session.number):
                continue
            if fault.kind is FaultKind.MARKET_LIMIT and not tickers:
                continue
            self.refusals.remove(fault)
            fault.connection, fault.peer, fault.user = session.number, session.peer, session.user
            fault.tickers = [*tickers]
            self.ledger.happened(fault, self.now_us)
            fault.exposed_us = self.now_us
            return Refused(Code.MARKET_LIMIT if fault.kind is FaultKind.MARKET_LIMIT else Code.TIMEOUT)
        return None

    # What happens, told by the courses of the markets.

    def created(self, market: ModelMarket) -> None:
        """Hear of a new market."""
        if market.event not in self._events:
            self._events.add(market.event)
            self._tell_lifecycle(market, event_fields(market), _OPENING_EVENT)
        self.told(market, "created", created_fields(market))

    def opened(self, market: ModelMarket, steps: Sequence[Step]) -> None:
        """See an empty book filled."""
        for step in steps:
            self.changed(market, step)

    def changed(self, market: ModelMarket, step: Step) -> None:
        """See a level change."""
        ticker, ts_ms = market.ticker, self.now_us // 1_000
        subscriptions = self.depth.of(ticker)
        if subscriptions:
            # Encoded once, or twice where some want the other scale of NO prices.
            tails: list[bytes | None] = [None, None]
            for subscription in subscriptions:
                on_yes = subscription.yes_scale and step.side == "no"
                tail = tails[on_yes]
                if tail is None:
                    price = ONE_DOLLAR - step.price if on_yes else step.price
                    tail = tails[on_yes] = delta_tail(
                        ticker, step.side, price, step.change, ts_ms=ts_ms, market_id=market.market_id
                    )
                subscription.emit(_OPENING_DELTA, tail, ticker)
        if self.tickers:
            self._dirty[ticker] = market

    def told(self, market: ModelMarket, event_type: str, fields: dict[str, object]) -> None:
        """Hear of a turn in a market's life."""
        message = {"market_ticker": market.ticker, "event_type": event_type, **fields}
        self._tell_lifecycle(market, message, _OPENING_COMBO if market.is_combo else _OPENING_LIFECYCLE)

    def turned(self, market: ModelMarket) -> None:
        """Say nothing of what the exchange does not tell."""

    def traded(self, market: ModelMarket, step: Step, trade_id: str) -> None:
        """See a trade."""
        taker: Side = "no" if step.side == "yes" else "yes"
        record = TradeRecord(
            next(self._trade_numbers),
            trade_id,
            market.ticker,
            BookActivity.yes_price(step),
            -step.change,
            taker,
            self.now_us,
        )
        self.tape.append(record)
        subscriptions = self.trades.of(market.ticker)
        if subscriptions:
            ts_ms = record.time_us // 1_000
            tail = trade_tail(market.ticker, trade_id, record.yes_price, record.size, taker, ts_ms=ts_ms)
            for subscription in subscriptions:
                subscription.emit(_OPENING_TRADE, tail, market.ticker)
        if self.tickers:
            self._dirty[market.ticker] = market

    def _tell_lifecycle(self, market: ModelMarket, message: dict[str, object], opening: bytes) -> None:
        subscriptions = (self.combos if market.is_combo else self.lifecycles).of("")
        if subscriptions:
            tail = message_tail(message, ts_ms=self.now_us // 1_000)
            ticker = market.ticker if "market_ticker" in message else ""
            for subscription in subscriptions:
                subscription.emit(opening, tail, ticker)

    def _tell_tickers(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for ticker, market in dirty.items():
            subscriptions = self.tickers.of(ticker)
            if subscriptions:
                tail = self._ticker_tail(market)
                for subscription in subscriptions:
                    subscription.emit(_OPENING_TICKER, tail, ticker)

    def _ticker_tail(self, market: ModelMarket) -> bytes:
        ts_ms = self.now_us // 1_000
        message = {
            "market_ticker": market.ticker,
            **ticker_fields(market),
            "ts": ts_ms // 1_000,
            "ts_ms": ts_ms,
        }
        return message_tail(message, ts_ms=ts_ms)

    # The truth.

    def truth(self, ticker: str) -> TrueBook:
        """
        Return a market's true book.

        Raises:
            KeyError: there is no such market.
        """
        return TrueBook.of(self.model[ticker], self.now_us)

    def checksum(self) -> Truth:
        """
        Return one number over all books as they are now.

        The books of quiet markets are reckoned once, which for a million takes a minute; whoever cannot
        wait so long calls `reckon` before.
        """
        while not self.reckon(self.model.quiet_count):
            pass
        total = self._quiet_sum
        total -= sum(self._pristine(ordinal) for ordinal in self.model.no_longer_quiet())
        total += sum(checksum_of(TrueBook.of(market, 0)) for market in self.model.held())
        return Truth(
            at_us=self.now_us,
            markets=len(self.model),
            changes=self.lives.steps,
            checksum=f"{total % 2**64:016x}",
        )

    def reckon(self, most: int) -> bool:
        """Reckon with so many more quiet books, and tell whether all of them have been."""
        end = min(self._reckoned + most, self.model.quiet_count)
        self._quiet_sum += sum(self._pristine(ordinal) for ordinal in range(self._reckoned, end))
        self._reckoned = end
        return end == self.model.quiet_count

    def _pristine(self, ordinal: int) -> int:
        assert self.model.quiet is not None
        return checksum_of(TrueBook.of(self.model.quiet.market(ordinal), 0))

    # Steering.

    def play(self, frames: Iterable[tuple[int, bytes]]) -> Playback:
        """Let the true books move as recorded ones did; see `Playback`."""
        playback = Playback(self.lives, frames)
        self.lives.schedule(self.now_us, playback.course())
        return playback

    def create(
        self,
        ticker: str,
        *,
        open_s: int | None = None,
        close_s: int | None = None,
        event: str = "",
        series: str = "",
        title: str = "",
        grid: str = "linear_cent",
    ) -> ModelMarket:
        """
        List a market that moves only by command; it opens and closes when its time has come.

        Args:
            ticker: its name.
            open_s: when trading begins, Unix seconds; now unless given.
            close_s: when it ends; in an hour unless given.
            event: its event; the ticker up to its last dash unless given.
            series: its series; the ticker up to its first dash unless given.
            title: what it asks.
            grid: name of its tick grid.

        Raises:
            ValueError: the ticker is taken.
            KeyError: there is no such grid.
        """
        now_s = self.now_us // _SECOND_US
        market = ModelMarket(
            ticker,
            GRIDS[grid],
            event=event or ticker.rpartition("-")[0] or ticker,
            series=series or ticker.partition("-")[0],
            title=title or ticker,
        )
        market.open_s = now_s if open_s is None else open_s
        market.close_s = now_s + 3_600 if close_s is None else close_s
        self.lives.create(market)
        self.lives.schedule(max(self.now_us, market.open_s * _SECOND_US), self.lives.by_the_clock(market))
        return market

    def change(self, ticker: str, side: Side, price: int, change: int) -> None:
        """
        Change the size of one level, as an order or a cancellation does.

        Args:
            ticker: the market.
            side: whose bids.
            price: on the scale of the side, $0.0001.
            change: signed, 0.01 contract.

        Raises:
            KeyError: there is no such market.
            ValueError: the price is not on the grid, the bid would trade, or too little rests there.
        """
        market = self.model.touch(ticker)
        slot = market.grid.slot(price)
        market.change(side, slot, change)
        self.lives.apply(market, Step(side, price, change, trade=False))
        self._tell_tickers()

    def trade(self, ticker: str, taker: Side, size: int) -> None:
        """
        Let a taker hit the best bid of the other side.

        Raises:
            KeyError: there is no such market.
            ValueError: less than that rests there.
        """
        market = self.model.touch(ticker)
        maker: Side = "no" if taker == "yes" else "yes"
        best = market.best(maker)
        if best is None:
            raise ValueError(f"nobody bids {maker} in {ticker}")
        market.change(maker, market.grid.slot(best[0]), -size)
        self.lives.apply(market, Step(maker, best[0], -size, trade=True))
        self._tell_tickers()

    def stir(self, changes: int) -> None:
        """Let about so many changes happen now, in whichever markets trade."""
        lives = self.lives
        trading = [market for market in self.model.held() if market.status is Status.ACTIVE]
        end = lives.steps + changes
        while trading and not lives.halted and lives.steps < end:
            lives.stir(trading)
            self._tell_tickers()
            if lives.steps >= self.faults.next_step:
                self.faults.step()

    def pause(self, ticker: str) -> None:
        """Deactivate a market."""
        self.lives.pause(self.model.touch(ticker))

    def resume(self, ticker: str) -> None:
        """Activate a market again, with a new book."""
        self.lives.resume(self.model.touch(ticker))

    def set_close(self, ticker: str, close_s: int) -> None:
        """Move a market's close."""
        self.lives.set_close(self.model.touch(ticker), close_s)

    def close(self, ticker: str) -> None:
        """Close a market now; orders are cancelled, and it is determined and settled some seconds later."""
        market = self.model.touch(ticker)
        if market.status in {Status.INITIALIZED, Status.ACTIVE, Status.INACTIVE}:
            self.lives.set_close(market, self.now_us // _SECOND_US)
            self.lives.close(market)
            self.lives.schedule(self.now_us, self.lives.ending(market))

    def reopen(self, ticker: str, close_s: int) -> None:
        """Let a closed market trade again until a later time, with a new book; it closes by the clock."""
        market = self.model.touch(ticker)
        self.lives.reopen(market, close_s)
        self.lives.schedule(self.now_us, self.lives.by_the_clock(market))

    def dispute(self, ticker: str) -> None:
        """Let a market's result be challenged; it is not settled before it is determined again."""
        self.lives.dispute(self.model.touch(ticker))

    def determine(self, ticker: str, result: str) -> None:
        """Announce a market's result, ``yes`` or ``no``; settled some seconds later, and off the lists."""
        market = self.model.touch(ticker)
        self.lives.determine(market, result)
        self.lives.schedule(self.now_us, self.lives.settling(market))

    def set_grid(self, ticker: str, grid: str) -> None:
        """
        Put a market on another tick grid.

        Raises:
            KeyError: there is no such market or grid.
            ValueError: an order rests at a price that the new grid does not have.
        """
        self.lives.set_grid(self.model.touch(ticker), GRIDS[grid])

    def delist(self, ticker: str) -> None:
        """Take a market off the lists at once, which nobody is told."""
        market = self.model.touch(ticker)
        self.lives.delist(market)
