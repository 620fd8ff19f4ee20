from kalshibook.gather.ledger import GapLedger
from kalshibook.wire import GapRecord


def test_an_entry_is_written_when_found_and_when_healed() -> None:
    """The later record has the same id, and the time of the last market."""
    records: list[GapRecord] = []
    ledger = GapLedger("g1", on_record=records.append)
    gap = ledger.found("c1", 3, "orderbook_delta", "gap", first=7, last=9, tickers=["B", "A"], now_us=100)
    assert not ledger.is_whole(gap, "A", "snapshots", now_us=200)
    assert not ledger.is_whole(gap, "unknown", "snapshots", now_us=250)
    assert ledger.is_whole(gap, "B", "reconnected", now_us=300)
    ledger.heal(gap, "late", now_us=400)

    found, healed = records
    assert ("g1", "c1", 3, 7, 9, 2, ("A", "B"), 100, None, None) == (
        found.source,
        found.connection,
        found.sid,
        found.from_sequence,
        found.to_sequence,
        found.markets,
        found.tickers,
        found.detected_us,
        found.healed_us,
        found.how,
    )
    assert (found.id, 300, "reconnected") == (healed.id, healed.healed_us, healed.how)
    assert (1, 1, 0, {"gap": 1}) == (
        ledger.counts().found,
        ledger.counts().healed,
        ledger.counts().open,
        ledger.counts().by_cause,
    )
    assert [healed] == ledger.recent()


def test_ids_are_unlike_each_other() -> None:
    """Also for two gaps of one subscription."""
    records: list[GapRecord] = []
    ledger = GapLedger("g1", on_record=records.append)
    for _ in range(3):
        ledger.found("c1", 3, "trade", "gap", first=1, last=1, tickers=(), now_us=1)
    assert 3 == len({record.id for record in records})


def test_only_the_newest_are_kept() -> None:
    """Counts forget nothing; an entry that is healed after it was dropped does not come back."""
    ledger = GapLedger("g1", on_record=lambda _: None, capacity=2)
    first = ledger.found("c1", 3, "trade", "gap", first=1, last=1, tickers=(), now_us=1)
    for number in (2, 3):
        ledger.found("c1", 3, "trade", "gap", first=number, last=number, tickers=(), now_us=number)
    ledger.heal(first, "late", now_us=9)
    assert [3, 2] == [record.from_sequence for record in ledger.recent()]
    assert [3] == [record.from_sequence for record in ledger.recent(1)]
    assert [] == ledger.recent(0)
    assert (3, 1) == (ledger.counts().found, ledger.counts().healed)


def test_more_markets_than_fit_are_not_named() -> None:
    """Their number is."""
    records: list[GapRecord] = []
    ledger = GapLedger("g1", on_record=records.append)
    ledger.found("c1", 3, "x", "gap", first=1, last=1, tickers=map(str, range(20_001)), now_us=1)
    assert (20_001, ()) == (records[0].markets, records[0].tickers)
