import logging

from kalshibook.feeds.librdkafka import OncePerMinute, librdkafka_logger


def _passed(filter_: OncePerMinute, message: str, at_s: float) -> str | None:
    record = logging.LogRecord("librdkafka", logging.ERROR, "", 0, "FAIL %s", (message,), None)
    record.created = at_s
    return record.getMessage() if filter_.filter(record) else None


def test_repetitions_are_left_out_for_a_minute() -> None:
    """A line that differs in numbers only is a repetition; the next one that is let through counts them."""
    seen = OncePerMinute()

    assert "FAIL refused after 0ms" == _passed(seen, "refused after 0ms", 1_000)
    assert [None, None] == [_passed(seen, f"refused after {number}ms", 1_000 + number) for number in (1, 59)]
    assert "FAIL timed out" == _passed(seen, "timed out", 1_002)
    assert "FAIL refused after 7ms (2 more like it since the last)" == _passed(
        seen, "refused after 7ms", 1_060
    )
    assert "FAIL refused after 7ms" == _passed(seen, "refused after 7ms", 1_120)


def test_a_clock_that_is_set_back_silences_nothing() -> None:
    """Repetitions are not left out for as long as a clock was wrong."""
    seen = OncePerMinute()
    _passed(seen, "refused", 10_000)

    assert "FAIL refused" == _passed(seen, "refused", 5_000)


def test_kinds_are_bounded() -> None:
    """However many texts there are, their memory is not unlimited."""
    seen = OncePerMinute()
    for number in range(1_000):
        assert _passed(seen, "x" * number, number / 1_000)

    assert len(seen._seen) <= 256


def test_one_filter_for_all_clients() -> None:
    """The logger is asked for by every client, and filters once."""
    assert librdkafka_logger() is librdkafka_logger()
    assert 1 == len(librdkafka_logger().filters)
