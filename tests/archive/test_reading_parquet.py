"""Parquet files, read while they are behind."""

from pathlib import Path

from kalshibook.archive.dedup import Deduplicator
from kalshibook.archive.export import Exporter
from kalshibook.archive.reading_parquet import ParquetArchive
from kalshibook.archive.targets import Folder
from tests.archive.gathered import MakeArchive, store, store_gaps
from tests.archive.rebuilding import compared, moments_of
from tests.archive.scenario import Scenario


def test_files_say_nothing_of_what_is_not_in_them_yet(new_archive: MakeArchive, tmp_path: Path) -> None:
    """What is too young to be exported makes no book of the files seem complete."""
    scenario = Scenario(5, frames=900, loss=0.01)
    sources = {name: new_archive("local") for name in ("a", "b", "c")}
    production = new_archive("production")
    rows = sorted(scenario.rows, key=lambda row: row.received_us)
    for start in range(0, len(rows), 200):
        for name, dsn in sources.items():
            store(dsn, [row for row in rows[start : start + 200] if row.source == name])
            store_gaps(dsn, [gap for gap in scenario.gaps if gap.source == name])
        with Deduplicator(sources, production) as dedup:
            dedup.drain()
    now_us = scenario.end_us + 1_000_000
    Exporter(production, Folder(tmp_path), settle_s=15, clock_us=lambda: now_us).run()

    with ParquetArchive(str(tmp_path)) as files:
        live, total = compared(files, scenario, moments_of(scenario, 60))

    assert 0 < live < total
