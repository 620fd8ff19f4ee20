"""Encoded books, kept."""

import msgspec

from kalshibook.http.fragments import Fragments
from tests.http.client import LIVE, ONE_SIDED, filled_store


def test_unchanged_book_is_encoded_once() -> None:
    """The same book gives the very same bytes; a changed one is encoded anew, alone."""
    store, script = filled_store()
    fragments = Fragments(100)
    cut = store.cut()
    first = fragments.of([cut[LIVE], cut[ONE_SIDED]], "dollars", 0)

    script.delta("yes", 4_000, 100, ticker=LIVE)
    cut = store.cut()
    second = fragments.of([cut[LIVE], cut[ONE_SIDED]], "dollars", 0)

    assert first[1] is second[1]
    assert "75.50" == msgspec.json.decode(first[0])["yes_bid_size_fp"]
    assert "76.50" == msgspec.json.decode(second[0])["yes_bid_size_fp"]
    assert (3, 1) == (fragments.encoded, fragments.reused)


def test_forms_do_not_mix() -> None:
    """Dollars, ticks and depths of one book are kept apart."""
    book = filled_store()[0].cut()[LIVE]
    fragments = Fragments(100)

    forms = [
        fragments.of([book], numbers, depth)[0] for numbers in ("dollars", "ticks") for depth in (0, 1, 2)
    ]

    assert 6 == len(set(forms))
    assert forms[0] is fragments.of([book], "dollars", 0)[0]


def test_capacity_is_kept() -> None:
    """However many books and forms are asked for, no more are kept; the form in use goes last."""
    store, script = filled_store()
    for number in range(50):
        script.snapshot({100: 1}, {}, ticker=f"KXMANY-{number}")
    books = list(store.cut().books())
    fragments = Fragments(60)

    fragments.of(books, "dollars", 0)
    assert len(books) == len(fragments)
    kept = fragments.of(books, "ticks", 0)
    assert len(books) == len(fragments)
    assert all(one is two for one, two in zip(kept, fragments.of(books, "ticks", 0), strict=True))
    for depth in range(1, 30):
        fragments.of(books[:1], "dollars", depth)
    assert 60 >= len(fragments)


def test_deep_books_are_not_kept() -> None:
    """What would fill the memory is encoded each time."""
    book = filled_store()[0].cut()[LIVE]
    fragments = Fragments(100)

    one, two = fragments.of([book], "dollars", 11) + fragments.of([book], "dollars", 11)

    assert (one, 2, 0, 0) == (two, fragments.encoded, fragments.reused, len(fragments))


def test_larger_answer_than_the_capacity() -> None:
    """A list longer than what may be kept is answered whole and not kept."""
    books = list(filled_store()[0].cut().books())
    fragments = Fragments(2)

    assert len(books) == len(fragments.of(books, "dollars", 0))
    assert 0 == len(fragments)
