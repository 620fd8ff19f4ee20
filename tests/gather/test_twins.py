import random

from kalshibook.gather.twins import Twins


def test_the_first_of_two_passes_whichever_connection_it_comes_by() -> None:
    """And a body that comes again for good reason passes again."""
    twins = Twins()
    seen = [("a", b"x"), ("b", b"y"), ("b", b"x"), ("a", b"y"), ("a", b"x"), ("b", b"x")]

    assert [True, True, False, False, True, False] == [
        twins.passes(connection, body, now_us=0) for connection, body in seen
    ]
    assert 3 == twins.dropped


def test_a_connection_that_joins_brings_only_news() -> None:
    """What passed before it began does not count against what it brings."""
    twins = Twins()
    twins.passes("a", b"paused", now_us=0)
    twins.joined("b")
    twins.forget("a")

    assert twins.passes("b", b"paused", now_us=1)


def test_messages_are_forgotten_after_a_while() -> None:
    """Memory is bounded by time and by number."""
    twins = Twins(remember_us=100, most=3)
    assert twins.passes("a", b"x", now_us=0)
    assert not twins.passes("b", b"x", now_us=100)
    assert twins.passes("a", b"x", now_us=101)
    for number in range(10):
        twins.passes("a", b"%d" % number, now_us=101)
    assert twins.passes("b", b"x", now_us=101)


def test_whatever_the_order_each_message_passes_once() -> None:
    """One stream on two connections at different paces, losses on either: the union passes, once each."""
    source = random.Random(5)
    bodies = [b"%d" % source.randrange(40) for _ in range(2_000)]
    lost = {name: set(source.sample(range(2_000), 50)) for name in "ab"}
    lost["b"] -= lost["a"]
    streams = {name: [body for place, body in enumerate(bodies) if place not in lost[name]] for name in "ab"}
    twins, passed = Twins(), 0
    while any(streams.values()):
        name = source.choice([name for name in "ab" if streams[name]])
        passed += twins.passes(name, streams[name].pop(0), now_us=0)

    # A body that each connection has lost once may hide behind the other's; none passes too often.
    assert 1_950 <= passed <= 2_000
