"""
A process that is many WebSocket clients: raw sockets, one loop, as little work per frame as can be.

Every frame is looked at: its length leads to the next one, and the `seq` of the last one in each read
must have moved by as many frames as there were. Those that keep books also cut out each message, keep
the newest one of every market, and measure how old it is.
"""

import base64
import os
import selectors
import socket
import time
from collections import Counter
from random import Random
from typing import Any, Final, final

import msgspec

from perf.clients.worker import answer_commands, cpu_seconds, raise_descriptor_limit, settings
from perf.measures import counted_percentiles

_READ_BYTES: Final = 262_144
_CONNECTING_AT_ONCE: Final = 200
_TICKER: Final = b'"market_ticker":"'
_TIME: Final = b'"ts_ms":'
_SEQ: Final = b'"seq":'
_TEXT: Final = 1
_CLOSE: Final = 8
_PING: Final = 9
_PONG: Final = 0x8A
_CLOSE_FRAME: Final = 0x88
_CHURN_TICKER: Final = "KXPERF-26DEC01-T%06d"
_BYTE_A_SECOND: Final = 1.0


@final
class _Client:
    """One connection."""

    def __init__(self, number: int, *, keeps: bool, depth: bool, receive_buffer: int | None) -> None:
        self.number = number
        self.keeps = keeps
        self.depth = depth
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.rest = b""
        self.open = False
        self.frames = 0
        self.reads = 0
        self.seq = 0
        self.holes = 0
        self.merged = 0
        self.tops: dict[bytes, bytes] = {}
        self.book = Book() if depth else None
        self.closed: tuple[int, str] | None = None


@final
class Book:
    """Full depth of several markets, rebuilt from snapshots and deltas as a stock client does."""

    def __init__(self) -> None:
        self.markets: dict[str, dict[str, dict[str, int]]] = {}
        self.wrong = 0

    def apply(self, frame: bytes) -> None:
        """Apply one frame."""
        decoded = msgspec.json.decode(frame)
        message = decoded["msg"]
        if decoded["type"] == "orderbook_snapshot":
            self.markets[message["market_ticker"]] = {
                side: {price: _centi(size) for price, size in message.get(f"{side}_dollars_fp", ())}
                for side in ("yes", "no")
            }
        elif decoded["type"] == "orderbook_delta":
            levels = self.markets[message["market_ticker"]][message["side"]]
            price = message["price_dollars"]
            size = levels.get(price, 0) + _centi(message["delta_fp"])
            if size < 0:
                self.wrong += 1
            elif size == 0:
                levels.pop(price, None)
            else:
                levels[price] = size

    def texts(self) -> dict[str, Any]:
        """Return the books as the server prints its own."""
        return {
            ticker: {
                side: {price: f"{size // 100}.{size % 100:02d}" for price, size in levels.items()}
                for side, levels in sides.items()
            }
            for ticker, sides in self.markets.items()
        }


@final
class Sockets:
    """All clients of this process; every public method is a command."""

    def __init__(self, address: list[Any]) -> None:
        self._address = (address[0], address[1])
        self._selector = selectors.DefaultSelector()
        self._clients: list[_Client] = []
        self._stuck: list[_Client] = []
        self._drips: list[_Client] = []
        self._latencies: Counter[int] = Counter()
        self._by_second: dict[int, Counter[int]] = {}
        self._since_ms = 0
        self._frames = 0

    def connect(
        self, count: int, keeps: int = 0, receive_buffer: int | None = None, *, depth: bool = False
    ) -> dict[str, float]:
        """
        Open connections, each with its handshake.

        Args:
            count: how many.
            keeps: how many of them keep books and measure latency.
            receive_buffer: of their sockets, in bytes; the system's where None.
            depth: whether those are full books.
        """
        started = time.perf_counter()
        first = len(self._clients)
        for begin in range(0, count, _CONNECTING_AT_ONCE):
            batch = [
                _Client(
                    first + number,
                    keeps=number < keeps,
                    depth=depth and number < keeps,
                    receive_buffer=receive_buffer,
                )
                for number in range(begin, min(begin + _CONNECTING_AT_ONCE, count))
            ]
            self._handshake(batch)
            self._clients += batch
        return {
            "seconds": time.perf_counter() - started,
            "open": sum(client.open for client in self._clients),
        }

    def subscribe(self, first: int, count: int, markets: list[list[str]] | None, channel: str) -> None:
        """Subscribe clients: to their list of markets, in turn, or to all."""
        for place, client in enumerate(self._clients[first : first + count]):
            params: dict[str, Any] = {"channels": [channel]}
            if markets is not None:
                params["market_tickers"] = markets[place % len(markets)]
            _send_text(client.socket, {"id": 1, "cmd": "subscribe", "params": params})

    def stall(self, count: int, drip: int) -> None:
        """Let the last `count` clients never read again, and `drip` before them a byte a second."""
        self._stuck = self._clients[len(self._clients) - count :]
        self._drips = self._clients[len(self._clients) - count - drip : len(self._clients) - count]
        for client in self._stuck + self._drips:
            self._selector.unregister(client.socket)

    def watch(self) -> None:
        """Begin to measure latency: of what is published from now on."""
        self._latencies.clear()
        self._by_second.clear()
        self._since_ms = time.time_ns() // 1_000_000

    def read(self, seconds: float = 0.0, quiet: float = 0.0) -> dict[str, Any]:
        """Read for a time, and until no data came for a time; pings are no data."""
        now = time.perf_counter()
        until = now + seconds
        dripped = last = now
        frames = self._frames
        while True:
            events = self._selector.select(min(max(until - now, 0.01), 0.1))
            now_us = time.time_ns() // 1_000
            for key, _ in events:
                self._on_readable(key.data, now_us)
            now = time.perf_counter()
            if self._frames != frames:
                frames, last = self._frames, now
            if self._drips and now - dripped >= _BYTE_A_SECOND:
                dripped = now
                self._drip()
            if now >= until and (not quiet or now - last >= quiet):
                return self.counts()

    def churn(self, seconds: float, at_once: int, seed: int) -> dict[str, int]:
        """Let clients come, subscribe, change and leave at random; in the end all are gone."""
        random = Random(seed)
        until = time.perf_counter() + seconds
        visits = 0
        while time.perf_counter() < until:
            chance = random.random()
            if len(self._clients) < at_once and chance < 0.4:
                client = _Client(visits, keeps=False, depth=False, receive_buffer=None)
                self._handshake([client])
                self._clients.append(client)
                visits += 1
            elif self._clients and chance < 0.7:
                self._leave(self._clients.pop(random.randrange(len(self._clients))), random)
            elif self._clients:
                _send_text(random.choice(self._clients).socket, _random_command(random))
            for key, _ in self._selector.select(0):
                self._on_readable(key.data, 0)
            self._clients = [client for client in self._clients if client.open]
        while self._clients:
            self._leave(self._clients.pop(), random)
        return {"visits": visits}

    def _leave(self, client: _Client, random: Random) -> None:
        if random.random() < 0.5:
            _send(client.socket, _CLOSE_FRAME, b"\x03\xe8")
        self._selector.unregister(client.socket)
        client.socket.close()

    def counts(self) -> dict[str, Any]:
        """Return what arrived so far."""
        clients = self._clients
        return {
            "frames": sum(client.frames for client in clients),
            "reads": sum(client.reads for client in clients),
            "holes": sum(client.holes for client in clients),
            "wrong": sum(client.book.wrong for client in clients if client.book),
            "merged": sum(client.merged for client in clients),
            "closed": Counter(str(client.closed[0]) for client in clients if client.closed),
            "reasons": sorted({client.closed[1] for client in clients if client.closed}),
            "cpu": cpu_seconds(),
        }

    def latency(self) -> dict[str, Any]:
        """Return the percentiles of what arrived since `watch`, in milliseconds, also by second."""
        return {
            "samples": self._latencies.total(),
            "percentiles_ms": {
                name: value / 10 for name, value in counted_percentiles(self._latencies).items()
            },
            "by_second": [
                [second, counted_percentiles(counts)["p99"] / 10, counts.total()]
                for second, counts in sorted(self._by_second.items())
            ],
        }

    def stuck(self) -> dict[str, Any]:
        """Read what was left for those that do not read, until the server's end of it: how each was cut."""
        ended: Counter[str] = Counter()
        frames = 0
        for client in self._stuck + self._drips:
            client.socket.settimeout(5)
            try:
                while data := client.socket.recv(_READ_BYTES):
                    self._take(client, data, 0)
                ended["hung up" if client.closed is None else str(client.closed[0])] += 1
            except TimeoutError:
                ended["still open"] += 1
            except OSError:
                ended["reset"] += 1
            frames += client.frames
        return {"ended": ended, "frames": frames}

    def wrong(self, expected: dict[str, Any]) -> dict[str, Any]:
        """Compare what is kept with the store's books; tell how many markets, and which differ."""
        compared = 0
        wrong: set[str] = set()
        for client in self._clients:
            for ticker, message in client.tops.items():
                compared += 1
                if _top(message) != expected[ticker.decode()]["top"]:
                    wrong.add(ticker.decode())
            for ticker_text, sides in (client.book.texts() if client.book else {}).items():
                compared += 1
                if sides != {side: expected[ticker_text][side] for side in ("yes", "no")}:
                    wrong.add(ticker_text)
        return {"compared": compared, "wrong": sorted(wrong)}

    def close(self) -> None:
        """Hang up all."""
        for client in self._clients:
            client.socket.close()
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        self._clients, self._stuck, self._drips = [], [], []

    def _handshake(self, batch: list[_Client]) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        request = (
            f"GET /trade-api/ws/v2 HTTP/1.1\r\nHost: {self._address[0]}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        ).encode()
        for client in batch:
            client.socket.connect(self._address)
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.socket.sendall(request)
        for client in batch:
            data = b""
            while b"\r\n\r\n" not in data:
                more = client.socket.recv(4_096)
                if not more:
                    raise ConnectionError("the server hung up in the handshake")
                data += more
            if not data.startswith(b"HTTP/1.1 101"):
                raise ConnectionError(data.partition(b"\r\n")[0].decode())
            client.open = True
            client.rest = data.partition(b"\r\n\r\n")[2]
            client.socket.setblocking(False)
            self._selector.register(client.socket, selectors.EVENT_READ, client)

    def _on_readable(self, client: _Client, now_us: int) -> None:
        try:
            data = client.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(client.socket)
            client.open = False
            if client.closed is None:
                client.closed = (1006, "hung up")
            return
        client.reads += 1
        self._take(client, data, now_us)

    def _take(self, client: _Client, data: bytes, now_us: int) -> None:
        if client.rest:
            data = client.rest + data
        keeps = client.keeps
        place, end = 0, len(data)
        frames = 0
        last: tuple[int, int] | None = None
        while end - place >= 2:
            start, length = place + 2, data[place + 1]
            if length == 126:
                start, length = place + 4, int.from_bytes(data[place + 2 : place + 4], "big")
            elif length == 127:
                start, length = place + 10, int.from_bytes(data[place + 2 : place + 10], "big")
            stop = start + length
            if stop > end or start > end:
                break
            opcode = data[place] & 15
            if opcode == _TEXT:
                frames += 1
                last = (start, stop)
                if keeps:
                    self._keep(client, data, start, stop, now_us)
            else:
                self._on_control(client, opcode, data[start:stop])
            place = stop
        client.rest = data[place:]
        if last is not None:
            client.frames += frames
            self._frames += frames
            self._check_numbers(client, data, last, frames)

    def _check_numbers(self, client: _Client, data: bytes, last: tuple[int, int], frames: int) -> None:
        place = data.find(_SEQ, last[0], min(last[1], last[0] + 120))
        if place < 0:
            return  # a reply, which has no number
        seq = int(data[place + 6 : data.index(b",", place)])
        if client.seq and seq != client.seq + frames:
            client.holes += 1
        client.seq = seq

    def _keep(self, client: _Client, data: bytes, start: int, stop: int, now_us: int) -> None:
        if client.book is not None:
            frame = data[start:stop]
            if _TICKER in frame:
                client.book.apply(frame)
        place = data.find(_TICKER, start, stop)
        if place < 0:
            return
        place += len(_TICKER)
        if client.book is None:
            client.tops[data[place : data.index(b'"', place)]] = data[start:stop]
        found = data.rfind(_TIME, start, stop)
        if found < 0:
            return
        text = data[found + 8 : found + 21]
        if text.isdigit() and (sent_ms := int(text)) >= self._since_ms > 0:
            age = (now_us - sent_ms * 1_000) // 100
            self._latencies[age] += 1
            second = (sent_ms - self._since_ms) // 1_000
            if (counts := self._by_second.get(second)) is None:
                counts = self._by_second[second] = Counter()
            counts[age] += 1

    def _on_control(self, client: _Client, opcode: int, payload: bytes) -> None:
        if opcode == _PING:
            _send(client.socket, _PONG, payload)
        elif opcode == _CLOSE:
            client.closed = (int.from_bytes(payload[:2], "big"), payload[2:].decode())

    def _drip(self) -> None:
        for client in self._drips:
            try:
                self._take(client, client.socket.recv(1), 0)
            except OSError:
                continue


def _random_command(random: Random) -> dict[str, Any]:
    tickers = [_CHURN_TICKER % random.randrange(1_000) for _ in range(random.randrange(1, 50))]
    channel = random.choice(("top_of_book", "orderbook_delta", "ticker", "trade"))
    return random.choice(
        (
            {"id": 1, "cmd": "subscribe", "params": {"channels": [channel], "market_tickers": tickers}},
            {"id": 2, "cmd": "subscribe", "params": {"channels": ["top_of_book"]}},
            {"id": 3, "cmd": "unsubscribe", "params": {"sids": [1]}},
            {
                "id": 4,
                "cmd": "update_subscription",
                "params": {"sids": [1], "market_tickers": tickers, "action": "delete_markets"},
            },
        )
    )


def _send_text(connection: socket.socket, message: object) -> None:
    _send(connection, 0x81, msgspec.json.encode(message))


def _send(connection: socket.socket, first: int, payload: bytes) -> None:
    # Masked with zeros: the payload stays as it is.
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    else:
        head = bytes((first, 0x80 | 126)) + length.to_bytes(2, "big")
    connection.setblocking(True)
    try:
        connection.sendall(head + b"\0\0\0\0" + payload)
    except OSError:
        return
    connection.setblocking(False)


def _centi(text: str) -> int:
    whole, _, cents = text.partition(".")
    return int(whole + cents)


def _top(message: bytes) -> list[str | None]:
    top = msgspec.json.decode(message)["msg"]
    return [top[f"{side}_bid_{field}"] for side in ("yes", "no") for field in ("dollars", "size_fp")]


def main(address: list[Any], descriptors: int = 1_024) -> None:
    """Be clients on command."""
    allowed = raise_descriptor_limit(descriptors)
    sockets = Sockets(address)
    names = [name for name in vars(Sockets) if not name.startswith("_")]
    answer_commands({name: getattr(sockets, name) for name in names}, {"descriptors": allowed})


if __name__ == "__main__":
    main(**settings())
