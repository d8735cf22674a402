"""The load client, a process of its own: raw sockets on epoll, closed loop or pre-computed Poisson arrivals.

Latency of the open loop counts from the scheduled arrival; nothing is skipped. Prints one line of JSON.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.ground import figures

READ_BYTES = 1 << 16  # an answer is far smaller
SEND_BUFFER_BYTES = 1 << 20  # a body of 100 KB leaves in one call
WARM_S = 0.2  # of a closed loop, not counted: connections and caches settle
DRAIN_S = 1.5  # after the last arrival; what is unanswered then counts as failed
PR_SET_TIMERSLACK = 29  # else the kernel may wake us 50 µs late


class Connection:
    """A keep-alive connection with at most one request in flight."""

    __slots__ = ("buffer", "due", "fd", "socket", "status", "unsent", "wanted")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.socket.setblocking(False)
        self.fd = self.socket.fileno()
        self.buffer, self.wanted, self.due, self.status = b"", 0, 0.0, 0
        self.unsent: memoryview | None = None

    def feed(self, data: bytes) -> bool:
        """Takes bytes of the answer; True when it is whole."""
        data = self.buffer + data if self.buffer else data
        if not self.wanted:
            head_end = data.find(b"\r\n\r\n")
            if head_end < 0:
                self.buffer = data
                return False
            self.wanted = self._size(data[:head_end].lower(), head_end + 4)
            self.status = int(data[9:12])
        whole = data.endswith(b"0\r\n\r\n") if self.wanted < 0 else len(data) >= self.wanted
        self.buffer = b"" if whole else data
        if whole:
            self.wanted = 0
        return whole

    @staticmethod
    def _size(head: bytes, head_size: int) -> int:
        """Bytes of the whole answer; -1 where it is chunked."""
        at = head.find(b"\r\ncontent-length:")
        if at < 0:
            return -1 if b"chunked" in head else head_size
        return head_size + int(head[at + 17 :].split(b"\r\n", 1)[0])


class Load:
    """Connections, the request, and the latencies seen so far."""

    def __init__(self, port: int, request: bytes, clients: int) -> None:
        self.port, self.request, self.clients = port, request, clients
        self.poll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self.seconds: list[float] = []
        self.failures = 0
        self.on_answer: Callable[[Connection, float], None] = lambda connection, now: None
        for _ in range(clients):
            self._connect()

    def _connect(self) -> Connection:
        connection = Connection(self.port)
        self.connections[connection.fd] = connection
        self.poll.register(connection.fd, select.EPOLLIN)
        return connection

    def send(self, connection: Connection, due: float) -> None:
        connection.due = due
        try:
            sent = connection.socket.send(self.request)
        except OSError:
            sent = 0
        if sent < len(self.request):
            connection.unsent = memoryview(self.request)[sent:]
            self.poll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)

    def _send_rest(self, connection: Connection) -> None:
        if connection.unsent is None:
            return
        with contextlib.suppress(BlockingIOError):
            connection.unsent = connection.unsent[connection.socket.send(connection.unsent) :]
        if not connection.unsent:
            connection.unsent = None
            self.poll.modify(connection.fd, select.EPOLLIN)

    def _lost(self, connection: Connection) -> None:
        """The server hung up: a failure if a request was in flight; a new connection takes its place."""
        in_flight, due = connection.due > 0, connection.due
        self.poll.unregister(connection.fd)
        connection.socket.close()
        del self.connections[connection.fd]
        fresh = self._connect()
        if in_flight:
            fresh.due, fresh.status = due, 0
            self.on_answer(fresh, time.perf_counter())

    def turn(self, timeout_s: float) -> None:
        """Handles what is ready, waiting at most this long (select on the epoll: it takes microseconds)."""
        if timeout_s > 0:
            select.select([self.poll], [], [], timeout_s)
        for fd, events in self.poll.poll(0):
            connection = self.connections.get(fd)
            if connection is None:
                continue
            try:
                if events & select.EPOLLOUT:
                    self._send_rest(connection)
                if not events & ~select.EPOLLOUT:
                    continue
                data = connection.socket.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self._lost(connection)
            elif connection.feed(data):
                self.on_answer(connection, time.perf_counter())


def closed(load: Load, seconds: float, warm_s: float = WARM_S) -> dict[str, Any]:
    """Each connection sends as soon as it has its answer. Not a latency claim: it waits for the server."""
    counting, total = False, 0

    def answered(connection: Connection, now: float) -> None:
        nonlocal total
        total += 1
        if counting:
            if connection.status == 200:
                load.seconds.append(now - connection.due)
            else:
                load.failures += 1
        load.send(connection, time.perf_counter())

    load.on_answer = answered
    began = time.perf_counter()
    for connection in list(load.connections.values()):
        load.send(connection, began)
    while time.perf_counter() < began + warm_s:
        load.turn(0.01)
    counting, began = True, time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        load.turn(0.01)
    return {**figures.latencies(load.seconds, load.failures), "elapsed_s": now - began, "answered": total}


def open_loop(load: Load, arrivals: list[float]) -> dict[str, Any]:
    """Sends at the given times whether or not answers came; who finds no connection free waits, and that counts."""
    free = list(load.connections.values())
    waiting: deque[float] = deque()
    lags: list[float] = []
    in_flight = 0

    def answered(connection: Connection, now: float) -> None:
        nonlocal in_flight
        if connection.status == 200:
            load.seconds.append(now - connection.due)
        else:
            load.failures += 1
        if waiting:
            load.send(connection, waiting.popleft())
        else:
            in_flight -= 1
            connection.due = 0.0
            free.append(connection)

    load.on_answer = answered
    start = time.perf_counter() + 0.01
    upcoming = deque(start + arrival for arrival in arrivals)
    end = (upcoming[-1] if upcoming else start) + DRAIN_S
    while (upcoming or in_flight) and (now := time.perf_counter()) < end:
        while upcoming and upcoming[0] <= now:
            due = upcoming.popleft()
            if not free:
                waiting.append(due)
                continue
            in_flight += 1
            load.send(free.pop(), due)
            now = time.perf_counter()
            lags.append(now - due)
        load.turn(min(upcoming[0] - time.perf_counter(), 0.05) if upcoming else 0.01)
    answered_in_all = len(load.seconds) + load.failures
    unanswered = len(arrivals) - answered_in_all
    found = figures.latencies(load.seconds, load.failures + unanswered)
    lags.sort()
    return {
        **found,
        "elapsed_s": time.perf_counter() - start,
        "answered": answered_in_all,
        "sent": len(arrivals),
        "unanswered": unanswered,
        "send_lag_p99_ms": 1e3 * (figures.percentile(lags, 99) or 0.0),
        "send_lag_max_ms": 1e3 * (lags[-1] if lags else 0.0),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["closed", "open"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--request", type=Path, required=True, help="file with the bytes of the request")
    parser.add_argument("--clients", type=int, default=256, help="connections")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=100.0, help="open loop: arrivals a second")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    asked = _arguments()
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1_000)
    if asked.mode == "open":
        with contextlib.suppress(PermissionError):
            os.nice(-10)  # arrivals come from outside: the server must not be able to delay them
    load = Load(asked.port, asked.request.read_bytes(), asked.clients)
    arrivals = figures.poisson(asked.rate, asked.seconds, asked.seed) if asked.mode == "open" else []
    gc.collect()
    gc.disable()
    cpu = time.process_time()
    found = open_loop(load, arrivals) if asked.mode == "open" else closed(load, asked.seconds)
    print(json.dumps({**found, "client_share": (time.process_time() - cpu) / found["elapsed_s"]}))


if __name__ == "__main__":
    main()
