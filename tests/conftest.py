import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the broker suite be pointed at a Kafka; without either option it is skipped."""
    group = parser.getgroup("kafka", "the broker suite")
    group.addoption("--real-kafka", action="store_true", help="start an Apache Kafka (Java 17 and Maven)")
    group.addoption(
        "--bootstrap-servers", metavar="HOST:PORT", help="use this Kafka; it must be one for tests"
    )
