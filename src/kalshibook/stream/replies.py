"""Replies: control frames that wait for one client, never dropped, counted in bytes."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple, final

import msgspec

from kalshibook.store import Cut
from kalshibook.stream.channels import Code
from kalshibook.stream.frames import FrameWriter
from kalshibook.stream.subscription import AnySubscription

__all__ = ["Replies"]

_encode = msgspec.json.Encoder().encode


class _Reply(NamedTuple):
    opening: bytes
    subscription: AnySubscription | None
    """Whose sid and number the frame bears."""
    tail: bytes


@final
class Replies:
    """
    Makes control frames and holds them until they are written.

    The id of a command is echoed; 0 stands for none and is left out.
    """

    def __init__(self) -> None:
        self._waiting: deque[_Reply] = deque()
        self.size = 0
        """Bytes that wait, heads not counted."""

    def __len__(self) -> int:
        """Count what waits."""
        return len(self._waiting)

    def subscribed(self, request_id: int, subscription: AnySubscription) -> None:
        """Announce a subscription; this frame bears no number."""
        self._message(
            request_id, "subscribed", {"channel": subscription.channel.name, "sid": subscription.sid}
        )

    def merged(self, request_id: int, subscription: AnySubscription, cut: Cut) -> None:
        """
        Confirm a change of a subscription, with all that it names now.

        Named markets that do not exist are left out, but not forgotten: a client that looks for
        its ticker in the list finds a mistyped one missing.
        """
        selection = subscription.selection
        message: dict[str, Iterable[str]] = {}
        if not selection.every and not subscription.skip_ticker_ack:
            message["market_tickers"] = selection.existing(cut)
            if selection.prefixes:
                message["market_prefixes"] = selection.prefixes
        self._message(request_id, "ok", message, subscription)

    def unsubscribed(self, request_id: int, subscription: AnySubscription) -> None:
        """Confirm the end of a subscription with its last number."""
        self._add(request_id, "unsubscribed", b"}", subscription)

    def listed(self, request_id: int, subscriptions: Iterable[AnySubscription]) -> None:
        """List the subscriptions; the only reply whose message is an array."""
        message = [{"channel": held.channel.name, "sid": held.sid} for held in subscriptions]
        self._message(request_id, "ok", message)

    def error(
        self,
        request_id: int,
        code: Code,
        text: str,
        tickers: Sequence[str] = (),
        subscription: AnySubscription | None = None,
    ) -> None:
        """Refuse a command, or end a subscription; scoped to a subscription it takes its next number."""
        message: dict[str, object] = {"code": code.value, "msg": text}
        if tickers:
            message["market_tickers"] = tickers
        self._message(request_id, "error", message, subscription)

    def readiness(self, subscription: AnySubscription, behind: str | None) -> None:
        """Tell that the store fell behind its feed, and why, or that it has caught up (null)."""
        self._message(0, "readiness", {"behind": behind}, subscription)

    def write(self, writer: FrameWriter) -> None:
        """Write what waits until the writer is full."""
        waiting = self._waiting
        while waiting and not writer.is_full:
            opening, subscription, tail = waiting.popleft()
            self.size -= len(opening) + len(tail)
            head = writer.stamp if subscription is None else subscription.next_head(writer.stamp)
            writer.add(opening, head, tail)

    def _message(
        self, request_id: int, kind: str, message: object, subscription: AnySubscription | None = None
    ) -> None:
        self._add(request_id, kind, b',"msg":%b}' % _encode(message), subscription)

    def _add(self, request_id: int, kind: str, tail: bytes, subscription: AnySubscription | None) -> None:
        opening = b'{"type":"%b"' % kind.encode()
        if request_id:
            opening = b'{"id":%d,"type":"%b"' % (request_id, kind.encode())
        self._waiting.append(_Reply(opening, subscription, tail))
        self.size += len(opening) + len(tail)
