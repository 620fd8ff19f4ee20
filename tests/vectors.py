"""The vector file: frames with what becomes of them, shared by the tests of wire, store and stream."""

from pathlib import Path
from typing import Any, Final

import msgspec

VECTORS: Final[tuple[dict[str, Any], ...]] = tuple(
    msgspec.json.decode(line)
    for line in (Path(__file__).parent / "fixtures" / "vectors.jsonl").read_bytes().splitlines()
)
"""
One dict a frame: `name`, `kind`, `why`, `frame` (a text is raw), and what is to be checked.

* `event` or `error`: what the wire makes of a frame of the exchange, or the path of its error.
* `reply`: what a server answers when the frame comes from a client; `given` subscriptions, by sid,
  stand already. In a reply null is an absent key.
* `store`: for the frames of the tape that a gatherer publishes, the number it published before for
  this market, the message's outcome, and the books that differ afterwards.
"""


def frame_bytes(row: dict[str, Any]) -> bytes:
    """Return the frame as it came off the wire."""
    frame = row["frame"]
    return frame.encode() if isinstance(frame, str) else msgspec.json.encode(frame)
