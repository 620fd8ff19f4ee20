"""
A persistent vector made of short tuples: number to item, any length.

An update copies one tuple of 16 on each storey, five of them at a million items, and shares the rest.
Tuples of what cannot be in a cycle drop out of the garbage collector's sight at its first pass over
them, so a store of a million books costs its process no pause; vectors in C stay in sight for ever.
`docs/discussion/memory.md` has the measurements.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec

__all__ = ["NestedVector"]

T = TypeVar("T")

_Node = tuple[Any, ...]

_BITS: Final = 4
_MASK: Final = (1 << _BITS) - 1


class NestedVector(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """
    An immutable sequence that grows at its end.

    >>> vector = NestedVector.empty().appended("a").appended("b")
    >>> vector.replaced(0, "c")[0], vector[0], len(vector)
    ('c', 'a', 2)
    """

    root: _Node
    shift: int
    """Bits of a number below the root's: 0 for one node, 4 more for every storey."""
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
        Return the items of many numbers, in their order; a third of the cost of one at a time.

        Raises:
            IndexError: a number is not below the length.
        """
        root, top = self.root, self.shift
        items: list[T] = []
        for number in numbers:
            node, shift = root, top
            while shift:
                node = node[number >> shift & _MASK]
                shift -= _BITS
            items.append(node[number & _MASK])
        return items

    def __iter__(self) -> Iterator[T]:
        """Walk the items in order."""
        yield from _walk(self.root, self.shift)

    def replaced(self, number: int, item: T) -> "NestedVector[T]":
        """Return a vector with another item at `number`, which must exist."""
        return NestedVector(_replaced(self.root, self.shift, number, item), self.shift, self.length)

    def appended(self, item: T) -> "NestedVector[T]":
        """Return a vector one longer."""
        root, shift = self.root, self.shift
        if self.length == 1 << (shift + _BITS):
            root, shift = (root,), shift + _BITS
        return NestedVector(_appended(root, shift, self.length, item), shift, self.length + 1)


def _replaced(node: _Node, shift: int, number: int, item: object) -> _Node:
    index = number >> shift & _MASK
    items = [*node]
    items[index] = _replaced(node[index], shift - _BITS, number, item) if shift else item
    return tuple(items)


def _appended(node: _Node, shift: int, number: int, item: object) -> _Node:
    if not shift:
        return (*node, item)
    index = number >> shift & _MASK
    if index == len(node):
        return (*node, _appended((), shift - _BITS, number, item))
    return (*node[:index], _appended(node[index], shift - _BITS, number, item))


def _walk(node: _Node, shift: int) -> Iterator[Any]:
    if not shift:
        yield from node
    else:
        for child in node:
            yield from _walk(child, shift - _BITS)
