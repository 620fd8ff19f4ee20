import gc

import pytest
from hypothesis import given, settings, strategies as st

from kalshibook.store import Quote
from kalshibook.store.nested import NestedVector


@given(st.lists(st.tuples(st.integers(0, 2_000), st.integers())))
def test_a_nested_vector_equals_a_list(changes: list[tuple[int, int]]) -> None:
    """Appending and replacing give what a list gives, and old versions keep their items."""
    model: list[int] = []
    vector: NestedVector[int] = NestedVector.empty()
    kept: list[tuple[NestedVector[int], list[int]]] = []
    for number, item in changes:
        if number < len(model):
            model[number] = item
            vector = vector.replaced(number, item)
        else:
            model.append(item)
            vector = vector.appended(item)
        kept.append((vector, list(model)))

    assert all(items == list(old) for old, items in kept)


@pytest.mark.parametrize("length", [0, 1, 15, 16, 17, 255, 256, 257, 4_096, 4_097, 65_537])
def test_it_grows_over_every_storey(length: int) -> None:
    """Items are found again at both sides of every storey's limit."""
    vector: NestedVector[int] = NestedVector.empty()
    for item in range(length):
        vector = vector.appended(item)

    assert length == len(vector)
    assert list(range(length)) == list(vector)
    assert all(vector[number] == number for number in range(length))
    with pytest.raises(IndexError):
        vector[length]
    with pytest.raises(IndexError):
        vector[-1]


@settings(max_examples=20)
@given(st.integers(0, 249))
def test_a_replacement_shares_all_but_its_own_path(number: int) -> None:
    """Of 16 leaves, 15 are the identical objects after a replacement."""
    vector: NestedVector[object] = NestedVector.empty()
    for item in range(250):
        vector = vector.appended(item)

    changed = vector.replaced(number, "new")

    shared = [
        old is new
        for old_branch, new_branch in zip(vector.root, changed.root, strict=True)
        for old, new in zip(old_branch, new_branch, strict=True)
    ]
    assert shared.count(False) == 1
    assert changed[number] == "new"
    assert number == vector[number]


def test_the_collector_loses_sight_of_it() -> None:
    """After passes over its storeys no node of a store's vector is walked by the collector any more."""
    vector: NestedVector[Quote] = NestedVector.empty()
    for number in range(300):
        vector = vector.appended(Quote(number, 1))
    for _ in range(3):
        gc.collect()

    assert not gc.is_tracked(vector.root)
    assert not any(gc.is_tracked(node) for node in vector.root)
