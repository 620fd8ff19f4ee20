"""Merging: any order, any lateness and any redelivery give what a look at everything at once gives."""

from collections import Counter
from collections.abc import Iterable
from random import Random

import pytest
from hypothesis import given, strategies as st

from kalshibook.archive.merging import (
    TOLD_WITHIN_US,
    Event,
    Key,
    Merged,
    Place,
    Sighting,
    Stream,
    change_key,
    join,
    statement_key,
    told_key,
    trade_key,
)

SECOND_US = 1_000_000


def seen(
    key: Key, source: str, number: int, at_us: int = 1_000, *, told: bool = False, sid: int = 1
) -> Sighting:
    """Return one sighting on the only connection of a source."""
    return Sighting(key, at_us, Place(Stream(source, f"{source}.c1", sid), number), at_us + number, told)


def one(sightings: Iterable[Sighting]) -> Event:
    """Return the only event of these sightings."""
    merged = Merged()
    merged.add(sightings)
    (event,) = merged
    return event


def in_batch(sightings: Iterable[Sighting]) -> set[tuple[Key, int, int, frozenset[Place]]]:
    """Merge with everything at hand: sort, cut where the distance is too great, count."""
    by_key: dict[Key, list[Sighting]] = {}
    for sighting in sorted(set(sightings), key=lambda one: one.at_us):
        by_key.setdefault(sighting.key, []).append(sighting)
    events = set()
    for key, all_of_key in by_key.items():
        parts = [[all_of_key[0]]]
        for sighting in all_of_key[1:]:
            if sighting.told and sighting.at_us - parts[-1][-1].at_us > TOLD_WITHIN_US:
                parts.append([])
            parts[-1].append(sighting)
        for part in parts:
            places = frozenset(sighting.place for sighting in part)
            count = max(Counter(place.stream for place in places).values())
            events.add((key, part[0].at_us, count, places))
    return events


def facts(events: Iterable[Event]) -> set[tuple[Key, int, int, frozenset[Place]]]:
    """Return events as the model has them."""
    return {(event.key, event.at_us, event.count, event.places) for event in events}


KEYS = [
    change_key("KXA-1", 1_000, "yes", 4_000, 100),
    change_key("KXA-1", 1_000, "yes", 4_000, -100),
    change_key("KXA-1", 2_000, "yes", 4_000, 100),
    trade_key("t-1"),
    statement_key("KXA-1", 1_000, "digest"),
]

streams = st.builds(
    Stream, st.sampled_from(["a", "b", "c"]), st.sampled_from(["c1", "c2"]), st.sampled_from([1, 2])
)
plain_sightings = st.builds(
    lambda key, stream, number: Sighting(key, key[1] if len(key) > 1 else 7, Place(stream, number), number),
    st.sampled_from(KEYS),
    streams,
    st.integers(1, 6),
)
told_sightings = st.builds(
    lambda content, stream, at_us: Sighting(
        told_key("KXA-1", content), at_us, Place(stream, at_us), at_us, told=True
    ),
    st.sampled_from(["paused", "resumed"]),
    streams,
    st.integers(0, 12).map(lambda steps: steps * TOLD_WITHIN_US * 2 // 5),
)


@given(st.lists(plain_sightings | told_sightings, max_size=40), st.randoms(use_true_random=False))
def test_any_order_and_any_redelivery_equal_the_batch(sightings: list[Sighting], random: Random) -> None:
    """Shuffled, cut anywhere and with parts told again, sightings merge to what all of them at once do."""
    expected = in_batch(sightings)
    merged = Merged()
    arriving = sightings + random.choices(sightings, k=len(sightings)) if sightings else []
    random.shuffle(arriving)

    new = sum(merged.add([sighting]) for sighting in arriving)

    assert expected == facts(merged)
    assert sum(len(places) for *_, places in expected) == new
    assert 0 == merged.add(sightings)


@given(st.lists(plain_sightings, min_size=1, max_size=20), st.lists(plain_sightings, max_size=20))
def test_a_join_is_commutative_and_repeatable(first: list[Sighting], second: list[Sighting]) -> None:
    """Joining parts in either order, or twice, gives one event."""
    key = KEYS[0]
    parts = [one([sighting._replace(key=key) for sighting in part]) for part in (first, second or first)]

    joined = join(*parts)

    assert joined == join(*reversed(parts))
    assert joined == join(joined, parts[0])


def test_one_change_seen_three_times_counts_once() -> None:
    """Each source has its own number for it, and it is one event that all three saw."""
    key = change_key("KXA-1", 1_000, "yes", 4_000, 100)

    event = one(seen(key, source, number) for source, number in (("a", 5), ("b", 900), ("c", 33)))

    assert (1, frozenset("abc")) == (event.count, event.sources)


def test_twins_of_one_stream_are_two() -> None:
    """Two equal changes in one millisecond both survive when one source saw both."""
    key = change_key("KXA-1", 1_000, "yes", 4_000, 100)

    event = one([seen(key, "a", 5), seen(key, "b", 900), seen(key, "a", 6)])

    assert 2 == event.count


def test_a_market_on_two_connections_of_one_source_counts_once() -> None:
    """While a market moves between connections both may carry it; neither says it twice."""
    key = change_key("KXA-1", 1_000, "yes", 4_000, 100)

    event = one([seen(key, "a", 5, sid=1), seen(key, "a", 77, sid=2)])

    assert (1, frozenset("a")) == (event.count, event.sources)


def test_a_twin_of_which_each_lost_another_counts_once() -> None:
    """The one ambiguity: nothing is invented, so the lower count stands; the stretch is named as lost."""
    key = change_key("KXA-1", 1_000, "yes", 4_000, 100)

    assert 1 == one([seen(key, "a", 5), seen(key, "b", 901)]).count


@pytest.mark.parametrize(
    ("apart_us", "events"),
    [(0, 1), (TOLD_WITHIN_US, 1), (TOLD_WITHIN_US + 1, 2), (60 * SECOND_US, 2)],
)
def test_the_same_words_much_later_are_another_event(apart_us: int, events: int) -> None:
    """A market paused twice is told in equal words; only nearness makes two sightings one event."""
    key = told_key("KXA-1", "deactivated")
    merged = Merged()

    merged.add([seen(key, "a", 5, told=True), seen(key, "b", 9, 1_000 + apart_us, told=True)])

    assert events == len(merged)


def test_a_late_sighting_joins_what_seemed_two_events() -> None:
    """What lies between two sightings too far apart makes them one, as if it had come in its order."""
    key = told_key("KXA-1", "deactivated")
    merged = Merged()
    merged.add([seen(key, "a", 5, 0, told=True), seen(key, "b", 9, 2 * TOLD_WITHIN_US, told=True)])

    merged.add([seen(key, "c", 7, TOLD_WITHIN_US, told=True)])

    assert [(1, 0, frozenset("abc"))] == [(event.count, event.at_us, event.sources) for event in merged]


def test_statements_that_differ_are_both_kept() -> None:
    """Two snapshots of one millisecond with other levels are each true of their connection."""
    merged = Merged()

    merged.add([seen(statement_key("KXA-1", 1_000, content), "a", 5) for content in ("one", "other")])

    assert 2 == len(merged)
