"""Real traffic: clients of every pace rebuild the books that the store holds."""

import gzip
import json
import random
from pathlib import Path

import pytest

from kalshibook.store import Arrival
from kalshibook.wire import decode_frame, read_frame
from tests.stream.stage import Stage, User, held_books

RECORDINGS = Path(__file__).parents[2].parent / "shared" / "recordings"
FRAMES = 20_000
# How often each reads, per message: one keeps up, one never reads.
PACES = (0.2, 0.02, 0.001, 0.0)


@pytest.mark.recordings
@pytest.mark.parametrize(
    "folder", sorted(RECORDINGS.glob("KX*"))[:2] or [None], ids=lambda path: path and path.name
)
def test_clients_rebuild_real_books(folder: Path | None) -> None:
    """Whoever reads, fast or slowly, in large writes or small ones, ends with the same books."""
    if folder is None:
        pytest.skip("no recordings beside the checkout")
    dice = random.Random(5)
    stage = Stage(depth_backlog=50)
    users = [stage.connect() for _ in PACES]
    for number, user in enumerate(users):
        user.yes_scale = number % 2 == 1
        channels = ["orderbook_delta", "top_of_book", "trade"]
        user.send("subscribe", channels=channels, market_prefixes=["KX"], use_yes_price=user.yes_scale)
    with stage.store.writer() as writer:
        for number, line in enumerate(_lines(folder)):
            frame = decode_frame(json.dumps(json.loads(line)["event"]))
            sid, sequence = getattr(frame, "sid", None), getattr(frame, "seq", None)
            writer.apply(
                read_frame(frame), Arrival("g", "c", sid, sequence, None, number, None, None, None, 0, number)
            )
            if dice.random() < 0.05:
                writer.commit()
                stage.deliver()
            _read(users, dice)
    stage.deliver()
    books = held_books(stage.store)
    assert books
    for user in users:
        while user.hear():
            pass
        assert books == user.books
    assert users[0].deltas > FRAMES / 2
    assert 0 < stage.hub.statistics().snapshots_resent


def _lines(folder: Path) -> list[bytes]:
    lines: list[bytes] = []
    for path in sorted(folder.glob("*.ndjson.gz")):
        with gzip.open(path) as stream:
            lines += stream.readlines()
    return lines[:FRAMES]


def _read(users: list[User], dice: random.Random) -> None:
    for user, pace in zip(users, PACES, strict=True):
        if dice.random() < pace:
            user.hear(dice.choice([100, 5_000, 1_000_000]))
            user.heard.clear()
