"""However a client's bytes are cut and glued, its requests are the same: through the parser, and past it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import random
from typing import Any
from unittest.mock import ANY

import pytest

from serve.kit_http import Peer, echo, run, up
from tauten.serve.http.cycle import Direct
from tauten.serve.http.limits import HttpLimits
from tauten.serve.http.wire import Head

Given = tuple[tuple[bytes, bytes], ...]


class Quick:
    """Echoes; what is sent to /q again and again it answers without a task."""

    direct = 0
    __call__ = staticmethod(echo)

    def express(self, scope: dict[str, Any]) -> Way | None:
        return Way(self, scope) if scope["path"] == "/q" else None


class Way:
    def __init__(self, app: Quick, scope: dict[str, Any]) -> None:
        self.app = app
        self.begin = f"{scope['method']} {scope['path']} ".encode()

    def take(self, wire: Any, data: bytes, at: int, given: Given) -> Echo | None:
        body = data[at:]
        if body.startswith(b"no"):
            return None  # the app shall answer
        self.app.direct += 1
        return Echo(wire, self.begin + body)


class Echo(Direct):
    def __init__(self, wire: Any, body: bytes) -> None:
        self.wire = wire
        self.body = body

    def begin(self, inbox: Any) -> None:
        asyncio.get_running_loop().call_soon(self.respond, Head(200, ()), self.body)


def post(path: str, body: bytes, more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


def some(rng: random.Random) -> list[tuple[bytes, bytes]]:
    """A few requests that are alike, and the bodies of their answers."""
    path, size, kind = rng.choice(["/q", "/q", "/a"]), rng.choice([0, 5, 40, 3_000]), rng.random()
    return [one(rng, path, size, kind) for _ in range(rng.choice([1, 2, 6]))]


def one(rng: random.Random, path: str, size: int, kind: float) -> tuple[bytes, bytes]:
    if kind < 0.1:
        return f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode(), f"GET {path} ".encode()
    body = bytes(rng.choice(b"\r\n\r\nnoxyz: 1") for _ in range(size))
    answer = f"POST {path} ".encode() + body
    if kind < 0.2:
        chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        head = f"POST {path} HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        return head + chunk + b"0\r\n\r\n", answer
    more = f"X-Request-Id: {rng.randrange(1_000)}\r\n" if kind < 0.5 else ""
    return post(path, body, more), answer


def test_however_the_bytes_are_cut_the_answers_are_the_same() -> None:
    counts: list[int] = []
    for seed in range(6):
        storm(seed, counts)
    assert sum(counts) > 20, "the quicker way was taken"


def storm(seed: int, counts: list[int]) -> None:
    async def main() -> None:
        rng, app = random.Random(seed), Quick()
        server = await up(app, HttpLimits(buffered_body_bytes=rng.choice([1_000, 1 << 20])))
        try:
            for _ in range(3):
                peer = await Peer.of(server.port)
                asked = [each for _ in range(15) for each in some(rng)]
                patient = rng.choice([1, 1, 3, len(asked)])  # requests that it sends before it reads
                for at in range(0, len(asked), patient):
                    some_of = asked[at : at + patient]
                    reading = asyncio.create_task(answers(peer, len(some_of)))
                    await cut(peer, b"".join(data for data, _ in some_of), rng)
                    assert await reading == [(200, body) for _, body in some_of]
                await peer.close()
            counts.append(app.direct)
        finally:
            await server.close()

    run(main)


async def answers(peer: Peer, count: int) -> list[tuple[int, bytes]]:
    found = []
    for _ in range(count):
        status, _, body = await peer.answer()
        found.append((status, body))
    return found


async def cut(peer: Peer, data: bytes, rng: random.Random) -> None:
    """Send it in pieces."""
    at, usual = 0, rng.choice([60, 400, 5_000])
    while at < len(data):
        size = rng.randrange(1, usual)
        await peer.say(data[at : at + size])
        at += size
        await asyncio.sleep(rng.choice([0.0, 0.0, 0.001]))


def test_a_body_that_comes_too_slowly_is_refused_behind_a_known_head() -> None:
    async def main() -> None:
        app = Quick()
        server = await up(app, HttpLimits(body_s=0.1))
        try:
            peer = await Peer.of(server.port)
            for _ in range(3):
                await peer.say(post("/q", b"x" * 50))
                assert (await peer.answer())[0] == 200
            assert app.direct == 1
            await peer.say(post("/q", b"x" * 50)[:-20])
            assert (await peer.answer())[0] == 408
            assert await peer.rest() == b""
        finally:
            await server.close()

    run(main)


def test_who_waits_to_be_told_to_go_on_is_told_each_time() -> None:
    async def main() -> None:
        server = await up(Quick())
        try:
            peer = await Peer.of(server.port)
            data = post("/q", b"hello", "Expect: 100-continue\r\n")
            for _ in range(4):
                await peer.say(data[:-5])
                assert (await peer.answer())[0] == 100
                await peer.say(data[-5:])
                assert (await peer.answer())[2] == b"POST /q hello"
        finally:
            await server.close()

    run(main)


def test_who_leaves_in_the_middle_of_a_body_leaves_nothing_behind() -> None:
    async def main() -> None:
        app = Quick()
        server = await up(app)
        try:
            for how in ("close", "reset", "half"):
                peer = await Peer.of(server.port)
                for _ in range(3):
                    await peer.say(post("/q", b"x" * 50))
                    assert (await peer.answer())[0] == 200
                direct = app.direct
                await peer.say(post("/q", b"x" * 50)[:-20])
                await asyncio.sleep(0.01)
                peer.go(how)
                while server.connections:
                    await asyncio.sleep(0.002)
                assert app.direct == direct
        finally:
            await server.close()

    run(main)


@pytest.mark.parametrize("blank", [b"\r\n\r\n", b"\r\n", b"\n\n", b"\r\r\n\r\n"])
def test_blank_lines_before_a_head_never_stand_for_it(blank: bytes) -> None:
    async def main() -> None:
        app = Quick()
        server = await up(app)
        try:
            for _ in range(2):  # what one connection taught counts on the next
                peer = await Peer.of(server.port)
                for path in ("/q", "/q", "/q", "/a"):
                    body = path.encode() * 250  # longer than a head
                    whole = blank + post(path, body)
                    await peer.say(whole[: -len(body)])
                    await asyncio.sleep(0.01)  # a read of its own
                    await peer.say(body)
                    assert await peer.answer() == (200, ANY, f"POST {path} ".encode() + body)
                await peer.close()
        finally:
            await server.close()

    run(main)
