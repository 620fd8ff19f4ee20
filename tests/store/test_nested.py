import pytest
from hypothesis import given, settings, strategies as st
from pyrsistent import pvector

from kalshibook.store import BookStore
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


@given(st.integers(1, 3_000), st.dictionaries(st.integers(0, 2_999), st.integers()))
def test_many_are_replaced_at_once(length: int, changes: dict[int, int]) -> None:
    """Replacing many gives what one after the other gives, and the old vector keeps its items."""
    vector: NestedVector[int] = NestedVector.empty()
    for item in range(length):
        vector = vector.appended(item)
    changes = {number: item for number, item in changes.items() if number < length}

    changed = vector.replaced_many(changes)

    assert [changes.get(number, number) for number in range(length)] == list(changed)
    assert list(range(length)) == list(vector)
    assert [*changed, 7] == list(changed.appended(7)), "it grows on as any"


@pytest.mark.parametrize("number", [-1, 3])
def test_only_what_exists_is_replaced(number: int) -> None:
    """A number without an item is an error, not an item at another place."""
    vector = NestedVector[str].empty().appended("a").appended("b").appended("c")
    with pytest.raises(IndexError):
        vector.replaced_many({0: "z", number: "x"})


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 1_023, 1_024, 1_025, 32_768, 32_769])
def test_it_grows_over_every_storey(length: int) -> None:
    """Items are found again at both sides of every storey's limit."""
    vector: NestedVector[int] = NestedVector.empty()
    for item in range(length):
        vector = vector.appended(item)

    assert length == len(vector)
    assert list(range(length)) == list(vector)
    assert all(vector[number] == number for number in range(length))
    some = [*range(0, length, 97)]
    assert some == vector.many(some)
    with pytest.raises(IndexError):
        vector.many([length])
    with pytest.raises(IndexError):
        vector[length]
    with pytest.raises(IndexError):
        vector[-1]


@settings(max_examples=20)
@given(st.integers(0, 1_099))
def test_a_replacement_shares_all_but_its_own_path(number: int) -> None:
    """Of 35 leaves, 34 are the identical objects after a replacement."""
    vector: NestedVector[object] = NestedVector.empty()
    for item in range(1_100):
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


@pytest.mark.parametrize(("has_c_vector", "lines"), [(True, 0), (False, 1)])
def test_a_slow_pyrsistent_is_told(
    has_c_vector: bool, lines: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without pyrsistent's C vector a store says so once, and what to do."""
    monkeypatch.setattr("kalshibook.store.nested.HAS_C_VECTOR", has_c_vector)
    BookStore()

    assert lines == caplog.text.count("--no-binary pyrsistent")


def test_the_form_of_the_vector_is_in_the_statistics() -> None:
    """What runs here is what is reported."""
    assert (type(pvector()).__module__ == "pvectorc") == BookStore().statistics().has_c_vector
