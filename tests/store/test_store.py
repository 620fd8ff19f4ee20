import random
import sys
import threading
import time

import pytest
from hypothesis import given, strategies as st

from kalshibook.errors import NotReady, Stale, StoreError, UnknownMarket, VersionGone, WireError
from kalshibook.store import BookStore, Condition, MarketStatus, StoreOptions
from kalshibook.wire import BookSnapshot, Other
from tests.store.builders import TICKER, Script, levels, lifecycle


def now_us() -> int:
    return time.time_ns() // 1_000


@pytest.fixture
def store() -> BookStore:
    return BookStore()


@pytest.fixture
def script(store: BookStore) -> Script:
    return Script(store)


def test_every_message_makes_one_version_with_its_offset(store: BookStore, script: Script) -> None:
    """Versions count records, also those that change no book, and carry the offsets reached."""
    script.snapshot({100: 1}, {}, partition=2, offset=7)
    first = store.cut()
    with store.writer() as writer:
        writer.apply(Other("command_response"), script.arrival(TICKER, partition=0, offset=3))
        writer.skip(1, 12)

    cut = store.cut()
    assert (first.version + 2, {0: 4, 1: 12, 2: 8}) == (cut.version, dict(cut.offsets))
    assert dict(first.offsets) == {2: 8}
    assert cut.reaches({0: 3, 2: 7})
    assert not cut.reaches({0: 4})
    assert not cut.reaches({9: 0})
    assert not cut.reaches({-1: 0})


def test_a_cut_never_changes(store: BookStore, script: Script) -> None:
    """What a cut holds, counts and lists stays as it was, whatever is written afterwards."""
    script.snapshot({100: 1}, {}, ticker="A")
    cut = store.cut()

    script.delta("yes", 100, 5, ticker="A")
    script.snapshot({200: 1}, {}, ticker="B")

    assert ["A"] == list(cut) == cut.tickers()
    assert levels(cut["A"].yes) == {100: 1}
    assert 1 == len(cut) == cut.counts.live
    with pytest.raises(KeyError):
        cut["B"]
    assert cut.get("B") is None
    assert "B" in store.cut()


def test_tops_come_from_one_version_and_list_what_is_missing(store: BookStore, script: Script) -> None:
    """Duplicates count once, the order is the caller's, unknown markets are named."""
    for ticker in ("A", "B"):
        script.snapshot({100: 1}, {}, ticker=ticker)

    tops = store.tops(["B", "X", "A", "B", "X"])

    assert [top.ticker for top in tops.tops] == ["B", "A"]
    assert tops.missing == ["X"]
    assert store.cut().version == tops.cut.version


def test_single_reads_refuse_what_cannot_be_trusted(store: BookStore, script: Script) -> None:
    """Unknown, awaiting, stale, too old and not yet reached are five different refusals with their data."""
    with pytest.raises(UnknownMarket) as unknown:
        store.top(TICKER)
    assert unknown.value.ticker == TICKER

    script.delta("yes", 100, 1)
    with pytest.raises(NotReady) as awaiting:
        store.top(TICKER)
    assert awaiting.value.ticker == TICKER

    script.snapshot({100: 1}, {}, received_us=now_us() - 5_000_000, published_us=None)
    assert store.top(TICKER, max_age_ms=60_000).yes_bid is not None
    with pytest.raises(Stale) as old:
        store.top(TICKER, max_age_ms=1_000)
    assert old.value.max_age_ms == 1_000
    assert old.value.age_ms is not None
    assert old.value.age_ms >= 5_000

    with pytest.raises(NotReady) as behind:
        store.book(TICKER, min_offset={0: 1_000})
    assert (behind.value.partition, behind.value.expected, behind.value.reached) == (0, 1_000, 2)
    assert store.book(TICKER, min_offset={0: 1}).ticker == TICKER

    script.delta("no", 100, -1)
    with pytest.raises(Stale) as stale:
        store.book(TICKER)
    assert "impossible" in stale.value.reason
    assert Condition.STALE is store.book(TICKER, allow_stale=True).condition


def test_an_unreadable_record_turns_its_market_stale(store: BookStore, script: Script) -> None:
    """The offset moves on, the market is in doubt, the record is findable; others are untouched."""
    script.snapshot({100: 1}, {}, ticker="A")
    script.snapshot({100: 1}, {}, ticker="B")
    with store.writer() as writer:
        writer.reject(WireError("$.payload", "broken"), script.arrival("A", offset=50), "A")
        writer.reject(WireError("$", "no idea"), script.arrival("A", offset=51), None)
        writer.reject(WireError("$", "no idea"), script.arrival("A", offset=52), "NEVER-SEEN")

    cut = store.cut()
    assert [cut[ticker].condition for ticker in "AB"] == [Condition.STALE, Condition.LIVE]
    assert dict(cut.offsets) == {0: 53}
    assert store.statistics().outcomes["rejected"] == 3
    assert "NEVER-SEEN" not in cut
    assert (cut.counts.live, cut.counts.stale) == (1, 1)


@pytest.mark.parametrize("channel", ["trade", "ticker"])
def test_an_unreadable_record_beside_the_book_leaves_it_live(
    store: BookStore, script: Script, channel: str
) -> None:
    """A trade or a ticker that cannot be read is counted; the book has lost nothing."""
    script.snapshot({100: 1}, {})
    with store.writer() as writer:
        writer.reject(WireError("$.payload", "odd"), script.arrival(TICKER), TICKER, channel=channel)

    assert Condition.LIVE is store.cut()[TICKER].condition
    assert (1, 1) == (store.statistics().outcomes["rejected"], store.incidents.counts()["rejected"])
    assert store.cut().reaches({0: 1})


def test_a_feed_can_doubt_one_partition_or_all(store: BookStore, script: Script) -> None:
    """After a loss of a whole partition its books are stale in one version, and only they."""
    script.snapshot({100: 1}, {}, ticker="A", partition=0)
    script.snapshot({100: 1}, {}, ticker="B", partition=1)
    reader = store.changes()
    with store.writer() as writer:
        writer.doubt_all("retention overtook the consumer", partition=1)

    assert [store.cut()[ticker].condition for ticker in "AB"] == [Condition.LIVE, Condition.STALE]
    batch = reader.take_nowait()
    assert batch is not None
    assert len(batch.changes) == 1
    with store.writer() as writer:
        writer.doubt("A", "asked")
        writer.doubt("UNKNOWN", "asked")
    assert store.cut().counts.stale == 2


def test_time_opens_and_closes_markets_without_a_message(store: BookStore, script: Script) -> None:
    """A market opens and closes when its times pass, and readers of changes are told."""
    script.apply(lifecycle("created", open_us=1_000, close_us=2_000))
    script.snapshot({100: 1}, {})
    reader = store.changes()
    seen = []
    for moment_us in (999, 1_000, 1_999, 2_000, 3_000):
        with store.writer() as writer:
            writer.tick(moment_us)
        seen.append(store.cut()[TICKER].market.status)

    initialized, active, closed = MarketStatus.INITIALIZED, MarketStatus.ACTIVE, MarketStatus.CLOSED
    assert [initialized, active, active, closed, closed] == seen
    assert Condition.CLOSED is store.cut()[TICKER].condition
    batch = reader.take_nowait()
    assert batch is not None
    assert len(batch.changes) == 2
    assert store.cut().counts.closed == 1


def test_a_close_time_that_moves_closes_at_the_new_time_only(store: BookStore, script: Script) -> None:
    """The old time passes without effect; an early close acts at once; a reopened market trades again."""
    script.apply(lifecycle("created", open_us=0, close_us=2_000))
    script.apply(lifecycle("close_date_updated", close_us=5_000))
    statuses = []
    for moment_us in (2_000, 5_000):
        with store.writer() as writer:
            writer.tick(moment_us)
        statuses.append(store.cut()[TICKER].market.status)
    script.apply(lifecycle("close_date_updated", close_us=9_000))
    script.apply(lifecycle("activated"))
    statuses.append(store.cut()[TICKER].market.status)
    with store.writer() as writer:
        writer.tick(9_000)
    statuses.append(store.cut()[TICKER].market.status)

    active, closed = MarketStatus.ACTIVE, MarketStatus.CLOSED
    assert [active, closed, active, closed] == statuses


def test_what_was_said_before_the_close_does_not_undo_it(store: BookStore, script: Script) -> None:
    """An activation that is read late closes again at the next tick; one said after the close does not."""
    script.snapshot({100: 1}, {})
    script.apply(lifecycle("created", open_us=10, close_us=1_000))
    with store.writer() as writer:
        writer.tick(2_000)
    script.apply(lifecycle("activated", exchange_us=900))
    with store.writer() as writer:
        writer.tick(2_000)
    assert MarketStatus.CLOSED is store.cut()[TICKER].market.status

    script.apply(lifecycle("activated", exchange_us=1_900))
    with store.writer() as writer:
        writer.tick(2_000)
    assert MarketStatus.ACTIVE is store.cut()[TICKER].market.status


def test_a_reopened_market_is_as_trustworthy_as_it_was(store: BookStore, script: Script) -> None:
    """A closed market's copy goes on being kept, so that reopening shows it as it is."""
    script.snapshot({100: 1}, {})
    script.apply(lifecycle("determined", result="yes"))
    assert script.delta("yes", 100, 4) == "delta"
    assert levels(store.cut()[TICKER].yes) == {100: 5}
    assert Condition.CLOSED is store.cut()[TICKER].condition
    assert Condition.CLOSED is store.top(TICKER).condition


def test_past_versions_can_be_read_by_number_and_by_time(store: BookStore, script: Script) -> None:
    """`at` and `as_of` return the store as it was."""
    script.snapshot({100: 1}, {})
    then = store.cut()
    script.delta("yes", 100, 4)

    assert levels(store.at(then.version)[TICKER].yes) == {100: 1}
    assert levels(store.as_of(now_us() + 1_000_000)[TICKER].yes) == {100: 5}
    assert len(store.at(0)) == 0
    with pytest.raises(VersionGone):
        store.at(then.version + 5)


def test_readiness_is_part_of_a_version() -> None:
    """A cut knows whether the feed had caught up; waiting ends when it has."""
    store = BookStore()
    assert not store.wait_ready(timeout=0)
    before = store.cut()
    with store.writer() as writer:
        writer.set_ready(True)

    assert store.wait_ready(timeout=0)
    assert store.ready
    assert not before.ready
    with store.writer() as writer:
        writer.set_ready(False)
    assert not store.wait_ready(timeout=0)


def test_a_store_that_is_behind_refuses_single_reads(store: BookStore, script: Script) -> None:
    """Books of a feed that is catching up are the past's: a read says so unless told to go on."""
    script.snapshot({100: 1}, {})
    with store.writer() as writer:
        writer.set_ready(False, "the broker is gone")

    with pytest.raises(NotReady, match="the broker is gone"):
        store.top(TICKER)
    assert {100: 1} == levels(store.book(TICKER, allow_stale=True).yes)
    assert "the broker is gone" == store.cut().behind
    assert TICKER in store.tops([TICKER]).cut
    assert not store.tops([TICKER]).cut.ready


def test_a_second_writer_is_refused(store: BookStore) -> None:
    """One store takes one feed, and the second hears so at once."""
    with store.writer(), pytest.raises(StoreError, match="writer already"), store.writer():
        pass
    with store.writer():
        pass


def test_all_messages_are_accounted_for(store: BookStore, script: Script) -> None:
    """The outcomes sum to the messages offered."""
    source = random.Random(1)
    for number in range(500):
        ticker = source.choice(["A", "B", "C"])
        if source.random() < 0.1:
            script.snapshot({100: 5}, {}, ticker=ticker)
        else:
            script.delta("yes", 100, source.choice([1, -1, -50]), ticker=ticker)
        assert number + 1 == sum(store.statistics().outcomes.values())


def test_empty_snapshots_are_counted(store: BookStore, script: Script) -> None:
    """A snapshot without levels is a live empty book, and is counted: a changed format looks like that."""
    script.snapshot({}, {})

    assert Condition.LIVE is store.cut()[TICKER].condition
    assert store.statistics().empty_snapshots == 1


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["A", "B", "C"]),
        st.sampled_from(["yes", "no"]),
        st.sampled_from([100, 5_000, 1_230, 7]),
        st.integers(-20, 20),
        st.booleans(),
    ),
    max_size=60,
)


@given(OPERATIONS)
def test_the_store_equals_a_plain_model(operations: list[tuple[str, str, int, int, bool]]) -> None:
    """Books, conditions and counts equal dicts that follow the same rules; kept versions equal their past."""
    store = BookStore()
    script = Script(store)
    books: dict[str, dict[str, dict[int, int]]] = {}
    conditions: dict[str, str] = {}
    past = []
    for ticker, side, price, size, is_snapshot in operations:
        if is_snapshot:
            levels_given = {price: abs(size)} if size else {}
            yes, no = (levels_given, {}) if side == "yes" else ({}, levels_given)
            script.snapshot(yes, no, ticker=ticker)
            books[ticker] = {"yes": dict(yes), "no": dict(no)}
            conditions[ticker] = "live"
        else:
            script.delta(side, price, size, ticker=ticker)  # type: ignore[arg-type]
            conditions.setdefault(ticker, "awaiting")
            if conditions[ticker] == "live":
                held = books[ticker][side].get(price, 0) + size
                if held < 0:
                    conditions[ticker] = "stale"
                elif held:
                    books[ticker][side][price] = held
                else:
                    books[ticker][side].pop(price, None)
        past.append((store.cut(), {name: {s: dict(b[s]) for s in b} for name, b in books.items()}))

    cut = store.cut()
    assert conditions == {ticker: book.condition.value for ticker, book in cut.items()}
    counts = {name: list(conditions.values()).count(name) for name in ("awaiting", "live", "stale")}
    assert counts == {name: getattr(cut.counts, name) for name in counts}
    for old_cut, model in past:
        for ticker, sides in model.items():
            assert sides == {"yes": levels(old_cut[ticker].yes), "no": levels(old_cut[ticker].no)}


def test_readers_never_see_a_torn_or_mixed_version() -> None:
    """
    Threads that read as fast as they can find every version whole.

    The writer moves one contract between three markets, so in every third version all sizes sum to the
    same, and each version's number tells exactly what each book must hold.
    """
    store = BookStore(StoreOptions(recent_versions=64, history_seconds=1))
    script = Script(store)
    tickers = ("A", "B", "C")
    for ticker in tickers:
        script.snapshot({5_000: 1_000_000}, {4_000: 1}, ticker=ticker)
    base = store.cut().version
    stop = threading.Event()
    torn: list[str] = []
    reads = [0] * 4

    def read(slot: int) -> None:
        newest = 0
        while not stop.is_set():
            cut = store.cut()
            step = cut.version - base
            held = [levels(cut[ticker].yes)[5_000] - 1_000_000 for ticker in tickers]
            expected = [(step + 2 - turn) // 3 for turn in range(3)]
            if held != expected:
                torn.append(f"version {cut.version}: {held} is not {expected}")
            if cut.version < newest:
                torn.append(f"version {cut.version} after {newest}")
            try:
                kept = store.at(cut.version)
            except VersionGone:
                kept = cut  # this thread was paused for longer than the ring is
            if kept["A"] is not cut["A"]:
                torn.append(f"version {cut.version} differs from its history")
            newest = cut.version
            reads[slot] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    threads = [threading.Thread(target=read, args=(slot,)) for slot in range(4)]
    try:
        for thread in threads:
            thread.start()
        for step in range(6_000):
            script.delta("yes", 5_000, 1, ticker=tickers[step % 3])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)

    assert torn == []
    assert all(reads)


def test_searching_while_markets_appear_finds_what_the_cut_has(store: BookStore) -> None:
    """A search over a cut returns exactly its markets although another thread adds more."""
    wrong: list[int] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            cut = store.cut()
            if len(cut.tickers(prefix="KX")) != len(cut):
                wrong.append(cut.version)

    thread = threading.Thread(target=search)
    thread.start()
    script = Script(store)
    with store.writer() as writer:
        for number in range(3_000):
            ticker = f"KX{number * 7919 % 3000}"
            writer.apply(BookSnapshot(ticker, (), (), None), script.arrival(ticker))
    done.set()
    thread.join()

    assert wrong == []


def test_many_books_are_selected_at_once(store: BookStore, script: Script) -> None:
    """Selected books are those of the cut, in the order asked for; markets that came later are missing."""
    for ticker in ("A", "B"):
        script.snapshot({100: 1}, {}, ticker=ticker)
    cut = store.cut()
    script.snapshot({100: 1}, {}, ticker="LATER")

    books, missing = cut.select(["B", "LATER", "A", "X", "B"])

    assert [cut["B"], cut["A"]] == books
    assert ["LATER", "X"] == missing


def test_an_unknown_market_is_told_in_plain_words(store: BookStore) -> None:
    """The error reads as a sentence although it is a KeyError too."""
    with pytest.raises(UnknownMarket) as unknown:
        store.cut()["KX"]

    assert str(unknown.value).startswith("market 'KX' is unknown")
