import msgspec
import pytest

from kalshibook.errors import WireError
from kalshibook.wire import GapRecord, decode_gap, encode_gap

GAP = GapRecord(
    id="g1/books-1-a/3/7",
    source="g1",
    connection="books-1-a",
    sid=3,
    channel="orderbook_delta",
    cause="gap",
    from_sequence=7,
    to_sequence=9,
    markets=2,
    tickers=("KXFROG-T40", "KXNEWT-T41.5"),
    detected_us=1_790_000_000_000_000,
)


def test_a_gap_is_read_as_it_was_written() -> None:
    """Open and healed records survive the way through Kafka."""
    healed = msgspec.structs.replace(GAP, healed_us=1_790_000_000_500_000, how="snapshots")

    assert GAP == decode_gap(encode_gap(GAP))
    assert healed == decode_gap(encode_gap(healed))


def test_fields_have_the_names_of_the_wire() -> None:
    """Names are in camel case, and what is unknown is null."""
    written = msgspec.json.decode(encode_gap(GAP))

    assert (7, 9, None, 1) == (
        written["fromSequence"],
        written["toSequence"],
        written["healedUs"],
        written["version"],
    )


@pytest.mark.parametrize(
    ("change", "path"),
    [
        (b'{"id":1}', "$.id"),
        (encode_gap(GAP).replace(b'"version":1', b'"version":2'), "$.version"),
        (encode_gap(GAP).replace(b'"cause":"gap"', b'"cause":"weather"'), "$.cause"),
        (encode_gap(GAP).replace(b"1790000000000000", b"-1"), "$.detectedUs"),
        (b"[]", "$"),
    ],
)
def test_what_is_no_gap_is_refused(change: bytes, path: str) -> None:
    """The error names the place."""
    with pytest.raises(WireError) as caught:
        decode_gap(change)
    assert path == caught.value.path
