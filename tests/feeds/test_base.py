from importlib.metadata import EntryPoint, EntryPoints

import pytest

from kalshibook.errors import FeedError
from kalshibook.feeds import FeedHealth, FeedState, KafkaFeed, PartitionHealth, base, load_feed


def declare(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Let these be the installed feeds."""
    declared = [EntryPoint(name, value, base.ENTRY_POINTS) for name, value in values.items()]
    monkeypatch.setattr(base, "entry_points", lambda *, group: EntryPoints(declared).select(group=group))


class TestLoadFeed:
    def test_ours(self) -> None:
        """The installed package declares its feeds."""
        assert load_feed("kafka") is KafkaFeed
        assert callable(load_feed("recording"))

    def test_one_of_others(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever can be called is taken as a maker of feeds."""
        declare(monkeypatch, theirs="kalshibook.feeds.kafka:KafkaFeed")

        assert load_feed("theirs") is KafkaFeed

    def test_unknown(self) -> None:
        """The error for an unknown name lists those that are known."""
        with pytest.raises(FeedError, match=r"'kafak'.*kafka, recording"):
            load_feed("kafak")

    @pytest.mark.parametrize(
        ("value", "finding"),
        [
            ("no_such_module_anywhere:Feed", "cannot be imported"),
            ("builtins:no_such_name", "cannot be imported"),
            ("builtins:__name__", "not a class or a function"),
        ],
    )
    def test_broken(self, monkeypatch: pytest.MonkeyPatch, value: str, finding: str) -> None:
        """A declared feed that is not there is an error that names where it was looked for."""
        declare(monkeypatch, theirs=value)
        with pytest.raises(FeedError, match=finding) as found:
            load_feed("theirs")

        assert value in str(found.value)


class TestHealth:
    def test_lag_is_the_sum(self) -> None:
        """The lag of a feed is that of its partitions together."""
        partitions = (PartitionHealth(0, 5, 9, caught_up=True), PartitionHealth(1, 5, 6, caught_up=True))
        health = FeedHealth(name="f", state=FeedState.LIVE, reason="", since_us=0, partitions=partitions)

        assert 5 == health.lag

    def test_lag_is_unknown_with_any_end(self) -> None:
        """An end that is not known makes the whole unknown, not smaller."""
        partitions = (
            PartitionHealth(0, 5, 9, caught_up=True),
            PartitionHealth(1, 5, None, caught_up=False),
        )
        health = FeedHealth(name="f", state=FeedState.LIVE, reason="", since_us=0, partitions=partitions)

        assert health.lag is None

    @pytest.mark.parametrize("state", FeedState)
    @pytest.mark.parametrize("silent", [False, True])
    def test_is_ok_when_live_and_not_silent(self, state: FeedState, silent: bool) -> None:
        """Every other state is not well."""
        health = FeedHealth(name="f", state=state, reason="", since_us=0, silent=silent)

        assert (state is FeedState.LIVE and not silent) is health.ok

    def test_who_only_saves_books_does_not_make_them_wrong(self) -> None:
        """A feed on which no answer rests is well until it has failed."""
        ok = {
            state: FeedHealth(name="s", state=state, reason="", since_us=0, essential=False).ok
            for state in FeedState
        }
        assert [FeedState.FAILED] == [state for state in FeedState if not ok[state]]
