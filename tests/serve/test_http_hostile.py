"""Hostile and broken clients of the thin server: each gets a refusal or a close, and harms nobody else."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

import pytest

from serve.kit_http import GET, Gate, Peer, ask, echo, run, say, until, up
from tauten.serve.http.framing import Framing
from tauten.serve.http.limits import HttpLimits

H = b"Host: here\r\n"
POST = b"POST / HTTP/1.1\r\n" + H
TE = POST + b"Transfer-Encoding: chunked\r\n"

MALFORMED: dict[str, bytes] = {
    "bare LF": b"GET / HTTP/1.1\nHost: here\n\n",
    "bare LF in a header": b"GET / HTTP/1.1\r\nHost: here\nX: 1\r\n\r\n",
    "bare LF at the end": b"GET / HTTP/1.1\r\nHost: here\r\n\n",
    "bare CR": b"GET / HTTP/1.1\r\nHost: here\rX: 1\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\n" + H + b"X: 1\r\n 2\r\n\r\n",
    "leading space": b"GET / HTTP/1.1\r\n Host: here\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : here\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nHost here\r\n\r\n",
    "empty name": b"GET / HTTP/1.1\r\n" + H + b": 1\r\n\r\n",
    "NUL in a value": b"GET / HTTP/1.1\r\n" + H + b"X: a\0b\r\n\r\n",
    "control in a value": b"GET / HTTP/1.1\r\n" + H + b"X: a\x01b\r\n\r\n",
    "NUL in a name": b"GET / HTTP/1.1\r\n" + H + b"X\0: a\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\n" + H + H + b"\r\n",
    "host with a path": b"GET / HTTP/1.1\r\nHost: here/there\r\n\r\n",
    "host with a user": b"GET / HTTP/1.1\r\nHost: me@here\r\n\r\n",
    "host list": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "same length twice": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na",
    "length list": POST + b"Content-Length: 1, 1\r\n\r\na",
    "negative length": POST + b"Content-Length: -1\r\n\r\n",
    "signed length": POST + b"Content-Length: +1\r\n\r\na",
    "hex length": POST + b"Content-Length: 0x1\r\n\r\na",
    "empty length": POST + b"Content-Length:\r\n\r\n",
    "huge length": POST + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "large length": POST + b"Content-Length: 99999999\r\n\r\n",
    "length and coding": TE + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
    "coding and length": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two codings": TE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding of a coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding after chunked": POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "identity coding": POST + b"Transfer-Encoding: identity\r\n\r\n",
    "hidden coding": POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "coding in HTTP/1.0": b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bad chunk size": TE + b"\r\nzz\r\n\r\n",
    "hex-prefixed chunk": TE + b"\r\n0x1\r\na\r\n0\r\n\r\n",
    "negative chunk": TE + b"\r\n-1\r\na\r\n0\r\n\r\n",
    "endless chunk": TE + b"\r\nFFFFFFFFFFFFFFFFF\r\na",
    "chunk with LF": TE + b"\r\n1\na\n0\n\n",
    "chunk without end": TE + b"\r\n1\r\naXX0\r\n\r\n",
    "space after chunk size": TE + b"\r\n1 \r\na\r\n0\r\n\r\n",
    "length as a trailer": TE + b"\r\n0\r\nContent-Length: 5\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/2 as a word": b"GET / HTTP/2.0\r\n" + H + b"\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\n" + H + b"\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n",
    "no version": b"GET / \r\n\r\n",
    "unknown method": b"FOO / HTTP/1.1\r\n" + H + b"\r\n",
    "method in lower case": b"get / HTTP/1.1\r\n" + H + b"\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "zeros": bytes(64),
    "relative target": b"GET a/b HTTP/1.1\r\n" + H + b"\r\n",
    "fragment": b"GET /a#b HTTP/1.1\r\n" + H + b"\r\n",
    "other scheme": b"GET ftp://here/ HTTP/1.1\r\n" + H + b"\r\n",
    "absolute with a user": b"GET http://me@here/ HTTP/1.1\r\n" + H + b"\r\n",
    "proxy": b"CONNECT here:1 HTTP/1.1\r\n" + H + b"\r\n",
    "star": b"GET * HTTP/1.1\r\n" + H + b"\r\n",
    "broken escape": b"GET /%zz HTTP/1.1\r\n" + H + b"\r\n",
    "cut escape": b"GET /%2 HTTP/1.1\r\n" + H + b"\r\n",
    "escapes that are no UTF-8": b"GET /%ff%fe HTTP/1.1\r\n" + H + b"\r\n",
    "escaped NUL": b"GET /%00 HTTP/1.1\r\n" + H + b"\r\n",
    "raw bytes in the target": b"GET /\xff HTTP/1.1\r\n" + H + b"\r\n",
    "NUL in the target": b"GET /\0 HTTP/1.1\r\n" + H + b"\r\n",
    "long target": b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + H + b"\r\n",
    "long header": b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "endless header": b"GET / HTTP/1.1\r\n" + H + b"X: " + b"a" * 400_000,
    "many headers": b"GET / HTTP/1.1\r\n" + H + b"X: 1\r\n" * 200 + b"\r\n",
    "endless trailer": TE + b"\r\n0\r\n" + b"X: 1\r\n" * 40_000,
    "endless extension": TE + b"\r\n1;" + b"a" * 200_000,
    "all framing": TE + b"\r\n" + b"1;aaaaaaaaaaaaaaaaaaaa\r\nb\r\n" * 10_000,
    "odd expectation": POST + b"Expect: tea\r\nContent-Length: 1\r\n\r\na",
}


@pytest.mark.parametrize("uv", [True, False])
def test_malformed_requests_are_refused_and_the_server_lives(uv: bool) -> None:
    async def main() -> None:
        async with await up(echo, HttpLimits(body_bytes=10_000_000, linger_s=0.2)) as server:
            for name, data in MALFORMED.items():
                peer = await Peer.of(server.port)
                peer.writer.write(data)
                got = await peer.rest()
                await peer.close()
                assert got[9:12] in (b"400", b"413", b"414", b"417", b"431"), (name, got[:100])
                assert got.count(b"server: tauten") == 1, (name, got)
                assert b"connection: close" in got, name
            assert (await ask(server.port, GET))[0] == 200
            await until(lambda: server.connections == 0)

    run(main, uv=uv)


def test_malformed_requests_in_pieces_are_refused_as_well() -> None:
    async def main() -> None:
        async with await up(echo, HttpLimits(body_bytes=10_000_000, linger_s=0.2)) as server:
            for name, data in MALFORMED.items():
                if len(data) > 500:
                    continue
                peer = await Peer.of(server.port)
                for at in range(0, len(data), 7):
                    peer.writer.write(data[at : at + 7])
                    await asyncio.sleep(0)
                got = await peer.rest()
                await peer.close()
                assert got[9:12] in (b"400", b"413", b"417"), (name, got[:100])
            assert (await ask(server.port, GET))[0] == 200

    run(main)


def test_no_smuggled_request_reaches_the_app() -> None:
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        await echo(scope, receive, send)

    smuggled = b"GET /smuggled HTTP/1.1\r\n" + H + b"\r\n"

    async def main() -> None:
        async with await up(app, HttpLimits(linger_s=0.2)) as server:
            for name, data in MALFORMED.items():
                if "cod" not in name and "length" not in name and "chunk" not in name:
                    continue
                peer = await Peer.of(server.port)
                peer.writer.write(GET + data + smuggled)
                await peer.rest()
                await peer.close()
            assert set(paths) == {"/"}

    run(main)


def test_random_bytes_never_hang_or_kill() -> None:
    """Mutations of good requests, with a fixed seed."""
    good = [
        GET,
        POST + b"Content-Length: 3\r\n\r\nabc",
        TE + b"\r\n3\r\nabc\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\n"
        + H
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    ]
    dice = random.Random(7)

    def mutant() -> bytes:
        data = bytearray(dice.choice(good) + dice.choice(good))
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data))
            data[at : at + dice.randint(0, 3)] = dice.choice((b"", b"\r\n", b"\0", b"\xff", b" ", b"0", b":"))
        return bytes(data)

    async def main() -> None:
        async with await up(echo, HttpLimits(head_s=0.5, body_s=0.5, idle_s=0.5, linger_s=0.1)) as server:

            async def one() -> None:
                peer = await Peer.of(server.port)
                peer.writer.write(mutant())
                peer.writer.write_eof()
                got = await peer.rest()
                await peer.close()
                assert b"HTTP/1.1 500" not in got

            for _ in range(20):
                await asyncio.gather(*(one() for _ in range(20)))
            assert (await ask(server.port, GET))[0] == 200
            await until(lambda: server.connections == 0)

    run(main)


def test_a_body_beyond_the_limit_is_413_however_it_comes() -> None:
    async def main() -> None:
        async with await up(echo, HttpLimits(body_bytes=100_000, buffered_body_bytes=50_000)) as server:
            declared = POST + b"Content-Length: 100001\r\n\r\n" + bytes(100_001)
            chunked = TE + b"\r\n" + (b"4000\r\n" + bytes(0x4000) + b"\r\n") * 9 + b"0\r\n\r\n"
            expected = POST + b"Expect: 100-continue\r\nContent-Length: 100001\r\n\r\n"
            for data in (declared, chunked, expected):
                status, headers, _ = await ask(server.port, data)
                assert (status, headers["connection"]) == (413, "close")
            assert (await ask(server.port, POST + b"Content-Length: 100000\r\n\r\n" + bytes(100_000)))[
                0
            ] == 200

    run(main)


def test_the_read_that_ends_a_chunked_body_does_not_count_as_the_next_head() -> None:
    async def main() -> None:
        async with await up(echo, HttpLimits(header_bytes=1000)) as server:
            peer = await Peer.of(server.port)
            await peer.say(TE + b"Expect: 100-continue\r\n\r\n")
            assert (await peer.answer())[0] == 100  # what follows is a read of its own
            await peer.say(b"1388\r\n" + bytes(5000) + b"\r\n0\r\n\r\n" + GET[:8])
            assert (await peer.answer())[0] == 200
            await peer.say(GET[8:])
            assert (await peer.answer())[0] == 200
            await peer.close()

    run(main)


# sixteen KiB, which allow for a lot of framing
TRAILED = TE + b"\r\n4000\r\n" + bytes(0x4000) + b"\r\n0\r\n"


def test_trailers_are_bounded_as_a_head_is() -> None:
    async def main() -> None:
        async with await up(echo, HttpLimits(linger_s=0.2)) as server:
            for trailers in (b"ab:cd\r\n" * 10_000, b"ab:" + b"c" * 70_000 + b"\r\n"):
                status, headers, _ = await ask(server.port, TRAILED + trailers + b"\r\n")
                assert (status, headers["connection"]) == (431, "close")

    run(main)


def test_a_trailer_that_does_not_end_is_refused_before_its_end() -> None:
    async def main() -> None:
        async with await up(echo, HttpLimits(header_bytes=1000, linger_s=0.2)) as server:
            peer = await Peer.of(server.port)
            await peer.say(TE + b"Expect: 100-continue\r\n\r\n")
            assert (await peer.answer())[0] == 100  # what follows is a read of its own
            await peer.say(b"4000\r\n" + bytes(0x4000) + b"\r\n0\r\nab:")
            answer = asyncio.create_task(peer.answer())
            sent = 0
            while not answer.done() and sent < 100_000:  # less than framing may have for such a body
                peer.writer.write(b"c" * 500)
                sent += 500
                await asyncio.sleep(0.001)
            assert answer.done()
            assert (await answer)[0] == 400
            await peer.close()

    run(main)


def test_trailers_that_were_read_are_not_kept() -> None:
    async def main() -> None:
        async with await up(echo) as server:
            peer = await Peer.of(server.port)
            for _ in range(3):
                await peer.say(TRAILED + b"ab:cd\r\n" * 1000 + b"\r\n")
                assert (await peer.answer())[0] == 200
                (connection,) = server._listener.hub.connections  # type: ignore[attr-defined]
                assert connection._reader._lines == []
            await peer.close()

    run(main)


def test_framing_counts_every_read_of_a_body_that_does_not_grow() -> None:
    framing = Framing(header_bytes=100)
    framing.whole_head()
    framing.piece = 60
    told = [framing.part_of_chunked(size) for size in (0, 0, 5, 5, 9, 9)]
    assert told == [None] * 6
    assert (refused := framing.part_of_chunked(9)) is not None
    assert refused.status == 400
    framing.whole_head()
    assert framing.part_of_chunked(0) is None


def test_framing_counts_every_read_of_a_head_but_the_first() -> None:
    framing = Framing(header_bytes=100)
    framing.piece = 60
    assert [framing.part_of_head() for _ in range(2)] == [None, None]
    assert (refused := framing.part_of_head()) is not None
    assert refused.status == 431
    framing.whole_head()
    assert (framing.before, framing.part_of_head()) == (0, None)


CODES = {400: "E416", 408: "E417", 413: "E288", 414: "E419", 417: "E416", 431: "E418", 503: "E422"}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_refusal_has_a_code_of_ours_and_says_what_to_do(name: str) -> None:
    async def main() -> None:
        async with await up(echo, HttpLimits(body_bytes=10_000_000, linger_s=0.2)) as server:
            peer = await Peer.of(server.port)
            peer.writer.write(MALFORMED[name])
            got = await peer.rest()
            await peer.close()
            head, _, body = got[got.rindex(b"HTTP/1.1 4") :].partition(b"\r\n\r\n")
            told = json.loads(body)["error"]
            assert told["code"] == CODES[int(head[9:12])]
            assert told["message"]
            assert told["help"]

    run(main)


def test_so_it_is_for_slow_clients_crowds_and_apps_that_fail() -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("secret")

    async def main() -> None:
        async with await up(fail, HttpLimits(connections=1, head_s=0.1, linger_s=0.1)) as server:
            slow = await Peer.of(server.port)
            await slow.say(GET[:-4])
            crowd, late = (await ask(server.port, GET))[2], (await slow.answer())[2]
            await slow.close()
            await until(lambda: server.connections == 0)
            failed = (await ask(server.port, GET))[2]
            assert [json.loads(each)["error"]["code"] for each in (crowd, late, failed)] == [
                "E422",
                "E417",
                "E500",
            ]

    run(main)


@pytest.mark.parametrize("uv", [True, False])
def test_slow_heads_and_bodies_are_408_and_idle_connections_close(uv: bool) -> None:
    async def main() -> None:
        limits = HttpLimits(head_s=0.2, body_s=0.2, idle_s=0.2, linger_s=0.1, buffered_body_bytes=10)
        async with await up(echo, limits) as server:

            async def drip(data: bytes) -> bytes:
                peer = await Peer.of(server.port)
                got = asyncio.create_task(peer.rest())
                for byte in data:
                    if got.done():
                        break
                    peer.writer.write(bytes([byte]))
                    await asyncio.sleep(0.01)
                result = await got
                await peer.close()
                return result

            head, small, large, later, idle, fresh = await asyncio.gather(
                drip(GET[:-4] + b"\r\nX: " + b"a" * 500),
                drip(POST + b"Content-Length: 9\r\n\r\n"),
                drip(POST + b"Content-Length: 900\r\n\r\n"),
                drip(TE + b"\r\n" + b"1\r\na\r\n" * 100),
                drip(GET),
                drip(b""),
            )
            for got in (head, small, large, later):
                assert got.startswith(b"HTTP/1.1 408"), got
            assert idle.count(b"HTTP/1.1") == 1  # answered, and closed when nothing more came
            assert fresh == b""
            await until(lambda: server.connections == 0)

    run(main, uv=uv)


def test_a_slow_app_is_not_taken_for_a_slow_client() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        size = 0
        while True:
            message = await receive()
            size += len(message["body"])
            if not message["more_body"]:
                break
            await asyncio.sleep(0.15)  # several times the body's clock, all in all
        await say(send, b"%d" % size)

    async def main() -> None:
        limits = HttpLimits(body_s=0.1, head_s=0.1, buffered_body_bytes=1000, waiting_body_bytes=1000)
        async with await up(app, limits) as server:
            size = 1_000_000
            got = await ask(server.port, POST + b"Content-Length: %d\r\n\r\n" % size + bytes(size))
            assert got[2] == b"%d" % size

    run(main)


def test_connections_beyond_the_limit_are_503() -> None:
    async def main() -> None:
        async with await up(echo, HttpLimits(connections=2, linger_s=0.2)) as server:
            peers = [await Peer.of(server.port) for _ in range(2)]
            for peer in peers:
                await peer.say(GET)
                assert (await peer.answer())[0] == 200
            status, headers, _ = await ask(server.port, GET)
            assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
            await peers.pop().close()
            await until(lambda: server.connections == 1)
            assert (await ask(server.port, GET))[0] == 200
            await peers.pop().close()

    run(main)


def test_a_refusal_in_the_middle_of_a_running_request_stops_its_app() -> None:
    async def main() -> None:
        gate = Gate()
        async with await up(gate, HttpLimits(buffered_body_bytes=4)) as server:
            peer = await Peer.of(server.port)
            await peer.say(TE + b"\r\n8\r\nabcdefgh\r\n")
            await until(lambda: gate.running == 1)
            await peer.say(b"zz\r\n")
            assert (await peer.answer())[0] == 400
            await until(lambda: gate.running == 0)
            await peer.close()

    run(main)


def test_a_refused_client_that_goes_on_sending_reads_its_answer() -> None:
    """The answer must not be overtaken by a reset while the client still sends its body."""

    async def main() -> None:
        async with await up(echo, HttpLimits(body_bytes=1000)) as server:
            for _ in range(10):
                peer = await Peer.of(server.port)
                await peer.say(POST + b"Content-Length: 5000000\r\n\r\n")
                for _ in range(50):
                    peer.writer.write(bytes(100_000))
                    await asyncio.sleep(0)
                assert (await peer.answer())[0] == 413
                await peer.close()

    run(main)


def test_upgrades_that_nobody_offers_are_ignored() -> None:
    async def main() -> None:
        async with await up(echo) as server:
            peer = await Peer.of(server.port)
            upgrade = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
            await peer.say(b"GET /a HTTP/1.1\r\n" + H + upgrade + b"\r\n" + GET)
            assert (await peer.answer())[2] == b"GET /a "
            assert (await peer.answer())[2] == b"GET / "
            await peer.say(POST + upgrade + b"Content-Length: 3\r\n\r\nabc" + GET)
            assert (await peer.answer())[2] == b"POST / abc"
            assert (await peer.answer())[2] == b"GET / "
            await peer.say(TE + upgrade + b"\r\n3\r\nabc\r\n0\r\n\r\n" + GET)
            assert (await peer.answer())[2] == b"POST / abc"
            assert (await peer.answer())[2] == b"GET / "
            for byte in POST + upgrade + b"Content-Length: %d\r\n\r\n" % (len(GET) + 2) + GET + b"xy" + GET:
                await peer.say(bytes([byte]))
            assert (await peer.answer())[2] == b"POST / " + GET + b"xy"  # a body, never a request
            assert (await peer.answer())[2] == b"GET / "
            await peer.close()

    run(main)
