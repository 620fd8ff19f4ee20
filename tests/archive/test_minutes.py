from kalshibook.archive.minutes import MinuteBooks
from kalshibook.archive.rows import SnapshotKind, SnapshotRow
from kalshibook.errors import WireError
from kalshibook.store import Arrival
from kalshibook.wire import BookDelta, BookSnapshot

FROG, TOAD = "KXFROG-T40", "KXTOAD-T40"


class Stage:
    def __init__(self) -> None:
        self.now_s = 0.0
        self.books = MinuteBooks(60, clock_s=lambda: self.now_s)
        self.offset = 0

    def arrival(self) -> Arrival:
        self.offset += 1
        number = self.offset
        return Arrival("g1", "c1", 2, number, None, 1_000 + number, None, None, None, 0, number)

    def snapshot(self, ticker: str, *yes: tuple[int, int]) -> None:
        self.books.apply(BookSnapshot(ticker, yes, (), 7), self.arrival())

    def delta(self, ticker: str, price: int, change: int) -> None:
        self.books.apply(BookDelta(ticker, "yes", price, change, 8), self.arrival())

    def minute(self) -> list[SnapshotRow]:
        self.now_s += 60
        rows = [row for entry in self.books.due() for row in entry.rows]
        return [row for row in rows if isinstance(row, SnapshotRow)]


def test_only_books_that_changed_are_taken() -> None:
    """A quiet market makes no row, however many minutes pass."""
    stage = Stage()
    stage.snapshot(FROG, (4000, 100))
    stage.snapshot(TOAD, (5000, 100))

    assert [FROG, TOAD] == [row.ticker for row in stage.minute()]
    stage.delta(TOAD, 5000, 50)
    (row,) = stage.minute()
    assert (TOAD, SnapshotKind.MINUTE, (5000,), (150,)) == (
        row.ticker,
        row.kind,
        row.yes_prices,
        row.yes_sizes,
    )
    assert ("g1", "c1", 2, 3, 1_003, 8) == row[:6]
    assert [] == stage.minute()


def test_nothing_is_taken_before_its_time() -> None:
    """The interval is what the setting says."""
    stage = Stage()
    stage.snapshot(FROG, (4000, 100))
    stage.now_s = 59

    assert [] == stage.books.due()
    stage.now_s = 60
    assert 1 == len(stage.books.due())


def test_only_live_books_are_taken() -> None:
    """What waits for its first snapshot, or is in doubt, is no book to go by."""
    stage = Stage()
    stage.delta(FROG, 4000, 50)
    stage.snapshot(TOAD, (5000, 100))
    stage.delta(TOAD, 6000, -1)

    assert [] == stage.minute()
    stage.snapshot(TOAD, (5000, 100))
    stage.books.reject(WireError("$", "broken"), stage.arrival(), TOAD)
    assert [] == stage.minute()
    stage.snapshot(TOAD, (5000, 100))
    stage.books.forget(0, "its partition was handed over")
    assert [] == stage.minute()
