from kalshibook.gather.repeats import Repeats


def acknowledged(repeats: Repeats, ticker: str = "A", body: bytes = b"book") -> None:
    repeats.acknowledged(ticker, repeats.published(ticker, "c1", 3, body))


def test_a_repetition_is_one_only_once_kafka_has_the_first() -> None:
    """What a broker may still lose is said again."""
    repeats = Repeats()
    turn = repeats.published("A", "c1", 3, b"book")
    assert not repeats.is_repeat("A", "c1", 3, b"book")
    repeats.acknowledged("A", turn)
    assert repeats.is_repeat("A", "c1", 3, b"book")
    assert 1 == repeats.suppressed


def test_another_book_or_another_subscription_is_no_repetition() -> None:
    """A reader needs the snapshot of each subscription: changes are only applied on top of it."""
    repeats = Repeats()
    acknowledged(repeats)
    assert not repeats.is_repeat("A", "c1", 3, b"other")
    assert not repeats.is_repeat("A", "c2", 3, b"book")
    assert not repeats.is_repeat("A", "c1", 4, b"book")
    assert not repeats.is_repeat("B", "c1", 3, b"book")


def test_a_change_ends_it() -> None:
    """Also one that comes between the snapshot and its report."""
    repeats = Repeats()
    acknowledged(repeats)
    repeats.changed("A")
    assert not repeats.is_repeat("A", "c1", 3, b"book")
    turn = repeats.published("A", "c1", 3, b"book")
    repeats.changed("A")
    repeats.acknowledged("A", turn)
    assert not repeats.is_repeat("A", "c1", 3, b"book")


def test_the_report_of_an_older_snapshot_says_nothing() -> None:
    """Only that of the newest does."""
    repeats = Repeats()
    first = repeats.published("A", "c1", 3, b"one")
    repeats.published("A", "c1", 3, b"two")
    repeats.acknowledged("A", first)
    assert not repeats.is_repeat("A", "c1", 3, b"two")


def test_what_readers_were_told_to_doubt_is_said_again() -> None:
    """By market, by subscription, by connection, or all."""
    scopes: list[tuple[str | None, int | None, str]] = [
        ("c1", 3, ""),
        ("c1", None, ""),
        (None, None, ""),
        (None, None, "A"),
    ]
    for connection, sid, ticker in scopes:
        repeats = Repeats()
        acknowledged(repeats)
        acknowledged(repeats, "B")
        repeats.doubted(connection, sid, ticker)
        assert not repeats.is_repeat("A", "c1", 3, b"book")
        assert bool(ticker) is repeats.is_repeat("B", "c1", 3, b"book")
    repeats = Repeats()
    acknowledged(repeats)
    repeats.doubted("c2")
    repeats.doubted("c1", 4)
    assert repeats.is_repeat("A", "c1", 3, b"book")
    assert 1 == len(repeats)
