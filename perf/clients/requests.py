"""A process that is one HTTP client on one kept-alive connection: closed loop, raw socket."""

import socket
import time
from array import array
from typing import Any

import msgspec

from perf.clients.worker import answer_commands, settings
from perf.measures import percentiles


class Requests:
    """Sends requests to one address; every public method is a command."""

    def __init__(self, address: list[Any]) -> None:
        self._host = address[0]
        self._socket = socket.create_connection((address[0], address[1]))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def repeat(
        self, path: str, seconds: float, body: Any = None, pause_s: float = 0.0, most: int = 1_000_000
    ) -> dict[str, Any]:
        """
        Send one request again and again, each after the answer to the one before.

        Args:
            path: with its query.
            seconds: how long.
            body: sent by POST as JSON; None is a GET.
            pause_s: between two requests.
            most: how many at most.
        """
        request = self._request(path, body)
        latencies = array("q")
        size = 0
        until = time.perf_counter() + seconds
        while time.perf_counter() < until and len(latencies) < most:
            started = time.perf_counter_ns()
            answer = self._exchange(request)
            latencies.append(time.perf_counter_ns() - started)
            size = len(answer)
            if pause_s:
                time.sleep(pause_s)
        ordered = sorted(latencies)
        return {
            "requests": len(ordered),
            "seconds": sum(ordered) / 1e9,
            "bytes": size,
            "percentiles_us": {name: value / 1_000 for name, value in percentiles(ordered).items()},
        }

    def fetch(self, path: str, body: Any = None) -> Any:
        """Return one answer, decoded."""
        return msgspec.json.decode(self._exchange(self._request(path, body)))

    def _request(self, path: str, body: Any) -> bytes:
        if body is None:
            return f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode()
        data = msgspec.json.encode(body)
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(data)}\r\n\r\n"
        )
        return head.encode() + data

    def _exchange(self, request: bytes) -> bytes:
        self._socket.sendall(request)
        data = bytearray()
        while (end := data.find(b"\r\n\r\n")) < 0:
            data += self._more()
        head = bytes(data[:end]).lower()
        if not head.startswith(b"http/1.1 200"):
            raise ConnectionError(head.partition(b"\r\n")[0].decode())
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        body = data[end + 4 :]
        while len(body) < length:
            body += self._more()
        return bytes(body)

    def _more(self) -> bytes:
        data = self._socket.recv(1_048_576)
        if not data:
            raise ConnectionError("the server hung up")
        return data


def main(address: list[Any]) -> None:
    """Send requests on command."""
    requests = Requests(address)
    answer_commands({"repeat": requests.repeat, "fetch": requests.fetch}, {})


if __name__ == "__main__":
    main(**settings())
