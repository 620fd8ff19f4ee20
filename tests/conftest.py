import pytest
from hypothesis import settings

# The same examples every time, and no judging by the clock of a machine that does other things too.
settings.register_profile("kalshibook", deadline=None, derandomize=True)
settings.load_profile("kalshibook")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the broker suite be pointed at a Kafka, and the platform be run; else both are skipped."""
    group = parser.getgroup("kafka", "the broker suite")
    group.addoption("--real-kafka", action="store_true", help="start an Apache Kafka (Java 17 and Maven)")
    group.addoption(
        "--bootstrap-servers", metavar="HOST:PORT", help="use this Kafka; it must be one for tests"
    )
    whole = parser.getgroup("platform", "the whole platform at once")
    whole.addoption("--minutes", type=float, help="run it with so many minutes' worth of markets, ten in one")
    whole.addoption("--seed", type=int, default=1, help="of its markets and faults")
