"""What gatherers say of themselves: which books it puts in doubt, at what cost, and who is taken for dead."""

from typing import Any

import pytest

from kalshibook.store import Arrival, Book, BookStore, Change, Condition, Pulse, StoreOptions
from kalshibook.testing import FrameFactory
from kalshibook.wire import GathererNotice, NoticeKind

FROG, NEWT, TOAD = "KXFROG-T40", "KXNEWT-T41.5", "KXTOAD-T1"
START_US = 1_790_000_000_000_000


class Stage:
    """A store, and two gatherers that speak to it; time is driven by hand."""

    def __init__(self, **options: Any) -> None:
        self.store = BookStore(StoreOptions(**options))
        self.first = FrameFactory(source="g1", connection="g1.c1", start_us=START_US)
        self.second = FrameFactory(source="g2", connection="g2.c1", start_us=START_US)
        self.ready(is_ready=True)

    def ready(self, *, is_ready: bool) -> None:
        with self.store.writer() as writer:
            writer.set_ready(is_ready)

    def hear(self, frames: FrameFactory, frame: bytes, *, partition: int = 0) -> str:
        with self.store.writer() as writer:
            return writer.apply(*frames.message(frame, partition=partition))

    def notice(self, frames: FrameFactory, kind: NoticeKind, *, partition: int = 0, **scope: Any) -> str:
        with self.store.writer() as writer:
            return writer.apply(*frames.arrived(frames.notice(kind, **scope), partition=partition))

    def snapshot(self, frames: FrameFactory, *tickers: str, partition: int = 0) -> None:
        for ticker in tickers:
            self.hear(frames, frames.snapshot(ticker, yes=[(4_000, 100)]), partition=partition)

    def listen(self, seconds: float) -> None:
        """Let the timer run as a feed does that is caught up."""
        with self.store.writer() as writer:
            writer.tick(START_US)
            for step in range(1, int(seconds * 10) + 1):
                writer.tick(START_US + step * 100_000)

    def conditions(self) -> dict[str, str]:
        return {book.ticker: book.condition.value for book in self.store.cut().books()}

    def incidents(self, kind: str) -> list[str]:
        return [one.detail for one in self.store.incidents.recent() if one.kind == kind]


@pytest.fixture
def stage() -> Stage:
    """A caught-up store of two gatherers."""
    return Stage()


def test_a_notice_puts_its_connection_in_doubt_in_one_version(stage: Stage) -> None:
    """All books of that socket, and no other, with the gatherer's words and one incident."""
    stage.snapshot(stage.first, FROG, NEWT)
    stage.first.reconnect("g1.c2")
    stage.snapshot(stage.first, TOAD)
    stage.first.connection = "g1.c1"
    before = stage.store.cut().version

    with stage.store.changes() as reader:
        assert "notice" == stage.notice(stage.first, "stale", reason="gap", detail="5 to 9")
        batch = reader.take(0)

    cut = stage.store.cut()
    assert {FROG: "stale", NEWT: "stale", TOAD: "live"} == stage.conditions()
    assert (before + 1, {0: 4}) == (cut.version, dict(cut.offsets))
    assert (1, 2) == (cut.counts.live, cut.counts.stale)
    assert "gatherer 'g1' says stale: gap: 5 to 9" == cut[FROG].stale_reason
    assert batch is not None
    assert [(FROG, before + 1), (NEWT, before + 1)] == [
        (one.new.ticker, one.version) for one in batch.changes if isinstance(one, Change)
    ]
    assert ["gatherer 'g1' says stale: gap: 5 to 9; 2 books"] == stage.incidents("noticed")


def test_only_a_later_snapshot_heals(stage: Stage) -> None:
    """Neither changes nor signs of life do; and the next notice finds the healed book again."""
    stage.snapshot(stage.first, FROG)
    stage.notice(stage.first, "stale", reason="gap")
    assert "while_stale" == stage.hear(stage.first, stage.first.delta(FROG, "yes", 4_000, 5))
    stage.notice(stage.first, "alive")
    assert {FROG: "stale"} == stage.conditions()
    stage.snapshot(stage.first, FROG)
    assert {FROG: "live"} == stage.conditions()
    stage.notice(stage.first, "stale", reason="gap")
    assert {FROG: "stale"} == stage.conditions()


def test_a_book_that_moved_on_is_not_concerned(stage: Stage) -> None:
    """A notice about a socket that a market left, or of a gatherer that it does not follow, passes by."""
    stage.snapshot(stage.first, FROG)
    stage.first.reconnect("g1.c2")
    stage.snapshot(stage.first, FROG)
    stage.first.connection = "g1.c1"
    stage.notice(stage.first, "stale", reason="lost")
    stage.notice(stage.second, "stale", reason="started", whole_source=True)
    assert {FROG: "live"} == stage.conditions()
    assert [] == stage.incidents("noticed")


def test_a_notice_reaches_the_books_of_its_partition(stage: Stage) -> None:
    """It is sent to every partition, to be ordered with the records there: others wait for their own."""
    stage.snapshot(stage.first, FROG, partition=0)
    stage.snapshot(stage.first, NEWT, partition=1)
    stage.notice(stage.first, "stale", reason="started", whole_source=True, partition=1)
    assert {FROG: "live", NEWT: "stale"} == stage.conditions()


def test_a_notice_about_a_subscription(stage: Stage) -> None:
    """A sid narrows it: books of another subscription of the same socket stay live."""
    stage.snapshot(stage.first, FROG)
    event = GathererNotice("stale", "gap", "", None, "")

    def say(sid: int) -> None:
        arrival = Arrival("g1", "g1.c1", sid, None, None, None, None, None, None, 0, 9)
        with stage.store.writer() as writer:
            writer.apply(event, arrival)

    say(2)
    assert {FROG: "live"} == stage.conditions()
    say(1)
    assert {FROG: "stale"} == stage.conditions()


@pytest.mark.parametrize("kind", ["stale", "ended"])
def test_a_notice_about_one_market(stage: Stage, kind: NoticeKind) -> None:
    """Only that market, if it follows who speaks; an unknown one is no error."""
    stage.snapshot(stage.first, FROG, NEWT)
    stage.notice(stage.second, kind, market_ticker=FROG)
    stage.notice(stage.first, kind, market_ticker="KXNEVER")
    assert {FROG: "live", NEWT: "live"} == stage.conditions()
    stage.notice(stage.first, kind, reason="settled", market_ticker=FROG)
    assert {FROG: "stale", NEWT: "live"} == stage.conditions()
    assert [f"gatherer 'g1' says {kind}: settled"] == stage.incidents("noticed")


def test_a_doubt_in_the_envelope_acts_in_the_same_version(stage: Stage) -> None:
    """The frame is applied, and no reader ever sees its book live."""
    stage.snapshot(stage.first, FROG)
    event, arrival = stage.first.message(stage.first.snapshot(FROG, yes=[(4_100, 700)]))
    doubted = Arrival(
        **{name: getattr(arrival, name) for name in arrival.__struct_fields__[:-1]}, doubt="old"
    )
    before = stage.store.cut().version
    for _ in range(2):
        with stage.store.writer() as writer:
            writer.apply(event, doubted)
    book = stage.store.cut()[FROG]
    assert before + 2 == stage.store.cut().version
    assert (Condition.STALE, "old", 4_100) == (
        book.copy,
        book.stale_reason,
        book.yes_bid and book.yes_bid.price,
    )
    assert ["old"] == stage.incidents("doubted")


def test_a_doubted_snapshot_does_not_heal(stage: Stage) -> None:
    """A stale book takes its levels and stays stale, without an incident each time; a sound one heals."""
    stage.snapshot(stage.first, FROG)
    stage.notice(stage.first, "stale", reason="gap")
    event, arrival = stage.first.message(stage.first.snapshot(FROG, yes=[(4_100, 700)]))
    fields = {name: getattr(arrival, name) for name in arrival.__struct_fields__}
    with stage.store.writer() as writer:
        writer.apply(event, Arrival(**{**fields, "doubt": "over REST"}))
    assert ({FROG: "stale"}, "over REST") == (stage.conditions(), stage.store.cut()[FROG].stale_reason)
    assert ([], []) == (stage.incidents("healed"), stage.incidents("doubted"))
    stage.snapshot(stage.first, FROG)
    assert ({FROG: "live"}, ["was stale: over REST"]) == (stage.conditions(), stage.incidents("healed"))


def test_a_doubt_about_a_message_that_was_not_applied_is_none(stage: Stage) -> None:
    """A doubted change of another gatherer leaves the book alone."""
    stage.snapshot(stage.first, FROG)
    event, arrival = stage.second.message(stage.second.delta(FROG, "yes", 4_000, 5))
    fields = {name: getattr(arrival, name) for name in arrival.__struct_fields__}
    with stage.store.writer() as writer:
        assert "foreign" == writer.apply(event, Arrival(**{**fields, "doubt": "?"}))
    assert {FROG: "live"} == stage.conditions()


def test_a_source_that_falls_silent_is_taken_for_dead(stage: Stage) -> None:
    """After the patience all its books are stale in one version; who never gave a sign is not judged."""
    for partition, ticker in enumerate((FROG, NEWT)):
        stage.notice(stage.first, "alive", partition=partition)
        stage.snapshot(stage.first, ticker, partition=partition)
    stage.snapshot(stage.second, TOAD)
    before = stage.store.cut().version

    stage.listen(10.0)
    assert {FROG: "live", NEWT: "live", TOAD: "live"} == stage.conditions()
    stage.listen(10.2)

    assert {FROG: "stale", NEWT: "stale", TOAD: "live"} == stage.conditions()
    assert before + 1 == stage.store.cut().version
    assert ["gatherer 'g1': no sign of life for 10100 ms; 2 books"] == stage.incidents("source_silent")
    pulses = {one.name: (one.pulse, one.markets, one.live) for one in stage.store.statistics().sources}
    assert {"g1": (Pulse.SILENT, 2, 0), "g2": (Pulse.UNJUDGED, 1, 1)} == pulses


def test_silence_in_one_partition_concerns_its_books(stage: Stage) -> None:
    """What a gatherer cannot write to one broker is missing there only."""
    stage.notice(stage.first, "alive", partition=0)
    stage.notice(stage.first, "alive", partition=1)
    stage.snapshot(stage.first, FROG, partition=0)
    stage.snapshot(stage.first, NEWT, partition=1)
    stage.listen(6)
    stage.notice(stage.first, "alive", partition=1)
    stage.listen(6)
    assert {FROG: "stale", NEWT: "live"} == stage.conditions()


def test_signs_of_life_that_resume_heal_nothing(stage: Stage) -> None:
    """They are an incident; the books wait for snapshots, and are doubted again at the next silence."""
    stage.notice(stage.first, "alive")
    stage.snapshot(stage.first, FROG)
    stage.listen(11)
    stage.notice(stage.first, "alive")
    assert {FROG: "stale"} == stage.conditions()
    assert ["gatherer 'g1' gives signs of life again; its snapshots heal"] == stage.incidents("source_back")
    stage.snapshot(stage.first, FROG)
    assert {FROG: "live"} == stage.conditions()
    stage.listen(11)
    assert {FROG: "stale"} == stage.conditions()


def test_who_said_goodbye_owes_no_sign(stage: Stage) -> None:
    """`ended` puts its books in doubt at once, and no silence is found later."""
    stage.notice(stage.first, "alive")
    stage.snapshot(stage.first, FROG)
    stage.notice(stage.first, "ended", reason="stopped", whole_source=True)
    assert {FROG: "stale"} == stage.conditions()
    stage.listen(30)
    assert [] == stage.incidents("source_silent")
    assert [Pulse.ENDED] == [one.pulse for one in stage.store.statistics().sources]
    stage.notice(stage.first, "alive")
    assert [Pulse.ALIVE] == [one.pulse for one in stage.store.statistics().sources]


def test_time_in_which_nobody_listened_does_not_count(stage: Stage) -> None:
    """A process that was stopped for an hour accuses nobody of silence."""
    stage.notice(stage.first, "alive")
    stage.snapshot(stage.first, FROG)
    with stage.store.writer() as writer:
        for hour in range(5):
            writer.tick(START_US + hour * 3_600_000_000)
    assert {FROG: "live"} == stage.conditions()


def test_a_slow_source_may_miss_two_of_its_signs(stage: Stage) -> None:
    """Its own interval counts when it is longer than the patience."""
    stage.notice(stage.first, "alive", interval_ms=20_000)
    stage.snapshot(stage.first, FROG)
    stage.listen(39)
    assert {FROG: "live"} == stage.conditions()
    stage.listen(2)
    assert {FROG: "stale"} == stage.conditions()


@pytest.mark.parametrize(("patience_ms", "found"), [(10_000, "live"), (3_000, "stale"), (0, "live")])
def test_source_silence_is_how_long_a_source_may_be_silent(patience_ms: int, found: str) -> None:
    """The setting decides after 5 seconds; 0 judges nobody."""
    stage = Stage(source_silence_ms=patience_ms)
    stage.notice(stage.first, "alive")
    stage.snapshot(stage.first, FROG)
    stage.listen(5)
    assert {FROG: found} == stage.conditions()


def test_a_source_that_died_before_a_restart_is_not_served_as_live() -> None:
    """A store that reads the past judges by the records' own times when it has caught up."""
    stage = Stage()
    stage.ready(is_ready=False)
    stage.notice(stage.first, "alive")
    stage.snapshot(stage.first, FROG)
    assert {FROG: "live"} == stage.conditions()
    stage.ready(is_ready=True)
    stage.listen(0)
    assert {FROG: "stale"} == stage.conditions()


def test_books_change_over_in_what_is_read_again() -> None:
    """A source dead in the middle of the past is found dead there, and another one's snapshot is taken."""
    stage = Stage()
    stage.ready(is_ready=False)
    stage.notice(stage.first, "alive")
    stage.snapshot(stage.first, FROG)
    stage.second.now_us += 5_000_000
    stage.notice(stage.second, "alive")
    stage.snapshot(stage.second, FROG)
    assert "g1" == stage.store.cut()[FROG].origin.source  # type: ignore[union-attr]
    stage.second.now_us += 5_100_000
    version = stage.store.cut().version
    stage.notice(stage.second, "alive")
    assert (version + 1, {FROG: "stale"}) == (stage.store.cut().version, stage.conditions())
    stage.snapshot(stage.second, FROG)
    assert {FROG: "live"} == stage.conditions()
    assert ["from 'g1' to 'g2'"] == stage.incidents("source_changed")


def test_a_notice_costs_what_it_concerns_not_what_there_is(stage: Stage) -> None:
    """Of many markets only the few of the notice's socket are looked at, however often they healed."""
    for number in range(300):
        stage.snapshot(stage.first, f"KXMANY-{number}")
    stage.first.reconnect("g1.c2")
    looked_at: list[int] = []
    with stage.store.writer() as writer:
        for _ in range(6_000):
            writer.apply(*stage.first.message(stage.first.snapshot(FROG)))
            writer.doubt(FROG, "try")
        writer.apply(*stage.first.message(stage.first.snapshot(FROG)))
        book = writer.followers._book

        def looked(number: int) -> Book:
            looked_at.append(number)
            return book(number)

        writer.followers._book = looked
        writer.apply(*stage.first.arrived(stage.first.notice("stale", reason="gap")))
    assert {FROG: "stale"} == {
        ticker: found for ticker, found in stage.conditions().items() if found != "live"
    }
    assert {300} == set(looked_at)
    assert 5_000 > len(looked_at)


def test_many_sources_are_shown_as_few() -> None:
    """Names come from envelopes; beyond 32 the smallest are one, so that labels stay bounded."""
    stage = Stage()
    for number in range(40):
        frames = FrameFactory(source=f"s{number:02d}")
        stage.snapshot(frames, f"A{number}", *([f"B{number}"] if number < 31 else []))
    sources = stage.store.statistics().sources
    assert 32 == len(sources)
    assert {"(others)": 9} == {one.name: one.markets for one in sources if one.markets != 2}
