"""The archive as a sink of a gatherer: frames go from its sockets into its own database, in one process."""

import logging
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar, final

import msgspec

from kalshibook.archive.database import connect
from kalshibook.archive.entries import Entry
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.rows import Identity, gap_row, rows_of_event
from kalshibook.archive.upkeep import keep_house
from kalshibook.archive.writer import ArchiveWriter, WriterStatistics
from kalshibook.errors import ArchiveError, WireError
from kalshibook.wire import decode_frame, read_frame
from kalshibook.wire.gaps import GapRecord, decode_gap, encode_gap

__all__ = ["ArchiveSink", "FrameCodec", "ReceivedFrame"]

_log = logging.getLogger(__name__)

Counts_ = TypeVar("Counts_")

TYPES: Final = frozenset(
    {
        "orderbook_snapshot",
        "orderbook_delta",
        "trade",
        "ticker",
        "market_lifecycle_v2",
        "multivariate_market_lifecycle",
        "event_lifecycle",
        "event_fee_update",
    }
)


class ReceivedFrame(Protocol):
    """A frame as a gatherer hands it on."""

    @property
    def frame(self) -> bytes:
        """Untouched."""

    @property
    def connection(self) -> str:
        """Id of the socket epoch."""

    @property
    def received_us(self) -> int:
        """When it was received, microseconds since the epoch."""

    @property
    def sid(self) -> int | None:
        """The subscription."""

    @property
    def sequence(self) -> int | None:
        """The frame's `seq`."""


class _KeptFrame(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="frame"):
    source: str
    connection: str
    received_us: int
    sid: int | None
    sequence: int | None
    frame: bytes


class _KeptGap(msgspec.Struct, frozen=True, gc=False, array_like=True, tag="gap"):
    record: bytes


@final
class FrameCodec:
    """
    Frames and gaps in the journal: the exchange's own bytes, so that a later release can read them.

    Args:
        source: the gatherer's name. It is journaled too: a restart may come with another one.
    """

    def __init__(self, source: str) -> None:
        self._source = source

    def encode(self, messages: "Sequence[ReceivedFrame | GapRecord]") -> bytes:
        """Return messages as one record."""
        source = self._source
        return _encoder.encode(
            [
                ("gap", encode_gap(one))
                if isinstance(one, GapRecord)
                else ("frame", source, one.connection, one.received_us, one.sid, one.sequence, one.frame)
                for one in messages
            ]
        )

    def decode(self, record: bytes) -> list[Entry]:
        """
        Return the entries that a record makes.

        Raises:
            ArchiveError: it is nothing that `encode` wrote.
        """
        try:
            messages = _decoder.decode(record)
        except (msgspec.MsgspecError, UnicodeError) as error:
            raise ArchiveError(f"{type(error).__name__}: {error}") from None
        return [entry for entry in map(_entry_of, messages) if entry is not None]


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(list[_KeptFrame | _KeptGap])


@final
class ArchiveSink(Generic[Counts_]):
    """
    Stores every frame of a gatherer that carries market data; never drops one to keep going.

    Args:
        options: the archive's settings.
        source: the gatherer's name.
        counts: makes the gatherer's own kind of counts of offered, processed, dropped and waiting.
    """

    name: Final = "archive"

    def __init__(
        self, options: ArchiveOptions, source: str, counts: Callable[[int, int, int, int], Counts_]
    ) -> None:
        self._counts = counts
        self._writer = ArchiveWriter(options, FrameCodec(source), upkeep=lambda: _keep_house(options))

    @property
    def types(self) -> frozenset[str]:
        """The frame types that make rows."""
        return TYPES

    @property
    def is_full(self) -> bool:
        """Whether sockets should not be read now."""
        return self._writer.is_full

    def start(self) -> None:
        """Begin to write, without waiting for a database."""
        self._writer.start()

    def offer(self, received: ReceivedFrame) -> None:
        """Take over a frame."""
        self._writer.offer(received)

    def record_gap(self, gap: GapRecord) -> None:
        """Take over a record of the gap ledger, as it is found and again as it heals."""
        self._writer.offer(gap)

    def notify(self, notice: object) -> None:
        """Pass over: what a notice says of books, the gap ledger says of rows."""

    def counts(self) -> Counts_:
        """Return the counts of frames and gaps; from any thread."""
        found = self._writer.statistics()
        return self._counts(found.offered, found.processed, found.dropped, found.waiting)

    def statistics(self) -> WriterStatistics:
        """Return what became of rows, and how much lies in the journal; from any thread."""
        return self._writer.statistics()

    def stop(self, timeout: float = 30.0) -> bool:
        """Journal what waits, store what can be, and tell whether that was done in `timeout` seconds."""
        return self._writer.stop(timeout)


def _entry_of(kept: _KeptFrame | _KeptGap) -> Entry | None:
    if isinstance(kept, _KeptGap):
        try:
            gap = decode_gap(kept.record)
        except WireError as error:
            return Entry("gap", kept.record, refused=str(error))
        return Entry(f"gap {gap.id}", kept.record, (gap_row(gap),))
    place = f"{kept.source}/{kept.connection}"
    try:
        event = read_frame(decode_frame(kept.frame))
        sid = 0 if kept.sid is None else kept.sid
        rows = rows_of_event(
            event, Identity(kept.source, kept.connection, sid, kept.sequence, kept.received_us)
        )
    except WireError as error:
        return Entry(place, kept.frame, refused=str(error))
    except Exception as error:  # noqa: BLE001 - see below
        # Whatever a frame contains, it must not end the writing of all others.
        _log.exception("a frame of %s", place)
        return Entry(place, kept.frame, refused=f"{type(error).__name__}: {error}")
    return Entry(place, kept.frame, rows) if rows else None


def _keep_house(options: ArchiveOptions) -> None:
    with connect(options.dsn) as connection:
        keep_house(connection)
