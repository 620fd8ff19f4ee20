"""States shared by all who follow every market: frames as one by one, and never a state too many."""

import gc
import threading
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from kalshibook.store import BookStore
from kalshibook.stream.block import Block
from kalshibook.stream.frames import FrameWriter, SnapshotCache
from kalshibook.stream.newest import Folded, Latest
from kalshibook.stream.shared import Body
from kalshibook.switching import short_switch_interval
from tests.stream.stage import Stage, User, split

MARKETS = [f"KXALL-{number:03}" for number in range(200)]

tails = st.binary(max_size=400).map(lambda text: b',"msg":{' + text.replace(b"\0", b"%") + b"}}")


def latest(tail: bytes, version: int, merged: int = 1) -> Latest:
    """Return a state whose frame ends so."""
    body = Body(None, lambda _: tail)  # type: ignore[arg-type]  # its book is not asked for
    return Latest(f"KX-{version}", version, body, 5_000, merged)


@given(
    st.lists(st.tuples(tails, st.integers(0, 3)), min_size=1, max_size=70),
    st.binary(max_size=60).map(lambda text: b'{"type":"' + text.replace(b"\0", b"%d") + b'","seq":'),
    st.one_of(st.none(), st.integers(1, 10_000)),
    st.lists(st.integers(0, 10**13), min_size=1, max_size=3),
)
def test_frames_are_those_of_one_by_one(
    states: list[tuple[bytes, int]], head: bytes, first: int | None, stamps: list[int]
) -> None:
    """Whatever stands in them, for whichever client and moment; only where numbers grow by a digit, none."""
    items = [latest(tail, version, merged) for version, (tail, merged) in enumerate(states)]
    block = Block(items, None)
    for sent in stamps:
        stamp = b',"sending_ts_ms":%d' % sent
        writer = FrameWriter(BookStore(), SnapshotCache(0), 1 << 30, 0)
        numbers = [b"" if first is None else b"%d" % (first + place) for place in range(len(items))]
        writer.add_all([head + number + stamp for number in numbers], [item.tail for item in items])
        expected = writer.joined() if len(numbers[0]) == len(numbers[-1]) else None

        assert expected == block.frames(head, first, stamp)


def test_knows_the_oldest_of_its_changes() -> None:
    """Who followed all markets from before that has missed nothing of it."""
    folded = Folded(3, 100, 1)
    folded.add(8, 200, 1)
    folded.add(9, 300, 2)
    stage = Stage()
    stage.script.snapshot({4_000: 100}, {}, ticker=MARKETS[0])
    book = stage.store.book(MARKETS[0])
    late = folded.latest(book, Body(book, lambda _: b""))
    block = Block([latest(b"", 7), late], None)

    assert (3, 2) == (block.first_version, block.replaced)
    # What it keeps does not refer to all that was folded.
    assert [None, None] == [item.folded for item in block.items]
    assert [1, 4] == [item.merged for item in block.items]


def all_on_every(count: int, **options: int) -> tuple[Stage, list[User]]:
    """Return clients that follow all markets and have heard the first state of each."""
    stage = Stage(**options)
    for ticker in MARKETS:
        stage.script.snapshot({4_000: 100}, {}, ticker=ticker)
    stage.deliver()
    users = [stage.connect() for _ in range(count)]
    for user in users:
        user.send("subscribe", channels=["top_of_book"])
        user.hear()
    return stage, users


def change_all(stage: Stage) -> None:
    """Change the top of every market, and let the hub know."""
    for ticker in MARKETS:
        stage.script.delta("yes", 4_000, 10, ticker=ticker)
    stage.deliver()


def test_clients_that_keep_pace_share_frames() -> None:
    """Their frames are the same but for the numbers, none is missing, and none waits on its own."""
    stage, users = all_on_every(3)
    for _ in range(7):  # their numbers grow by a digit on the way
        change_all(stage)
        assert [len(MARKETS)] * 3 == [user.client.backlog for user in users]
        heard = [user.hear() for user in users]
        assert heard[0] == heard[1] == heard[2]
        assert [*MARKETS] == [frame["msg"]["market_ticker"] for frame in heard[0]]
    assert all({1: 8 * len(MARKETS)} == user.seqs for user in users)
    assert 0 == stage.hub.statistics().conflated
    assert 0 == stage.hub.statistics().waiting


def test_a_client_that_falls_behind_gets_the_newest_of_each() -> None:
    """What it has not read is replaced market by market, and says for how many changes it stands."""
    stage, (quick, slow) = all_on_every(2)
    for _ in range(5):
        change_all(stage)
        quick.hear()
    heard = slow.hear()

    assert [*MARKETS] == [frame["msg"]["market_ticker"] for frame in heard]
    assert {(5, "1.50")} == {(frame["msg"]["merged"], frame["msg"]["yes_bid_size_fp"]) for frame in heard}
    assert 4 * len(MARKETS) == stage.hub.statistics().conflated
    change_all(stage)
    assert slow.hear()[0]["msg"]["yes_bid_size_fp"] == quick.hear()[0]["msg"]["yes_bid_size_fp"] == "1.60"


def test_a_narrow_write_takes_frame_by_frame() -> None:
    """A block that is longer than a write is written in pieces, with every number once."""
    stage, (user,) = all_on_every(1)
    change_all(stage)
    written = 0
    while data := user.client.take(1_000, stage.now_us):
        assert len(split(data)[-1]) < 1_000 <= len(data) or not user.client.is_pending
        written += len(split(data))

    assert len(MARKETS) == written


def test_who_comes_while_states_are_handed_out_gets_none_twice() -> None:
    """It began with newer ones; who leaves meanwhile gets nothing more."""
    stage, (first, second) = all_on_every(2)
    for ticker in MARKETS:
        stage.script.delta("yes", 4_000, 10, ticker=ticker)
    batch = stage.reader.take_nowait()
    assert batch is not None
    stage.hub.deliver(batch, stage.now_us)
    came: list[User] = []
    for _ in stage.hub.hand_out(70):
        if not came:
            stage.hub.disconnect(second.client)
            came.append(stage.connect())
            came[0].send("subscribe", channels=["top_of_book"])
    tops = [frame for frame in came[0].hear() if frame["type"] == "top_of_book"]

    assert len(MARKETS) == len(tops) == len(first.hear())
    assert {"1.10"} == {frame["msg"]["yes_bid_size_fp"] for frame in tops}
    assert 0 == second.client.backlog


def test_who_never_reads_holds_a_state_a_market() -> None:
    """However many blocks are handed to it, in however many rounds."""
    stage, (slow,) = all_on_every(1)
    for _ in range(50):
        change_all(stage)
        assert len(MARKETS) == slow.client.backlog
    (subscription,) = slow.client.subscriptions
    assert len(subscription._blocks) <= 32  # type: ignore[attr-defined]


@pytest.mark.parametrize("written", [True, False], ids=["written before", "not yet written"])
def test_who_turns_to_all_markets_meanwhile_gets_none_twice(written: bool) -> None:
    """What it followed by name was handed to it before; the pause is in the middle of that."""
    stage, _ = all_on_every(1)
    user = stage.connect()
    user.send("subscribe", channels=["top_of_book"], market_tickers=[MARKETS[0]])
    user.hear()
    for ticker in MARKETS:
        stage.script.delta("yes", 4_000, 10, ticker=ticker)
    batch = stage.reader.take_nowait()
    assert batch is not None
    stage.hub.deliver(batch, stage.now_us)
    pauses = stage.hub.hand_out(1_000)
    next(pauses)
    heard = user.hear() if written else []
    user.send("subscribe", channels=["top_of_book"])
    for _ in pauses:
        pass
    heard += user.hear()

    messages = [frame["msg"] for frame in heard if frame["type"] == "top_of_book"]
    (state,) = [message for message in messages if message["market_ticker"] == MARKETS[0]]
    assert "merged" not in state
    assert 0 == stage.hub.statistics().conflated
    # From the next round on it keeps pace with the others.
    change_all(stage)
    assert user.hear() != []
    (subscription,) = user.client.subscriptions
    change_all(stage)
    assert len(subscription._blocks) > 0  # type: ignore[attr-defined]


def test_a_block_does_not_hold_its_round() -> None:
    """A client that stops reading keeps states, and not all the changes that were folded into them."""
    stage, (slow,) = all_on_every(1)
    for _ in range(20):
        for ticker in MARKETS:
            stage.script.delta("yes", 4_000, 10, ticker=ticker)
    stage.deliver()
    gc.collect()

    assert len(MARKETS) == slow.client.backlog
    assert [] == [held for held in gc.get_objects() if type(held) is Folded]


def test_frames_are_shared_by_clients_with_other_ids_and_shorter_numbers() -> None:
    """A few kinds of clients in turn put each block's frames together once a kind."""
    made = Counter[int]()

    class Counted(Latest, gc=False, frozen=True):
        @property
        def tail(self) -> bytes:
            made[self.version] += 1
            return super().tail

    items = [Counted(f"KX-{number}", number, latest(b"x", number).body, 5_000, 1) for number in range(3)]
    block = Block(items, None)
    for _ in range(10):
        for head in (b'{"sid":1,"seq":', b'{"sid":2,"seq":'):
            for first in (10, 100):
                assert block.frames(head, first, b"") is not None

    assert {0: 4, 1: 4, 2: 4} == made


def test_states_are_counted_from_another_thread() -> None:
    """Metrics are rendered beside the server, while blocks come and go."""
    stage, users = all_on_every(20)
    errors: list[BaseException] = []
    done = threading.Event()

    def scrape() -> None:
        try:
            while not done.is_set():
                stage.hub.statistics()
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=scrape)
    with short_switch_interval(5):
        thread.start()
        for _ in range(15):
            change_all(stage)
            for user in users:
                while user.client.take(65_536, stage.now_us):
                    pass
        done.set()
        thread.join()

    assert [] == errors
