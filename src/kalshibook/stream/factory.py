"""Which kind of subscription serves which channel."""

from kalshibook.store import Cut
from kalshibook.stream.channels import Channel
from kalshibook.stream.conflating import ConflatingSubscription
from kalshibook.stream.depth import DepthSubscription
from kalshibook.stream.notices import NoticeSubscription
from kalshibook.stream.shared import Shared
from kalshibook.stream.subscription import AnySubscription, Owner

__all__ = ["make_subscription"]


def make_subscription(
    owner: Owner, shared: Shared, channel: Channel, sid: int, yes_scale: bool | None, cut: Cut
) -> AnySubscription:
    """
    Return a subscription that selects nothing yet.

    Args:
        owner: who it reports to.
        shared: of the hub.
        channel: what it serves.
        sid: its number on the connection.
        yes_scale: `use_yes_price`, or None when the client does not say.
        cut: the store as of now.
    """
    options = shared.options
    routes = shared.routes[channel.name]
    if channel.name == "orderbook_delta":
        yes_scale = options.use_yes_price if yes_scale is None else yes_scale
        return DepthSubscription(
            owner,
            sid,
            channel,
            shared.yes_scale_routes if yes_scale else routes,
            yes_scale=yes_scale,
            capacity=options.depth_backlog,
            replaces=options.depth_overflow == "snapshot",
            counters=shared.counters,
        )
    if channel.name in ("top_of_book", "ticker"):
        bodies = shared.tickers if channel.name == "ticker" else shared.tops
        return ConflatingSubscription(
            owner, sid, channel, routes, bodies=bodies, counters=shared.counters, version=cut.version
        )
    return NoticeSubscription(owner, sid, channel, routes, capacity=options.notice_backlog)
