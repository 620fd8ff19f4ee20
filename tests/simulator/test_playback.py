from pathlib import Path
from typing import Any

import pytest

from kalshibook.feeds.tape import Tape
from kalshibook.simulator.frames import delta_frame, lifecycle_frame, snapshot_frame, trade_frame
from kalshibook.testing import fold
from tests.simulator.watching import START_US, Watcher, sides_of, venue

NEWT = "KXNEWT-26DEC01-T40"
TIMES: dict[str, Any] = {"sid": 7, "ts_ms": 1}

TAPE = [
    (1_000, snapshot_frame(NEWT, [(4_000, 100), (3_900, 5)], [(5_000, 7)], seq=40, **TIMES)),
    (1_500, delta_frame(NEWT, "yes", 4_000, -100, seq=42, **TIMES)),
    (1_500, trade_frame(NEWT, "t1", 4_000, 100, "no", seq=1, **TIMES)),
    (2_000, delta_frame(NEWT, "yes", 4_000, -1, seq=43, **TIMES)),
    (2_000, b"nonsense"),
    (2_500, snapshot_frame(NEWT, [(3_900, 9)], [], seq=44, **TIMES)),
    (3_000, lifecycle_frame(NEWT, "deactivated", {"is_deactivated": True}, seq=3, **TIMES)),
]


def test_a_recording_moves_the_books() -> None:
    """Snapshots become changes, trades and turns are told, numbers are our own, and holes are counted."""
    exchange = venue(markets=0)
    playback = exchange.play(TAPE)
    exchange.advance(START_US)
    watcher = Watcher(exchange)
    watcher.ask(
        "subscribe", channels=["orderbook_delta", "trade", "market_lifecycle_v2"], market_tickers=[NEWT]
    )
    assert {"yes": {4_000: 100, 3_900: 5}, "no": {5_000: 7}} == watcher.sides(NEWT)
    exchange.advance(START_US + 499_000)
    assert [] == watcher.hear()
    exchange.advance(START_US + 500_000)
    assert ["orderbook_delta", "trade"] == [frame["type"] for frame in watcher.hear()]
    exchange.advance(START_US + 5_000_000)
    watcher.hear()
    assert {"yes": {3_900: 9}, "no": {}} == watcher.sides(NEWT) == sides_of(exchange.truth(NEWT))
    assert ["deactivated"] == [message["event_type"] for message in watcher.of("market_lifecycle_v2")]
    assert (6, 2, True) == (playback.played, playback.unfit, playback.ended)
    assert "inactive" == exchange.truth(NEWT).status


@pytest.mark.recordings
def test_recordings_end_in_the_books_that_a_plain_fold_has() -> None:
    """Real traffic played through the exchange leaves clients with the books of the recording."""
    folder = Path(__file__).parents[3] / "shared" / "recordings"
    if not folder.is_dir():
        pytest.skip(f"no recordings at {folder}")
    one = next(path for path in sorted(folder.iterdir()) if path.is_dir())
    exchange = venue(markets=0, subscription_buffer=1_000_000)
    exchange.play((frame.received_ms, frame.frame) for frame in Tape(one, align=True))
    exchange.advance(START_US + 2_000_000)
    watcher = Watcher(exchange)
    tickers = [market.ticker for market in exchange.model.held()]
    watcher.ask("subscribe", channels=["orderbook_delta"], market_tickers=tickers)
    for second in range(2, 1_000):
        exchange.advance(START_US + second * 1_000_000)
        watcher.hear()
    folded = fold(frame.frame for frame in Tape(one))
    for ticker in tickers:
        mine = watcher.sides(ticker)
        assert {"yes": folded[ticker].levels("yes"), "no": folded[ticker].levels("no")} == mine
