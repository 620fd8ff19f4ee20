"""What a scenario hands back: numbers with their conditions, plots, goals, and checks of correctness."""

import msgspec

__all__ = ["Check", "Goal", "Measurement", "ScenarioResult", "Series", "Table"]


class Measurement(msgspec.Struct, frozen=True):
    """One number."""

    name: str
    value: float
    unit: str
    """As printed: µs, updates/s, MB, x."""
    conditions: str = ""
    """What it was measured on, where that differs from the scenario's own conditions."""


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a plot; series of the same `plot` share their axes."""

    plot: str
    """Title of the plot."""
    name: str
    """Of this line, for the legend."""
    x_label: str
    y_label: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    log_x: bool = False
    log_y: bool = False


class Table(msgspec.Struct, frozen=True):
    """Rows to be printed as they are, such as latency percentiles."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | int | float, ...], ...]
    """Numbers are printed with three significant digits."""


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """A ratio, or another figure, that the run should show; missing one is told, and fails nothing."""

    text: str
    """What is wanted, in words, with the limit."""
    value: float
    """What was measured."""
    limit: float
    at_most: bool = True
    """Whether `limit` is the largest value that is good; else it is the smallest."""
    unit: str = "x"
    reason: str = ""
    """Why it was missed, as far as is known; printed only then."""

    @property
    def met(self) -> bool:
        """Whether the value is on the right side of its limit."""
        return self.value <= self.limit if self.at_most else self.value >= self.limit


class Check(msgspec.Struct, frozen=True):
    """Something that must be true whatever the machine does; one that is not makes the run fail."""

    text: str
    """What must hold: no torn read, no lost update, the right book."""
    passed: bool
    detail: str = ""


class ScenarioResult(msgspec.Struct, frozen=True, kw_only=True):
    """All that a scenario found."""

    name: str
    """With dashes, as on the command line."""
    title: str
    """One sentence: what was done."""
    conditions: tuple[str, ...] = ()
    """Inputs, sizes, seeds: one line each."""
    measurements: tuple[Measurement, ...] = ()
    tables: tuple[Table, ...] = ()
    series: tuple[Series, ...] = ()
    goals: tuple[Goal, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader should know to judge the numbers."""
    seconds: float = 0.0
    """How long the scenario took; set by the runner."""
