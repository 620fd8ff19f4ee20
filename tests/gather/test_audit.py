"""The audit: no false alarm however busy a market and old an answer, and no real divergence missed."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from kalshibook.gather.audit import AuditBooks, Auditor, Polled, auditor_of
from kalshibook.gather.incidents import GatherIncidents
from kalshibook.gather.options import GatherOptions
from kalshibook.gather.poller import snapshot_frame
from kalshibook.gather.records import Notice, Received
from kalshibook.numbers import format_price, format_size
from kalshibook.wire import BookSnapshot

S = 1_000_000
NOW = 1_785_931_200 * S

Levels = dict[tuple[str, int], int]


def book_of(levels: Levels, ticker: str = "A") -> BookSnapshot:
    """Return a book as REST gives it."""
    yes, no = (
        tuple((price, size) for (side, price), size in levels.items() if side == wanted)
        for wanted in ("yes", "no")
    )
    return BookSnapshot(ticker, yes, no, None)


def frame(
    payload: bytes, at_us: int, *, connection: str = "c-1", sid: int | None = 1, **fields: Any
) -> Received:
    """Return a frame as the router hands it out."""
    return Received(payload, connection, at_us, msgspec.json.decode(payload)["type"], sid, 1, **fields)


def snapshot(levels: Levels, at_us: int = NOW, ticker: str = "A", **fields: Any) -> Received:
    """Return a snapshot."""
    return frame(snapshot_frame(book_of(levels, ticker)), at_us, **fields)


def delta(side: str, price: int, change: int, at_us: int = NOW, ticker: str = "A", **fields: Any) -> Received:
    """Return a change of one level."""
    message = {
        "market_ticker": ticker,
        "price_dollars": format_price(price),
        "delta_fp": format_size(change),
        "side": side,
        "ts_ms": 1,
    }
    return frame(msgspec.json.encode({"type": "orderbook_delta", "msg": message}), at_us, **fields)


class Desk:
    """An auditor with everything around it."""

    def __init__(self) -> None:
        self.wrong: list[tuple[str, str]] = []
        self.diverged: list[str] = []
        self.books = AuditBooks(on_wrong=lambda ticker, reason: self.wrong.append((ticker, reason)))
        self.auditor = Auditor(self.books, lambda ticker, _: self.diverged.append(ticker))

    def poll(self, levels: Levels, asked_us: int, ticker: str = "A") -> None:
        """Take a REST book and judge it to the end."""
        self.auditor.take(Polled(book_of(levels, ticker), asked_us, asked_us + 100_000))
        while (due_us := self.auditor.next_due_us()) is not None:
            self.auditor.judge(due_us)


START: Levels = {("yes", 4_000): 500, ("no", 5_000): 300}


def test_equal_books_are_the_same() -> None:
    """Both sides, whatever the order of levels."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))

    desk.poll(dict(reversed(START.items())), NOW)

    assert (1, 1, 0) == msgspec.structs.astuple(desk.auditor.statistics())[1:4]
    assert "audit" == desk.books.name
    assert not desk.books.is_full
    assert frozenset({"orderbook_snapshot", "orderbook_delta"}) == desk.books.types


@pytest.mark.parametrize("age_s", [0, 5, 15, 19])
def test_old_answer_is_right_when_ours_was_the_same_then(age_s: int) -> None:
    """A cached book equals a state of some seconds ago, though ours has changed many times since."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    for step in range(60):
        desk.books.offer(delta("yes", 4_000, 1, NOW - 60 * S + step * S + 1))

    desk.poll({("yes", 4_000): 560 - age_s, ("no", 5_000): 300}, NOW)

    assert 1 == desk.auditor.statistics().same


def test_answer_older_than_the_window_makes_a_suspect_only() -> None:
    """One that is older is suspected, and cleared by the next."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    desk.books.offer(delta("yes", 4_000, 1, NOW - 30 * S))

    desk.poll(START, NOW)
    assert ["A"] == desk.auditor.suspects(NOW + 20 * S)
    assert [] == desk.auditor.suspects(NOW + 20 * S - 1)
    desk.poll(START | {("yes", 4_000): 501}, NOW + 25 * S)

    assert ([], 1, 0) == (
        desk.diverged,
        desk.auditor.statistics().cleared,
        desk.auditor.statistics().suspects,
    )


def test_socket_that_lags_is_waited_for() -> None:
    """REST shows a change that the socket brings ten seconds later: no suspicion."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    desk.auditor.take(Polled(book_of(START | {("yes", 4_000): 700}), NOW, NOW))

    desk.auditor.judge(NOW + 2 * S)
    desk.auditor.judge(NOW + 6 * S)
    desk.books.offer(delta("yes", 4_000, 200, NOW + 10 * S))
    desk.books.offer(delta("yes", 4_000, 9, NOW + 11 * S))
    desk.auditor.judge(NOW + 14 * S)

    assert (1, 1) == (desk.auditor.statistics().compared, desk.auditor.statistics().same)


def test_divergence_is_found_by_the_second_book() -> None:
    """Reported once; after its next snapshot the market is judged again."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    truth = START | {("no", 5_000): 299}

    desk.poll(truth, NOW)
    assert [] == desk.diverged
    # The same answer from the cache proves nothing.
    desk.poll(truth, NOW + 19 * S)
    assert [] == desk.diverged
    desk.poll(truth, NOW + 20 * S)
    assert ["A"] == desk.diverged
    desk.poll(truth, NOW + 60 * S)
    assert ["A"] == desk.diverged
    desk.books.offer(snapshot(truth, NOW + 61 * S))
    desk.poll(truth, NOW + 120 * S)

    found = desk.auditor.statistics()
    assert (1, 1, 0) == (found.diverged, found.same, found.suspects)
    assert ["A"] == desk.diverged


@pytest.mark.parametrize(
    "notice",
    [
        Notice("stale"),
        Notice("stale", connection="c-1"),
        Notice("stale", connection="c-1", sid=1),
        Notice("stale", market_ticker="A"),
        Notice("ended"),
    ],
)
def test_book_in_doubt_is_not_judged(notice: Notice) -> None:
    """What a notice has put in doubt is not compared before its snapshot, nor in the window after it."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    desk.books.notify(notice)
    desk.books.offer(delta("yes", 4_000, -9_999))

    desk.poll({}, NOW)
    desk.books.offer(snapshot({("yes", 1): 1}, NOW + S))
    desk.poll({}, NOW + 2 * S)
    assert 2 == desk.auditor.statistics().unjudged
    desk.poll({}, NOW + 30 * S)

    assert 1 == desk.auditor.statistics().suspects
    assert [] == desk.wrong


@pytest.mark.parametrize(
    "notice",
    [
        Notice("alive"),
        Notice("stale", connection="c-2"),
        Notice("stale", connection="c-1", sid=2),
        Notice("stale", market_ticker="B"),
    ],
)
def test_doubt_of_others_is_no_doubt_of_this(notice: Notice) -> None:
    """A notice concerns its scope and nothing else."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    desk.books.notify(notice)

    desk.poll(START, NOW)

    assert 1 == desk.auditor.statistics().same


def test_frames_of_another_subscription_are_not_mixed_in() -> None:
    """Only the subscription that sent the snapshot changes it; a REST book in doubt does not replace it."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    desk.books.offer(delta("yes", 4_000, 1, connection="c-2"))
    desk.books.offer(delta("yes", 4_000, 1, sid=2))
    desk.books.offer(snapshot({}, NOW, doubt="no socket heals it"))
    desk.books.offer(delta("yes", 4_000, 1, ticker="UNKNOWN"))

    desk.poll(START, NOW)

    assert 1 == desk.auditor.statistics().same
    assert 1 == len(desk.books)


def test_impossible_change_is_told_at_once() -> None:
    """It takes away more than is there: the book is wrong, and judged no more before its snapshot."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))

    desk.books.offer(delta("no", 5_000, -301))
    desk.books.offer(delta("no", 5_000, -301))

    assert [("A", "impossible")] == desk.wrong
    desk.poll(START, NOW)
    assert (1, 1) == (desk.auditor.statistics().unjudged, desk.auditor.statistics().impossible)


def test_refresh_that_differs_is_told() -> None:
    """A snapshot without need must be what the changes made; one after a loss need not."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    desk.books.offer(delta("yes", 4_000, 1, NOW - 50 * S))
    changed = START | {("yes", 4_000): 501}

    desk.books.offer(snapshot(changed, NOW - 40 * S, is_refresh=True))
    assert [] == desk.wrong
    desk.books.offer(snapshot(START, NOW - 39 * S, is_refresh=True))
    assert [("A", "refresh")] == desk.wrong
    desk.books.notify(Notice("stale"))
    desk.books.offer(snapshot(changed, NOW - 38 * S, is_refresh=True))

    assert [("A", "refresh")] == desk.wrong
    assert 1 == desk.auditor.statistics().refreshed_differently


def test_frame_that_cannot_be_read_puts_its_subscription_in_doubt() -> None:
    """It is counted, and nothing that it may have concerned is judged."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    desk.books.offer(frame(b'{"type":"orderbook_delta","msg":{}}', NOW))

    desk.poll({}, NOW)

    assert 1 == desk.auditor.statistics().unjudged
    assert (2, 1, 1) == (
        desk.books.counts().offered,
        desk.books.counts().processed,
        desk.books.counts().dropped,
    )


def test_forgotten_market_is_no_suspect() -> None:
    """A market that is over is neither kept nor asked for."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 60 * S))
    desk.poll({}, NOW)

    desk.auditor.forget(["A", "B"])

    assert [] == desk.auditor.suspects(NOW + 60 * S)
    assert 0 == len(desk.books)


def test_past_is_bounded() -> None:
    """What no answer can reach any more is dropped, also of a market that fell silent."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 600 * S))
    for step in range(3_000):
        desk.books.offer(delta("yes", 4_000, 1, NOW - 600 * S + step * S // 5))
    undo = desk.books._books["A"].undo
    assert undo is not None
    assert len(undo) < 60 * 5

    desk.poll(START | {("yes", 4_000): 3_500}, NOW + 600 * S)

    assert desk.books._books["A"].undo is None


def test_doubts_are_bounded() -> None:
    """Ten thousand connections that came and went leave no ten thousand notes."""
    desk = Desk()
    for number in range(25_000):
        desk.books.notify(Notice("stale", connection=f"c-{number}", sid=1))

    assert 10_001 >= len(desk.books._doubts)


def test_wrong_books_are_incidents_and_healed() -> None:
    """A divergence and an impossible change ask for a snapshot; a refresh that differs is one already."""
    incidents, healed = GatherIncidents(), list[str]()
    auditor = auditor_of(GatherOptions(), incidents, healed.extend)
    assert auditor is not None
    for ticker in ("A", "B", "C"):
        auditor.books.offer(snapshot(START, NOW - 60 * S, ticker=ticker))

    auditor.books.offer(delta("yes", 4_000, -501, ticker="A"))
    auditor.books.offer(snapshot({}, NOW, ticker="B", is_refresh=True))
    for asked_us in (NOW, NOW + 60 * S):
        auditor.take(Polled(book_of({}, "C"), asked_us, asked_us))
        auditor.judge(asked_us + 2 * S)
        auditor.judge(asked_us + 6 * S)
        auditor.judge(asked_us + 14 * S)

    assert ["A", "C"] == healed
    assert ["C", "B", "A"] == [incident.ticker for incident in incidents.recent()]
    assert 3 == incidents.counts()["diverged"]
    assert auditor_of(GatherOptions(audit=False), incidents, healed.extend) is None


def test_audit_window_is_how_old_an_answer_may_be() -> None:
    """A wider window takes an older answer for right."""
    for seconds, same in ((20.0, 0), (100.0, 1)):
        auditor = auditor_of(GatherOptions(audit_window_s=seconds), GatherIncidents(), list)
        assert auditor is not None
        auditor.books.offer(snapshot(START, NOW - 600 * S))
        auditor.books.offer(delta("yes", 4_000, 1, NOW - 90 * S))
        auditor.take(Polled(book_of(START), NOW, NOW))
        while (due_us := auditor.next_due_us()) is not None:
            auditor.judge(due_us)

        assert same == auditor.statistics().same


# A story: changes of a small book at random moments, polls of any age at random moments, a socket that lags.
CHANGES = st.lists(
    st.tuples(
        st.integers(0, 3_000_000),
        st.sampled_from(["yes", "no"]),
        st.sampled_from([4_000, 4_100]),
        st.integers(-3, 3).filter(bool),
    ),
    max_size=120,
)
POLLS = st.lists(st.tuples(st.integers(0, 120 * S), st.integers(0, 15 * S)), max_size=15)


class Story:
    """Truth as it was, and frames as they came."""

    def __init__(self, changes: list[tuple[int, str, int, int]]) -> None:
        self.states: list[tuple[int, Levels]] = [(NOW, dict(START))]
        self.frames: list[Received] = [snapshot(START, NOW)]
        now = NOW + 40 * S
        for gap, side, price, change in changes:
            now += gap
            levels = dict(self.states[-1][1])
            size = levels.get((side, price), 0) + change
            if size < 0:
                continue
            levels.pop((side, price), None)
            if size:
                levels[side, price] = size
            self.states.append((now, levels))
            self.frames.append(delta(side, price, change, now))

    def at(self, time_us: int) -> Levels:
        """Return the truth at a time."""
        return next(levels for began, levels in reversed(self.states) if began <= time_us)

    def tell(self, polls: list[tuple[int, int]], lag_us: int, lost: int | None = None) -> Desk:
        """Let it all happen to an auditor; the frame of number `lost` never comes."""
        desk = Desk()
        happenings: list[tuple[int, Any]] = [
            (one.received_us + lag_us, one) for number, one in enumerate(self.frames) if number != lost
        ]
        for offset, age in polls:
            asked = NOW + 60 * S + offset
            happenings.append((asked, Polled(book_of(self.at(max(NOW, asked - age))), asked, asked)))
        end = NOW + 1_000 * S
        for time_us, one in sorted(happenings, key=lambda happening: happening[0]):
            while (due := desk.auditor.next_due_us()) is not None and due <= time_us:
                desk.auditor.judge(due)
            if isinstance(one, Polled):
                desk.auditor.take(one)
            else:
                desk.books.offer(msgspec.structs.replace(one, received_us=time_us))
        while (due := desk.auditor.next_due_us()) is not None and due <= end:
            desk.auditor.judge(due)
        return desk


@settings(max_examples=200, deadline=None)
@given(CHANGES, POLLS, st.integers(0, 5 * S))
def test_no_false_alarm(
    changes: list[tuple[int, str, int, int]], polls: list[tuple[int, int]], lag: int
) -> None:
    """Whatever changes when, answers up to 15 s old, a socket late by up to 5 s: all is well."""
    found = Story(changes).tell(polls, lag).auditor.statistics()

    assert (len(polls), len(polls), 0, 0) == (found.compared, found.same, found.suspects, found.diverged)


@settings(max_examples=200, deadline=None)
@given(CHANGES.filter(lambda changes: len(changes) > 1), st.integers(0, 15 * S), st.data())
def test_lost_change_is_found_within_two_polls(
    changes: list[tuple[int, str, int, int]], age: int, data: st.DataObject
) -> None:
    """One change that nobody missed: two books after it, a minute apart, and it is known."""
    story = Story(changes)
    if len(story.frames) < 2:
        return
    lost = data.draw(st.integers(1, len(story.frames) - 1))
    late = story.states[-1][0] - NOW + 60 * S

    desk = story.tell([(late, age), (late + 60 * S, age)], 0, lost=lost)

    # Or sooner, where what was lost made a later change impossible.
    assert ["A"] == desk.diverged or [("A", "impossible")] == desk.wrong


def test_thousand_changes_a_second() -> None:
    """The busiest market is compared with each of its states, and none is missed."""
    desk = Desk()
    desk.books.offer(snapshot(START, NOW - 30 * S))
    for step in range(20_000):
        desk.books.offer(delta("yes", 4_000, 1, NOW - 20 * S + step * 1_000))

    for age_ms in (0, 1, 7_777, 15_000):
        desk.poll({("yes", 4_000): 500 + 20_000 - age_ms, ("no", 5_000): 300}, NOW)
    desk.poll({("yes", 4_000): 500 + 20_000 + 1, ("no", 5_000): 300}, NOW)

    assert (4, 1) == (desk.auditor.statistics().same, desk.auditor.statistics().suspects)
