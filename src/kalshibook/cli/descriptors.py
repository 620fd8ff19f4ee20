"""How many sockets this process may open."""

from contextlib import suppress

__all__ = ["allow_many_sockets"]


def allow_many_sockets() -> None:
    """
    Raise this process's limit of open files to what the system lets it have.

    A shell, a container and systemd usually begin with 1,024. `stream.max_connections` is far
    above, and a process without descriptors answers nobody: no REST, no `/healthz`, no 503.
    """
    with suppress(ImportError, ValueError, OSError):  # no such limit here, or no leave to raise it
        import resource  # noqa: PLC0415 - Unix has it

        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
