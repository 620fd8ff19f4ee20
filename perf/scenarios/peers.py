"""
The same frames through what users have now, and what a consistent read of all books costs each of them.

A mutable book takes a change faster than an immutable one. It pays at the read: whoever wants several
books of one moment stops the writer and copies them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final

from kalshibook.wire import Envelope, WireEvent, decode_envelope, read_frame
from perf.clients.worker import Worker, WorkerError
from perf.context import Context
from perf.frames import synthetic_records
from perf.peers import PEERS, Peer
from perf.result import Check, ScenarioResult, Table
from perf.stage import per_unit_us
from perf.timing import costs

__all__ = ["run"]

_MARKETS: Final = 1_000
_CLIENTS: Final = 100
_NOTE: Final = (
    "A mutable book applies a change faster, because it makes nothing new. While several are read at "
    "once their writer waits; kalshibook's does not, and the read of all levels is one reference."
)
_Message = tuple[WireEvent, Envelope]


def run(context: Context) -> ScenarioResult:
    """Apply, read and send with each of them."""
    count, rounds = (10_000, 3) if context.quick else (60_000, 3)
    values, description = synthetic_records(context, count, _MARKETS)
    messages = [(read_frame(envelope.payload), envelope) for envelope in map(decode_envelope, values)]
    context.step("peers: books")
    applying = costs({kind.name: _applier(kind, messages) for kind in PEERS}, count, rounds)
    filled: list[Peer] = [_filled(kind, messages) for kind in PEERS]
    repeats = 5 if context.quick else 20
    reading = costs({peer.name: _repeated(peer.moment, repeats) for peer in filled}, repeats, rounds)
    topping = costs({peer.name: _repeated(peer.tops, repeats) for peer in filled}, repeats, rounds)
    tops = [peer.tops() for peer in filled]
    wrong = [peer.name for peer, found in zip(filled, tops, strict=True) if found != tops[0]]
    context.step("peers: WebSocket")
    sending = {name: _sending(module, context) for name, module in _SENDERS.items()}
    return ScenarioResult(
        name="peers",
        title=f"What else there is: books, consistent reads of {_MARKETS:,} of them, and frames sent.",
        conditions=(
            description,
            "books: events are decoded before; CPU time of the thread, the least of the rounds",
            f"frames: {_CLIENTS} clients in another process, 360 bytes a frame; CPU time of the sender",
        ),
        tables=(
            Table(
                "books",
                (
                    "library",
                    "apply one change, µs",
                    f"best prices of {_MARKETS:,} books at once, µs",
                    "all levels of them at once, µs",
                    "how",
                ),
                tuple(
                    (
                        peer.name,
                        applying[peer.name].least,
                        topping[peer.name].least,
                        reading[peer.name].least,
                        peer.about,
                    )
                    for peer in filled
                ),
            ),
            Table("one frame to one client", ("how", "µs"), tuple(sending.items())),
        ),
        checks=(Check("all of them end with the same best prices", not wrong, ", ".join(wrong)),),
        notes=(_NOTE, "kalshibook's own cost of a frame is in fan-out, and REST beside plain Quart in bulk."),
    )


_SENDERS: Final = {
    "websockets, broadcast": "plain_broadcast",
    "trio-websocket, send_message": "plain_websocket",
}


def _applier(kind: type[Any], messages: Sequence[_Message]) -> Any:
    return lambda: _filled(kind, messages)


def _repeated(work: Callable[[], object], times: int) -> Callable[[], object]:
    def repeated() -> None:
        for _ in range(times):
            work()

    return repeated


def _filled(kind: type[Any], messages: Sequence[_Message]) -> Peer:
    peer: Peer = kind()
    for offset, (event, envelope) in enumerate(messages):
        peer.apply(event, envelope, offset)
    return peer


def _sending(module: str, context: Context) -> float:
    rounds = 20 if context.quick else 200
    with Worker(module) as plain, Worker("sockets", address=plain.greeting["address"]) as sockets:
        sockets.ask("connect", count=_CLIENTS)
        plain.ask("send", rounds=5)
        sockets.tell("read", seconds=0.0, quiet=1.0)
        found = plain.ask("send", rounds=rounds)
        if sockets.hear()["frames"] == 0:
            raise WorkerError(f"nothing arrived from {module}")
        return per_unit_us(found["cpu"], found["frames"])
