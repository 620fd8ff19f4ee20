"""The examples of the documentation run as they are, each in an interpreter of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"

PRINTED = {
    "plain_script.py": ["YES bid 0.4100 x 20.00", "YES ask none", ": 1 live book"],
    "inside_trio.py": ["REST at http://127.0.0.1:", "top of book over WebSocket: 0.4200", "stopped"],
    "parquet_with_duckdb.py": [
        "KXFROG-26NOV26-T40 06:00 4000 4600 4000 4300, 180.00 in 60 trades",
        "06:02",
        "KXFROG-26NOV26-T40 while active, in linear_cent: 300.00 in 100 trades",
        "KXFROG-26NOV26-T40 while active, in deci_cent: 150.00 in 50 trades",
    ],
    "in_asyncio.py": ["WebSocket at ws://127.0.0.1:", "best bid 0.4200", "stopped"],
}


def test_every_example_is_run() -> None:
    """An example that nobody runs does not stay true."""
    assert sorted(PRINTED) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_runs_by_itself(name: str) -> None:
    """It prints what it did, ends by itself, and warns of nothing."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert (0, "") == (run.returncode, run.stderr)
    missing = [text for text in PRINTED[name] if text not in run.stdout]
    assert [] == missing, run.stdout
