"""Prices, sizes: what is read, what is refused, and that nothing is lost on the way."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kalshibook import numbers
from kalshibook.errors import WireError
from kalshibook.numbers import (
    MAX_SIZE,
    ONE_DOLLAR,
    format_price,
    format_size,
    parse_level_price,
    parse_price,
    parse_size,
    parse_size_change,
)

NEVER_A_NUMBER: list[object] = [
    "",
    " ",
    "forty",
    "NaN",
    "nan",
    "Infinity",
    "-Infinity",
    "inf",
    "4e-1",
    "4E1",
    "0x1",
    "+0.4000",
    " 0.4000",
    "0.4000 ",
    "0.4000\n",
    "0.4000\x00",
    "0,4000",
    "0_1",
    "0.4_0",
    ".4",
    "0.",
    "1.",
    "0..4",
    "0.4.0",
    "--1",
    "\N{ARABIC-INDIC DIGIT FOUR}",
    "0.\N{FULLWIDTH DIGIT FOUR}",
    "\N{MINUS SIGN}1",
    "¼",
    "$0.40",
    "1" * 10_000,
    "0." + "1" * 10_000,
    0,
    1,
    4000,
    0.4,
    1.0,
    True,
    False,
    None,
    b"0.4000",
    Decimal("0.4"),
    [],
    {},
    ["0.4000"],
    ("0.4000",),
    Ellipsis,
]

BAD_PRICES: list[object] = [
    *NEVER_A_NUMBER,
    "-0.4000",
    "-0",
    "-0.0000",
    "0.00001",
    "0.400001",
    "0.40001",
    "0.4000001",
    "0.40000000",
    "1.0001",
    "1.000001",
    "2",
    "99",
    "100",
    "1000000",
]

BAD_SIZES: list[object] = [
    *NEVER_A_NUMBER,
    "-0",
    "-0.0",
    "-0.00",
    "-00.00",
    "0.001",
    "1.000",
    "1.234",
    "92233720368547758.08",
    "-92233720368547758.08",
    "999999999999999999",
    "9999999999999999999",
    "99999999999999999999999999.99",
]


class Text(str):
    """A string by inheritance, which no decoder makes."""

    __slots__ = ()


def as_id(value: object) -> str:
    """A test id that stays short."""
    return ascii(value)[:30]


def test_every_price_survives_the_round_trip() -> None:
    """Each of the 10,001 prices is written with four decimals and read back as itself."""
    prices = range(ONE_DOLLAR + 1)

    texts = [format_price(price) for price in prices]

    assert [f"{Decimal(price) / 10_000:.4f}" for price in prices] == texts
    assert list(prices) == [parse_price(text) for text in texts]


def test_only_prices_between_the_ends_can_rest() -> None:
    """A level may have any of 9,999 prices; at $0 and $1 nothing rests."""
    assert list(range(1, ONE_DOLLAR)) == [parse_level_price(format_price(p)) for p in range(1, ONE_DOLLAR)]
    for text in ("0", "0.0000", "1", "1.0000", "01.0"):
        with pytest.raises(WireError, match="between"):
            parse_level_price(text)


@pytest.mark.parametrize(
    ("price", "text"),
    [
        (4000, "0.4"),
        (4000, "0.40"),
        (4000, "0.400"),
        (4000, "0.40000"),
        (4000, "0.400000"),
        (4000, "00.4"),
        (9600, "0.960"),
        (15, "0.0015"),
        (0, "0"),
        (0, "0.000000"),
        (10_000, "1"),
        (10_000, "1.00"),
        (10_000, "01"),
    ],
)
def test_prices_in_other_spellings(price: int, text: str) -> None:
    """Fewer decimals, further zeros and a leading zero are the same number."""
    assert price == parse_price(text)


@pytest.mark.parametrize("text", BAD_PRICES, ids=as_id)
def test_bad_price_is_an_error_with_its_path(text: object) -> None:
    """What is no plain price is refused by both readers, and the error says where it stood."""
    for parse in (parse_price, parse_level_price):
        with pytest.raises(WireError) as caught:
            parse(text, "$.msg.price_dollars")

        assert "$.msg.price_dollars" == caught.value.path


@pytest.mark.parametrize("text", BAD_SIZES, ids=as_id)
def test_bad_size_is_an_error_with_its_path(text: object) -> None:
    """What is no plain count is refused by both readers, and the error says where it stood."""
    for parse in (parse_size, parse_size_change):
        with pytest.raises(WireError) as caught:
            parse(text, "$.msg.delta_fp")

        assert "$.msg.delta_fp" == caught.value.path


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0"),
        (0, "0.00"),
        (1, "0.01"),
        (100, "1"),
        (10, "0.1"),
        (7550, "75.50"),
        (7550, "0075.5"),
        (43_723_600, "437236.00"),
        (-2550, "-25.50"),
        (-1, "-0.01"),
        (MAX_SIZE, "92233720368547758.07"),
        (-MAX_SIZE, "-92233720368547758.07"),
    ],
)
def test_sizes_in_their_spellings(size: int, text: str) -> None:
    """Counts are read exactly up to 64 bits, also the second time, when a table answers."""
    assert size == parse_size_change(text)
    assert size == parse_size_change(text)


def test_negative_size_is_refused_where_nothing_negative_rests() -> None:
    """A resting size below zero is an error even if the same text was just read as a change."""
    assert -500 == parse_size_change("-5.00")

    with pytest.raises(WireError, match="negative"):
        parse_size("-5.00", "$.x")


@given(st.integers(-MAX_SIZE, MAX_SIZE))
def test_every_size_survives_the_round_trip(size: int) -> None:
    """Any 64-bit size is written with two decimals and read back as itself."""
    text = format_size(size)

    assert Decimal(size) / 100 == Decimal(text)
    assert size == parse_size_change(text)


@given(st.text() | st.from_regex(r"-?[0-9]{0,20}\.?[0-9]{0,8}", fullmatch=True))
def test_any_text_is_its_decimal_or_an_error(text: str) -> None:
    """Whatever is read is exactly what the decimal says; there is no third way."""
    for parse, unit in ((parse_price, 10_000), (parse_level_price, 10_000), (parse_size_change, 100)):
        try:
            found = parse(text)
        except WireError:
            continue
        assert Decimal(text) * unit == found


def test_table_of_sizes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of ever new sizes does not grow the table without end, nor does it forget to read."""
    table: dict[str, int] = {}
    monkeypatch.setattr(numbers, "_sizes", table)
    monkeypatch.setattr(numbers, "_SIZE_TABLE_LIMIT", 10)

    found = [parse_size_change(format_size(size)) for size in range(1000)]

    assert list(range(1000)) == found
    assert len(table) <= 10


def test_refused_texts_do_not_enter_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what was read is remembered."""
    table: dict[str, int] = {}
    monkeypatch.setattr(numbers, "_sizes", table)
    for text in BAD_SIZES:
        with pytest.raises(WireError):
            parse_size_change(text)

    assert {} == table


@pytest.mark.parametrize("parse", [parse_price, parse_level_price, parse_size, parse_size_change])
def test_a_subclass_of_str_is_not_a_wire_string(parse: Any) -> None:
    """Equal to a text in a table is not enough: a subclass could lie about itself later."""
    assert parse("0.50") == parse("0.5")

    with pytest.raises(WireError, match="decimal string"):
        parse(Text("0.50"))


def test_a_long_text_does_not_flood_the_error() -> None:
    """An error about a megabyte of digits stays readable."""
    with pytest.raises(WireError) as caught:
        parse_price("1" * 1_000_000)

    assert len(str(caught.value)) < 1_000


@pytest.mark.parametrize(("text", "size"), [("0.00", 0), ("75.50", 7550), ("-0.05", -5), ("-12.00", -1200)])
def test_sizes_are_written_with_two_decimals(text: str, size: int) -> None:
    """Also below one contract and below zero."""
    assert text == format_size(size)


@pytest.mark.parametrize("price", [-1, ONE_DOLLAR + 1])
def test_no_text_for_an_impossible_price(price: int) -> None:
    """A price outside $0 to $1 is a bug of the caller, not something to print."""
    with pytest.raises((ValueError, IndexError)):
        format_price(price)
