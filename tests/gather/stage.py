"""A session without a socket: what it sends is read here, and what the exchange would say is said."""

import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from kalshibook.gather.books import Shared
from kalshibook.gather.effects import Drop, Effect, Overfull, Send, Tell, Trouble
from kalshibook.gather.ledger import GapLedger, OpenGap
from kalshibook.gather.markets import MarketState
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.plan import Limits, SnapshotBudget
from kalshibook.gather.records import Notice, Received
from kalshibook.gather.session import Role, Session
from kalshibook.simulator.frames import delta_frame, snapshot_frame
from kalshibook.wire import GapRecord

__all__ = ["Stage", "shared"]

SID: Final = 3


def shared(options: GatherOptions, records: list[GapRecord], seed: int = 1) -> Shared:
    """Make what sessions have in common."""
    return Shared(
        options,
        Limits(per_connection=options.markets_per_connection, per_command=options.markets_per_command),
        SnapshotBudget(per_second=options.snapshots_per_second, burst=options.snapshot_burst),
        GapLedger("g1", on_record=records.append),
        random.Random(seed),
    )


class Stage:
    """One session and the other end of its socket."""

    def __init__(
        self,
        role: Role = Role.BOOKS,
        *,
        connection: str = "c1",
        before: "Stage | None" = None,
        gaps: Sequence[OpenGap] = (),
        **options: Any,
    ) -> None:
        self.records: list[GapRecord] = before.records if before else []
        self.shared: Shared = before.shared if before else shared(GatherOptions(**options), self.records)
        self.now_us: int = before.now_us if before else 1_000_000_000
        self.session = Session(role, connection, self.shared, gaps=gaps)
        self.number = 0
        self.effects: list[Effect] = []
        self.passed: list[Received] = []
        self._seen = 0

    # The gatherer's side.

    def open(self, *tickers: str) -> None:
        self.session.add(tickers, self.now_us)
        self.session.opened(self.now_us)

    def wait(self, seconds: float) -> None:
        """Let time pass in steps of a tenth."""
        for _ in range(round(seconds * 10)):
            self.now_us += 100_000
            self.session.tick(self.now_us)

    def sent(self) -> list[dict[str, Any]]:
        """Return the commands since the last call."""
        self._collect()
        sent = [effect for effect in self.effects[self._seen :] if isinstance(effect, Send)]
        self._seen = len(self.effects)
        return [msgspec.json.decode(effect.command) for effect in sent]

    def asked(self) -> list[tuple[str, list[str]]]:
        """Return the commands since the last call, as action and markets."""
        return [
            (one["params"].get("action", one["cmd"]), one["params"].get("market_tickers", []))
            for one in self.sent()
        ]

    @property
    def notices(self) -> list[Notice]:
        self._collect()
        return [effect.notice for effect in self.effects if isinstance(effect, Tell)]

    @property
    def drops(self) -> list[Drop]:
        self._collect()
        return [effect for effect in self.effects if isinstance(effect, Drop)]

    @property
    def overfull(self) -> list[str]:
        self._collect()
        return [one for effect in self.effects if isinstance(effect, Overfull) for one in effect.tickers]

    @property
    def troubles(self) -> list[str]:
        self._collect()
        return [effect.kind.value for effect in self.effects if isinstance(effect, Trouble)]

    def states(self) -> dict[str, str]:
        return {ticker: state.value for ticker, state in self.session.books.states.items()}

    @property
    def all_live(self) -> bool:
        return all(state is MarketState.LIVE for state in self.session.books.states.values())

    # The exchange's side.

    def say(self, frame: dict[str, Any] | bytes) -> Received | None:
        data = frame if isinstance(frame, bytes) else msgspec.json.encode(frame)
        passed = self.session.receive(data, self.now_us)
        if passed is not None:
            self.passed.append(passed)
        return passed

    def next(self, lost: int = 0) -> int:
        self.number += 1 + lost
        return self.number

    def subscribed(self, number: int, channel: str = "orderbook_delta", sid: int = SID) -> None:
        self.number = 0
        self.say({"type": "subscribed", "id": number, "msg": {"channel": channel, "sid": sid}})

    def ok(self, number: int, tickers: Sequence[str], sid: int = SID) -> None:
        message = {"market_tickers": list(tickers)}
        self.say({"type": "ok", "id": number, "sid": sid, "seq": self.next(), "msg": message})

    def error(self, code: int, number: int | None = None, **more: Any) -> None:
        message = {"code": code, "msg": "text", **more.pop("msg", {})}
        self.say({"type": "error", **({} if number is None else {"id": number}), "msg": message, **more})

    def snapshot(
        self, ticker: str, *, lost: int = 0, number: int | None = None, sid: int = SID
    ) -> Received | None:
        frame = snapshot_frame(ticker, [(4_000, 100)], [], sid=sid, seq=self.next(lost), ts_ms=1)
        if number is not None:
            frame = frame[:-1] + f',"id":{number}}}'.encode()
        return self.say(frame)

    def delta(self, ticker: str, *, lost: int = 0, sid: int = SID) -> Received | None:
        return self.say(delta_frame(ticker, "yes", 4_000, 100, sid=sid, seq=self.next(lost), ts_ms=1))

    def follow(self, *tickers: str) -> None:
        """Open, subscribe and answer with all snapshots."""
        self.open(*tickers)
        (command,) = self.sent()
        self.subscribed(command["id"])
        for ticker in tickers:
            self.snapshot(ticker)
        assert self.all_live

    def _collect(self) -> None:
        self.effects.extend(self.session.effects)
        self.session.effects.clear()
