"""Ladders, books, market states, the store, its history and its change notices. Threads only."""

from kalshibook.store.book import (
    Activity as Activity,
    Book as Book,
    Market as Market,
    Origin as Origin,
    Quote as Quote,
    TopOfBook as TopOfBook,
    top_changed as top_changed,
)
from kalshibook.store.changes import (
    Change as Change,
    ChangeBatch as ChangeBatch,
    ChangeReader as ChangeReader,
    FoldedChanges as FoldedChanges,
    Notice as Notice,
    Readiness as Readiness,
)
from kalshibook.store.cut import ConditionCounts as ConditionCounts, Cut as Cut, Tops as Tops
from kalshibook.store.heartbeats import Pulse as Pulse
from kalshibook.store.incidents import (
    Incident as Incident,
    IncidentKind as IncidentKind,
    IncidentLog as IncidentLog,
)
from kalshibook.store.ladder import (
    EMPTY_LADDER as EMPTY_LADDER,
    ImpossibleChange as ImpossibleChange,
    Ladder as Ladder,
    Level as Level,
    Stamps as Stamps,
)
from kalshibook.store.options import StoreOptions as StoreOptions
from kalshibook.store.reducer import Arrival as Arrival, Outcome as Outcome
from kalshibook.store.saved import (
    Checkpoint as Checkpoint,
    SavedBook as SavedBook,
    decode_checkpoint as decode_checkpoint,
    decode_saved as decode_saved,
    save_book as save_book,
)
from kalshibook.store.sources import SourceStatistics as SourceStatistics
from kalshibook.store.states import (
    Condition as Condition,
    MarketStatus as MarketStatus,
    StatusEvent as StatusEvent,
)
from kalshibook.store.store import (
    BookStore as BookStore,
    StoreStatistics as StoreStatistics,
    require_offsets as require_offsets,
)
from kalshibook.store.writer import StoreWriter as StoreWriter

__all__ = [
    "EMPTY_LADDER",
    "Activity",
    "Arrival",
    "Book",
    "BookStore",
    "Change",
    "ChangeBatch",
    "ChangeReader",
    "Checkpoint",
    "Condition",
    "ConditionCounts",
    "Cut",
    "FoldedChanges",
    "ImpossibleChange",
    "Incident",
    "IncidentKind",
    "IncidentLog",
    "Ladder",
    "Level",
    "Market",
    "MarketStatus",
    "Notice",
    "Origin",
    "Outcome",
    "Pulse",
    "Quote",
    "Readiness",
    "SavedBook",
    "SourceStatistics",
    "Stamps",
    "StatusEvent",
    "StoreOptions",
    "StoreStatistics",
    "StoreWriter",
    "TopOfBook",
    "Tops",
    "decode_checkpoint",
    "decode_saved",
    "require_offsets",
    "save_book",
    "top_changed",
]
