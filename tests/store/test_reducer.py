"""What one message does to one book, row by row of the acceptance list."""

from typing import Any

import pytest

from kalshibook.store import Book, BookStore, Condition, MarketStatus
from kalshibook.wire import BookDelta, BookSnapshot, Other, PriceRange
from tests.store.builders import TICKER, Script, described, levels, lifecycle, ticker_message, trade

YES = {3_800: 12_000, 4_000: 7_550}
NO = {5_500: 6_000, 5_700: 1_025}


@pytest.fixture
def store() -> BookStore:
    return BookStore()


@pytest.fixture
def script(store: BookStore) -> Script:
    return Script(store)


def book_of(store: BookStore) -> Book:
    return store.cut()[TICKER]


def test_a_level_that_reaches_zero_is_gone(store: BookStore, script: Script) -> None:
    """No level of size 0 remains, and the next best takes over."""
    script.snapshot(YES, NO)

    assert script.delta("yes", 4_000, -7_550) == "delta"
    assert levels(book_of(store).yes) == {3_800: 12_000}


@pytest.mark.parametrize(("price", "change"), [(4_000, -7_551), (4_100, -1), (4_015, -1)])
def test_an_impossible_change_turns_the_book_stale_and_never_clamps(
    store: BookStore, script: Script, price: int, change: int
) -> None:
    """More than rests is taken: stale, counted, findable, levels untouched; a snapshot heals."""
    script.snapshot(YES, NO)

    assert script.delta("yes", price, change) == "impossible"

    book = book_of(store)
    assert Condition.STALE is book.condition
    assert "impossible" in (book.stale_reason or "")
    assert levels(book.yes) == YES
    assert script.delta("yes", 4_000, 100) == "while_stale"
    assert levels(book_of(store).yes) == YES
    incident = store.incidents.recent(1)[0]
    assert (
        incident.kind,
        incident.ticker,
        incident.partition,
        incident.offset,
    ) == ("impossible", TICKER, 0, 1)
    assert script.snapshot(YES, NO) == "snapshot"
    assert Condition.LIVE is book_of(store).condition
    assert store.incidents.recent(1)[0].kind == "healed"


def test_a_delta_before_any_snapshot_makes_no_book(store: BookStore, script: Script) -> None:
    """The market is known and awaiting; nothing of the delta shows."""
    assert script.delta("yes", 4_000, 100) == "awaiting"

    book = book_of(store)
    assert Condition.AWAITING is book.condition
    assert not book.yes
    assert book.top().yes_bid is None


def test_the_untouched_side_is_the_identical_object(store: BookStore, script: Script) -> None:
    """One delta makes one new ladder; the other side and the old version stay as they are."""
    script.snapshot(YES, NO)
    before = book_of(store)

    script.delta("yes", 4_000, 100)

    after = book_of(store)
    assert after.no is before.no
    assert after.yes is not before.yes
    assert levels(before.yes) == YES
    assert after.yes.at(3_800) is before.yes.at(3_800)


@pytest.mark.parametrize(
    ("yes", "no", "bid", "ask"),
    [
        ({}, {}, None, None),
        ({4_000: 5}, {}, (4_000, 5), None),
        ({}, {5_700: 7}, None, (4_300, 7)),
        ({4_000: 5}, {5_700: 7}, (4_000, 5), (4_300, 7)),
        ({1: 5}, {9_998: 7}, (1, 5), (2, 7)),
    ],
)
def test_asks_are_one_dollar_less_the_other_bid(
    store: BookStore,
    script: Script,
    yes: dict[int, int],
    no: dict[int, int],
    bid: tuple[int, int] | None,
    ask: tuple[int, int] | None,
) -> None:
    """An ask is derived from the opposite best bid with its size; an absent side is None, never 0."""
    script.snapshot(yes, no)

    top = store.top(TICKER)

    assert bid == (top.yes_bid and (top.yes_bid.price, top.yes_bid.size))
    assert ask == (top.yes_ask and (top.yes_ask.price, top.yes_ask.size))
    assert (bid and (10_000 - bid[0], bid[1])) == (top.no_ask and (top.no_ask.price, top.no_ask.size))
    assert (ask and (10_000 - ask[0], ask[1])) == (top.no_bid and (top.no_bid.price, top.no_bid.size))


def test_a_side_that_empties_leaves_no_best_behind(store: BookStore, script: Script) -> None:
    """When the last level goes, the bid and the opposite ask are absent."""
    script.snapshot({4_000: 5}, {5_700: 7})

    script.delta("yes", 4_000, -5)

    top = store.top(TICKER)
    assert top.yes_bid is None
    assert top.no_ask is None
    assert top.yes_ask is not None


def test_every_book_and_level_carries_the_times_of_each_hop(store: BookStore, script: Script) -> None:
    """The times of all hops stand on the book and on the changed level."""
    script.snapshot(YES, NO)
    script.delta("yes", 4_000, 100, received_us=101, published_us=102, kafka_us=103, consumed_us=106)

    book = book_of(store)

    stamps = book.stamps
    assert stamps is not None
    assert (
        stamps.exchange_us,
        stamps.received_us,
        stamps.published_us,
        stamps.kafka_us,
        stamps.consumed_us,
    ) == (5_000_000, 101, 102, 103, 106)
    assert stamps.kafka_latency_us == 3
    assert stamps.applied_us == store.cut().applied_us
    changed = book.yes.at(4_000)
    assert changed is not None
    assert stamps is changed.stamps
    kept = book.yes.at(3_800)
    assert kept is not None
    assert stamps is not kept.stamps


def test_an_envelope_without_times_leaves_them_unknown(store: BookStore, script: Script) -> None:
    """What a producer does not say is None, and derived times are None too."""
    script.snapshot(YES, NO, received_us=None, published_us=None, kafka_us=None, consumed_us=None)

    stamps = book_of(store).stamps
    assert stamps is not None
    assert stamps.received_us is None
    assert stamps.kafka_latency_us is None
    assert stamps.latency_us is None


def test_a_repeated_number_is_a_duplicate(store: BookStore, script: Script) -> None:
    """The same number on the same subscription is dropped and counted, and the book stays live."""
    script.snapshot(YES, NO)
    script.delta("yes", 4_000, 100, sequence=7)

    assert script.delta("yes", 4_000, 100, sequence=7) == "duplicate"
    assert levels(book_of(store).yes)[4_000] == 7_650
    assert Condition.LIVE is book_of(store).condition


def test_an_old_message_come_again_is_a_replay(store: BookStore, script: Script) -> None:
    """A smaller number that was received no later than what is applied is dropped."""
    script.snapshot(YES, NO, sequence=5)
    script.delta("yes", 4_000, 100, sequence=8)

    assert script.delta("yes", 4_000, 100, sequence=6, previous_sequence=5, received_us=1) == "replayed"
    assert script.snapshot({}, {}, sequence=5, previous_sequence=0, received_us=1) == "replayed"
    assert Condition.LIVE is book_of(store).condition


@pytest.mark.parametrize(
    "overrides",
    [{}, {"received_us": None}, {"previous_sequence": 20}],
    ids=["later", "unknown", "by_previous"],
)
def test_a_counter_that_was_reset_turns_the_book_stale(
    store: BookStore, script: Script, overrides: dict[str, Any]
) -> None:
    """A smaller number that is not known to be old means that the counter restarted: nothing is trusted."""
    script.snapshot(YES, NO, sequence=20)

    assert script.delta("yes", 4_000, 100, sequence=9, **overrides) == "reset"
    assert Condition.STALE is book_of(store).condition
    assert script.delta("yes", 4_000, 100, sequence=10, previous_sequence=9) == "while_stale"
    assert script.snapshot(YES, NO, sequence=11) == "snapshot"
    assert Condition.LIVE is book_of(store).condition


def test_a_jump_of_numbers_alone_is_no_loss(store: BookStore, script: Script) -> None:
    """Numbers count over all markets of a subscription, so one market's may jump."""
    script.snapshot(YES, NO, sequence=1)

    assert script.delta("yes", 4_000, 100, sequence=1_000) == "delta"
    assert Condition.LIVE is book_of(store).condition


def test_a_loss_shown_by_the_previous_number_turns_the_book_stale(store: BookStore, script: Script) -> None:
    """When something was published that never arrived, the delta is not applied and the book is in doubt."""
    script.snapshot(YES, NO, sequence=1)

    assert script.delta("yes", 4_000, 100, sequence=9, previous_sequence=5) == "gap"

    book = book_of(store)
    assert Condition.STALE is book.condition
    assert levels(book.yes) == YES
    assert "5" in (book.stale_reason or "")
    assert store.incidents.counts()["gap"] == 1
    assert script.delta("yes", 4_000, 100, sequence=12, previous_sequence=9) == "while_stale"


def test_a_loss_that_a_snapshot_repairs_at_once_is_still_told(store: BookStore, script: Script) -> None:
    """A gap is never healed invisibly: the snapshot that arrives in its place records it."""
    script.snapshot(YES, NO, sequence=1)

    assert script.snapshot(NO, YES, sequence=9, previous_sequence=5) == "snapshot"

    assert Condition.LIVE is book_of(store).condition
    assert store.incidents.recent(1)[0].kind == "gap"


def test_a_new_connection_starts_with_a_snapshot(store: BookStore, script: Script) -> None:
    """After a reconnect numbers start again; with its snapshot the book is live, without it stale."""
    script.snapshot(YES, NO, sequence=500)

    assert script.snapshot(YES, {}, connection="c2", sequence=1, previous_sequence=0) == "snapshot"
    assert Condition.LIVE is book_of(store).condition
    assert script.delta("yes", 4_000, 1, connection="c3", sequence=1, previous_sequence=0) == "unanchored"
    assert Condition.STALE is book_of(store).condition


def test_the_last_messages_of_an_old_connection_are_dropped(store: BookStore, script: Script) -> None:
    """What an ended connection received before the new snapshot cannot change the new book."""
    script.snapshot(YES, NO, sequence=500, received_us=1_000)
    script.snapshot(YES, {}, connection="c2", sequence=1, received_us=2_000)

    assert script.delta("yes", 4_000, 1, sequence=501, received_us=1_500) == "replayed"
    assert script.snapshot({}, {}, sequence=502, received_us=1_600) == "replayed"
    assert levels(book_of(store).yes) == YES
    assert Condition.LIVE is book_of(store).condition


def test_a_clock_that_was_set_back_hides_no_new_connection(store: BookStore, script: Script) -> None:
    """What the exchange sent later is new, though the gatherer's clock says that it came before."""
    script.apply(BookSnapshot(TICKER, ((4_000, 5),), (), 1_000_000), received_us=1_000_500)

    assert "snapshot" == script.apply(
        BookSnapshot(TICKER, ((4_100, 6),), (), 3_000_000),
        connection="c2",
        sequence=1,
        previous_sequence=0,
        received_us=500,
    )
    assert {4_100: 6} == levels(book_of(store).yes)

    delta = BookDelta(TICKER, "yes", 4_100, 1, 5_000_000)
    assert "unanchored" == script.apply(delta, connection="c3", sequence=2, received_us=400)
    assert Condition.STALE is book_of(store).condition


def test_a_producer_without_connections_reuses_its_numbers(store: BookStore, script: Script) -> None:
    """Where no connection is named, a snapshot with the same number that came later is another one."""
    script.snapshot(YES, NO, sequence=7, connection=None, previous_sequence=None, received_us=1_000)

    assert "duplicate" == script.snapshot(
        {100: 1}, {}, sequence=7, connection=None, previous_sequence=None, received_us=1_000
    )
    assert "snapshot" == script.snapshot(
        {100: 1}, {}, sequence=7, connection=None, previous_sequence=None, received_us=9_000
    )
    assert {100: 1} == levels(book_of(store).yes)


def test_another_connections_number_is_not_taken_for_the_books_own(store: BookStore, script: Script) -> None:
    """A change without its snapshot leaves the number alone, so that the book's own snapshot can heal it."""
    script.snapshot(YES, NO, sequence=5)

    assert "unanchored" == script.delta("yes", 4_000, 1, connection="c2", sequence=9, previous_sequence=0)
    assert "snapshot" == script.snapshot({100: 1}, {}, sequence=9, previous_sequence=5)
    assert "healed" == store.incidents.recent(1)[0].kind


def test_a_market_that_changes_its_partition(store: BookStore, script: Script) -> None:
    """Partitions are read in no order: only a previous number proves that nothing is missing between them."""
    script.snapshot(YES, NO, sequence=1)

    assert "delta" == script.delta("yes", 4_000, 1, sequence=2, previous_sequence=1, partition=3)
    with store.writer() as writer:
        writer.doubt_all("retention overtook the consumer", partition=0)
    assert Condition.LIVE is book_of(store).condition
    assert "unanchored" == script.delta("yes", 4_000, 1, sequence=4, previous_sequence=None, partition=0)
    assert Condition.STALE is book_of(store).condition
    script.snapshot(YES, NO, sequence=6, partition=5)
    with store.writer() as writer:
        writer.doubt_all("retention overtook the consumer", partition=5)
    assert Condition.STALE is book_of(store).condition


def test_books_of_two_gatherers_never_mix(store: BookStore, script: Script) -> None:
    """A live book follows one source; another one takes over only at a snapshot when the book is in doubt."""
    script.snapshot(YES, NO)

    assert script.delta("yes", 4_000, 100, source="g2") == "foreign"
    assert script.snapshot({}, {}, source="g2") == "foreign"
    assert levels(book_of(store).yes) == YES

    script.delta("yes", 4_100, -1)
    assert script.delta("yes", 4_000, 100, source="g2") == "foreign"
    assert script.snapshot({100: 1}, {}, source="g2") == "snapshot"
    assert levels(book_of(store).yes) == {100: 1}
    assert store.incidents.recent(1)[0].kind == "source_changed"


def test_a_gatherer_that_fell_silent_is_not_trusted_for_ever(store: BookStore, script: Script) -> None:
    """What another gatherer tells and the followed one does not for seconds is a loss; it takes over."""
    second = 1_000_000
    script.apply(BookSnapshot(TICKER, ((4_000, 5),), (), 10 * second))

    def tells(source: str, at_s: int, number: int, change: int = 1) -> str:
        event = BookDelta(TICKER, "yes", 4_000, change, at_s * second)
        received_us = at_s * second + 7
        return script.apply(
            event, source=source, received_us=received_us, sequence=number, previous_sequence=None
        )

    assert "foreign" == tells("g2", 11, 2)
    assert "delta" == tells("g1", 11, 3)
    assert ["foreign", "foreign", "foreign"] == [tells("g2", at_s, at_s) for at_s in (5, 100, 104)]
    assert "delta" == tells("g1", 104, 4)
    assert ["foreign", "foreign"] == [tells("g2", 200, 200, change=0), tells("g2", 300, 300)]
    assert "foreign" == tells("g3", 310, 310)
    assert Condition.LIVE is book_of(store).condition
    assert "gap" == tells("g2", 306, 306)

    book = book_of(store)
    assert Condition.STALE is book.condition
    assert "'g2' tells changes that 'g1' has not told for 6000 ms" in (book.stale_reason or "")
    assert "snapshot" == script.snapshot({100: 1}, {}, source="g2")
    assert Condition.LIVE is book_of(store).condition
    assert "source_changed" == store.incidents.recent(1)[0].kind


def test_a_number_of_an_unknown_type_is_no_gap(store: BookStore, script: Script) -> None:
    """The exchange may send something new on a book's subscription; its number counts, and hides no loss."""
    script.snapshot(YES, NO, sequence=5)
    with store.writer() as writer:
        writer.apply(Other("novelty", TICKER), script.arrival(TICKER, sequence=6, previous_sequence=5))
        writer.apply(
            Other("novelty", TICKER), script.arrival(TICKER, sid=8, sequence=99, previous_sequence=0)
        )

    assert "delta" == script.delta("yes", 4_000, 1, sequence=7, previous_sequence=6)
    with store.writer() as writer:
        writer.apply(Other("novelty", TICKER), script.arrival(TICKER, sequence=9, previous_sequence=8))
    assert "gap" == script.delta("yes", 4_000, 1, sequence=10, previous_sequence=9)


def test_a_crossed_snapshot_is_kept_but_not_trusted(store: BookStore, script: Script) -> None:
    """Bids that sum to a dollar or more mean a misread scale: the book is there, and stale."""
    assert script.snapshot({6_000: 500}, {5_000: 500}) == "crossed"

    book = book_of(store)
    assert Condition.STALE is book.condition
    assert levels(book.yes) == {6_000: 500}
    assert store.incidents.recent(1)[0].kind == "crossed"


def test_two_updates_of_one_level_both_count(store: BookStore, script: Script) -> None:
    """Equal changes in the same instant are two changes, told apart by their numbers."""
    script.snapshot(YES, NO)
    reader = store.changes()

    script.delta("yes", 4_000, 100, received_us=77)
    script.delta("yes", 4_000, 100, received_us=77)

    assert levels(book_of(store).yes)[4_000] == 7_750
    batch = reader.take_nowait()
    assert batch is not None
    assert len(batch.changes) == 2


def test_a_trade_gives_the_last_price_and_comes_once(store: BookStore, script: Script) -> None:
    """A trade seen again, by its id, is dropped; a block trade is off book and sets no price."""
    script.snapshot(YES, NO)
    before = book_of(store)

    assert script.apply(trade("a", price=4_300, size=1_025, exchange_us=10)) == "trade"
    assert script.apply(trade("a", price=4_300, size=1_025, exchange_us=10)) == "duplicate"
    assert script.apply(trade("b", price=3_500, is_block_trade=True, exchange_us=11)) == "trade"
    assert script.apply(trade("c", price=4_100, exchange_us=9)) == "trade"

    book = book_of(store)
    assert (book.activity.last_price, book.activity.last_size) == (4_300, 1_025)
    assert book.yes is before.yes
    assert book.sequence == before.sequence


def test_a_ticker_updates_what_it_carries(store: BookStore, script: Script) -> None:
    """Statistics that a ticker lacks are kept; an older ticker changes nothing; quotes stay the book's."""
    script.snapshot(YES, NO)
    script.apply(ticker_message(volume=100, open_interest=50, exchange_us=10))
    script.apply(ticker_message(volume=200, exchange_us=20))

    assert script.apply(ticker_message(volume=150, exchange_us=15)) == "replayed"

    activity = book_of(store).activity
    assert (activity.volume, activity.open_interest, activity.last_price) == (200, 50, None)


def test_lifecycle_moves_the_status_and_keeps_absent_fields(store: BookStore, script: Script) -> None:
    """Creation, pause, activation, determination and settlement show on the book."""
    bands = (PriceRange(0, 10_000, 100),)
    script.apply(
        lifecycle(
            "created",
            open_us=10,
            close_us=20,
            title="Frogs",
            event_ticker="KXFROG-26DEC01",
            price_ranges=bands,
        )
    )
    script.snapshot(YES, NO)
    seen = [book_of(store).market.status]
    for step in ("activated", "deactivated", "activated"):
        script.apply(lifecycle(step))
        seen.append(book_of(store).market.status)
    script.apply(lifecycle("determined", result="yes", settlement_value=10_000))
    assert Condition.CLOSED is book_of(store).condition
    script.apply(lifecycle("determined", result="no", settlement_value=0))
    script.apply(lifecycle("settled"))

    market = book_of(store).market
    assert seen == [MarketStatus.INITIALIZED, MarketStatus.ACTIVE, MarketStatus.INACTIVE, MarketStatus.ACTIVE]
    assert (market.status, market.result, market.settlement_value) == (MarketStatus.FINALIZED, "no", 0)
    assert ("Frogs", "KXFROG-26DEC01", bands) == (market.title, market.event_ticker, market.price_ranges)
    assert levels(book_of(store).yes) == YES


def test_a_determination_told_by_two_gatherers_is_one(store: BookStore, script: Script) -> None:
    """The same result again amends nothing; another one does."""
    script.snapshot(YES, NO)
    for source in ("g1", "g2"):
        script.apply(lifecycle("determined", result="yes", settlement_value=10_000), source=source)
    assert MarketStatus.DETERMINED is book_of(store).market.status

    script.apply(lifecycle("determined", result="no", settlement_value=0))
    assert MarketStatus.AMENDED is book_of(store).market.status


def test_a_price_off_the_known_grid_is_kept_and_counted(store: BookStore, script: Script) -> None:
    """The exchange is the authority on prices; what does not fit the grid is counted."""
    script.apply(lifecycle("price_level_structure_updated", price_ranges=(PriceRange(0, 10_000, 100),)))
    script.snapshot(YES, NO)

    script.delta("yes", 4_050, 100)
    script.delta("yes", 4_000, 100)

    assert levels(book_of(store).yes)[4_050] == 100
    assert store.statistics().off_grid == 1


def test_a_description_tells_what_messages_do_not(store: BookStore, script: Script) -> None:
    """A market that was there before gets its status, times, names and grid; its book is untouched."""
    script.snapshot(YES, NO)
    before = book_of(store)
    grid = (PriceRange(0, 10_000, 100),)
    facts: dict[str, Any] = {"event_ticker": "KXFROG", "title": "Frogs", "price_ranges": grid}

    assert "description" == script.apply(described("active", open_us=1, close_us=2**60, **facts))

    book = book_of(store)
    market = book.market
    assert (MarketStatus.ACTIVE, 1, 2**60) == (market.status, market.open_us, market.close_us)
    assert ("KXFROG", "Frogs", grid) == (market.event_ticker, market.title, market.price_ranges)
    assert (before.yes, before.no, before.sequence) == (book.yes, book.no, book.sequence)


def test_a_description_alone_makes_a_market_that_awaits(store: BookStore, script: Script) -> None:
    """It is known, and its book is unknown, not empty."""
    script.apply(described("active", title="Frogs"))

    assert Condition.AWAITING is book_of(store).condition
    assert "Frogs" == book_of(store).market.title


def test_a_description_says_what_it_knows_only(store: BookStore, script: Script) -> None:
    """What it does not name stays, and saying the same again changes nothing."""
    script.apply(described("active", title="Frogs", close_us=2**60))
    script.apply(described("active"))
    held = book_of(store)

    assert ("Frogs", 2**60) == (held.market.title, held.market.close_us)
    script.apply(described("active", title="Frogs"))
    assert held is book_of(store)


@pytest.mark.parametrize(
    ("told", "then", "expected"),
    [
        ("determined", "active", "determined"),
        ("settled", "closed", "finalized"),
        ("deactivated", "active", "active"),
        ("activated", "inactive", "inactive"),
        ("activated", "closed", "closed"),
        ("activated", "dreaming", "active"),
    ],
)
def test_a_description_takes_no_market_back(
    store: BookStore, script: Script, told: str, then: str, expected: str
) -> None:
    """Lists may be older than messages: by them a life goes on, never back."""
    script.apply(lifecycle(told))
    script.apply(described(then))

    assert expected == book_of(store).market.status


def test_a_described_market_closes_in_time(store: BookStore, script: Script) -> None:
    """The close has no message; the time of a description is enough."""
    script.snapshot(YES, NO)
    script.apply(described("active", open_us=1_000_000, close_us=9_000_000))
    with store.writer() as writer:
        writer.tick(8_999_999)
        assert Condition.LIVE is book_of(store).condition
        writer.tick(9_000_000)

    assert Condition.CLOSED is book_of(store).condition


def test_a_described_market_opens_in_time(store: BookStore, script: Script) -> None:
    """One that was described before it opened is active when its time has come."""
    script.apply(described("initialized", open_us=5_000_000))
    with store.writer() as writer:
        writer.tick(5_000_000)

    assert MarketStatus.ACTIVE is book_of(store).market.status
