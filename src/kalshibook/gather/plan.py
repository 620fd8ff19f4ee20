"""How many markets a connection and a command take, and when snapshots may be asked for. Pure."""

from typing import Final, final

__all__ = ["Filling", "Limits", "SnapshotBudget"]


@final
class Limits:
    """Markets per connection and per command: by setting, and lowered by what the exchange refuses."""

    def __init__(self, *, per_connection: int, per_command: int) -> None:
        self.per_connection = per_connection
        self.per_command = per_command


@final
class Filling:
    """
    Fills one subscription, and finds out about limits that the exchange does not publish (error 26).

    A refusal does not say whether the command was too large or the subscription is full, so the
    command is halved. If as many markets are then taken in smaller commands, the command was too
    large; if one market alone is refused, the subscription is full.

    Example:
        >>> filling = Filling(limits := Limits(per_connection=7_500, per_command=1_000))
        >>> filling.size, filling.refused(held=2_000, asked=1_000), filling.refused(held=2_499, asked=1)
        (1000, 500, 0)
        >>> limits.per_connection, limits.per_command
        (2499, 1000)
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._halved: int | None = None
        self._refused_total = 0

    @property
    def size(self) -> int:
        """How many markets the next command may have."""
        size = self._limits.per_command
        return size if self._halved is None else min(self._halved, size)

    @property
    def is_searching(self) -> bool:
        """Whether a limit is being looked for: then one command at a time tells more than several."""
        return self._halved is not None

    def refused(self, *, held: int, asked: int) -> int:
        """
        Learn from error 26, and return how many markets to ask for next; 0 says that there is no room.

        Args:
            held: markets that the subscription had.
            asked: markets that the refused command would have added.
        """
        if asked > 1:
            self._refused_total = max(self._refused_total, held + asked)
            self._halved = asked // 2
            return self._halved
        # At least one: a limit of none would leave every market without a place.
        self._limits.per_connection = min(self._limits.per_connection, max(held, 1))
        self._halved = None
        return 0

    def accepted(self, *, held: int) -> None:
        """Learn from a command that passed, after which the subscription has so many markets."""
        if self._halved is not None and held >= self._refused_total:
            self._limits.per_command = min(self._limits.per_command, self._halved)
            self._halved = None
            self._refused_total = 0


@final
class SnapshotBudget:
    """
    A token bucket that all connections share: one token a snapshot.

    A reconnect storm asks for as much as was ever subscribed to; the budget spreads it. A command
    is let through while any token is left and may run into debt, so that a large one is not
    starved by small ones.

    Example:
        >>> budget = SnapshotBudget(per_second=1_000, burst=2_000)
        >>> budget.take(2_500, now_us=0), budget.take(1, now_us=0)
        (True, False)
        >>> budget.take(1, now_us=501_000)
        True
    """

    def __init__(self, *, per_second: int, burst: int) -> None:
        self._per_second: Final = per_second
        self._burst: Final = burst
        self._tokens = float(burst)
        self._filled_us: int | None = None
        self.taken = 0
        """Snapshots asked for since the start."""
        self.refusals = 0
        """How often somebody had to wait."""

    def take(self, count: int, *, now_us: int, reserve: float = 0.0) -> bool:
        """
        Ask for so many snapshots.

        Args:
            count: how many.
            now_us: the time.
            reserve: the share of the bucket that must stay for what is more urgent.

        Returns:
            Whether they may be asked for now.
        """
        if self._filled_us is not None:
            grown = max(now_us - self._filled_us, 0) * self._per_second / 1_000_000
            self._tokens = min(self._tokens + grown, float(self._burst))
        self._filled_us = now_us
        if self._tokens <= self._burst * reserve:
            self.refusals += 1
            return False
        self._tokens -= count
        self.taken += count
        return True

    def wait_us(self, *, reserve: float = 0.0) -> int:
        """Return how long after the last call of `take` something is left again."""
        lacking = self._burst * reserve - self._tokens
        return 0 if lacking < 0 else int(lacking * 1_000_000 / self._per_second) + 1
