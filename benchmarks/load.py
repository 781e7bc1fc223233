"""The load of `benchmarks.api`: clients that keep their connections and ask for one address again and again.

Usage:
    python -m benchmarks.load 127.0.0.1 8000 /jobs/… [--clients 16] [--seconds 10]

One thread and plain sockets, so that the load itself takes little of the cores that it shares with the
service. One JSON line: requests a second, milliseconds, and the processor time that all of this took.
"""

import argparse
import json
import re
import selectors
import socket
import time
from dataclasses import dataclass

from benchmarks.figures import median, quantile

OK = b"HTTP/1.1 200"
END_OF_HEAD = b"\r\n\r\n"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
CHUNK_BYTES = 65536


class RefusedError(Exception):
    """The service answered something else than 200."""


@dataclass(slots=True)
class Client:
    """One connection, on which one request at a time is under way."""

    connection: socket.socket
    request: bytes
    received: bytes = b""
    asked_at: float = 0.0

    def ask(self) -> None:
        """Send the request."""
        self.received, self.asked_at = b"", time.perf_counter()
        self.connection.sendall(self.request)

    def seconds(self) -> float | None:
        """Take in what has come; return how long the answer took, or None if it is not complete.

        Raises:
            RefusedError: It is not 200.
        """
        self.received += self.connection.recv(CHUNK_BYTES)
        head, separator, body = self.received.partition(END_OF_HEAD)
        if not separator:
            return None
        length = LENGTH.search(head + b"\r\n")
        if not head.startswith(OK) or length is None:
            raise RefusedError(self.received.decode(errors="replace"))
        return None if len(body) < int(length.group(1)) else time.perf_counter() - self.asked_at


def ask(host: str, port: int, path: str, clients: int, seconds: float) -> list[float]:
    """Have all clients ask for a while; return how many seconds each answer took."""
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    taken: list[float] = []
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            client = Client(socket.create_connection((host, port)), request)
            client.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(client.connection, selectors.EVENT_READ, client)
            client.ask()
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for key, _ in selector.select(timeout=1):
                answered = key.data.seconds()
                if answered is not None:
                    taken.append(answered)
                    key.data.ask()
        for key in list(selector.get_map().values()):
            key.data.connection.close()
    return taken


def main() -> None:
    """Ask, and print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10)
    arguments = parser.parse_args()
    cpu_before, began = time.process_time(), time.perf_counter()
    taken = ask(arguments.host, arguments.port, arguments.path, arguments.clients, arguments.seconds)
    cpu_seconds, seconds = time.process_time() - cpu_before, time.perf_counter() - began
    milliseconds = [1000 * one for one in taken]
    figures = {
        "requests": len(taken),
        "requests_per_second": round(len(taken) / seconds),
        "median_ms": median(milliseconds),
        "p99_ms": quantile(milliseconds, 0.99),
        "load_cpu_percent": round(100 * cpu_seconds / seconds),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
