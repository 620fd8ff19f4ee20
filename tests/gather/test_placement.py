import random

from kalshibook.gather.options import GatherOptions
from kalshibook.gather.placement import Move, Placement
from kalshibook.gather.plan import Limits
from tests.gather.stage import shared


def placement(
    per_connection: int = 7_500, connections: int = 4, most: int = 190, per_command: int = 1_000
) -> Placement:
    limits = Limits(per_connection=per_connection, per_command=per_command)
    return Placement(limits, connections=connections, most=most)


def test_a_market_goes_to_the_least_loaded_connection() -> None:
    """Also after others have left; markets that are placed stay where they are."""
    placed = placement(connections=2)
    assert {0: ["A", "C"], 1: ["B", "D"]} == placed.add(["A", "B", "C", "D", "A"])
    assert {1: ["B", "D"]} == placed.remove(["B", "D", "unknown"])
    assert {1: ["E", "F"]} == placed.add(["E", "F", "A"])
    assert [2, 2] == placed.loads
    assert (0, None) == (placed.home("A"), placed.home("B"))
    assert ["A", "C"] == list(placed.on(0))
    assert "E" in placed
    assert 4 == len(placed)


def test_a_million_markets_are_balanced_within_one_percent() -> None:
    """Page by page, with connections added as they fill, and one round of evening out at the end."""
    placed = placement()
    for page in range(1_000):
        placed.add(f"KXMARKET-{page * 1_000 + number}" for number in range(1_000))
    assert 1_000_000 == len(placed) == sum(placed.loads)
    assert 134 == placed.connections
    moved = placed.moves(1_000_000)
    assert placed.imbalance <= 0.01
    assert max(placed.loads) <= 7_500
    # What it costs: less than one connection's markets.
    assert len(moved) < 7_500
    assert [] == placed.moves(1_000_000)


def test_evening_out_goes_in_steps() -> None:
    """No more markets move at once than asked for, and each move is from more to less."""
    placed = placement(connections=2)
    placed.add(str(number) for number in range(100))
    placed.remove(list(placed.on(0)))
    moved = placed.moves(10)
    assert 10 == len(moved)
    assert {(1, 0)} == {(move.old, move.new) for move in moved}
    assert [10, 40] == placed.loads
    assert all(placed.home(move.ticker) == 0 for move in moved)
    placed.moves(100)
    assert [25, 25] == placed.loads


def test_when_all_are_full_markets_wait_for_room() -> None:
    """No connection gets more than it takes; what waits is placed when others leave."""
    placed = placement(per_connection=2, connections=1, most=2)
    assert {0: ["A", "B"], 1: ["C", "D"]} == placed.add("ABCDE")
    assert ["E"] == list(placed.homeless)
    assert {} == placed.settle()
    placed.remove(["C"])
    assert {1: ["E"]} == placed.settle()
    assert not placed.homeless


def test_a_connection_that_had_no_room_is_not_asked_again() -> None:
    """Its markets go elsewhere, and nothing new comes to it before one of its own leaves."""
    placed = placement(connections=2, most=3)
    placed.add("ABCDEF")
    assert {1: ["C", "E"]} == placed.overfull(0, ["C", "E", "B"])
    assert [1, 5] == placed.loads
    assert {1: ["G", "H"]} == placed.add("GH")
    placed.remove(["A"])
    assert {0: ["I"], 1: ["J"]} == placed.add("IJ")


def test_markets_per_connection() -> None:
    """A connection is opened when the others carry as many as the setting says."""
    limits = shared(GatherOptions(markets_per_connection=3), []).limits
    placed = Placement(limits, connections=1, most=9)
    placed.add("ABCDEFG")

    assert [3, 3, 1] == placed.loads


def test_any_history_leaves_every_market_in_one_place() -> None:
    """Random additions, removals, refusals and moves agree with a plain dictionary."""
    source = random.Random(3)
    placed = placement(per_connection=40, connections=3, most=6)
    known: set[str] = set()
    for _ in range(3_000):
        tickers = [str(source.randrange(400)) for _ in range(source.randrange(8))]
        roll = source.random()
        if roll < 0.5:
            placed.add(tickers)
            known.update(tickers)
        elif roll < 0.9:
            placed.remove(tickers)
            known.difference_update(tickers)
        elif roll < 0.95:
            for move in placed.moves(20):
                assert isinstance(move, Move)
                assert move.new == placed.home(move.ticker)
        else:
            placed.settle()
        on = [set(placed.on(number)) for number in range(placed.connections)]
        assert known == set().union(*on) | set(placed.homeless)
        assert len(known) == sum(map(len, on)) + len(placed.homeless)
        assert [len(markets) for markets in on] == placed.loads
        assert max(placed.loads) <= 40
