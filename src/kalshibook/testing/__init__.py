"""What users import in their own tests: valid frames, and a reference to compare books with."""

from kalshibook.testing.frames import FrameFactory as FrameFactory
from kalshibook.testing.reference import (
    ReferenceBook as ReferenceBook,
    compare as compare,
    compare_all as compare_all,
    fold as fold,
)

__all__ = ["FrameFactory", "ReferenceBook", "compare", "compare_all", "fold"]
