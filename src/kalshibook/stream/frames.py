"""Many WebSocket frames for one client, put together for one write."""

from collections.abc import Iterable
from typing import Final

from kalshibook.store import Book, BookStore, Cut
from kalshibook.stream.encode import snapshot_tail

__all__ = ["FrameWriter", "SnapshotCache", "frame_header"]

# RFC 6455, 5.2: FIN and opcode 1 (text), then the length in 7, 16 or 64 bits; a server does not mask.
_SHORT_LIMIT: Final = 126
_MEDIUM_LIMIT: Final = 65_536


def _frame_header(length: int) -> bytes:
    if length < _SHORT_LIMIT:
        return bytes((0x81, length))
    if length < _MEDIUM_LIMIT:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")


# Nearly all frames are this short, and a header is looked up faster than made.
_USUAL_LIMIT: Final = 1_024
_USUAL: Final = tuple(_frame_header(length) for length in range(_USUAL_LIMIT))


def frame_header(length: int) -> bytes:
    """Return what stands before a server's text frame of so many bytes."""
    return _USUAL[length] if length < _USUAL_LIMIT else _frame_header(length)


class SnapshotCache:
    """
    Encoded snapshots of the books' current versions, shared by all clients and bounded in bytes.

    After a restart of ours every client asks for the same books at once.
    """

    __slots__ = ("_capacity_bytes", "_held", "_size")

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._held: dict[tuple[str, bool], tuple[Book, bytes]] = {}
        self._size = 0

    def tail(self, book: Book, *, yes_scale: bool) -> bytes:
        """Return the tail of a book's `orderbook_snapshot`."""
        key = (book.market.ticker, yes_scale)
        held = self._held.get(key)
        if held is not None:
            if held[0] is book:
                return held[1]
            self._size -= len(held[1])
            del self._held[key]
        tail = snapshot_tail(book, yes_scale=yes_scale)
        if self._size + len(tail) > self._capacity_bytes:
            self._held.clear()
            self._size = 0
        if len(tail) <= self._capacity_bytes:
            self._held[key] = (book, tail)
            self._size += len(tail)
        return tail


class FrameWriter:
    """
    Collects frames up to a limit, with what they share: the time of sending and one cut of the store.

    The frame, or the block of frames, that reaches the limit is still taken whole, so that a frame longer
    than the limit is sent too.
    """

    __slots__ = ("_cut", "_limit_bytes", "_parts", "_store", "frames", "size", "snapshots", "stamp")

    def __init__(self, store: BookStore, snapshots: SnapshotCache, limit_bytes: int, now_us: int) -> None:
        self._store = store
        self._limit_bytes = limit_bytes
        self._parts: list[bytes] = []
        self._cut: Cut | None = None
        self.snapshots = snapshots
        self.stamp = b',"sending_ts_ms":%d' % (now_us // 1_000)
        self.size = 0
        self.frames = 0

    @property
    def is_full(self) -> bool:
        """Whether the limit is reached."""
        return self.size >= self._limit_bytes

    @property
    def cut(self) -> Cut:
        """The newest version of the store, the same for everything in this write."""
        if self._cut is None:
            self._cut = self._store.cut()
        return self._cut

    def add(self, opening: bytes, head: bytes, tail: bytes) -> bool:
        """Append one text frame of three pieces, and tell whether the limit is reached."""
        length = len(opening) + len(head) + len(tail)
        header = _USUAL[length] if length < _USUAL_LIMIT else _frame_header(length)
        self._parts += (header, opening, head, tail)
        self.size = size = self.size + len(header) + length
        self.frames += 1
        return size >= self._limit_bytes

    def add_all(self, heads: Iterable[bytes], tails: Iterable[bytes]) -> int:
        """
        Append one text frame for each head and tail, up to the limit; return how many.

        Args:
            heads: the openings in them too; one may be taken more than are used.
            tails: one for each.
        """
        # The innermost loop of the server, once per frame and client: all in local names.
        parts, size, limit = self._parts, self.size, self._limit_bytes
        count = 0
        for head, tail in zip(heads, tails, strict=False):
            length = len(head) + len(tail)
            header = _USUAL[length] if length < _USUAL_LIMIT else _frame_header(length)
            parts += (header, head, tail)
            size += len(header) + length
            count += 1
            if size >= limit:
                break
        self.size = size
        self.frames += count
        return count

    def add_block(self, frames: bytes, count: int) -> bool:
        """Append frames that were put together elsewhere, unless they are more than the limit; tell so."""
        if len(frames) > self._limit_bytes:
            return False
        self._parts.append(frames)
        self.size += len(frames)
        self.frames += count
        return True

    def joined(self) -> bytes:
        """Return all frames."""
        return b"".join(self._parts)
