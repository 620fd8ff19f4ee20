"""A store, a hub and clients that check what they are sent: shared by the stream tests."""

import json
from typing import Any

from kalshibook.numbers import ONE_DOLLAR, parse_price, parse_size, parse_size_change
from kalshibook.store import BookStore
from kalshibook.stream.hub import Client, Hub
from kalshibook.stream.options import StreamOptions
from tests.store.builders import Script, levels

T40 = "KXFROG-26DEC01-T40"
T45 = "KXFROG-26DEC01-T45.5"
T50 = "KXFROG-26DEC01-T50"
T55 = "KXFROG-26DEC01-T55"
TOAD = "KXTOAD-26DEC01-B10"

NOW_US = 1_795_348_800_000_000
PLENTY = 1 << 30


def split(data: bytes) -> list[bytes]:
    """Cut a write into the payloads of its frames: whole unmasked text frames (RFC 6455, 5.2)."""
    payloads = []
    while data:
        assert 0x81 == data[0]
        length, start = data[1], 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
            assert length > 125
        elif length == 127:
            length, start = int.from_bytes(data[2:10], "big"), 10
            assert length > 65_535
        assert len(data) >= start + length
        payloads.append(data[start : start + length])
        data = data[start + length :]
    return payloads


class Stage:
    """One store with one gatherer, one hub, and a reader of changes between them."""

    def __init__(self, **options: Any) -> None:
        self.store = BookStore()
        self.script = Script(self.store)
        self.hub = Hub(self.store, StreamOptions(**options))
        self.reader = self.store.changes()
        self.now_us = NOW_US

    def deliver(self, at_once: int = 1_000) -> None:
        """Bring the hub up to date with the store, so much between two pauses."""
        batch = self.reader.take_nowait()
        if batch is not None:
            self.hub.deliver(batch, self.now_us)
            for _ in self.hub.hand_out(at_once):
                pass

    def connect(self) -> "User":
        """Connect a client."""
        return User(self, self.hub.connect(self.now_us))


class User:
    """A client with a memory: counts `seq` per sid and rebuilds books as a stock client does."""

    def __init__(self, stage: Stage, client: Client) -> None:
        self.stage = stage
        self.client = client
        self.seqs: dict[int, int] = {}
        self.channels: dict[int, str] = {}
        self.yes_scale = False
        self.books: dict[str, tuple[dict[int, int], dict[int, int]]] = {}
        self.tops: dict[str, dict[str, Any]] = {}
        self.heard: list[dict[str, Any]] = []
        self.deltas = 0

    def send(self, cmd: str, id: int | None = 1, **params: Any) -> None:  # noqa: A002 - the wire's name
        """Send a command."""
        message: dict[str, Any] = {"cmd": cmd}
        if id is not None:
            message["id"] = id
        if params:
            message["params"] = params
        self.say(message)

    def say(self, message: Any) -> None:
        """Send anything that JSON can express."""
        self.client.receive(json.dumps(message), self.stage.now_us)

    def hear(self, limit_bytes: int = PLENTY) -> list[dict[str, Any]]:
        """Take one write and check every frame of it."""
        frames = [json.loads(payload) for payload in split(self.client.take(limit_bytes, self.stage.now_us))]
        for frame in frames:
            assert self.stage.now_us // 1_000 == frame.pop("sending_ts_ms")
            self._check(frame)
        self.heard += frames
        return frames

    def ask(self, cmd: str, id: int | None = 1, **params: Any) -> list[dict[str, Any]]:  # noqa: A002
        """Send a command and take all there is."""
        self.send(cmd, id, **params)
        return self.hear()

    def _check(self, frame: dict[str, Any]) -> None:
        kind, sid = frame["type"], frame.get("sid")
        if kind == "subscribed":
            assert frame["msg"]["sid"] not in self.channels, "a sid was used twice"
            assert "seq" not in frame
            self.channels[frame["msg"]["sid"]] = frame["msg"]["channel"]
            return
        if sid is None:
            assert "seq" not in frame
            return
        assert sid in self.channels, "a frame stands before its subscription's announcement"
        assert self.seqs.get(sid) != -1, "a frame stands after its subscription's end"
        if self.channels[sid] == "ticker":
            assert "seq" not in frame
        else:
            assert self.seqs.get(sid, 0) + 1 == frame["seq"]
            self.seqs[sid] = frame["seq"]
        if kind == "unsubscribed" or (kind == "error" and frame["msg"]["code"] in (10, 25)):
            self.seqs[sid] = -1
        elif kind == "orderbook_snapshot":
            self._replace(frame["msg"])
        elif kind == "orderbook_delta":
            self._change(frame["msg"])
        elif kind == "top_of_book":
            self.tops[frame["msg"]["market_ticker"]] = frame["msg"]

    def _replace(self, message: dict[str, Any]) -> None:
        book = []
        for key in ("yes_dollars_fp", "no_dollars_fp"):
            pairs = message.get(key, [])
            assert pairs or key not in message, "the key of an empty side is there"
            prices = [parse_price(price) for price, _ in pairs]
            assert sorted(prices) == prices
            if self.yes_scale and key == "no_dollars_fp":
                prices = [ONE_DOLLAR - price for price in prices]
            book.append(dict(zip(prices, (parse_size(size) for _, size in pairs), strict=True)))
            assert 0 not in book[-1].values()
        self.books[message["market_ticker"]] = (book[0], book[1])

    def _change(self, message: dict[str, Any]) -> None:
        self.deltas += 1
        side = self.books[message["market_ticker"]][message["side"] == "no"]
        price, change = parse_price(message["price_dollars"]), parse_size_change(message["delta_fp"])
        if self.yes_scale and message["side"] == "no":
            price = ONE_DOLLAR - price
        side[price] = side.get(price, 0) + change
        assert change
        assert side[price] >= 0, "a delta takes more than rests: a hole or a double"
        if not side[price]:
            del side[price]


def held_books(store: BookStore) -> dict[str, tuple[dict[int, int], dict[int, int]]]:
    """Return a store's live books as price to size."""
    return {
        ticker: (levels(book.yes), levels(book.no))
        for ticker, book in store.cut().items()
        if book.copy.value == "live"
    }
