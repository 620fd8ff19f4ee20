"""What a scenario is told, and where it says how far it is."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, final

__all__ = ["Context"]

RECORDINGS: Final = Path(__file__).resolve().parents[2] / "shared" / "recordings"


@final
class Context:
    """
    How a run is made.

    Args:
        quick: everything within about a minute, to see that it works; numbers are rough.
        soak: run the half-hour scenario at its full length.
        show: takes the text of each step, and how much of it is done, 0 to 1, where that is known.
        results: folder of this run, for whatever a scenario wants to leave there (profiles, logs).
    """

    def __init__(
        self, *, quick: bool, soak: bool, results: Path, show: Callable[[str, float | None], None]
    ) -> None:
        self.quick: Final = quick
        self.soak: Final = soak
        self.results: Final = results
        self.seed: Final = 1
        self.recordings: Final = RECORDINGS if RECORDINGS.is_dir() else None
        """Real recordings beside the checkout, or None: then frames are made up, and the report says so."""
        self._show = show

    def shortened(self) -> "Context":
        """Return the same for a quick run, whose steps are not told."""
        return Context(quick=True, soak=False, results=self.results, show=lambda _text, _done: None)

    def step(self, text: str, done: float | None = None) -> None:
        """Tell what happens now; `done` is a share, 0 to 1, when it is known."""
        self._show(text, done)
