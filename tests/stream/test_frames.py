"""WebSocket framing and the cache of snapshots."""

import pytest

from kalshibook.store import Book, BookStore
from kalshibook.stream.frames import FrameWriter, SnapshotCache
from tests.store.builders import Script
from tests.stream.stage import T40, T45, split


def book(script: Script, ticker: str) -> Book:
    """Return a new version of a live book with one level."""
    script.snapshot({4_000: 100}, {}, ticker=ticker)
    return script.store.cut()[ticker]


@pytest.mark.parametrize(
    ("length", "header"),
    [
        (125, bytes((0x81, 125))),
        (126, bytes((0x81, 126, 0, 126))),
        (65_535, bytes((0x81, 126, 255, 255))),
        (65_536, bytes((0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0))),
    ],
)
def test_lengths(length: int, header: bytes) -> None:
    """A frame's length is written in the shortest of the three forms."""
    writer = FrameWriter(BookStore(), SnapshotCache(0), 1, 0)
    writer.add(b"a", b"b" * (length - 2), b"c")
    data = writer.joined()
    assert header == data[: len(header)]
    assert [b"a" + b"b" * (length - 2) + b"c"] == split(data)
    assert (len(data), 1) == (writer.size, writer.frames)


def test_snapshot_is_encoded_once_per_version() -> None:
    """The same book gives the same bytes object; its next version and the other scale give their own."""
    script, cache = Script(BookStore()), SnapshotCache(10_000)
    first = book(script, T40)
    tail = cache.tail(first, yes_scale=False)
    assert tail is cache.tail(first, yes_scale=False)
    assert tail is not cache.tail(first, yes_scale=True)
    again = book(script, T40)
    assert tail is not cache.tail(again, yes_scale=False)


def test_snapshot_cache_is_bounded() -> None:
    """The cache never holds more bytes than allowed, and what is too long for it is still encoded."""
    script = Script(BookStore())
    one = book(script, T40)
    length = len(SnapshotCache(0).tail(one, yes_scale=False))
    cache = SnapshotCache(2 * length)
    for n in range(10):
        cache.tail(book(script, f"KX{n:016}"), yes_scale=False)
        assert cache._size <= 2 * length
        assert cache._size == sum(len(tail) for _, tail in cache._held.values())
    tiny = SnapshotCache(length - 1)
    assert T40.encode() in tiny.tail(one, yes_scale=False)
    assert 0 == tiny._size
    assert T45.encode() in tiny.tail(book(script, T45), yes_scale=False)
