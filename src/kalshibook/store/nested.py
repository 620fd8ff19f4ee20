"""
A persistent vector made of short pyrsistent vectors over short tuples: number to item, any length.

One flat C vector of a million items is a single object that the garbage collector walks from end
to end whenever it is young, 150 to 350 ms at a million books. Nested vectors of 32 share the same
structure between versions and are short. The lowest storey is tuples: a tuple of what cannot be in a
cycle drops out of the collector's sight at its first pass, so that it never walks the items
themselves. `docs/discussion/memory.md` has the measurements.
"""

import logging
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
from pyrsistent import PVector, pvector

__all__ = ["HAS_C_VECTOR", "NestedVector", "warn_without_c_vector"]

T = TypeVar("T")

_log = logging.getLogger(__name__)

_BITS: Final = 5
_MASK: Final = (1 << _BITS) - 1
_BRANCH: Final[PVector[Any]] = pvector()

# A branch, or on the lowest storey a leaf.
_Node = PVector[Any] | tuple[Any, ...]

HAS_C_VECTOR: Final = type(_BRANCH).__module__ == "pvectorc"
"""Whether pyrsistent runs its C vector; it ships one up to Python 3.12 only."""


def warn_without_c_vector() -> None:
    """Log that pyrsistent runs its slow form, and what to do."""
    if not HAS_C_VECTOR:
        _log.warning(
            "pyrsistent has no C vector here: an update takes about 10 us longer. Use Python 3.11 or 3.12, "
            "or build it: pip install --no-binary pyrsistent pyrsistent"
        )


class NestedVector(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """
    An immutable sequence that grows at its end.

    >>> vector = NestedVector.empty().appended("a").appended("b")
    >>> vector.replaced(0, "c")[0], vector[0], len(vector)
    ('c', 'a', 2)
    """

    root: _Node
    shift: int
    """Bits of a number below the root's: 0 for one node, 5 more for every storey."""
    length: int

    @classmethod
    def empty(cls) -> "NestedVector[T]":
        """Return the vector without items."""
        return cls((), 0, 0)

    def __len__(self) -> int:
        """Count the items."""
        return self.length

    def __getitem__(self, number: int) -> T:
        """
        Return an item.

        Raises:
            IndexError: the number is negative or not below the length.
        """
        if not 0 <= number < self.length:
            raise IndexError(number)
        node, shift = self.root, self.shift
        while shift:
            node = node[number >> shift & _MASK]
            shift -= _BITS
        item: T = node[number & _MASK]
        return item

    def many(self, numbers: Iterable[int]) -> list[T]:
        """
        Return the items of many numbers, in their order; a fifth of the cost of one at a time.

        Raises:
            IndexError: a number is not below the length.
        """
        root, top = self.root, self.shift
        # Each storey is written out, because a loop over the storeys costs as much again as they do.
        if top == _BITS:
            return [root[number >> 5][number & 31] for number in numbers]
        if top == 2 * _BITS:
            return [root[number >> 10][number >> 5 & 31][number & 31] for number in numbers]
        if top == 3 * _BITS:
            return [
                root[number >> 15][number >> 10 & 31][number >> 5 & 31][number & 31] for number in numbers
            ]
        return [self[number] for number in numbers]

    def __iter__(self) -> Iterator[T]:
        """Walk the items in order."""
        yield from _walk(self.root, self.shift)

    def changed_since(self, older: "NestedVector[T]") -> Iterator[T]:
        """
        Yield the items that are other objects than in an older vector, or are new, by number.

        What both share is not looked at, so the cost follows the changes.
        """
        old: _Node = older.root if older.length else ()
        shift = older.shift if older.length else self.shift
        while shift < self.shift:
            old, shift = (old,), shift + _BITS
        yield from _changed(self.root, old, self.shift)

    def replaced(self, number: int, item: T) -> "NestedVector[T]":
        """Return a vector with another item at `number`, which must exist."""
        return NestedVector(_replaced(self.root, self.shift, number, item), self.shift, self.length)

    def replaced_many(self, items: Mapping[int, T]) -> "NestedVector[T]":
        """
        Return a vector with other items at many numbers, which must exist.

        Each node is made once, however many of its items change.
        """
        if not items:
            return self
        numbers = sorted(items)
        if not 0 <= numbers[0] <= numbers[-1] < self.length:
            raise IndexError(numbers[-1])
        root = _replaced_many(self.root, self.shift, numbers, items, 0, len(numbers))
        return NestedVector(root, self.shift, self.length)

    def appended(self, item: T) -> "NestedVector[T]":
        """Return a vector one longer."""
        root, shift = self.root, self.shift
        if self.length == 1 << (shift + _BITS):
            root, shift = pvector([root]), shift + _BITS
        return NestedVector(_appended(root, shift, self.length, item), shift, self.length + 1)


def _replaced(node: Any, shift: int, number: int, item: object) -> _Node:
    index = number >> shift & _MASK
    if shift:
        branch: PVector[Any] = node.set(index, _replaced(node[index], shift - _BITS, number, item))
        return branch
    items = [*node]
    items[index] = item
    return tuple(items)


def _replaced_many(
    node: Any, shift: int, numbers: list[int], items: Mapping[int, Any], start: int, stop: int
) -> _Node:
    if not shift:
        leaf = [*node]
        for number in numbers[start:stop]:
            leaf[number & _MASK] = items[number]
        return tuple(leaf)
    children = [*node]
    while start < stop:
        place = numbers[start] >> shift
        end = bisect_left(numbers, place + 1 << shift, start, stop)
        index = place & _MASK
        children[index] = _replaced_many(children[index], shift - _BITS, numbers, items, start, end)
        start = end
    return pvector(children)


def _appended(node: Any, shift: int, number: int, item: object) -> _Node:
    if not shift:
        return (*node, item)
    index = number >> shift & _MASK
    below = shift - _BITS
    child = node[index] if index < len(node) else (_BRANCH if below else ())
    # Setting the place behind the last one appends.
    branch: PVector[Any] = node.set(index, _appended(child, below, number, item))
    return branch


def _changed(node: Any, old: Any, shift: int) -> Iterator[Any]:
    if node is old:
        return
    known = len(old)
    for index, child in enumerate(node):
        held = old[index] if index < known else None
        if child is held:
            continue
        if shift:
            yield from _changed(child, () if held is None else held, shift - _BITS)
        else:
            yield child


def _walk(node: _Node, shift: int) -> Iterator[Any]:
    if not shift:
        yield from node
    else:
        for child in node:
            yield from _walk(child, shift - _BITS)
