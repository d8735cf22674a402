"""The stand-in's process: one thread on epoll, whose waits are exact to some tens of microseconds.

Calls come to one port, orders to another, which stays open when the first one refuses connections. Prints both ports
as one line of JSON and serves until its standard input ends.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import ctypes
import heapq
import itertools
import json
import select
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from bench.shortcuts.provider.acts import Act, Part, answer, ordered, prompt_tokens, script

READ_BYTES: Final = 1 << 16
KEPT: Final = 5_000  # calls that are told one by one; the sums have all
IDLE_S: Final = 0.2  # between looks at whether anybody still wants us
PR_SET_TIMERSLACK: Final = 29  # else the kernel may wake us 50 µs late
LISTENS: Final = select.EPOLLIN | select.EPOLLRDHUP
USUAL: Final[Act] = {"do": "says"}


class Call:
    """One call: what was told of it, and what it is billed."""

    __slots__ = ("act", "left", "over", "prompt", "said", "serial")

    def __init__(self, serial: int, act: Act, prompt: int) -> None:
        self.serial, self.act, self.prompt = serial, act, prompt
        self.said = 0  # words
        self.over = False  # its script came to its end
        self.left = False  # its client closed the connection before

    @property
    def billed(self) -> tuple[int, int]:
        """Tokens: of the prompt where it was being worked on, and of the words that went out."""
        return (self.prompt if self.said or self.left else 0), self.said

    def document(self) -> dict[str, Any]:
        return {"act": self.act["do"], "prompt": self.prompt, "said": self.said, "left": self.left}


class Client:
    """A connection; at most one call of it is under way."""

    __slots__ = ("buffer", "call", "orders", "socket", "stuck", "unsent")

    def __init__(self, socket: socket.socket, orders: bool) -> None:
        self.socket, self.orders = socket, orders
        self.buffer = self.unsent = b""
        self.stuck = False  # it reads more slowly than we write
        self.call: Call | None = None


class Books:
    """Sums of all calls, and the last ones by themselves."""

    def __init__(self) -> None:
        self.calls = 0
        self.kept: deque[Call] = deque(maxlen=KEPT)
        self._gone = [0, 0]  # tokens of those that are not kept any more

    def add(self, call: Call) -> None:
        self.calls += 1
        if len(self.kept) == KEPT:
            for place, amount in enumerate(self.kept[0].billed):
                self._gone[place] += amount
        self.kept.append(call)

    def document(self) -> dict[str, Any]:
        billed = [each.billed for each in self.kept]
        return {
            "calls": self.calls,
            "input_tokens": self._gone[0] + sum(prompt for prompt, _ in billed),
            "output_tokens": self._gone[1] + sum(said for _, said in billed),
            "open": sum(not each.over and not each.left for each in self.kept),
            "kept": [each.document() for each in self.kept],
        }


class Standin:
    """Both ports, the calls under way, and what is due when."""

    def __init__(self) -> None:
        self.poll = select.epoll()
        self.books = Books()
        self.usual, self.next = USUAL, deque[Act]()
        self.answers: dict[str, str] = {}  # by the last message of a call
        self.clients: dict[int, Client] = {}
        self.due: list[tuple[float, int, Client, Call, Part]] = []
        self._serial = itertools.count()
        self.orders = _listening(0)
        self.poll.register(self.orders.fileno(), select.EPOLLIN)
        self.port = 0
        self.calls: socket.socket | None = None
        self.listen()

    def listen(self) -> None:
        """Take calls, on the port of before."""
        if self.calls is None:
            self.calls = _listening(self.port)
            self.port = int(self.calls.getsockname()[1])
            self.poll.register(self.calls.fileno(), select.EPOLLIN)

    def refuse(self) -> None:
        """Take no calls, and close the connections that wait for one."""
        if self.calls is not None:
            self.poll.unregister(self.calls.fileno())
            self.calls.close()
            self.calls = None
        for client in [each for each in self.clients.values() if not each.orders and each.call is None]:
            self._drop(client)

    # -- its turns ---------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Send what is due, then read what came; select on the epoll, because it waits for microseconds."""
        now = time.perf_counter()
        while self.due and self.due[0][0] <= now:
            _, _, client, call, part = heapq.heappop(self.due)
            if client.call is call:
                self._play(client, call, part)
        wait_s = min(IDLE_S, max(0.0, self.due[0][0] - time.perf_counter())) if self.due else IDLE_S
        select.select([self.poll], [], [], wait_s)
        for fd, events in self.poll.poll(0):
            self._ready(fd, events)

    def _ready(self, fd: int, events: int) -> None:
        if fd == self.orders.fileno():
            self._accept(self.orders, True)
        elif self.calls is not None and fd == self.calls.fileno():
            self._accept(self.calls, False)
        elif client := self.clients.get(fd):
            if events & select.EPOLLOUT:
                self._flush(client)
            if events & ~select.EPOLLOUT:
                self._read(client)

    def _accept(self, listening: socket.socket, orders: bool) -> None:
        try:
            found, _ = listening.accept()
        except OSError:
            return  # it left before it was met
        found.setblocking(False)
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.clients[found.fileno()] = Client(found, orders)
        self.poll.register(found.fileno(), LISTENS)

    def _read(self, client: Client) -> None:
        try:
            data = client.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.buffer += data
        if client.call is None and (taken := _request(client.buffer)) is not None:
            path, body, client.buffer = taken
            if client.orders:
                self._send(client, answer(200, self._ordered(path, body)))
            else:
                self._meet(client, body)

    def _meet(self, client: Client, body: bytes) -> None:
        """A call is met."""
        asked = json.loads(body)
        act = self._act(asked)
        call = client.call = Call(next(self._serial), act, prompt_tokens(asked))
        self.books.add(call)
        read = time.perf_counter()
        for part in script(act, asked):
            heapq.heappush(self.due, (read + part.at_s, next(self._serial), client, call, part))

    def _act(self, asked: Mapping[str, Any]) -> Act:
        """What the call asks for itself, a known answer, the next act in the row, or the usual one."""
        last = str((asked.get("messages") or [{}])[-1].get("content", ""))
        if last in self.answers:
            return {"do": "text", "text": self.answers[last]}
        return ordered(asked) or (self.next.popleft() if self.next else self.usual)

    def _play(self, client: Client, call: Call, part: Part) -> None:
        call.said += part.words
        if part.data:
            self._send(client, part.data)
        if part.end:
            call.over = True
            client.call = None
        if part.end == "reset":
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if part.end in ("close", "reset"):
            self._drop(client)

    def _send(self, client: Client, data: bytes) -> None:
        client.unsent += data
        self._flush(client)

    def _flush(self, client: Client) -> None:
        try:
            sent = client.socket.send(client.unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it is gone: the next look reads that
        client.unsent = client.unsent[sent:]
        if bool(client.unsent) != client.stuck:
            client.stuck = not client.stuck
            self.poll.modify(client.socket.fileno(), LISTENS | (select.EPOLLOUT if client.stuck else 0))

    def _drop(self, client: Client) -> None:
        """Close it; a call that was under way has lost its client."""
        if client.call is not None:
            client.call.left = True
            client.call = None
        fd = client.socket.fileno()
        if self.clients.pop(fd, None) is not None:
            self.poll.unregister(fd)
        client.socket.close()

    # -- orders ------------------------------------------------------------------------------------------------

    def _ordered(self, path: str, body: bytes) -> bytes:
        """Do what an order says; its answer."""
        if path == "/acts":
            told: Mapping[str, Any] = json.loads(body)
            self.next = deque(told.get("next", ()))
            self.usual = told.get("usual", self.usual)
        elif path == "/answers":
            self.answers = json.loads(body)
        elif path == "/listen":
            self.listen()
        elif path == "/refuse":
            self.refuse()
        elif path != "/counts":
            return b'{"error": "no such order"}'
        return json.dumps(self.books.document()).encode() if path == "/counts" else b"{}"


def _listening(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    found.bind(("127.0.0.1", port))
    found.listen(512)
    found.setblocking(False)
    return found


def _request(data: bytes) -> tuple[str, bytes, bytes] | None:
    """Path, body and what follows of a request that is whole; None of one that is not."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    at = head.find(b"\r\ncontent-length:")
    size = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    whole = end + 4 + size
    if len(data) < whole:
        return None
    return data.split(b" ", 2)[1].decode(), data[end + 4 : whole], data[whole:]


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1_000)
    standin = Standin()
    ports = {"port": standin.port, "orders": standin.orders.getsockname()[1]}
    print(json.dumps(ports), flush=True)
    parent = select.poll()
    parent.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    looked = time.monotonic()
    while True:
        standin.turn()
        if time.monotonic() > looked + IDLE_S:
            if parent.poll(0):  # nothing is ever written there: it was closed
                return
            looked = time.monotonic()


if __name__ == "__main__":
    main()
