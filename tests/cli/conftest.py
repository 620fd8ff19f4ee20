import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import structlog

from kalshibook.feeds import EmbeddedBroker
from tests.cli.running import Running

Start = Callable[..., Running]


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Take back what a command that ran in this process did to the logs."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A starter of commands in an empty folder; what still runs at the end is killed."""
    with ExitStack() as stack:
        yield lambda *arguments, **environ: stack.enter_context(
            Running(*arguments, folder=tmp_path, environ=environ)
        )


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    """A broker with the usual topic."""
    with EmbeddedBroker({"market-data-all": 2}) as broker:
        yield broker
