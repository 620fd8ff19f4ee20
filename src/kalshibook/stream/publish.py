"""
From a change of the store to the subscriptions it concerns: made into an item once, then referred to.

Deltas, trades and lifecycle messages are handed over one by one. Of top of book and ticker only a market's
newest state counts, so they gather while changes are walked and are handed out at the end: a server that is
behind then has a state a market to hand to each client, not each change since.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Final, cast, final

from kalshibook.store import Book, Change, Condition, Ladder, Level, top_changed
from kalshibook.stream.block import Block
from kalshibook.stream.conflating import ConflatingSubscription
from kalshibook.stream.depth import DepthItem
from kalshibook.stream.encode import delta_tail, notice_opening, notice_tail
from kalshibook.stream.newest import Folded, Latest
from kalshibook.stream.notices import Notice
from kalshibook.stream.routes import Routes
from kalshibook.stream.shared import Bodies, Shared
from kalshibook.stream.subscription import AnySubscription
from kalshibook.wire import BookDelta, BookSnapshot, EventFrame, MarketLifecycle, Trade

__all__ = ["Publisher", "depth_item", "is_ticker_news", "is_top_news"]

_COMBO_PREFIX: Final = "KXMVE"
# Finding who is concerned and making the state takes as long as handing it to so many.
_COST_OF_A_MARKET: Final = 10
_MARKETS_A_BLOCK: Final = 64
_TRADE_OPENING: Final = notice_opening("trade")
_LIFECYCLE: Final = "market_lifecycle_v2"
_COMBO_LIFECYCLE: Final = "multivariate_market_lifecycle"


class Publisher:
    """Walks the routes."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        routes = shared.routes
        self._depth = ((routes["orderbook_delta"], False), (shared.yes_scale_routes, True))
        # What the factory makes for these two.
        top_routes = cast("Routes[ConflatingSubscription]", routes["top_of_book"])
        ticker_routes = cast("Routes[ConflatingSubscription]", routes["ticker"])
        self._tops = _NewestStates(top_routes, shared.tops, is_top_news)
        self._tickers = _NewestStates(ticker_routes, shared.tickers, is_ticker_news)
        self._trades = routes["trade"]
        self._lifecycles = {name: routes[name] for name in (_LIFECYCLE, _COMBO_LIFECYCLE)}

    def change(self, change: Change, now_us: int) -> None:
        """Hand one market's change to whoever subscribes to it; what conflates waits for `hand_out`."""
        ticker = change.new.market.ticker
        for routes, yes_scale in self._depth:
            if routes and (found := routes.find(ticker)):
                self._hand(found, depth_item(change, yes_scale=yes_scale))
        self._tops.add(ticker, change, now_us)
        self._tickers.add(ticker, change, now_us)
        event = change.event
        if type(event) is Trade:
            if self._trades and (found := self._trades.find(ticker)):
                self._hand(found, Notice(ticker, _TRADE_OPENING, notice_tail(event.body)))
        elif type(event) is MarketLifecycle:
            kind = _COMBO_LIFECYCLE if ticker.startswith(_COMBO_PREFIX) else _LIFECYCLE
            self._hand(
                self._lifecycles[kind].every, Notice(ticker, notice_opening(kind), notice_tail(event.body))
            )

    def event(self, frame: EventFrame) -> None:
        """Hand a message about an event to the lifecycle subscriptions of its kind of event."""
        kind = _COMBO_LIFECYCLE if frame.event_ticker.startswith(_COMBO_PREFIX) else _LIFECYCLE
        found = self._lifecycles[kind].every
        self._hand(found, Notice(frame.event_ticker, notice_opening(frame.type), notice_tail(frame.body)))

    def lost(self) -> None:
        """Account for notices that never came: a subscription to them has a hole and must end."""
        for routes in (self._trades, *self._lifecycles.values()):
            self._shared.doomed += routes.all()

    def hand_out(self, at_once: int) -> Iterator[int]:
        """
        Hand out the newest states that have gathered.

        Args:
            at_once: how much is done between two yields: what is handed to a subscription counts one, an
                item or a block, a market of its own ten.

        Yields:
            How many items were handed to subscriptions since the last time.
        """
        for states in (self._tops, self._tickers):
            for handed in states.hand_out(at_once):
                self._shared.counters.routed += handed
                yield handed

    def _hand(self, found: Collection[AnySubscription], item: DepthItem | Notice | None) -> None:
        if item is not None:
            for subscription in found:
                subscription.push(item)
            self._shared.counters.routed += len(found)


@final
class _NewestStates:
    """
    The newest state of each market of one conflating channel that changed.

    Args:
        routes: who subscribes to the channel.
        bodies: of its frames.
        is_news: tells whether a change is one for it.
    """

    __slots__ = ("_bodies", "_held", "_is_news", "_routes")

    def __init__(
        self, routes: Routes[ConflatingSubscription], bodies: Bodies, is_news: Callable[[Change], bool]
    ) -> None:
        self._routes = routes
        self._bodies = bodies
        self._is_news = is_news
        self._held: dict[str, _State] = {}

    def add(self, ticker: str, change: Change, now_us: int) -> None:
        """Note a change."""
        if not self._routes or not self._routes.find(ticker) or not self._is_news(change):
            return
        new = change.new
        held = self._held.get(ticker)
        if held is None:
            self._held[ticker] = _State(new, Folded(new.version, now_us, change.merged))
        else:
            held.book = new
            held.folded.add(new.version, now_us, change.merged)

    def hand_out(self, at_once: int) -> Iterator[int]:
        """Hand the states to subscriptions, as `Publisher.hand_out`."""
        held, self._held = self._held, {}
        items: list[Latest] = []
        handed = done = 0
        round_ = object()
        for ticker, state in held.items():
            # Asked again: while others were handed out, clients may have come or gone.
            found = self._routes.select(ticker)
            item = state.folded.latest(state.book, self._bodies.of(state.book))
            for subscription in found:
                subscription.push(item)
            items.append(item)
            handed += len(found)
            done += len(found) + _COST_OF_A_MARKET
            if done >= at_once or len(items) == _MARKETS_A_BLOCK:
                yield from self._hand_to_every(items, round_, handed, at_once)
                items, handed, done = [], 0, 0
        if items:
            yield from self._hand_to_every(items, round_, handed, at_once)

    def _hand_to_every(self, items: list[Latest], round_: object, handed: int, at_once: int) -> Iterator[int]:
        # Listed before the first pause. Who turns to all markets in it has been handed those that it followed
        # before, and begins with newer states of the others.
        every = [*self._routes.every]
        yield handed
        if not every:
            return
        block = Block(items, round_)
        handed = done = 0
        for subscription in every:
            if not subscription.selection.every:
                continue  # it has left meanwhile
            handed += len(items)
            done += 1 + subscription.push_all(items, block)
            if done >= at_once:
                yield handed
                handed = done = 0
        yield handed


class _State:
    """Of one market."""

    __slots__ = ("book", "folded")

    def __init__(self, book: Book, folded: Folded) -> None:
        self.book = book
        self.folded = folded


def depth_item(change: Change, *, yes_scale: bool) -> DepthItem | None:
    """
    Return what a change means for full depth: a delta, the order for a snapshot, or nothing.

    A copy that is not live sends nothing; what makes it live again sends a snapshot.
    """
    old, new = change.old, change.new
    if new.copy is not Condition.LIVE:
        return None
    if old.copy is Condition.LIVE:
        # Empty ladders are one shared object, so only the stamps tell that a snapshot came between.
        if old.yes is new.yes and old.no is new.no and old.stamps is new.stamps:
            return None
        event = change.event
        if change.merged == 1 and type(event) is BookDelta:
            return DepthItem(event.ticker, new.version, delta_tail(event, yes_scale=yes_scale))
        if change.merged == 1 and type(event) is BookSnapshot and _is_same(old, new):
            return None
    return DepthItem(new.market.ticker, new.version, None)


def is_top_news(change: Change) -> bool:
    """Tell whether a change is one for `top_of_book`; the first word on a market always is."""
    return change.old.version == 0 or top_changed(change.old, change.new)


def is_ticker_news(change: Change) -> bool:
    """Tell whether a field of `ticker` changed, other than its time."""
    old, new = change.old, change.new
    return (
        old.copy is not new.copy
        or _quote_differs(old.yes, new.yes)
        or _quote_differs(old.no, new.no)
        or (old.activity is not new.activity and old.activity != new.activity)
    )


def _quote_differs(old: Ladder, new: Ladder) -> bool:
    if old is new:
        return False
    before, after = old.best, new.best
    if before is None or after is None:
        return before is not after
    return before.price != after.price or before.size != after.size


def _is_same(old: Book, new: Book) -> bool:
    return _sizes(old.yes) == _sizes(new.yes) and _sizes(old.no) == _sizes(new.no)


def _sizes(levels: Iterable[Level]) -> list[tuple[int, int]]:
    return [(level.price, level.size) for level in levels]
