"""
What is ours under ``/simulator``: the truth, faults, and steering; it asks for no key and costs no tokens.

Whoever tests with this can compare any consumer with the true books, and what it found with what was done.
"""

from collections.abc import Callable
from typing import Annotated, Final

import msgspec
import trio
from quart import Response, request
from quart_trio import QuartTrio

from kalshibook.simulator import steering
from kalshibook.simulator.answers import error, json_answer, tickers_of
from kalshibook.simulator.faults import NothingToHarm
from kalshibook.simulator.ledger import FaultKind
from kalshibook.simulator.listing import BadQuery
from kalshibook.simulator.truth import TrueBook
from kalshibook.simulator.venue import Venue

__all__ = ["add_control"]

_RECKONED_AT_ONCE: Final = 200


class _FaultOrder(msgspec.Struct, forbid_unknown_fields=True):
    kind: FaultKind
    connection: int | None = None
    sid: int | None = None
    channel: str | None = None
    count: int = 1
    duration_ms: int | None = None


class _Run(msgspec.Struct, forbid_unknown_fields=True):
    changes: Annotated[int, msgspec.Meta(ge=1)]


class _Campaign(msgspec.Struct, forbid_unknown_fields=True):
    count: Annotated[int, msgspec.Meta(ge=0)]
    span: Annotated[int, msgspec.Meta(ge=1)]


_orders = msgspec.json.Decoder(_FaultOrder)
_runs = msgspec.json.Decoder(_Run)
_campaigns = msgspec.json.Decoder(_Campaign)
_steerings = msgspec.json.Decoder(steering.Steering)


def add_control(
    app: QuartTrio,
    venue: Venue,
    tick: Callable[[], None],
    nudge: Callable[[], None],
    run: Callable[[int], object],
) -> None:
    """
    Add the addresses below ``/simulator`` to an application.

    Args:
        app: the application.
        venue: what is shown and steered.
        tick: brings the venue's clock up to date.
        nudge: called when something was done by which more may be due.
        run: lets so many changes happen, and freezes.
    """

    @app.get("/simulator/truth")
    async def truth() -> Response:
        if tickers := tickers_of(request.args):
            known = [ticker for ticker in tickers if ticker in venue.model]
            return json_answer({"at_us": venue.now_us, "books": [venue.truth(ticker) for ticker in known]})
        while not venue.reckon(_RECKONED_AT_ONCE):
            await trio.lowlevel.checkpoint()
        tick()
        return json_answer(venue.checksum())

    @app.get("/simulator/truth/<ticker>")
    async def true_book(ticker: str) -> Response:
        if ticker not in venue.model:
            raise error(404, "not_found", "market not found")
        return json_answer(venue.truth(ticker))

    @app.get("/simulator/books")
    async def books() -> Response:
        held = [TrueBook.of(market, venue.now_us) for market in venue.model.held()]
        return json_answer({"at_us": venue.now_us, "books": held})

    @app.get("/simulator/faults")
    async def faults() -> Response:
        return json_answer({"done": venue.ledger.done, "faults": list(venue.ledger)})

    @app.post("/simulator/faults")
    async def inject() -> Response:
        try:
            order = _orders.decode(await request.get_data())
        except msgspec.DecodeError as wrong:
            raise BadQuery(str(wrong)) from None
        try:
            injected = venue.faults.inject(
                order.kind,
                connection=order.connection,
                sid=order.sid,
                channel=order.channel,
                count=order.count,
                duration_ms=order.duration_ms,
            )
        except NothingToHarm as nobody:
            raise error(409, "nothing_to_harm", str(nobody)) from None
        return json_answer({"faults": injected}, 201)

    @app.post("/simulator/campaign")
    async def campaign() -> Response:
        try:
            wanted = _campaigns.decode(await request.get_data())
        except msgspec.DecodeError as wrong:
            raise BadQuery(str(wrong)) from None
        venue.faults.campaign(wanted.count, wanted.span)
        return json_answer(wanted, 201)

    @app.post("/simulator/freeze")
    async def freeze() -> Response:
        venue.freeze()
        return json_answer({"frozen": True})

    @app.post("/simulator/thaw")
    async def thaw() -> Response:
        venue.thaw()
        nudge()
        return json_answer({"frozen": False})

    @app.post("/simulator/run")
    async def run_changes() -> Response:
        try:
            wanted = _runs.decode(await request.get_data())
        except msgspec.DecodeError as wrong:
            raise BadQuery(str(wrong)) from None
        run(wanted.changes)
        return json_answer({"changes": venue.lives.steps, "frozen": False}, 202)

    @app.post("/simulator/markets/<ticker>/<action>")
    async def steer(ticker: str, action: str) -> Response:
        try:
            order = _steerings.decode(await request.get_data() or b"{}")
            steering.steer(venue, ticker, action, order)
        except (msgspec.DecodeError, ValueError) as wrong:
            raise BadQuery(str(wrong)) from None
        except KeyError:
            raise error(404, "not_found", "no such market, action or grid") from None
        nudge()
        return json_answer(venue.truth(ticker) if ticker in venue.model else {"ticker": ticker}, 201)

    @app.get("/simulator/status")
    async def simulator_status() -> Response:
        sessions = venue.sessions.values()
        return json_answer(
            {
                "at_us": venue.now_us,
                "markets": len(venue.model),
                "kept_markets": venue.model.kept_count,
                "changes": venue.lives.steps,
                "frozen": venue.is_frozen,
                "faults": len(venue.ledger),
                "connections": [
                    {
                        "connection": session.number,
                        "user": session.user,
                        "peer": session.peer,
                        "frames": session.frames,
                        "backlog": session.backlog,
                        "subscriptions": [
                            {
                                "sid": held.sid,
                                "channel": held.channel.name,
                                "seq": held.seq,
                                "markets": None if held.every else len(held.tickers),
                            }
                            for held in session.subscriptions
                        ],
                    }
                    for session in sessions
                ],
            }
        )
