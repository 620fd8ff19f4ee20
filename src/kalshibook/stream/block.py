"""
Newest states of several markets, handed as one to all who follow every market.

Of a hundred clients on all markets each gets the same frames but for their numbers. So the frames of a
block are put together once, with holes where the numbers go, and a client's are made by one formatting.
"""

from collections.abc import Sequence
from typing import Final, final

from kalshibook.stream.frames import frame_header
from kalshibook.stream.newest import Latest

__all__ = ["Block"]

# Stands for the time of sending until that is known. Not to be found elsewhere: JSON escapes a zero byte.
_STAMP: Final = b"\0stamp"

_MOST_TEMPLATES: Final = 8
"""Of one block: for clients that subscribed in another order, or began at another time."""


@final
class Block:
    """
    States that are handed out together.

    Args:
        items: of one market each, as they are handed over one by one.
        round_: what they are handed out in; no market comes twice in one.
    """

    __slots__ = ("_templates", "first_version", "items", "replaced", "round")

    def __init__(self, items: Sequence[Latest], round_: object) -> None:
        self.items = [item.whole for item in items]
        """As they stand for whoever had none of their changes before."""
        self.round = round_
        self.first_version = min(item.first_version for item in items)
        """Of the oldest change in it: whoever has followed all markets since before takes all of it."""
        self.replaced = sum(item.replaced for item in items)
        """How many changes were replaced by newer ones before anybody was handed them."""
        self._templates: dict[tuple[bytes, int, int], _Template] = {}

    def frames(self, head: bytes, first: int | None, stamp: bytes) -> bytes | None:
        """
        Return the frames of a subscription.

        Args:
            head: what stands before the number in each of them.
            first: the number of the first one; None for a channel without numbers.
            stamp: what stands between number and tail: the time of sending.

        Returns:
            As many frames as there are items, or None where their numbers differ in length.
        """
        count = len(self.items)
        digits = 0 if first is None else len(str(first))
        if first is not None and len(str(first + count - 1)) != digits:
            return None
        # Clients with the same subscriptions differ in little else than their numbers.
        key = (head, digits, len(stamp))
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) == _MOST_TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = _Template(self._put_together(*key))
        return template.at(stamp) % (() if first is None else tuple(range(first, first + count)))

    def _put_together(self, head: bytes, digits: int, stamp_length: int) -> bytes:
        before = len(head) + digits + stamp_length
        hole = head.replace(b"%", b"%%") + (b"%d" if digits else b"") + _STAMP
        parts: list[bytes] = []
        for item in self.items:
            tail = item.tail
            # The length of a frame may be a percent sign too.
            parts += (frame_header(before + len(tail)).replace(b"%", b"%%"), hole, tail.replace(b"%", b"%%"))
        return b"".join(parts)


@final
class _Template:
    """Frames with holes for their numbers, and for the time of sending, which is filled once for all."""

    __slots__ = ("_filled", "_frames", "_stamp")

    def __init__(self, frames: bytes) -> None:
        self._frames = frames
        self._stamp: bytes | None = None
        self._filled = b""

    def at(self, stamp: bytes) -> bytes:
        """Return them with the time of sending filled in."""
        if self._stamp != stamp:
            self._stamp, self._filled = stamp, self._frames.replace(_STAMP, stamp)
        return self._filled
