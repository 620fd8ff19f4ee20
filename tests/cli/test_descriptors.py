import signal
from pathlib import Path

import pytest

from tests.cli.conftest import Start

resource = pytest.importorskip("resource", reason="only Unix limits descriptors per process")


@pytest.mark.parametrize("command", [("serve", "--bootstrap-servers", "127.0.0.1:1"), ("demo",)])
def test_the_limit_of_a_shell_is_raised(start: Start, command: tuple[str, ...]) -> None:
    """A server may have as many clients as the system allows, not the thousand that a shell begins with."""
    if not Path("/proc/self/limits").exists():
        pytest.skip("without /proc another process's limits are not to be seen")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, hard))
    try:
        server = start(*command, "--port", "0", "--stream-port", "0")
        server.wait_for("http://127")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    limits = Path(f"/proc/{server.pid}/limits").read_text().splitlines()
    (line,) = [line for line in limits if line.startswith("Max open files")]
    assert [str(hard)] * 2 == line.split()[3:5]
    assert 0 == server.stopped(signal.SIGTERM)
