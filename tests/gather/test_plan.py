from kalshibook.gather.plan import Filling, Limits, SnapshotBudget


def filled(limits: Limits, markets: int, room: int, largest: int) -> tuple[int, int]:
    """Fill a subscription of an exchange with two limits; return the markets held, and the commands."""
    filling = Filling(limits)
    held = commands = 0
    while held < min(markets, limits.per_connection):
        count = min(filling.size, markets - held, limits.per_connection - held)
        commands += 1
        if count > largest or held + count > room:
            if not filling.refused(held=held, asked=count):
                break
        else:
            held += count
            filling.accepted(held=held)
    return held, commands


def test_a_subscription_is_filled_to_a_limit_that_nobody_knew() -> None:
    """The limit is found exactly with a few refusals, and the next connection is refused nothing."""
    limits = Limits(per_connection=7_500, per_command=1_000)
    held, commands = filled(limits, 7_500, room=3_217, largest=10_000)

    assert 3_217 == held == limits.per_connection
    assert commands < 30
    assert 1_000 == limits.per_command
    assert (3_217, 4) == filled(limits, 7_500, room=3_217, largest=10_000)


def test_a_limit_of_commands_does_not_shrink_the_connection() -> None:
    """Where halves pass, the command was too large, and the subscription takes all."""
    limits = Limits(per_connection=7_500, per_command=1_000)
    held, _ = filled(limits, 7_500, room=10_000, largest=256)

    assert (7_500, 7_500, 250) == (held, limits.per_connection, limits.per_command)
    assert (7_500, 30) == filled(limits, 7_500, room=10_000, largest=256)


def test_both_limits_are_found_together() -> None:
    """An exchange with small commands and small subscriptions."""
    limits = Limits(per_connection=7_500, per_command=1_000)
    held, _ = filled(limits, 7_500, room=1_100, largest=300)

    assert (1_100, 1_100) == (held, limits.per_connection)
    assert limits.per_command <= 300


def test_a_connection_keeps_room_for_one() -> None:
    """An exchange that refuses everything does not leave the limit at none."""
    limits = Limits(per_connection=10, per_command=10)

    assert 0 == Filling(limits).refused(held=0, asked=1)
    assert 1 == limits.per_connection


def test_the_budget_is_a_bucket_with_debt() -> None:
    """A burst passes at once, what is beyond it waits for its tokens, and a large command is not starved."""
    budget = SnapshotBudget(per_second=5_000, burst=10_000)
    assert all(budget.take(1_000, now_us=0) for _ in range(10))
    assert not budget.take(1, now_us=0)
    assert budget.take(9_000, now_us=1_000_000 // 5_000 + 1)
    wait = budget.wait_us()
    assert 1_700_000 < wait < 1_900_000
    assert not budget.take(1, now_us=wait - 100_000)
    assert budget.take(1, now_us=wait + 1_000)
    assert 19_001 == budget.taken
    assert 2 == budget.refusals


def test_what_can_wait_leaves_a_reserve() -> None:
    """A refresh takes only from the upper half of the bucket; healing takes the rest."""
    budget = SnapshotBudget(per_second=10, burst=100)
    assert budget.take(60, now_us=0, reserve=0.5)
    assert not budget.take(1, now_us=0, reserve=0.5)
    assert 1_000_000 < budget.wait_us(reserve=0.5) <= 1_000_002
    assert budget.take(1, now_us=0)


def test_a_clock_that_is_set_back_gives_no_tokens_and_takes_none() -> None:
    """Tokens only grow with time that passes."""
    budget = SnapshotBudget(per_second=10, burst=10)
    budget.take(10, now_us=5_000_000)

    assert not budget.take(1, now_us=1_000_000)
    assert budget.take(1, now_us=2_000_000)
