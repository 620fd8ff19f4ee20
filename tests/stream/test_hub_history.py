"""Any history of commands, changes and disconnects against a model of routing and rebuilt books."""

from typing import Any

from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.store.builders import lifecycle, trade
from tests.stream.stage import Stage, User, held_books

MARKETS = ["KXA-1", "KXA-2", "KXB-1"]
PREFIXES = ["KX", "KXA-", "KXA-1", "KXB"]
CHANNELS = ["orderbook_delta", "top_of_book", "ticker", "trade", "market_lifecycle_v2"]
LIFECYCLE = "market_lifecycle_v2"

users = st.integers(0, 1)
markets = st.sampled_from(MARKETS)
some_markets = st.lists(markets, max_size=3)
some_prefixes = st.lists(st.sampled_from(PREFIXES), max_size=2)
prices = st.sampled_from([100, 4_000, 4_050])


class Model:
    """One subscription as a plain set of rules."""

    def __init__(self, sid: int) -> None:
        self.sid = sid
        self.every = False
        self.tickers: set[str] = set()
        self.prefixes: set[str] = set()

    def has(self, ticker: str) -> bool:
        """Tell whether a market is selected."""
        return (
            self.every or ticker in self.tickers or any(ticker.startswith(prefix) for prefix in self.prefixes)
        )

    def add(self, tickers: list[str], prefixes: list[str], *, every: bool) -> None:
        """Select more."""
        if every or self.every:
            self.every, self.tickers, self.prefixes = True, set(), set()
            return
        self.tickers |= {*tickers}
        merged = self.prefixes | {*prefixes}
        # A prefix that another one covers is gone for good.
        self.prefixes = {
            one for one in merged if not any(one != other and one.startswith(other) for other in merged)
        }


class HubHistory(RuleBasedStateMachine):
    """Two users of one hub."""

    @initialize(backlog=st.sampled_from([1, 3, 1_000]), capacity=st.sampled_from([3, 1_000]))
    def begin(self, backlog: int, capacity: int) -> None:
        """Open the stage, with small bounds or large ones."""
        self.stage = Stage(depth_backlog=backlog)
        self.stage.reader.close()
        self.stage.reader = self.stage.store.changes(capacity=capacity)
        self.users: list[User] = [self.stage.connect() for _ in range(2)]
        self.models: list[dict[str, Model]] = [{}, {}]
        self.last_sids = [0, 0]
        self.trades = 0

    @rule(who=users, channel=st.sampled_from(CHANNELS), tickers=some_markets, prefixes=some_prefixes)
    def subscribe(self, who: int, channel: str, tickers: list[str], prefixes: list[str]) -> None:
        """Subscribe, or merge."""
        params: dict[str, Any] = {"channels": [channel]}
        if tickers:
            params["market_tickers"] = tickers
        if prefixes:
            params["market_prefixes"] = prefixes
        if channel == "orderbook_delta":
            # The user who rebuilds books reads them at one scale, chosen by its number.
            params["use_yes_price"] = self.users[who].yes_scale = who == 1
            if not tickers and not prefixes:
                self.users[who].send("subscribe", **params)
                return
        self.users[who].send("subscribe", **params)
        model = self.models[who].get(channel)
        if model is None:
            self.last_sids[who] += 1
            model = self.models[who][channel] = Model(self.last_sids[who])
        model.add(tickers, prefixes, every=channel == LIFECYCLE or not (tickers or prefixes))

    @rule(who=users, channel=st.sampled_from(CHANNELS), tickers=some_markets, prefixes=some_prefixes)
    def delete(self, who: int, channel: str, tickers: list[str], prefixes: list[str]) -> None:
        """Delete markets, held or not."""
        model = self.models[who].get(channel)
        sid = model.sid if model else 4_040
        params: dict[str, Any] = {"market_tickers": tickers, "market_prefixes": prefixes}
        self.users[who].send("update_subscription", sid=sid, action="delete_markets", **params)
        if model and not model.every:
            model.tickers -= {*tickers}
            model.prefixes -= {*prefixes}

    @rule(who=users, channel=st.sampled_from(CHANNELS))
    def unsubscribe(self, who: int, channel: str) -> None:
        """End a subscription, known or not."""
        model = self.models[who].pop(channel, None)
        self.users[who].send("unsubscribe", sids=[model.sid if model else 4_040])

    @rule(who=users, ticker=markets)
    def get_snapshot(self, who: int, ticker: str) -> None:
        """Ask for a snapshot, of a market that is held or not."""
        model = self.models[who].get("orderbook_delta")
        if model and model.has(ticker):
            self.users[who].send(
                "update_subscription", sid=model.sid, action="get_snapshot", market_tickers=[ticker]
            )

    @rule(who=users)
    def reconnect(self, who: int) -> None:
        """Go, and come again as somebody new."""
        self.stage.hub.disconnect(self.users[who].client)
        self.users[who], self.models[who], self.last_sids[who] = self.stage.connect(), {}, 0

    @rule(who=users, limit=st.sampled_from([1, 300, 1 << 30]))
    def read(self, who: int, limit: int) -> None:
        """Take one write; the user checks numbers and applies what it gets."""
        self.users[who].hear(limit)

    @rule(at_once=st.sampled_from([1, 1_000]))
    def deliver(self, at_once: int) -> None:
        """Let the hub catch up, market by market or many at once."""
        self.stage.deliver(at_once)

    @rule(who=users, channel=st.sampled_from(CHANNELS), tickers=some_markets, prefixes=some_prefixes)
    def deliver_while_subscribing(
        self, who: int, channel: str, tickers: list[str], prefixes: list[str]
    ) -> None:
        """A command comes while the newest states are handed out."""
        batch = self.stage.reader.take_nowait()
        if batch is not None:
            self.stage.hub.deliver(batch, self.stage.now_us)
        pauses = self.stage.hub.hand_out(1)
        next(pauses, None)
        self.subscribe(who, channel, tickers, prefixes)
        for _ in pauses:
            pass

    @rule(ticker=markets, yes=st.dictionaries(prices, st.integers(1, 500)))
    def snapshot(self, ticker: str, yes: dict[int, int]) -> None:
        """A market's book is replaced."""
        self.stage.script.snapshot(yes, {5_000: 100}, ticker=ticker)

    @rule(ticker=markets, price=prices, change=st.integers(-300, 300), side=st.sampled_from(["yes", "no"]))
    def delta(self, ticker: str, price: int, change: int, side: Any) -> None:
        """A level changes, or the market turns stale because it cannot."""
        self.stage.script.delta(side, price, change, ticker=ticker)

    @rule(ticker=markets)
    def trade(self, ticker: str) -> None:
        """A trade."""
        self.trades += 1
        self.stage.script.apply(trade(f"t{self.trades}", ticker=ticker))

    @rule(ticker=markets, event=st.sampled_from(["created", "activated", "deactivated"]))
    def live_on(self, ticker: str, event: str) -> None:
        """A step of a market's life."""
        self.stage.script.apply(lifecycle(event, ticker=ticker))

    @invariant()
    def routes_equal_the_model(self) -> None:
        """Each channel finds exactly the clients that select a market, each once."""
        if not hasattr(self, "stage"):
            return
        self._forget_ended()
        shared = self.stage.hub._shared
        for channel in CHANNELS:
            indexes = [shared.routes[channel]]
            if channel == "orderbook_delta":
                indexes.append(shared.yes_scale_routes)
            for ticker in [*MARKETS, "KXNONE"]:
                found = [held.owner for index in indexes for held in index.find(ticker)]
                expected = [
                    user.client
                    for user, models in zip(self.users, self.models, strict=True)
                    if channel in models and models[channel].has(ticker)
                ]
                assert sorted(map(id, expected)) == sorted(map(id, found)), (channel, ticker)

    def _forget_ended(self) -> None:
        """Drop from the model what the hub ended because notices were lost."""
        for user, models in zip(self.users, self.models, strict=True):
            held = {subscription.channel.name for subscription in user.client.subscriptions}
            for channel in ("trade", LIFECYCLE):
                if channel in models and channel not in held:
                    del models[channel]

    def teardown(self) -> None:
        """At rest every held live book equals the store's, every top too; gone clients leave nothing."""
        if not hasattr(self, "stage"):
            return
        self.stage.deliver()
        self._forget_ended()
        books = held_books(self.stage.store)
        for user, models in zip(self.users, self.models, strict=True):
            while user.hear(500):
                pass
            depth, top = models.get("orderbook_delta"), models.get("top_of_book")
            for ticker, book in books.items():
                if depth and depth.has(ticker):
                    assert book == user.books[ticker], ticker
            for ticker, held in self.stage.store.cut().items():
                if top and top.has(ticker) and held.version:
                    said = user.tops[ticker]
                    assert held.condition == said["condition"]
                    bid = held.yes_bid
                    size = None if bid is None else f"{bid.size // 100}.{bid.size % 100:02d}"
                    assert size == said["yes_bid_size_fp"]
            self.stage.hub.disconnect(user.client)
        assert (0, 0) == (self.stage.hub.statistics().routes, self.stage.hub.statistics().waiting)


TestHubHistory = HubHistory.TestCase
TestHubHistory.settings = settings(max_examples=300, stateful_step_count=50, deadline=None, derandomize=True)
