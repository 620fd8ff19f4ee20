"""Small recordings, written as a recorder writes them."""

import gzip
import json
from collections.abc import Iterable
from pathlib import Path

__all__ = ["line", "record"]


def line(received_ms: int, frame: bytes) -> str:
    """Return one line of a recording."""
    return json.dumps({"recv_ms": received_ms, "event": json.loads(frame)})


def record(folder: Path, ticker: str, date: str, lines: Iterable[str], *, zipped: bool = False) -> Path:
    """Write a file of a market and return it."""
    place = folder / ticker
    place.mkdir(exist_ok=True)
    text = "".join(f"{one}\n" for one in lines)
    if zipped:
        file = place / f"{date}.ndjson.gz"
        file.write_bytes(gzip.compress(text.encode()))
    else:
        file = place / f"{date}.ndjson"
        file.write_text(text)
    return file
