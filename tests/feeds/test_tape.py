from pathlib import Path

import pytest

from kalshibook.errors import FeedError
from kalshibook.feeds.tape import Tape
from kalshibook.testing import FrameFactory
from tests.feeds.tapes import line, record

FROG, NEWT = "KXFROG-T40", "KXNEWT-T41.5"


def frames_of(tape: Tape) -> list[tuple[int, str]]:
    return [(frame.received_ms, frame.connection) for frame in tape]


def test_markets_are_merged_by_time_of_receipt(tmp_path: Path) -> None:
    """Frames of several markets come in the order in which they were received, zipped or not."""
    made = FrameFactory()
    record(tmp_path, FROG, "2026-08-05", [line(ms, made.snapshot(FROG)) for ms in (10, 30, 50)])
    record(tmp_path, NEWT, "2026-08-05", [line(ms, made.snapshot(NEWT)) for ms in (20, 40)], zipped=True)
    assert [
        (10, f"r.1.{FROG}.0"),
        (20, f"r.1.{NEWT}.0"),
        (30, f"r.1.{FROG}.0"),
        (40, f"r.1.{NEWT}.0"),
        (50, f"r.1.{FROG}.0"),
    ] == frames_of(Tape(tmp_path, run="r"))


def test_files_of_one_market_follow_each_other(tmp_path: Path) -> None:
    """A market that spans midnight is one stream on one connection, whatever its clock did."""
    made = FrameFactory()
    evening, night = line(20, made.snapshot(FROG)), line(19, made.snapshot(FROG))
    record(tmp_path, FROG, "2026-08-11", [night], zipped=True)
    record(tmp_path, FROG, "2026-08-10", [evening])
    assert [(20, f"r.1.{FROG}.0"), (19, f"r.1.{FROG}.0")] == frames_of(Tape(tmp_path, run="r"))


def test_frames_are_what_was_recorded(tmp_path: Path) -> None:
    """A frame stands in the tape byte for byte."""
    frame = b'{"type":"trade",  "sid":2,"seq":9,"msg":{"market_ticker":"KXFROG-T40","x":1.50}}'
    file = record(tmp_path, FROG, "2026-08-10", [f'{{"event":{frame.decode()},"recv_ms":7}}', ""])
    assert [frame] == [one.frame for one in Tape(file)]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_folder_a_market_or_a_file_is_read(tmp_path: Path, depth: int) -> None:
    """The path may name all recordings, one market's, or one file."""
    file = record(tmp_path, FROG, "2026-08-10", [line(1, FrameFactory().snapshot(FROG))])
    place = [tmp_path, tmp_path / FROG, file][depth]
    assert 1 == len(list(Tape(place)))


def test_numbers_that_fall_back_are_another_connection(tmp_path: Path) -> None:
    """A jump forward is normal; a fall is a reconnect, noticed on each subscription by itself."""
    made = FrameFactory()
    frames = [made.snapshot(FROG), made.trade(FROG, 100, 1)]
    made.skip(sid=1, count=50)
    made.skip(sid=2, count=50)
    frames += [made.delta(FROG, "yes", 100, 1), made.trade(FROG, 100, 1), made.snapshot(FROG)]
    made.reconnect("second")
    made.skip(sid=2, count=20)
    frames += [made.snapshot(FROG), made.delta(FROG, "yes", 100, 1), made.trade(FROG, 100, 1)]
    frames += [made.delta(FROG, "yes", 100, 1)]
    record(tmp_path, FROG, "2026-08-10", [line(ms, frame) for ms, frame in enumerate(frames)])
    epochs = [frame.connection.rsplit(".", 1)[1] for frame in Tape(tmp_path)]
    assert ["0", "0", "0", "0", "0", "1", "1", "1", "1"] == epochs


def test_a_number_that_comes_twice_stays_on_its_connection(tmp_path: Path) -> None:
    """A recorded duplicate is left to the store, which drops it."""
    frame = FrameFactory().snapshot(FROG)
    record(tmp_path, FROG, "2026-08-10", [line(1, frame), line(2, frame)])
    assert 1 == len({frame.connection for frame in Tape(tmp_path)})


def test_every_playing_has_its_own_connections(tmp_path: Path) -> None:
    """Neither a second reading nor a second tape repeats a connection."""
    record(tmp_path, FROG, "2026-08-10", [line(1, FrameFactory().snapshot(FROG))])
    tape = Tape(tmp_path)
    assert 4 == len(
        {frame.connection for one in (tape, tape, Tape(tmp_path), Tape(tmp_path)) for frame in one}
    )


def test_markets_can_begin_together(tmp_path: Path) -> None:
    """Aligned, a market of last week is merged with one of today by the time since its start."""
    made = FrameFactory()
    record(tmp_path, FROG, "2026-08-05", [line(ms, made.snapshot(FROG)) for ms in (1_000, 1_030)])
    record(tmp_path, NEWT, "2026-08-09", [line(ms, made.snapshot(NEWT)) for ms in (9_000, 9_020, 9_040)])
    assert [1_000, 9_000, 9_020, 1_030, 9_040] == [frame.received_ms for frame in Tape(tmp_path, align=True)]


BAD_LINES = [
    "{",
    '{"recv_ms":1}',
    '{"recv_ms":"1","event":{"type":"x"}}',
    '{"recv_ms":1,"event":{"seq":1}}',
    "\x00",
]


@pytest.mark.parametrize("bad", BAD_LINES)
def test_a_bad_line_names_its_file_and_number(tmp_path: Path, bad: str) -> None:
    """A strict tape ends with the place; the lines before it were delivered."""
    good = line(1, FrameFactory().snapshot(FROG))
    file = record(tmp_path, FROG, "2026-08-10", [good, bad, good])
    frames = iter(Tape(tmp_path))
    next(frames)
    with pytest.raises(FeedError) as found:
        next(frames)
    assert f"{file}, line 2: " in str(found.value)


@pytest.mark.parametrize("bad", BAD_LINES)
def test_bad_lines_can_be_counted_instead(tmp_path: Path, bad: str) -> None:
    """A tape that is not strict passes over them, each counted once, the last one shown."""
    good = line(1, FrameFactory().snapshot(FROG))
    file = record(tmp_path, FROG, "2026-08-10", [bad, good, bad, good])
    tape = Tape(tmp_path, strict=False)
    assert 2 == len(list(tape))
    assert 2 == tape.bad_lines
    assert tape.last_error is not None
    assert tape.last_error.startswith(f"{file}, line 3: ")


@pytest.mark.parametrize("damage", ["truncated", "garbled", "not zipped"])
def test_a_damaged_file_is_an_error_with_its_place(tmp_path: Path, damage: str) -> None:
    """The end of a file that was cut while it was written is bad like a line; the next file is read."""
    made = FrameFactory()
    lines = [line(number, made.snapshot(FROG)) for number in range(400)]
    file = record(tmp_path, FROG, "2026-08-10", lines, zipped=True)
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(
        {
            "truncated": whole[:middle],
            "garbled": whole[:middle] + bytes(64) + whole[middle + 64 :],
            "not zipped": b"plain text\n",
        }[damage]
    )
    record(tmp_path, FROG, "2026-08-11", [line(500, made.snapshot(FROG))])
    with pytest.raises(FeedError, match=r"2026-08-10\.ndjson\.gz, line "):
        list(Tape(tmp_path))
    tape = Tape(tmp_path, strict=False)
    assert 500 == list(tape)[-1].received_ms
    assert tape.bad_lines >= 1


def test_without_recordings_there_is_no_tape(tmp_path: Path) -> None:
    """A missing path and a folder without recordings are told apart."""
    with pytest.raises(FeedError, match="no such file or folder"):
        Tape(tmp_path / "nowhere")
    (tmp_path / "event.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FeedError, match=r"expected <ticker>/<date>\.ndjson"):
        Tape(tmp_path)


def test_an_empty_file_holds_no_frames(tmp_path: Path) -> None:
    """A recording may be empty."""
    record(tmp_path, FROG, "2026-08-10", [])
    assert [] == list(Tape(tmp_path))
