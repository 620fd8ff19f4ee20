import errno
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from kalshibook.archive.entries import Entry, decode_entries, encode_entries
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.rows import StoredRow
from kalshibook.archive.spill import Spill
from kalshibook.archive.writer import ArchiveWriter
from kalshibook.errors import ArchiveError
from tests.archive.entries import DELTA, GAP, LIFECYCLE, SNAPSHOT, TICKER, TRADE

MEBIBYTE = 1024 * 1024
_folders = itertools.count()


class TestSpill:
    @settings(max_examples=50)
    @given(
        st.lists(
            st.one_of(st.binary(max_size=300), st.just("drain one"), st.just("drain all"), st.just("restart"))
        )
    )
    def test_is_a_queue_on_disk(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | str]
    ) -> None:
        """Records come out as they went in, across restarts; only those of the file at hand come again."""
        folder = tmp_path_factory.getbasetemp() / f"spill-{next(_folders)}"
        spill = Spill(folder, MEBIBYTE, file_bytes=500)
        expected: list[bytes] = []
        drained: list[bytes] = []
        draining = spill.drain()
        for step in steps:
            if isinstance(step, bytes):
                assert spill.append(step)
                expected.append(step)
            elif step == "drain one":
                found = next(draining, None)
                if found is None:
                    draining = spill.drain()
                else:
                    drained.append(found)
            elif step == "drain all":
                drained += draining
                draining = spill.drain()
            else:
                spill.close()
                spill = Spill(folder, MEBIBYTE, file_bytes=500)
                left = len(list(spill.drain()))
                # What was not deleted is exactly what was not drained, and the file at hand.
                assert len(expected) - len(drained) <= left
                drained = expected.copy()
                draining = spill.drain()
        drained += draining

        assert expected == drained
        assert spill.is_empty
        assert 0 == spill.size

    def test_bound(self, tmp_path: Path) -> None:
        """What has no room is refused, and fits again when something was drained."""
        spill = Spill(tmp_path, 1_000, file_bytes=300)
        kept = 0
        while spill.append(b"x" * 100):
            kept += 1
        assert spill.size <= 1_000
        draining = spill.drain()
        for _ in range(4):
            next(draining)

        assert kept > 5
        assert spill.append(b"x" * 100)

    def test_a_record_cut_off_by_a_kill_is_dropped(self, tmp_path: Path) -> None:
        """It was never acknowledged; those before it come back, and those after it too."""
        spill = Spill(tmp_path, MEBIBYTE)
        spill.append(b"first")
        spill.append(b"second")
        spill.close()
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:-3])

        again = Spill(tmp_path, MEBIBYTE)
        again.append(b"third")

        assert [b"first", b"third"] == list(again.drain())
        assert 0 == again.damaged

    def test_damage_is_kept_beside_and_told(self, tmp_path: Path) -> None:
        """A record whose checksum is wrong is not stored as if it were right, nor are others lost for it."""
        spill = Spill(tmp_path, MEBIBYTE)
        for record in (b"first", b"second", b"third"):
            spill.append(record)
        spill.close()
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes().replace(b"second", b"sEcond"))

        again = Spill(tmp_path, MEBIBYTE)

        assert [b"first", b"third"] == list(again.drain())
        assert 1 == again.damaged
        (beside,) = tmp_path.iterdir()
        assert b"sEcond" in beside.read_bytes()

    def test_a_strange_file(self, tmp_path: Path) -> None:
        """A file of that name that is none of ours is set aside."""
        (tmp_path / "spill-0000000003.bin").write_bytes(b"not a spill file")
        spill = Spill(tmp_path, MEBIBYTE)
        spill.append(b"ours")

        assert [b"ours"] == list(spill.drain())
        assert 1 == spill.damaged

    @pytest.mark.parametrize("fails", ["write", "fsync"])
    def test_a_disk_that_was_full_when_a_file_was_begun(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
    ) -> None:
        """It is refused while the disk is full, and kept as ever once there is room again."""
        spill = Spill(tmp_path, MEBIBYTE)

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as disk:
            disk.setattr(os, fails, full)
            assert not spill.append(b"refused")
            assert not spill.append(b"refused again")

        assert spill.append(b"kept")
        assert [b"kept"] == list(spill.drain())

    def test_a_folder_that_cannot_be_used(self, tmp_path: Path) -> None:
        """It is said at the start, not when it is needed."""
        (tmp_path / "file").write_text("")

        with pytest.raises(ArchiveError, match=r"archive\.spill_folder .*file"):
            ArchiveWriter(ArchiveOptions(spill_folder=str(tmp_path / "file")))


def test_entries_come_back_as_they_were() -> None:
    """Every kind of row, and a message that could not be read, survive the spill."""
    rows: list[StoredRow] = [DELTA, SNAPSHOT, TRADE, TICKER, LIFECYCLE, GAP]
    entries = [Entry("t/0@1", b"\x00\xff", (row,)) for row in rows]
    entries.append(Entry("t/0@2", b"{", refused="cannot be read"))

    assert entries == decode_entries(encode_entries(entries))
    with pytest.raises(ArchiveError, match="cannot be read"):
        decode_entries(b"nonsense")
