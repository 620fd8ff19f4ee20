"""The writing half of a store: turns messages into versions. One thread at a time."""

import heapq
from array import array
from collections.abc import Iterable, Mapping, Sequence
from time import time_ns
from typing import Final

import msgspec

from kalshibook.errors import WireError
from kalshibook.store.book import Book, awaiting_book
from kalshibook.store.changes import Change, Notice, Readiness
from kalshibook.store.cut import ConditionCounts, StoreVersion
from kalshibook.store.followers import Followers
from kalshibook.store.heartbeats import Heartbeats, Silence
from kalshibook.store.incidents import IncidentKind
from kalshibook.store.reducer import (
    Arrival,
    Outcome,
    Result,
    apply_delta,
    apply_description,
    apply_lifecycle,
    apply_snapshot,
    apply_ticker,
    apply_trade,
    distrusted,
    doubt,
    is_on_grid,
    move_status,
    numbered,
)
from kalshibook.store.rivals import Rivals
from kalshibook.store.saved import Checkpoint, SavedBook
from kalshibook.store.state import StoreState
from kalshibook.store.states import Condition, MarketStatus, StatusEvent
from kalshibook.wire import (
    BookDelta,
    BookSnapshot,
    EventFrame,
    GathererNotice,
    MarketDescription,
    MarketLifecycle,
    Other,
    Ticker,
    Trade,
    WireEvent,
)

__all__ = ["StoreWriter"]

# Trade ids that are remembered to drop a trade that comes twice (several gatherers see each
# trade; a producer may send a batch again). 2**17 is a minute of the busiest hour known.
_TRADES_REMEMBERED: Final = 131_072

# A member of an enumeration costs a call when it is looked up by its name.
_DUPLICATE: Final = Outcome.DUPLICATE
_FOREIGN: Final = Outcome.FOREIGN
_AWAITING: Final = Condition.AWAITING
_LIVE: Final = Condition.LIVE
_STALE: Final = Condition.STALE
_CLOSED: Final = Condition.CLOSED

_NO_BOOK: Final = frozenset({EventFrame, GathererNotice, Other})
"""Events that are not about the book of one market."""

_BESIDE_BOOKS: Final = frozenset({"trade", "ticker"})
"""Channels whose messages change no book, read or not."""


class StoreWriter:
    """Applies messages; every call makes one version. From `BookStore.writer`."""

    def __init__(self, state: StoreState) -> None:
        self._state = state
        self._number = state.directory.number
        self._notices: list[Notice] = []
        self._due: list[tuple[int, int, StatusEvent]] = []
        self._trades: dict[str, None] = {}
        self._rivals = Rivals()
        self.followers: Final = Followers(lambda number: state.version.books[number])
        """Which books follow which source."""
        self.heartbeats: Final = Heartbeats(state.options.source_silence_ms)
        """Which sources give signs of life."""
        # What each restored book holds beyond the place where reading goes on: number to next offset.
        self._ahead: dict[int, int] = {}
        self._saved: dict[int, tuple[int | None, int]] = {}
        self.outcomes: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        """How many messages ended how."""
        self.off_grid = 0
        self.empty_snapshots = 0

    def apply(self, event: WireEvent, arrival: Arrival) -> Outcome:
        """
        Apply one message and move its partition's offset, in one version.

        Args:
            event: what the exchange said.
            arrival: where it came from, and when.

        Returns:
            What became of it.
        """
        kind = type(event)
        if kind in _NO_BOOK:
            return self._pass_on(event, arrival)  # type: ignore[arg-type]  # one of these
        ticker: str = event.ticker  # type: ignore[union-attr]  # those without one have returned
        current = self._state.version
        number = self._number(ticker)
        is_new = number is None
        if number is None:
            # Its number is in the shared directory before the version that its first message makes, which
            # no reader minds: no version is that long yet.
            number = self._state.directory.add(ticker)
            book = awaiting_book(ticker, number)
        else:
            book = current.books[number]
        if self._ahead and self._ahead.get(number, -1) > arrival.offset and _is_at(book, arrival.partition):
            return self._pass_over(current, arrival)
        # Never backwards, whatever the clock does: the history is searched by this time.
        applied_us = time_ns() // 1_000
        if applied_us < current.applied_us:  # noqa: PLR1730 - a call costs more than the clock
            applied_us = current.applied_us
        if kind is BookDelta:
            if not is_on_grid(book.market, event.price):  # type: ignore[union-attr]
                self.off_grid += 1
            result = apply_delta(book, event, arrival, applied_us, current.number + 1)  # type: ignore[arg-type]
        else:
            result = self._reduced(book, event, arrival, applied_us, current.number + 1)
        if result.outcome is _FOREIGN and kind is BookDelta and book.copy is Condition.LIVE:
            result = self._compared(book, event, arrival, current.number + 1)  # type: ignore[arg-type]
        if arrival.doubt is not None:
            result = distrusted(book, result, arrival.doubt, current.number + 1)
        outcome = result.outcome
        # Several gatherers see the same trade; its second coming moves the offset and tells nobody.
        told = None if outcome is _DUPLICATE else event
        offsets = _moved(current.offsets, arrival.partition, arrival.offset + 1)
        self._publish(current, book, result.book, offsets, applied_us, told, is_new=is_new)
        self.outcomes[outcome] += 1
        if result.incident is not None:
            self._state.incidents.record(
                result.incident,
                result.detail,
                ticker=ticker,
                partition=arrival.partition,
                offset=arrival.offset,
            )
        return outcome

    def reject(
        self, error: WireError, arrival: Arrival, ticker: str | None, *, channel: str | None = None
    ) -> None:
        """
        Account for a record that could not be read: the market whose book it may have changed turns stale.

        Args:
            error: why.
            arrival: where it stands.
            ticker: the market, as far as it is known, for example from the record's key.
            channel: its channel, if that is known; a trade or a ticker is no part of a book.
        """
        self.outcomes[Outcome.REJECTED] += 1
        current = self._state.version
        number = None if ticker is None else self._state.directory.number(ticker)
        self._state.incidents.record(
            IncidentKind.REJECTED,
            str(error),
            ticker=ticker,
            partition=arrival.partition,
            offset=arrival.offset,
        )
        applied_us = self._now_us(current)
        if number is None or channel in _BESIDE_BOOKS or self._ahead.get(number, -1) > arrival.offset:
            self._publish_offset(current, arrival.partition, arrival.offset + 1, applied_us)
            return
        book = current.books[number]
        stale = doubt(book, f"a message could not be read: {error}", None, current.number + 1)
        offsets = _moved(current.offsets, arrival.partition, arrival.offset + 1)
        self._publish(current, book, stale, offsets, applied_us, None)

    def skip(self, partition: int, next_offset: int) -> None:
        """Move a partition's offset over what carries no message, such as a tombstone."""
        self.outcomes[Outcome.SKIPPED] += 1
        current = self._state.version
        self._publish_offset(current, partition, next_offset, self._now_us(current))

    def doubt(self, ticker: str, reason: str) -> None:
        """Turn one market's book stale."""
        number = self._state.directory.number(ticker)
        if number is not None:
            self._doubt([self._state.version.books[number]], reason)
            self._state.incidents.record(IncidentKind.DOUBTED, reason, ticker=ticker)

    def doubt_all(self, reason: str, partition: int | None = None) -> None:
        """Turn all books stale, or those whose messages come by one partition, in one version."""
        # Offsets before such a finding mean nothing after it: what was restored is not ahead of anything.
        self._ahead = {
            number: offset
            for number, offset in self._ahead.items()
            if partition is not None and not _is_at(self._state.version.books[number], partition)
        }
        self._doubt(self.followers.live_of(partition=partition), reason)
        self._state.incidents.record(IncidentKind.DOUBTED, reason, partition=partition)

    def restore(self, saved: Iterable[SavedBook]) -> None:
        """
        Take over saved books, in one version; `resume` tells afterwards where reading goes on.

        Raises:
            WireError: one of them contradicts itself; nothing is taken over then.
        """
        state, current = self._state, self._state.version
        version, books = current.number + 1, current.books
        tally: dict[str, int] = msgspec.structs.asdict(current.counts)
        changes: list[Change] = []
        fresh: dict[str, int] = {}
        made: list[tuple[SavedBook, Book]] = []
        newest: dict[str, SavedBook] = {}
        for one in saved:
            if one.ticker not in newest or one.written_us >= newest[one.ticker].written_us:
                newest[one.ticker] = one
        for one in newest.values():
            number = self._number(one.ticker)
            # Where partitions were added to the topic, an older record may lie in another one and come later.
            if number in self._saved and one.written_us < self._saved[number][1]:
                continue
            if number is None:
                number = fresh[one.ticker] = len(state.directory) + len(fresh)
            made.append((one, one.book(number, version)))
        for one, new in made:
            number = new.market.number
            if one.ticker in fresh:
                state.directory.add(one.ticker)
                old = awaiting_book(one.ticker, number)
                books = books.appended(new)
            else:
                old, books = books[number], books.replaced(number, new)
                tally[old.condition.value] -= 1
            tally[new.condition.value] += 1
            changes.append(Change(old, new, None, 1, version))
            self._saved[number] = (one.offset, one.written_us)
        counts = ConditionCounts(**tally)
        state.publish(
            StoreVersion(version, books, current.offsets, self._now_us(current), current.behind, counts)
        )
        for change in changes:
            self.followers.moved(change.old, change.new)
            self._plan(change.old, change.new, None)
        if state.readers:
            self._notices.extend(changes)

    def resume(self, starts: Mapping[int, int], checkpoints: Mapping[int, Checkpoint]) -> None:
        """
        Go on after restored books: what they hold is not applied again, what nobody read makes them stale.

        Args:
            starts: where reading begins, by partition.
            checkpoints: as of which offset all books of a partition were saved.
        """
        current, holes = self._state.version, list[Book]()
        for number, (offset, written_us) in self._saved.items():
            if offset is None:
                continue
            book = current.books[number]
            place = -1 if book.origin is None else book.origin.partition
            checkpoint, start = checkpoints.get(place), starts.get(place)
            # A book that was saved before the checkpoint was begun is as of the checkpoint: nothing of it
            # changed in between. One saved later stands where it says; if that is further back, another
            # process writes saved books too, and has put an older one over a newer.
            stands = offset
            if checkpoint is not None and written_us <= checkpoint.begun_us:
                stands = max(offset, checkpoint.offset)
            if start is None or stands < start:
                holes.append(book)
            elif stands > start:
                self._ahead[number] = stands
        self._saved.clear()
        for checkpoint in checkpoints.values():
            for sign in checkpoint.signs:
                self.heartbeats.restore(sign)
        offsets = current.offsets
        for partition, start in starts.items():
            offsets = _moved(offsets, partition, start)
        reason = "records between the saved book and the place where reading goes on were not read"
        self._doubt(holes, reason, offsets)
        if holes:
            self._state.incidents.record(IncidentKind.DOUBTED, f"{reason}; {len(holes)} books")

    def tick(self, now_us: int) -> None:
        """
        Let time pass while the store is caught up: for what happens without any message.

        Markets open and close, and sources that owe a sign of life are taken for dead.
        """
        self._judge(self.heartbeats.tick(now_us))
        while self._due and self._due[0][0] <= now_us:
            due_us, number, step = heapq.heappop(self._due)
            current = self._state.version
            book = current.books[number]
            planned_us = book.market.open_us if step is StatusEvent.OPENS else book.market.close_us
            # A time that was moved leaves its old entry behind; the market itself knows better.
            if planned_us == due_us:
                moved = move_status(book, step, current.number + 1)
                if moved is not book:
                    self._publish(current, book, moved, current.offsets, self._now_us(current), None)

    def commit(self) -> None:
        """End a batch: hand what changed to the readers, each woken once."""
        if not self._notices:
            return
        notices, self._notices = self._notices, []
        for reader in self._state.readers:
            reader.put(notices)

    def set_ready(self, ready: bool, reason: str = "its feed has not caught up") -> None:
        """
        Say whether the store is as new as what its feed reads from.

        Args:
            ready: whether the feed has caught up and is connected.
            reason: why not, for people.
        """
        behind = None if ready else reason
        state, current = self._state, self._state.version
        if current.behind != behind:
            if ready:
                self._ahead.clear()
                self.heartbeats.caught_up(time_ns() // 1_000)
            number, applied_us = current.number + 1, self._now_us(current)
            state.publish(
                msgspec.structs.replace(current, number=number, behind=behind, applied_us=applied_us)
            )
            if state.readers:
                self._notices.append(Readiness(behind, number))
                self.commit()
        if ready:
            state.ready.set()
        else:
            state.ready.clear()

    def _pass_over(self, current: StoreVersion, arrival: Arrival) -> Outcome:
        self.outcomes[Outcome.RESTORED] += 1
        self._publish_offset(current, arrival.partition, arrival.offset + 1, self._now_us(current))
        return Outcome.RESTORED

    def _reduced(
        self, book: Book, event: WireEvent, arrival: Arrival, applied_us: int, version: int
    ) -> Result:
        if type(event) is BookSnapshot:
            if not event.yes and not event.no:
                self.empty_snapshots += 1
            return apply_snapshot(book, event, arrival, applied_us, version)
        if isinstance(event, Trade):
            if self._is_known_trade(event.trade_id):
                return Result(book, Outcome.DUPLICATE)
            return apply_trade(book, event, version)
        if isinstance(event, Ticker):
            return apply_ticker(book, event, version)
        if isinstance(event, MarketDescription):
            result = apply_description(book, event, version)
            self._plan(book, result.book, None)
            return result
        assert isinstance(event, MarketLifecycle)
        result = apply_lifecycle(book, event, version)
        self._plan(book, result.book, event.exchange_us)
        return result

    def _publish(
        self,
        current: StoreVersion,
        old: Book,
        new: Book,
        offsets: "array[int]",
        applied_us: int,
        event: WireEvent | None,
        *,
        is_new: bool = False,
    ) -> None:
        number = current.number + 1
        books, counts = current.books, current.counts
        if is_new:
            books = books.appended(new)
            counts = _recounted(counts, None, new.condition)
        elif new is not old:
            books = books.replaced(new.market.number, new)
            if new.copy is not old.copy or new.market is not old.market:
                counts = _recounted(counts, old.condition, new.condition)
        state = self._state
        state.publish(StoreVersion(number, books, offsets, applied_us, current.behind, counts))
        if new.copy is not old.copy or new.origin is not old.origin:
            self.followers.moved(old, new)
        # A book of which only the last number moved tells a reader nothing.
        if state.readers and (new.version == number or _is_passed_on(event)):
            self._notices.append(Change(old, new, event, 1, number))

    def _publish_offset(
        self, current: StoreVersion, partition: int, next_offset: int, applied_us: int
    ) -> None:
        offsets = _moved(current.offsets, partition, next_offset)
        self._state.publish(
            StoreVersion(
                current.number + 1, current.books, offsets, applied_us, current.behind, current.counts
            )
        )

    def _compared(self, book: Book, event: BookDelta, arrival: Arrival, version: int) -> Result:
        loss = self._rivals.loss(book, event, arrival)
        if loss is None:
            return Result(book, Outcome.FOREIGN)
        stale = doubt(book, f"{IncidentKind.GAP.value}: {loss}", None, version)
        return Result(stale, Outcome.GAP, IncidentKind.GAP, loss)

    def _pass_on(self, event: Other | EventFrame | GathererNotice, arrival: Arrival) -> Outcome:
        if isinstance(event, GathererNotice):
            return self._obey(event, arrival)
        outcome = Outcome.OTHER
        if isinstance(event, EventFrame):
            outcome = Outcome.EVENT
            if self._state.readers:
                self._notices.append(event)
        self.outcomes[outcome] += 1
        current = self._state.version
        applied_us = self._now_us(current)
        number = self._state.directory.number(event.ticker) if isinstance(event, Other) else None
        if number is None:
            self._publish_offset(current, arrival.partition, arrival.offset + 1, applied_us)
            return outcome
        book = current.books[number]
        offsets = _moved(current.offsets, arrival.partition, arrival.offset + 1)
        self._publish(current, book, numbered(book, arrival), offsets, applied_us, None)
        return outcome

    def _obey(self, event: GathererNotice, arrival: Arrival) -> Outcome:
        self.outcomes[Outcome.NOTICE] += 1
        current, source, partition = self._state.version, arrival.source, arrival.partition
        offsets = _moved(current.offsets, partition, arrival.offset + 1)
        if event.notice == "alive":
            self._take_sign(event, arrival, offsets)
            return Outcome.NOTICE
        if event.notice == "ended" and arrival.connection is None and not event.ticker:
            self.heartbeats.ended(source, partition)
        concerned = self._not_ahead(self._concerned(event, arrival), arrival.offset)
        found = ": ".join(part for part in (event.reason, event.detail) if part)
        reason = (
            f"gatherer {source!r} says {event.notice}: {found}"
            if found
            else (f"gatherer {source!r} says {event.notice}")
        )
        self._doubt(concerned, reason, offsets)
        if concerned:
            books = "" if event.ticker else f"; {len(concerned)} books"
            self._state.incidents.record(
                IncidentKind.NOTICED,
                f"{reason}{books}",
                ticker=event.ticker or None,
                partition=partition,
                offset=arrival.offset,
            )
        return Outcome.NOTICE

    def _concerned(self, event: GathererNotice, arrival: Arrival) -> Sequence[Book]:
        source, connection, sid = arrival.source, arrival.connection, arrival.sid
        if not event.ticker:
            return self.followers.live_of(source, arrival.partition, connection, sid)
        number = self._number(event.ticker)
        if number is None:
            return ()
        book = self._state.version.books[number]
        origin = book.origin
        if (
            book.copy is not Condition.LIVE
            or origin is None
            or origin.source != source
            or connection not in {None, origin.connection}
            or sid not in {None, origin.sid}
        ):
            return ()
        return (book,)

    def _take_sign(self, event: GathererNotice, arrival: Arrival, offsets: "array[int]") -> None:
        source, partition = arrival.source, arrival.partition
        said_us = next(
            (us for us in (arrival.kafka_us, arrival.published_us, arrival.consumed_us) if us is not None), 0
        )
        if self.heartbeats.alive(source, partition, said_us, event.interval_ms or 0):
            detail = f"gatherer {source!r} gives signs of life again; its snapshots heal"
            self._state.incidents.record(IncidentKind.SOURCE_BACK, detail, partition=partition)
        # While what is read lies in the past, its own times tell who had died by then.
        is_past = self._state.version.behind is not None
        self._judge(self.heartbeats.overdue(partition, said_us) if is_past else (), offsets, arrival.offset)

    def _not_ahead(self, books: Sequence[Book], offset: int | None) -> Sequence[Book]:
        # What a restored book holds already is not said to it again.
        if not self._ahead or offset is None:
            return books
        return [book for book in books if self._ahead.get(book.market.number, -1) <= offset]

    def _judge(
        self,
        silences: Sequence[Silence],
        offsets: "array[int] | None" = None,
        offset: int | None = None,
    ) -> None:
        if not silences:
            if offsets is not None:
                self._doubt((), "", offsets)
            return
        live_of = self.followers.live_of
        concerned = [
            (silence, self._not_ahead(live_of(silence.source, silence.partition), offset))
            for silence in silences
        ]
        names = sorted({silence.source for silence in silences})
        longest_ms = max(silence.quiet_us for silence in silences) // 1_000
        said = f"no sign of life for {longest_ms} ms"
        reason = f"{said} from gatherer {' and '.join(map(repr, names))}"
        self._doubt([book for _, books in concerned for book in books], reason, offsets)
        for name in names:
            found = [(one.partition, len(books)) for one, books in concerned if one.source == name]
            self._state.incidents.record(
                IncidentKind.SOURCE_SILENT,
                f"gatherer {name!r}: {said}; {sum(count for _, count in found)} books",
                partition=found[0][0] if len(found) == 1 else None,
            )

    def _doubt(self, concerned: Iterable[Book], reason: str, offsets: "array[int] | None" = None) -> None:
        """Turn live books stale in one version, which is made if there are any or if offsets moved."""
        current = self._state.version
        version = current.number + 1
        counts = current.counts
        changes: list[Change] = []
        for old in concerned:
            new = doubt(old, reason, None, version)
            if new is not old:
                changes.append(Change(old, new, None, 1, version))
                if old.condition is not new.condition:
                    counts = _recounted(counts, old.condition, new.condition)
        if not changes and offsets is None:
            return
        books = current.books.replaced_many({change.new.market.number: change.new for change in changes})
        self._state.publish(
            StoreVersion(
                version,
                books,
                current.offsets if offsets is None else offsets,
                self._now_us(current),
                current.behind,
                counts,
            )
        )
        for change in changes:
            self.followers.moved(change.old, change.new)
        if self._state.readers:
            self._notices.extend(changes)

    def _plan(self, old: Book, new: Book, said_us: int | None) -> None:
        market = new.market
        waits = market.status is None or market.status is MarketStatus.INITIALIZED
        if waits and market.open_us is not None and market.open_us != old.market.open_us:
            heapq.heappush(self._due, (market.open_us, market.number, StatusEvent.OPENS))
        if market.close_us is None:
            return
        # What was said before the close and read after it must not keep the market open for ever.
        reopened = old.condition is Condition.CLOSED and new.condition is not Condition.CLOSED
        is_late = said_us is not None and said_us < market.close_us
        if (reopened and is_late) or market.close_us != old.market.close_us:
            heapq.heappush(self._due, (market.close_us, market.number, StatusEvent.CLOSES))

    def _is_known_trade(self, trade_id: str) -> bool:
        if trade_id in self._trades:
            return True
        self._trades[trade_id] = None
        if len(self._trades) > _TRADES_REMEMBERED:
            del self._trades[next(iter(self._trades))]
        return False

    @staticmethod
    def _now_us(current: StoreVersion) -> int:
        return max(time_ns() // 1_000, current.applied_us)


def _moved(offsets: "array[int]", partition: int, next_offset: int) -> "array[int]":
    moved = offsets[:]
    if len(moved) <= partition:
        moved.extend((-1,) * (partition + 1 - len(moved)))
    moved[partition] = next_offset
    return moved


def _is_at(book: Book, partition: int) -> bool:
    return book.origin is not None and book.origin.partition == partition


def _recounted(counts: ConditionCounts, old: Condition | None, new: Condition) -> ConditionCounts:
    """Return the counts after a market moved from one condition to another; None is one that is new."""
    if old is new:
        return counts
    tally = {
        _AWAITING: counts.awaiting,
        _LIVE: counts.live,
        _STALE: counts.stale,
        _CLOSED: counts.closed,
    }
    if old is not None:
        tally[old] -= 1
    tally[new] += 1
    return ConditionCounts(*tally.values())


def _is_passed_on(event: WireEvent | None) -> bool:
    return isinstance(event, Trade | MarketLifecycle)
