"""
All six recorded markets through the whole spine: the books must be those of a plain reference.

Compared at the end and at ten random moments, each a version of the store whose offsets say exactly
which frames it holds.
"""

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from kalshibook.feeds import EmbeddedBroker, KafkaFeed, KafkaOptions
from kalshibook.feeds.player import play
from kalshibook.feeds.publisher import Publisher
from kalshibook.feeds.recording import RecordingFeed, RecordingOptions
from kalshibook.feeds.tape import RecordedFrame, Tape
from kalshibook.store import BookStore, Cut, IncidentKind, Outcome
from kalshibook.testing import ReferenceBook, compare_all, fold

pytestmark = pytest.mark.recordings

FOLDER = Path(__file__).parents[2] / "shared" / "recordings"
MOMENTS = 10
PARTITIONS = 4
TIMEOUT_S = 100
FRAMES = 410_482
"""Snapshots, changes and trades in the six recordings."""


@pytest.fixture(scope="module")
def frames() -> list[RecordedFrame]:
    """Every frame, in the order in which it is played."""
    if not FOLDER.is_dir():
        pytest.skip(f"no recordings at {FOLDER}")
    return list(Tape(FOLDER, run="test"))


def check(cuts: list[Cut], played: Mapping[int, list[bytes]]) -> None:
    """Fold the frames of each partition up to each cut's offsets, and compare."""
    books: dict[str, ReferenceBook] = {}
    reached = dict.fromkeys(played, 0)
    for cut in sorted(cuts, key=lambda cut: cut.version):
        for partition, offset in cut.offsets.items():
            fold(played[partition][reached[partition] : offset], books)
            reached[partition] = offset
        assert [] == compare_all(cut, books)


def check_outcomes(store: BookStore) -> None:
    """No frame of the recordings is lost, doubted or taken for a duplicate on its way."""
    statistics = store.statistics()
    assert {
        Outcome.SNAPSHOT: 14,
        Outcome.DELTA: 402_566,
        Outcome.TRADE: 7_902,
    } == {outcome: count for outcome, count in statistics.outcomes.items() if count}
    harmful = set(IncidentKind) - {IncidentKind.FEED, IncidentKind.CLIENT}
    assert {} == {kind: count for kind, count in statistics.incidents.items() if count and kind in harmful}


def moments(total: int) -> list[int]:
    """Return ten random numbers of frames, the same in every run."""
    return sorted(random.Random(20_260_811).sample(range(1, total), MOMENTS))


def at_moments(store: BookStore, cuts: list[Cut], due: list[int]) -> Callable[[object], None]:
    """Return what takes a cut of the store whenever the next of the due numbers of frames is applied."""
    waiting: Iterator[int] = iter([*due, FRAMES + 1])
    following = next(waiting)

    def look(_: object = None) -> None:
        nonlocal following
        cut = store.cut()
        if sum(cut.offsets.values()) >= following:
            cuts.append(cut)
            following = next(waiting)

    return look


def test_straight_into_a_store(frames: list[RecordedFrame]) -> None:
    """The recording feed's books equal the reference at ten random versions and at the end."""
    store, cuts = BookStore(), list[Cut]()
    due = moments(len(frames))
    options = RecordingOptions(path=str(FOLDER), speed="max")
    with RecordingFeed(store, options, on_frame=at_moments(store, cuts, due)) as feed:
        assert feed.wait_finished(TIMEOUT_S)
    assert due == [cut.offsets[0] for cut in cuts]
    assert FRAMES == len(frames) == feed.health().records
    assert 0 == feed.health().rejected
    check([*cuts, store.cut()], {0: [frame.frame for frame in frames]})
    check_outcomes(store)


def partitions_of(broker: EmbeddedBroker, frames: list[RecordedFrame]) -> dict[int, list[bytes]]:
    """Return the frames of each partition, learnt by publishing one frame of each market elsewhere."""
    by_market: dict[str, list[RecordedFrame]] = defaultdict(list)
    for frame in frames:
        by_market[frame.connection.split(".")[2]].append(frame)
    home_of: dict[str, int] = {}
    broker.create_topic("homes", PARTITIONS)
    with Publisher(str(broker), source="test", topic="homes") as publisher:
        before: dict[int, int] = {}
        for ticker, (first, *_) in by_market.items():
            publisher.publish(first.frame, connection="test", received_us=1)
            assert 0 == publisher.flush(TIMEOUT_S)
            ends = dict(publisher.ends())
            (home_of[ticker],) = (partition for partition in ends if ends[partition] != before.get(partition))
            before = ends
    found: dict[int, list[bytes]] = defaultdict(list)
    for frame in frames:
        found[home_of[frame.connection.split(".")[2]]].append(frame.frame)
    return found


def test_through_kafka(frames: list[RecordedFrame]) -> None:
    """
    Played at full speed through the embedded broker, the Kafka feed's books equal the reference.

    The cuts are taken on the player's thread while the feed is reading, so each is a version that
    a reader in another thread saw.
    """
    store, cuts = BookStore(), list[Cut]()
    look = at_moments(store, cuts, moments(len(frames)))

    def watched() -> Iterator[RecordedFrame]:
        for frame in frames:
            look(frame)
            yield frame

    with EmbeddedBroker({"market-data-all": PARTITIONS}) as broker:
        options = KafkaOptions(
            bootstrap_servers=str(broker), start="beginning", extra=dict(EmbeddedBroker.CONSUMER_SETTINGS)
        )
        played = partitions_of(broker, frames)
        with (
            Publisher(str(broker), source="recording") as publisher,
            KafkaFeed(store, options) as feed,
        ):
            assert feed.wait_ready(TIMEOUT_S)
            report = play(watched(), publisher, speed=math.inf, consumed=lambda: store.cut().offsets)
            with store.changes() as reader:
                while sum(store.cut().offsets.values()) < FRAMES:
                    assert reader.take(TIMEOUT_S) is not None
                    look(None)
    assert (FRAMES, 0, True) == (report.frames, report.rejected, report.complete)
    assert FRAMES == publisher.statistics().delivered
    assert MOMENTS == len(cuts)
    check([*cuts, store.cut()], played)
    check_outcomes(store)
