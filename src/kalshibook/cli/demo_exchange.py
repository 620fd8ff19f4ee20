"""The demo's simulated exchange and the gatherer that listens to it, each in a process of its own."""

import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, final

import httpx
import msgspec
import trio
from rich.console import Console
from rich.table import Table

from kalshibook.cli.latency import duration_text
from kalshibook.cli.parts import Part, started_part
from kalshibook.feeds import KafkaOptions
from kalshibook.simulator.truth import TrueBook
from kalshibook.store import Book, BookStore, Condition
from kalshibook.wire.gaps import GapRecord

__all__ = ["ExchangeSource"]

_KEY_ID: Final = "simulator"
_LOOK_S: Final = 0.25
_SETTLE_S: Final = 15.0
_SHOWN_DIFFERENCES: Final = 10
_GAPS: Final = 1_000
_SETTINGS: Final = {
    "gather.environment": "custom",
    "gather.source": "demo",
    "gather.key_id": _KEY_ID,
    # A lost last frame shows when the next one comes; in a demo nobody waits long for it.
    "gather.silence_s": "1",
    "gather.backoff_first_s": "0.1",
    "gather.backoff_limit_s": "2",
}


class _Truth(msgspec.Struct, frozen=True):
    books: list[TrueBook]


class _GapCounts(msgspec.Struct, frozen=True):
    found: int
    healed: int


class _Gaps(msgspec.Struct, frozen=True):
    counts: _GapCounts
    gaps: list[GapRecord]


@final
class ExchangeSource:
    """
    A simulated exchange and its gatherer as the source of a demo.

    Args:
        markets: how many move.
        rate: messages per second over all markets, at speed 1.
        seed: of all that is at random.
        speed: how fast the exchange's time passes; infinity for as fast as the gatherer reads.
        faults: what goes wrong by itself.
    """

    has_time_to_try: Final = True

    def __init__(self, *, markets: int, rate: float, seed: int, speed: float, faults: str) -> None:
        self._markets = markets
        self._faults = faults
        self._exchange_arguments = (
            *("--markets", str(markets), "--rate", str(rate), "--seed", str(seed), "--faults", faults),
            *("--speed", "0" if speed == float("inf") else str(speed)),
        )
        self.is_live: Final = speed == 1
        self._store: BookStore | None = None
        self._parts: list[Part] = []
        self._control_url = ""
        self._gatherer_url = ""
        self._survived: dict[str, int] = {}
        self._gaps: _Gaps | None = None
        self._differences: list[str] | None = None
        self._compared = 0

    @property
    def title(self) -> str:
        """What is shown."""
        faults = "" if self._faults == "none" else f", {self._faults} faults"
        return f"a simulated exchange of {self._markets:,} markets{faults}, and its gatherer"

    @asynccontextmanager
    async def running(
        self, kafka: KafkaOptions, producer: Mapping[str, str | int | bool], store: BookStore
    ) -> AsyncIterator[Mapping[str, str]]:
        """Run both during the block."""
        self._store = store
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kalshibook-")))
            key = folder / "key.pem"
            exchange = await stack.enter_async_context(
                started_part("simulate", (*self._exchange_arguments, "--new-key", str(key)), folder)
            )
            settings = {
                **_SETTINGS,
                "gather.private_key_file": str(key),
                "gather.rest_url": exchange.addresses["rest_url"],
                "gather.stream_url": exchange.addresses["stream_url"],
                "gather.http_port": "0",
                "kafka.bootstrap_servers": kafka.bootstrap_servers,
                "kafka.topic": kafka.topic,
                **{f"kafka.extra.{name}": str(value) for name, value in producer.items()},
            }
            arguments = [part for path, value in settings.items() for part in ("--set", f"{path}={value}")]
            gatherer = await stack.enter_async_context(started_part("gather", arguments, folder))
            self._parts = [exchange, gatherer]
            self._control_url = exchange.addresses["control_url"]
            self._gatherer_url = gatherer.addresses["http_url"]
            yield {
                "exchange": exchange.addresses["rest_url"],
                "truth": f"{self._control_url}/truth",
                "faults": f"{self._control_url}/faults",
                "gatherer": f"{self._gatherer_url}/readyz",
            }

    async def until_over(self) -> None:
        """
        Watch over both; they do not end by themselves.

        Raises:
            PartStopped: one of them did.
        """
        while True:
            for part in self._parts:
                part.require_alive()
            await trio.sleep(_LOOK_S)

    async def settle(self) -> None:
        """Freeze the exchange, and compare the books with its own until they are equal, or time is up."""
        assert self._store is not None
        async with httpx.AsyncClient(timeout=_SETTLE_S) as client:
            await client.post(f"{self._control_url}/freeze")
            with trio.move_on_after(_SETTLE_S):
                while self._differences is None or self._differences:
                    self._differences = await self._compare(client, self._store)
                    await trio.sleep(_LOOK_S)
            faults = (await client.get(f"{self._control_url}/faults")).json()
            self._survived = dict(faults["done"])
            gaps = await client.get(f"{self._gatherer_url}/v1/gaps", params={"limit": _GAPS})
            self._gaps = msgspec.json.decode(gaps.content, type=_Gaps)

    async def _compare(self, client: httpx.AsyncClient, store: BookStore) -> list[str]:
        held = {book.ticker: book for book in store.cut().books()}
        answer = await client.get(f"{self._control_url}/books")
        truth = msgspec.json.decode(answer.content, type=_Truth).books
        self._compared = len(truth)
        return [line for book in truth for line in _difference(book, held.get(book.ticker))]

    def report(self, console: Console) -> bool:
        """Print what was survived, and whether the books are those of the exchange."""
        if self._survived:
            table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
            table.add_column("survived")
            table.add_column("times", justify="right")
            for kind, count in sorted(self._survived.items(), key=lambda item: -item[1]):
                table.add_row(kind.replace("_", " "), f"{count:,}")
            console.print(table)
        if self._gaps is not None and self._gaps.counts.found:
            found, healed = self._gaps.counts.found, self._gaps.counts.healed
            half = _middle_text(self._gaps.gaps)
            console.print(
                f"Losses found: {found:,}, healed: {healed:,}, half of them within {half}",
                highlight=False,
                soft_wrap=True,
            )
        if self._differences is None:
            console.print("[bold red]The exchange did not answer[/]: its books could not be compared.")
            return False
        if not self._differences:
            console.print(
                f"[green]Equal[/]: {self._compared:,} books are those of the exchange.", highlight=False
            )
            return True
        console.print(f"[bold red]{len(self._differences)} books differ[/] from the exchange's own:")
        for line in self._differences[:_SHOWN_DIFFERENCES]:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)
        return False


def _middle_text(gaps: list[GapRecord]) -> str:
    took_us = sorted(gap.healed_us - gap.detected_us for gap in gaps if gap.healed_us is not None)
    return duration_text(took_us[len(took_us) // 2] if took_us else None)


def _difference(true: TrueBook, held: Book | None) -> list[str]:
    if held is None:
        # A market that was over before anybody gathered it.
        return [f"{true.ticker} is missing"] if true.yes or true.no else []
    if held.copy is not Condition.LIVE:
        return [f"{true.ticker} is {held.copy}: {held.stale_reason}"]
    for side, held_side, true_side in (("yes", held.yes, true.yes), ("no", held.no, true.no)):
        mine = {level.price: level.size for level in held_side}
        theirs = dict(true_side)
        for price in sorted(mine.keys() | theirs.keys()):
            if mine.get(price) != theirs.get(price):
                here, there = mine.get(price, 0), theirs.get(price, 0)
                return [f"{true.ticker} {side} at {price}: {here} here, {there} on the exchange"]
    return []
