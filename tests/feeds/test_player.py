import math
import threading
from collections.abc import Iterator, Mapping

import pytest

from kalshibook.feeds import EmbeddedBroker, KafkaFeed
from kalshibook.feeds.player import play
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.tape import RecordedFrame
from kalshibook.store import BookStore, Condition
from kalshibook.testing import FrameFactory, compare_all, fold
from tests.feeds.reading import TIMEOUT_S, options_for, reaches

FROG = "KXFROG-T40"


class Recorded:
    """Frames that are played on another connection each time."""

    def __init__(self, count: int = 20) -> None:
        made = FrameFactory()
        self.frames = [made.snapshot(FROG, yes=[(4_000, 100)])]
        self.frames += [made.delta(FROG, "yes", 4_000, 1) for _ in range(count - 1)]
        self.plays = 0

    def __iter__(self) -> Iterator[RecordedFrame]:
        self.plays += 1
        for number, frame in enumerate(self.frames):
            yield RecordedFrame(1_000_000 + number, f"play-{self.plays}", frame)


@pytest.fixture
def publisher(broker: EmbeddedBroker) -> Iterator[Publisher]:
    """What writes to the broker's topic."""
    with Publisher(str(broker), source="recording") as publisher:
        yield publisher


def test_everything_is_published(broker: EmbeddedBroker, publisher: Publisher, store: BookStore) -> None:
    """A store that reads the topic ends with the books of the frames."""
    recorded = Recorded(500)
    report = play(recorded, publisher, speed=math.inf)
    assert (500, 0, True, 0.0) == (report.frames, report.rejected, report.complete, report.waited_s)
    assert 500 == publisher.statistics().delivered
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
    assert [] == compare_all(store.cut(), fold(recorded.frames))


def test_a_second_round_is_no_duplicate(
    broker: EmbeddedBroker, publisher: Publisher, store: BookStore
) -> None:
    """Played in a loop, every round is applied: snapshot, then its changes, on a new connection."""
    recorded, stop = Recorded(20), threading.Event()

    def rounds() -> Iterator[RecordedFrame]:
        yield from recorded
        if recorded.plays == 3:
            stop.set()

    class Rounds:
        def __iter__(self) -> Iterator[RecordedFrame]:
            return rounds()

    report = play(Rounds(), publisher, speed=math.inf, loop=True, stop=stop)
    assert (60, False) == (report.frames, report.complete)
    assert {} == publisher._enveloper._last
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
    outcomes = store.statistics().outcomes
    assert {"snapshot": 3, "delta": 57} == {name: count for name, count in outcomes.items() if count}
    assert Condition.LIVE == store.cut()[FROG].condition


@pytest.mark.parametrize("restamp", [True, False])
def test_the_time_of_receipt_is_now_or_as_recorded(
    broker: EmbeddedBroker, publisher: Publisher, store: BookStore, restamp: bool
) -> None:
    """Restamped frames have latencies of today; the exchange's time stays in any case."""
    play(Recorded(1), publisher, restamp=restamp)
    with KafkaFeed(store, options_for(broker)) as feed:
        assert feed.wait_ready(TIMEOUT_S)
    stamps = store.cut()[FROG].stamps
    assert stamps is not None
    assert stamps.received_us is not None
    assert restamp == (stamps.received_us != 1_000_000_000)
    assert 1_790_000_000_001_000 == stamps.exchange_us


def test_a_loop_must_not_go_back_in_time(publisher: Publisher) -> None:
    """With recorded times a second round would be older than the first."""
    with pytest.raises(ValueError, match="replays"):
        play(Recorded(), publisher, loop=True, restamp=False)


def test_a_frame_that_is_none_is_counted(publisher: Publisher) -> None:
    """It is passed over, and the others are published."""
    frames = [RecordedFrame(1, "c", b"{}"), RecordedFrame(2, "c", FrameFactory().snapshot(FROG))]
    report = play(frames, publisher)
    assert (2, 1, True) == (report.frames, report.rejected, report.complete)
    assert 1 == publisher.statistics().delivered


def test_the_player_waits_for_its_reader(publisher: Publisher) -> None:
    """No partition is ever further ahead than allowed, and all is published once the reader moves on."""
    read: dict[int, int] = {}
    ahead: list[int] = []

    def consumed() -> Mapping[int, int]:
        # A reader that reads a little each time it is looked at.
        for partition, end in publisher.ends().items():
            ahead.append(end - read.get(partition, 0))
            read[partition] = min(end, read.get(partition, 0) + 5)
        return read

    report = play(Recorded(2_000), publisher, speed=math.inf, consumed=consumed, max_unread=200)
    assert (2_000, True) == (report.frames, report.complete)
    assert report.waited_s > 0
    assert 100 < max(ahead) <= 200 + 64


def test_nothing_is_evicted_unread(broker: EmbeddedBroker, publisher: Publisher, store: BookStore) -> None:
    """Far more than a partition keeps goes through it at full speed, and the books are right."""
    made = FrameFactory()
    # Prices that hardly compress: together some 25 MB in one partition of 5 MiB.
    levels = [((number * 7_919) % 9_999 + 1, number * 104_729 % 9_999_991 + 1) for number in range(2_000)]
    frames = [
        made.snapshot(FROG, yes=levels[number : number + 400] if number % 2 else levels[:400])
        for number in range(1_600)
    ]
    recorded = (RecordedFrame(number, "c", frame) for number, frame in enumerate(frames))
    with KafkaFeed(store, options_for(broker)):
        report = play(
            recorded, publisher, speed=math.inf, consumed=lambda: store.cut().offsets, max_unread=100
        )
        assert report.complete
        reaches(store, lambda cut: cut.version >= 1 and sum(cut.offsets.values()) >= 1_600)
    assert 1_600 == store.statistics().outcomes["snapshot"]
    assert [] == compare_all(store.cut(), fold(frames[-1:]))


def test_a_stop_ends_a_player_that_waits_for_its_time(publisher: Publisher) -> None:
    """A frame that is due in an hour does not hold up the end."""
    stop = threading.Event()
    frames = [RecordedFrame(0, "c", FrameFactory().snapshot(FROG)), RecordedFrame(3_600_000, "c", b"{}")]

    def then_stop() -> Iterator[RecordedFrame]:
        yield frames[0]
        threading.Timer(0.05, stop.set).start()
        yield frames[1]

    report = play(then_stop(), publisher, max_pause_ms=3_600_000, stop=stop)
    assert (1, False) == (report.frames, report.complete)


def test_a_stop_ends_a_player_that_waits_for_its_reader(publisher: Publisher) -> None:
    """A reader that never comes does not hold up the end either."""
    stop = threading.Event()
    calls = 0

    def never() -> Mapping[int, int]:
        nonlocal calls
        calls += 1
        if calls > 20:
            stop.set()
        return {}

    report = play(Recorded(5_000), publisher, speed=math.inf, consumed=never, max_unread=100, stop=stop)
    assert not report.complete
    assert report.frames < 500
