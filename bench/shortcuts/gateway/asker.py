"""The client of the gateways, a process of its own: conversations that are all different, in a closed loop.

Raw sockets on epoll, as the client of make bench-serve; it notes when the first word came, and takes a stream that did not
come to its last event as a failure. Prints one line of JSON.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import select
import time
from typing import Any, Final

from bench.ground import figures
from bench.ground.client import DRAIN_S, PR_SET_TIMERSLACK, WARM_S, Connection, Load, closed
from bench.shortcuts.provider.acts import WORDS

FIRST: Final = WORDS[0].encode()  # of every answer; no other part of it holds this
LAST: Final = b"[DONE]"
DIGITS: Final = 12  # of a conversation's number: bodies keep their length
MOST_TOKENS: Final = 64
PROMPT: Final = "How is the sea today? "
PATH: Final = "/v1/chat/completions"

Parts = tuple[bytes, bytes]


class Timed(Connection):
    """Knows when the first word of its answer came, and takes a stream that did not come to its last event as none."""

    __slots__ = ("first", "last", "load", "tail")

    def __init__(self, port: int, load: Asking) -> None:
        super().__init__(port)
        self.load = load
        self.begin()

    def begin(self) -> None:
        self.first, self.last, self.tail = 0.0, False, b""

    def feed(self, data: bytes) -> bool:
        seen = self.tail + data
        if not self.first and FIRST in seen:
            self.first = time.perf_counter()
        self.last = self.last or LAST in seen
        self.tail = seen[-len(LAST) :]
        whole = super().feed(data)
        if whole:
            self._end()
        return whole

    def _end(self) -> None:
        if self.load.stream and not self.last:
            self.status = 0
        if self.first:
            self.load.firsts.append((self.due, self.first - self.due))


class Asking(Load):
    """Each request is another conversation: its number stands in the prompt."""

    def __init__(self, port: int, parts: Parts, clients: int, stream: bool, start: int) -> None:
        self.stream = stream
        self.firsts: list[tuple[float, float]] = []  # (when it was sent, seconds to its first word)
        self._parts, self._next = parts, start
        super().__init__(port, b"", clients)

    def _connect(self) -> Connection:
        connection = Timed(self.port, self)
        self.connections[connection.fd] = connection
        self.poll.register(connection.fd, select.EPOLLIN)
        return connection

    def send(self, connection: Connection, due: float) -> None:
        assert isinstance(connection, Timed)
        connection.begin()
        before, after = self._parts
        self.request = before + b"%0*d" % (DIGITS, self._next) + after
        self._next += 1
        super().send(connection, due)


def request(port: int, model: str, key: str, stream: bool) -> Parts:
    """The bytes of a request, before and behind the conversation's number."""
    document: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": f"{PROMPT}# "}],
        "max_tokens": MOST_TOKENS,
        "stream": stream,
    }
    opening, mark, closing = json.dumps(document).encode().partition(b"# ")
    lines = [f"POST {PATH} HTTP/1.1", f"host: 127.0.0.1:{port}", "content-type: application/json"]
    lines += [f"authorization: Bearer {key}"] if key else []
    size = len(opening) + len(mark) + DIGITS + len(closing)
    head = "\r\n".join([*lines, f"content-length: {size}", "", ""]).encode()
    return head + opening + mark, closing


def asked(load: Asking, seconds: float) -> dict[str, Any]:
    """The figures of one run."""
    began = time.perf_counter()
    found = closed(load, seconds)
    _drain(load)
    firsts = sorted(first for due, first in load.firsts if due >= began + WARM_S)
    for percent in (50, 99):
        value = figures.percentile(firsts, percent)
        found[f"first_p{percent}_ms"] = None if value is None else round(value * 1e3, 4)
    return found


def _drain(load: Asking) -> None:
    """What is under way comes to its end, uncounted: a client that leaves would be another measurement."""
    left = set(load.connections)
    load.on_answer = lambda connection, now: left.discard(connection.fd)
    until = time.perf_counter() + DRAIN_S
    while left and time.perf_counter() < until:
        load.turn(0.01)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="words")
    parser.add_argument("--key", default="")
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--start", type=int, default=0, help="number of the first conversation")
    return parser.parse_args()


def main() -> None:
    given = _arguments()
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1_000)
    parts = request(given.port, given.model, given.key, given.stream)
    load = Asking(given.port, parts, given.clients, given.stream, given.start)
    gc.collect()
    gc.disable()
    print(json.dumps(asked(load, given.seconds)))


if __name__ == "__main__":
    main()
