import errno
import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from kalshibook.archive.journal import Journal, NoRoom
from kalshibook.archive.options import ArchiveOptions
from kalshibook.archive.writer import ArchiveWriter
from kalshibook.errors import ArchiveError
from tests.archive.entries import ENTRIES

MEBIBYTE = 1024 * 1024
RECORDS = [b"first", b"second", b"third", b"fourth"]
_folders = itertools.count()


def journal(folder: Path, limit: int = MEBIBYTE, *, file_bytes: int = 500) -> Journal[bytes]:
    return Journal(folder, limit, bytes, file_bytes=file_bytes)


def written(folder: Path, records: list[bytes]) -> Path:
    """Write records into one file, as a process does that is killed afterwards, and return it."""
    killed = Journal(folder, MEBIBYTE, bytes)
    for record in records:
        killed.append(record)
    killed.close()
    (file,) = folder.glob("journal-*.bin")
    return file


def everything(kept: Journal[bytes]) -> list[bytes]:
    """Drain all."""
    found: list[bytes] = []
    kept.seal()
    while (number := kept.oldest()) is not None:
        found += kept.read(number)
        kept.remove(number)
    return found


def beside(folder: Path) -> list[bytes]:
    """Return what was set aside."""
    return [file.read_bytes() for file in sorted(folder.glob("*.damaged-*"))]


class TestQueue:
    @settings(max_examples=50)
    @given(
        st.lists(
            st.one_of(st.binary(max_size=300), st.sampled_from(["seal", "drain one", "drain all", "restart"]))
        )
    )
    def test_is_a_queue_on_disk(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[bytes | str]
    ) -> None:
        """Records come out as they went in, each once, also across restarts."""
        folder = tmp_path_factory.getbasetemp() / f"journal-{next(_folders)}"
        kept = journal(folder)
        expected: list[bytes] = []
        drained: list[bytes] = []
        for step in steps:
            if isinstance(step, bytes):
                kept.append(step)
                expected.append(step)
            elif step == "seal":
                kept.seal()
            elif step == "drain all":
                drained += everything(kept)
            elif step == "restart":
                kept.close()
                kept = journal(folder)
            elif (number := kept.oldest()) is not None:
                drained += kept.read(number)
                kept.remove(number)
        drained += everything(kept)
        kept.close()

        assert expected == drained
        assert kept.is_empty
        assert 0 == kept.size

    def test_the_file_that_grows_is_not_drained(self, tmp_path: Path) -> None:
        """What is appended while another thread drains is in a file of its own."""
        kept = journal(tmp_path)
        assert 2 == kept.append(b"one", 2)
        assert 5 == kept.append(b"two", 3)
        assert kept.oldest() is None
        kept.seal()
        assert 1 == kept.append(b"three")

        number = kept.oldest()

        assert number is not None
        assert [b"one", b"two"] == kept.read(number)
        kept.remove(number)
        assert kept.oldest() is None
        assert [b"three"] == everything(kept)

    def test_bound(self, tmp_path: Path) -> None:
        """What has no room is refused, and fits again when something was stored."""
        kept = journal(tmp_path, 1_000, file_bytes=300)
        while kept.size < 880:
            kept.append(b"x" * 100)
        with pytest.raises(NoRoom, match=r"archive\.spill_bytes, 1,000"):
            kept.append(b"x" * 100)
        assert kept.size <= 1_000
        number = kept.oldest()
        assert number is not None
        kept.remove(number)

        assert kept.append(b"x" * 100)

    def test_two_processes_do_not_share_a_folder(self, tmp_path: Path) -> None:
        """The second is refused: each would drain what the other still writes."""
        first = journal(tmp_path)
        with pytest.raises(ArchiveError, match="used by another process; each needs its own"):
            journal(tmp_path)
        first.close()

        journal(tmp_path).close()

    def test_a_folder_that_cannot_be_used(self, tmp_path: Path) -> None:
        """It is said at the start, not when it is needed."""
        (tmp_path / "file").write_text("")

        with pytest.raises(ArchiveError, match=r"archive\.spill_folder .*file"):
            ArchiveWriter(ArchiveOptions(spill_folder=str(tmp_path / "file")), ENTRIES)

    def test_sync_has_the_disk_keep_each_byte_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file that grows no more is synced once, the one that grows each time; the folder with them."""
        kept = journal(tmp_path)
        synced: list[str] = []
        monkeypatch.setattr(
            os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        )
        kept.append(b"one")
        kept.seal()
        kept.append(b"two")
        for _ in range(2):
            kept.sync()

        one, two = "journal-0000000001.bin", "journal-0000000002.bin"
        assert [one, two, tmp_path.name, two, tmp_path.name] == synced


class TestDamage:
    @pytest.mark.parametrize("left", [1, 5, 15, 16, 18])
    def test_a_record_that_a_kill_cut_off_is_nothing(self, tmp_path: Path, left: int) -> None:
        """Nobody was told that it is kept; those before it come back, and those after it too."""
        file = written(tmp_path, [b"first"])
        whole = file.stat().st_size
        file.unlink()
        file = written(tmp_path, [b"first", b"second"])
        file.write_bytes(file.read_bytes()[: whole + left])

        again = journal(tmp_path)
        again.append(b"third")

        assert [b"first", b"third"] == everything(again)
        assert 0 == again.damaged

    @pytest.mark.parametrize("number", range(len(RECORDS)))
    @pytest.mark.parametrize("part", ["mark", "length", "checksum", "data"])
    def test_damage_costs_one_record(self, tmp_path: Path, number: int, part: str) -> None:
        """Wherever a bit flips, also in a length, all others come back, and this one's bytes are kept."""
        file = written(tmp_path, RECORDS)
        data = bytearray(file.read_bytes())
        place = data.index(RECORDS[number])
        data[place + {"mark": -16, "length": -11, "checksum": -8, "data": 2}[part]] ^= 0x40
        file.write_bytes(data)

        again = journal(tmp_path)

        assert [*RECORDS[:number], *RECORDS[number + 1 :]] == everything(again)
        assert 1 == again.damaged
        assert [data[place - 16 : place + len(RECORDS[number])]] == beside(tmp_path)

    @given(data=st.data())
    @settings(max_examples=100)
    def test_bytes_are_drained_or_set_aside(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        """Whatever is written over a file, each record that was not touched comes back."""
        folder = tmp_path_factory.getbasetemp() / f"damaged-{next(_folders)}"
        records = data.draw(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6, unique=True))
        file = written(folder, records)
        whole = file.read_bytes()
        start = data.draw(st.integers(8, len(whole) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=30))[: len(whole) - start]
        file.write_bytes(whole[:start] + patch + whole[start + len(patch) :])
        place, untouched = 8, []
        for record in records:
            end = place + 16 + len(record)
            if (
                end <= start
                or place >= start + len(patch)
                or file.read_bytes()[place:end] == whole[place:end]
            ):
                untouched.append(record)
            place = end

        again = journal(folder)
        found = everything(again)
        again.close()

        assert untouched == found

    def test_what_was_set_aside_is_not_overwritten(self, tmp_path: Path) -> None:
        """Numbers of files begin anew when all is drained; each damage has a file of its own."""
        pieces = []
        for record in (b"one", b"two"):
            file = written(tmp_path, [record])
            file.write_bytes(file.read_bytes()[:-1] + b"?")
            pieces.append(file.read_bytes()[8:])
            again = journal(tmp_path)
            assert [] == everything(again)
            again.close()

        assert pieces == beside(tmp_path)

    def test_a_record_that_no_release_wrote(self, tmp_path: Path) -> None:
        """What is whole and says nothing is set aside like damage, and the rest comes back."""

        def decode(record: bytes) -> bytes:
            if record == b"second":
                raise ArchiveError("of no known kind")
            return record

        written(tmp_path, RECORDS)

        again = Journal(tmp_path, MEBIBYTE, decode)

        assert [b"first", b"third", b"fourth"] == everything(again)
        assert [b"second"] == beside(tmp_path)

    def test_a_strange_file(self, tmp_path: Path) -> None:
        """A file of that name that is none of ours is set aside; one that was just begun is nothing."""
        (tmp_path / "journal-0000000003.bin").write_bytes(b"not a journal")
        (tmp_path / "journal-0000000004.bin").write_bytes(b"KBJ")
        kept = journal(tmp_path)
        kept.append(b"ours")

        assert [b"ours"] == everything(kept)
        assert [b"not a journal"] == beside(tmp_path)

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        """What somebody has deleted is told, and does not hold up the rest."""
        kept = journal(tmp_path)
        kept.append(b"one")
        kept.seal()
        next(tmp_path.glob("journal-*.bin")).unlink()
        kept.append(b"two")

        assert [b"two"] == everything(kept)
        assert 1 == kept.damaged

    def test_a_disk_that_was_full_when_a_file_was_begun(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is refused while the disk is full, and kept as ever once there is room again."""
        kept = journal(tmp_path)

        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as disk:
            disk.setattr(os, "write", full)
            for _ in range(2):
                with pytest.raises(NoRoom, match="No space left"):
                    kept.append(b"refused")

        kept.append(b"kept")
        assert [b"kept"] == everything(kept)

    def test_a_disk_that_takes_a_part(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The part is taken back, so that the next record stands where it should."""
        kept = journal(tmp_path)
        kept.append(b"first")
        write = os.write

        with monkeypatch.context() as disk:
            disk.setattr(os, "write", lambda output, data: write(output, data[:7]))
            with pytest.raises(NoRoom, match="No space left"):
                kept.append(b"refused")

        kept.append(b"second")
        assert [b"first", b"second"] == everything(kept)
        assert 0 == kept.damaged
