"""A venue without sockets, and clients that check every frame they are sent."""

import json
from collections.abc import Mapping
from typing import Any

from kalshibook.numbers import ONE_DOLLAR, parse_price, parse_size, parse_size_change
from kalshibook.simulator import SimulatorOptions
from kalshibook.simulator.session import Session
from kalshibook.simulator.truth import TrueBook
from kalshibook.simulator.venue import Venue
from tests.stream.stage import split

START_US = 1_790_000_000_000_000
PLENTY = 1 << 30

Sides = dict[str, dict[int, int]]


def venue(**options: Any) -> Venue:
    """Return an exchange that stands still unless told otherwise."""
    given = {"markets": 5, "messages_per_second": 0, "short_lived": 0, "combos": 0} | options
    return Venue(SimulatorOptions(**given), start_us=START_US)


class Watcher:
    """A client of one session: counts numbers per sid, and keeps books as a careful client does."""

    def __init__(
        self, venue: Venue, *, yes_scale: bool = False, trusting: bool = False, **names: str
    ) -> None:
        self.venue = venue
        self.session: Session = venue.connect(**names)
        self.yes_scale = yes_scale
        self.trusting = trusting
        """Whether numbers and changes are taken as they come, without a check."""
        self.channels: dict[int, str] = {}
        self.numbers: dict[int, int] = {}
        self.ended: set[int] = set()
        self.books: dict[str, Sides] = {}
        self.heard: list[dict[str, Any]] = []

    def send(self, cmd: str, id: int | None = 1, **params: Any) -> None:  # noqa: A002 - the wire's name
        """Send a command."""
        message: dict[str, Any] = {"cmd": cmd}
        if id is not None:
            message["id"] = id
        if params:
            message["params"] = params
        self.session.receive(json.dumps(message))

    def ask(self, cmd: str, id: int | None = 1, **params: Any) -> list[dict[str, Any]]:  # noqa: A002
        """Send a command and take all there is."""
        self.send(cmd, id, **params)
        return self.hear()

    def hear(self, limit_bytes: int = PLENTY) -> list[dict[str, Any]]:
        """Take one write and check every frame of it."""
        frames = [json.loads(payload) for payload in split(self.session.take(limit_bytes))]
        for frame in frames:
            assert START_US // 1_000 <= frame.pop("sending_ts_ms")
            self._check(frame)
        self.heard += frames
        return frames

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the messages of a type heard so far."""
        return [frame["msg"] for frame in self.heard if frame["type"] == kind]

    def sides(self, ticker: str) -> Sides:
        """Return the client's copy of a book."""
        return self.books[ticker]

    def _check(self, frame: dict[str, Any]) -> None:
        kind, sid = frame["type"], frame.get("sid")
        if kind == "subscribed":
            assert frame["msg"]["sid"] == 1 + max(self.channels, default=0)
            assert "seq" not in frame
            self.channels[frame["msg"]["sid"]] = frame["msg"]["channel"]
        elif sid is None:
            assert "seq" not in frame
        else:
            self._count(frame, sid)
            if kind == "unsubscribed" or (kind == "error" and frame["msg"]["code"] in {10, 25}):
                self.ended.add(sid)
            elif kind == "orderbook_snapshot":
                self._replace(frame["msg"])
            elif kind == "orderbook_delta":
                self._change(frame["msg"])

    def _count(self, frame: Mapping[str, Any], sid: int) -> None:
        assert sid in self.channels, "a frame stands before its subscription's announcement"
        assert sid not in self.ended, "a frame stands after its subscription's end"
        if self.channels[sid] == "ticker":
            assert "seq" not in frame
        elif not self.trusting:
            assert self.numbers.get(sid, 0) + 1 == frame["seq"]
            self.numbers[sid] = frame["seq"]

    def _replace(self, message: Mapping[str, Any]) -> None:
        sides: Sides = {}
        for side in ("yes", "no"):
            key = f"{side}_dollars_fp"
            pairs = message.get(key, [])
            assert pairs or key not in message, "the key of an empty side is there"
            prices = [parse_price(price) for price, _ in pairs]
            assert sorted(prices) == prices
            if self.yes_scale and side == "no":
                prices = [ONE_DOLLAR - price for price in prices]
            sides[side] = dict(zip(prices, (parse_size(size) for _, size in pairs), strict=True))
            assert 0 not in sides[side].values()
        self.books[message["market_ticker"]] = sides

    def _change(self, message: Mapping[str, Any]) -> None:
        levels = self.books[message["market_ticker"]][message["side"]]
        price, change = parse_price(message["price_dollars"]), parse_size_change(message["delta_fp"])
        if self.yes_scale and message["side"] == "no":
            price = ONE_DOLLAR - price
        levels[price] = levels.get(price, 0) + change
        assert self.trusting or levels[price] >= 0, "a delta takes more than rests: a hole or a double"
        if not levels[price]:
            del levels[price]


def sides_of(book: TrueBook) -> Sides:
    """Return the truth as a client keeps books."""
    return {"yes": dict(book.yes), "no": dict(book.no)}
