"""The thin server's HTTP: requests, answers, order, limits, departures, drain."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from serve.kit_http import GET, Gate, Peer, ask, echo, run, say, until, up, whole
from tauten.errors import InputError, MachineError
from tauten.serve.http.limits import MIB, HttpLimits
from tauten.serve.http.listener import serve


def post(body: bytes, *, path: str = "/", more: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: here\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


CHUNKED = b"POST /c HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\n"


# -- requests ---------------------------------------------------------------------------------------------


def test_keep_alive_serves_many_requests_on_one_connection() -> None:
    async def main() -> None:
        async with await up(echo) as server:
            peer = await Peer.of(server.port)
            for n in range(5):
                await peer.say(post(b"x" * n, path=f"/{n}"))
                status, headers, body = await peer.answer()
                assert (status, body) == (200, b"POST /%d " % n + b"x" * n)
                assert headers["server"] == "tauten"
                assert headers["date"].endswith("GMT")
                assert "connection" not in headers
            assert server.connections == 1
            await peer.close()

    run(main)


@pytest.mark.parametrize("uv", [True, False])
def test_the_same_head_again_is_the_same_request(uv: bool) -> None:
    """Repeated heads skip the parser; bodies, and heads that differ in one byte, must not be confused."""
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        scope["headers"].append((b"x-app", b"was here"))
        await echo(scope, receive, send)

    async def main() -> None:
        async with await up(app) as server:
            peer = await Peer.of(server.port)
            bodies = [b"aaa", b"bbb", b"\r\n\r", b"ccc", b"dddd", b"eee", b"\r\n\r\n", b"fff"]
            for body in bodies:
                await peer.say(post(body))
                assert (await peer.answer())[2] == b"POST / " + body
            await peer.say(post(b"xyz", path="/q"))
            assert (await peer.answer())[2] == b"POST /q xyz"
            for part in (b"POST / HTTP/1.1\r\nHo", b"st: here\r\nContent-Length: 3\r\n\r\nx", b"yz"):
                await peer.say(part)
                await asyncio.sleep(0.01)
            assert (await peer.answer())[2] == b"POST / xyz"
            await peer.say(post(b"1") + post(b"2"))
            assert [(await peer.answer())[2] for _ in range(2)] == [b"POST / 1", b"POST / 2"]
            await peer.close()
        assert [len(scope["headers"]) for scope in scopes] == [3] * len(scopes)

    run(main, uv=uv)


def test_the_scope_is_what_asgi_says() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await say(send, b"")

    async def main() -> None:
        async with await up(app, root_path="/root") as server:
            await ask(
                server.port, b"GET /a%20b/%C3%A9?q=%20&r HTTP/1.1\r\nHOST: h:1\r\nX-A:  1 \r\nx-a: 2\r\n\r\n"
            )
            scope = seen[0]
            assert scope["type"] == "http"
            assert scope["path"] == "/a b/é"
            assert scope["raw_path"] == b"/a%20b/%C3%A9"
            assert scope["query_string"] == b"q=%20&r"
            assert scope["headers"] == [(b"host", b"h:1"), (b"x-a", b"1"), (b"x-a", b"2")]
            assert (scope["method"], scope["http_version"], scope["scheme"]) == ("GET", "1.1", "http")
            assert scope["server"] == ("127.0.0.1", server.port)
            assert scope["client"][0] == "127.0.0.1"
            assert scope["root_path"] == "/root"

    run(main)


def test_an_absolute_target_overrides_the_host() -> None:
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["path"], scope["query_string"], dict(scope["headers"])[b"host"]))
        await say(send, b"")

    async def main() -> None:
        async with await up(app) as server:
            await ask(server.port, b"GET http://there:9/p?q HTTP/1.1\r\nHost: here\r\n\r\n")
            await ask(server.port, b"GET http://there HTTP/1.1\r\nHost: here\r\n\r\n")
        assert seen == [("/p", b"q", b"there:9"), ("/", b"", b"there")]

    run(main)


def test_a_small_body_is_there_at_once() -> None:
    """The first receive() returns the whole body without giving the loop a turn."""
    turns: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        turned = False

        def turn() -> None:
            nonlocal turned
            turned = True

        asyncio.get_running_loop().call_soon(turn)
        message = await receive()
        assert (message["body"], message["more_body"]) == (b"abc", False)
        turns.append(turned)
        await say(send, b"")

    async def main() -> None:
        async with await up(app) as server:
            await ask(server.port, post(b"abc"))
            peer = await Peer.of(server.port)  # in pieces: the app runs when the body is whole
            for byte in post(b"abc"):
                await peer.say(bytes([byte]))
            assert (await peer.answer())[0] == 200
            await peer.close()
        assert turns == [False, False]

    run(main)


def test_chunked_bodies_with_extensions_and_trailers() -> None:
    async def main() -> None:
        async with await up(echo) as server:
            peer = await Peer.of(server.port)
            await peer.say(CHUNKED + b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\nHost: x\r\n\r\n" + GET)
            assert (await peer.answer())[2] == b"POST /c abcde"
            assert (await peer.answer())[2] == b"GET / "
            for byte in CHUNKED + b"3\r\nabc\r\n0\r\n\r\n":
                await peer.say(bytes([byte]))
            assert (await peer.answer())[2] == b"POST /c abc"
            await peer.close()

    run(main)


def test_large_bodies_stream_with_bounded_memory() -> None:
    sizes: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        total = 0
        while True:
            message = await receive()
            sizes.append(len(message["body"]))
            total += sizes[-1]
            if not message["more_body"]:
                break
            await asyncio.sleep(0.001)  # slower than the client
        await say(send, b"%d" % total)

    async def main() -> None:
        limits = HttpLimits(buffered_body_bytes=64 * 1024, waiting_body_bytes=128 * 1024)
        async with await up(app, limits) as server:
            body = bytes(10 * MIB)
            assert (await ask(server.port, post(body)))[2] == b"%d" % len(body)
            chunks = b"".join(b"10000\r\n" + bytes(65536) + b"\r\n" for _ in range(40)) + b"0\r\n\r\n"
            assert (await ask(server.port, CHUNKED + chunks))[2] == b"%d" % (40 * 65536)
        assert max(sizes) <= 128 * 1024 + 512 * 1024  # the bound, and what one read can bring

    run(main)


def test_many_clients_with_large_bodies_take_turns() -> None:
    """No connection is served a second time while another that is ready waits for its first."""
    order: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole(receive)
        order.append(int(scope["path"][1:]))
        await say(send, bytes(100_000))

    async def main() -> None:
        async with await up(app) as server:
            peers = [await Peer.of(server.port) for _ in range(16)]
            for number, peer in enumerate(peers):  # each is known to the server before any body comes
                await peer.say(post(b"", path=f"/{number}"))
                await peer.answer()
            order.clear()

            async def client(number: int) -> None:
                peer = peers[number]
                for _ in range(8):
                    await peer.say(post(bytes(100_000), path=f"/{number}"))
                    assert len((await peer.answer())[2]) == 100_000
                await peer.close()

            await asyncio.gather(*(client(number) for number in range(16)))
        assert len(order) == 128
        lead = max(
            max(order[: at + 1].count(n) for n in range(16))
            - min(order[: at + 1].count(n) for n in range(16))
            for at in range(len(order))
        )
        assert lead <= 4

    run(main)


def test_expect_100_continue_waits_for_the_app() -> None:
    async def main() -> None:
        async with await up(echo) as server:
            peer = await Peer.of(server.port)
            request = post(b"abc", more="Expect: 100-continue\r\n")
            await peer.say(request[:-3])
            assert (await peer.answer())[0] == 100
            await peer.say(b"abc")
            assert (await peer.answer())[2] == b"POST / abc"
            await peer.close()

    run(main)


def test_expect_100_continue_may_be_refused_before_the_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await say(send, b"no key", status=401)

    async def main() -> None:
        async with await up(app) as server:
            peer = await Peer.of(server.port)
            await peer.say(post(b"abc", more="Expect: 100-continue\r\n")[:-3])
            status, headers, _ = await peer.answer()
            assert (status, headers["connection"]) == (401, "close")
            assert await peer.rest() == b""
            await peer.close()
            assert (await ask(server.port, post(b"a", more="Expect: tea\r\n")))[0] == 417

    run(main)


# -- answers ----------------------------------------------------------------------------------------------


def test_head_has_the_headers_and_no_body() -> None:
    async def main() -> None:
        async with await up(echo) as server:
            peer = await Peer.of(server.port)
            await peer.say(b"HEAD /h HTTP/1.1\r\nHost: here\r\n\r\n")
            _, headers, _ = await peer.answer(head_only=True)
            assert headers["content-length"] == str(len("HEAD /h "))
            await peer.say(GET)
            assert (await peer.answer())[2] == b"GET / "
            await peer.close()

    run(main)


@pytest.mark.parametrize("status", [204, 304])
def test_answers_that_have_no_body(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await say(send, b"ignored", status=status)

    async def main() -> None:
        async with await up(app) as server:
            peer = await Peer.of(server.port)
            await peer.say(GET + GET)
            for _ in range(2):
                got, headers, _ = await peer.answer()
                assert got == status
                assert not {"content-length", "transfer-encoding"} & set(headers)
            await peer.close()

    run(main)


async def three(scope: Any, receive: Any, send: Any) -> None:
    """A stream of three parts, of unknown length."""
    await send({"type": "http.response.start", "status": 200, "headers": [[b"X-A", b"1"]]})
    for part in (b"one", b"", b"two"):
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b"three"})


def test_a_stream_is_chunked() -> None:
    async def main() -> None:
        async with await up(three) as server:
            peer = await Peer.of(server.port)
            await peer.say(GET + GET)
            for _ in range(2):
                _, headers, body = await peer.answer()
                assert (headers["transfer-encoding"], headers["x-a"], body) == (
                    "chunked",
                    "1",
                    b"onetwothree",
                )
            await peer.close()

    run(main)


def test_http_1_0_closes_unless_asked() -> None:
    async def main() -> None:
        async with await up(three) as server:
            peer = await Peer.of(server.port)
            await peer.say(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            _, headers, body = await peer.answer()
            assert "transfer-encoding" not in headers
            assert body == b"onetwothree"  # its length unknown, it ends with the connection
            await peer.close()
        async with await up(echo) as server:
            peer = await Peer.of(server.port)
            await peer.say(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await peer.answer())[1]["connection"] == "keep-alive"
            await peer.say(b"GET / HTTP/1.0\r\n\r\n")
            assert (await peer.answer())[1]["connection"] == "close"
            assert await peer.rest() == b""
            await peer.close()

    run(main)


def test_connection_close_ends_after_the_answer_whoever_says_it() -> None:
    async def closing(scope: Any, receive: Any, send: Any) -> None:
        await say(send, b"bye", headers=[(b"Connection", b"Close")])

    async def main() -> None:
        for app, request in ((echo, GET[:-2] + b"Connection: close\r\n\r\n"), (closing, GET)):
            async with await up(app) as server:
                peer = await Peer.of(server.port)
                await peer.say(request + GET)  # the second is dropped
                assert (await peer.answer())[1]["connection"] == "close"
                assert await peer.rest() == b""
                await peer.close()

    run(main)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-a", b"1\r\nset-cookie: stolen")],
        [(b"x-a", b"1\n")],
        [(b"x-a", b"1\0")],
        [(b"x a", b"1")],
        [(b"x-a\r\nx-b", b"1")],
        [(b"content-length", b"-1")],
        [(b"date", b"1\r\nx: y")],
    ],
)
def test_headers_cannot_be_injected(
    headers: list[tuple[bytes, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await say(send, b"", headers=headers)

    async def main() -> None:
        async with await up(app) as server:
            for _ in range(2):
                status, got, body = await ask(server.port, GET)
                assert status == 500
                assert "set-cookie" not in got
                assert b"stolen" not in body
        assert "the application failed" in caplog.text

    run(main)


def test_an_app_may_have_its_own_date_and_server() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await say(
            send, b"", headers=[(b"Date", b"today"), (b"server", b"mine"), (b"transfer-encoding", b"chunked")]
        )

    async def main() -> None:
        async with await up(app) as server:
            _, headers, _ = await ask(server.port, GET)
            assert (headers["date"], headers["server"], headers["content-length"]) == ("today", "mine", "0")

    run(main)


@pytest.mark.parametrize("flaw", ["raises", "silent", "late", "twice", "long", "short", "unknown", "status"])
def test_a_faulty_app_never_ends_falsely(flaw: str, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        start = {"type": "http.response.start", "status": 99 if flaw == "status" else 200, "headers": []}
        if flaw in ("long", "short"):
            start["headers"] = [(b"content-length", b"3" if flaw == "long" else b"9")]
        if flaw == "raises":
            raise RuntimeError("secret")
        if flaw == "silent":
            return
        await send(start)
        if flaw == "twice":
            await send(start)
        if flaw == "unknown":
            await send({"type": "http.response.tea"})
        await send({"type": "http.response.body", "body": b"12345", "more_body": flaw == "late"})
        if flaw == "late":
            raise RuntimeError("secret")

    async def main() -> None:
        async with await up(app) as server:
            peer = await Peer.of(server.port)
            await peer.say(GET)
            got = await peer.rest()
            assert b"secret" not in got
            if flaw in ("late", "short"):
                assert got.startswith(b"HTTP/1.1 200")
                assert not got.endswith(b"0\r\n\r\n")  # cut off, and the client can see it
            else:
                assert got.startswith(b"HTTP/1.1 500")
            await peer.close()
            await until(lambda: server.connections == 0)
        assert (flaw == "short") or "the application failed" in caplog.text

    run(main)


# -- pipelining -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uv", [True, False])
def test_pipelined_answers_come_in_order_and_are_bounded(uv: bool) -> None:
    most = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal most
        most = max(most, len(held[0].queue))
        body = await whole(receive)
        await asyncio.sleep(0.0005 * (hash(scope["path"]) % 3))
        await say(send, scope["path"].encode() + body)

    held: list[Any] = []

    async def main() -> None:
        limits = HttpLimits(pipelined=4)
        async with await up(app, limits) as server:
            peer = await Peer.of(server.port)
            await until(lambda: server.connections == 1)
            held.extend(server._listener.hub.connections)  # type: ignore[attr-defined]
            requests = []
            for n in range(300):
                body = b"x" * (n % 7)
                if n % 3 == 0:
                    requests.append(b"GET /%d HTTP/1.1\r\nHost: here\r\n\r\n" % n)
                elif n % 3 == 1:
                    requests.append(post(body, path=f"/{n}"))
                else:
                    requests.append(CHUNKED.replace(b"/c", b"/%d" % n) + b"2\r\nab\r\n0\r\n\r\n")
            await peer.say(b"".join(requests))
            for n in range(300):
                body = (b"", b"x" * (n % 7), b"ab")[n % 3]
                assert (await peer.answer())[2] == b"/%d" % n + body
            await peer.close()
        assert most <= 5  # four, and the one that a piece ends besides

    run(main, uv=uv)


def test_a_pipelined_mistake_is_answered_after_what_came_before() -> None:
    async def main() -> None:
        async with await up(echo) as server:
            peer = await Peer.of(server.port)
            await peer.say(GET + post(b"x") + b"GARBAGE\r\n\r\n" + GET)
            assert [(await peer.answer())[0] for _ in range(3)] == [200, 200, 400]
            assert await peer.rest() == b""
            await peer.close()

    run(main)


def test_a_pipeline_that_is_not_read_does_not_pile_up_answers() -> None:
    served = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal served
        served += 1
        await say(send, bytes(1_000_000))

    async def main() -> None:
        async with await up(app) as server:
            peer = await Peer.of(server.port)
            await peer.say(GET * 100)
            await asyncio.sleep(0.2)
            assert served < 20  # what the sockets' buffers hold, and one
            for _ in range(100):
                assert len((await peer.answer())[2]) == 1_000_000
            assert served == 100
            await peer.close()

    run(main)


# -- departures and back-pressure -------------------------------------------------------------------------


async def endless(scope: Any, receive: Any, send: Any) -> None:
    """Sends until it is stopped."""
    scope["state"]["sent"].append(0)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    try:
        while True:
            await send({"type": "http.response.body", "body": bytes(50_000), "more_body": True})
            scope["state"]["sent"][0] += 50_000
            await asyncio.sleep(0)
    finally:
        scope["state"]["ended"].set()


class Stateful:
    """An app with a lifespan that leaves a record for its requests."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.sent: list[int] = []
        self.ended = asyncio.Event()
        self.stopped = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        await receive()
        scope["state"] |= {"sent": self.sent, "ended": self.ended}
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self.stopped = True
        await send({"type": "lifespan.shutdown.complete"})


def test_a_client_that_does_not_read_stops_the_stream() -> None:
    async def main() -> None:
        app = Stateful(endless)
        async with await up(app, lifespan=True) as server:
            peer = await Peer.of(server.port)
            await peer.say(GET)
            await until(lambda: bool(app.sent) and app.sent[0] > 0)
            before = -1
            while app.sent[0] != before:  # until it stands still
                before = app.sent[0]
                await asyncio.sleep(0.1)
            assert before < 16 * MIB  # what kernels buffer between two sockets
            await peer.reader.readexactly(1)
            await peer.close()
            await app.ended.wait()
        assert app.stopped

    run(main)


def test_a_client_that_never_reads_is_cut_off() -> None:
    async def main() -> None:
        app = Stateful(endless)
        async with await up(app, HttpLimits(write_stall_s=0.1), lifespan=True) as server:
            peer = await Peer.of(server.port)
            await peer.say(GET)
            await app.ended.wait()
            await until(lambda: server.connections == 0)
            await peer.close()

    run(main)


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_departure_stops_the_task(how: str) -> None:
    async def main() -> None:
        gate = Gate()
        async with await up(gate) as server:
            peer = await Peer.of(server.port)
            await peer.say(post(b"abc"))
            await until(lambda: gate.running == 1)
            peer.go(how)
            await until(lambda: gate.cancelled == 1)
            await until(lambda: server.connections == 0)
            await peer.close()

    run(main)


def test_a_departure_is_told_by_callback_and_by_receive() -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await whole(receive)
        departure = scope["extensions"]["tauten.disconnect"]
        departure.add_callback(lambda: told.append("callback"))
        departure.add_callback(lambda: 1 / 0)  # a watcher's mistake harms no other
        departure.add_callback(forgotten := lambda: told.append("forgotten"))
        departure.remove_callback(forgotten)
        assert (await receive())["type"] == "http.disconnect"
        told.append("receive")
        departure.add_callback(lambda: told.append("late"))
        await asyncio.sleep(0.15)  # who watches is not cancelled
        told.append("end")

    async def main() -> None:
        mistakes: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: mistakes.append(context))
        async with await up(app) as server:
            peer = await Peer.of(server.port)
            await peer.say(GET)
            await asyncio.sleep(0.02)
            peer.writer.transport.abort()
            await until(lambda: "end" in told)
        assert told == ["callback", "receive", "late", "end"]
        assert len(mistakes) == 1

    run(main)


def test_a_half_closed_client_still_gets_an_answer_that_is_quick() -> None:
    async def main() -> None:
        async with await up(echo) as server:
            peer = await Peer.of(server.port)
            peer.writer.write(post(b"abc") + GET)
            peer.writer.write_eof()
            assert (await peer.answer())[2] == b"POST / abc"
            assert (await peer.answer())[2] == b"GET / "
            assert await peer.rest() == b""
            await peer.close()

    run(main)


def test_a_departure_in_the_middle_of_a_body_is_told() -> None:
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (message := await receive())["type"] == "http.request":
            seen.append(message["type"])
        seen.append(message["type"])
        with pytest.raises(ConnectionResetError):
            await say(send, b"")
        seen.append("refused")

    async def main() -> None:
        async with await up(app, HttpLimits(buffered_body_bytes=10)) as server:
            peer = await Peer.of(server.port)
            await peer.say(post(bytes(100))[:-1])
            await until(lambda: "http.request" in seen)
            await peer.close()
            await until(lambda: "refused" in seen)
            peer = await Peer.of(server.port)
            await peer.say(post(b"abcdefghi")[:-1])  # small: the app never hears of it
            await peer.close()
            await until(lambda: server.connections == 0)
        assert seen[-2:] == ["http.disconnect", "refused"]

    run(main)


# -- drain and close --------------------------------------------------------------------------------------


def test_a_drain_finishes_what_runs_and_closes_what_idles() -> None:
    async def main() -> None:
        gate = Gate()
        async with await up(gate) as server:
            idle, busy, half = [await Peer.of(server.port) for _ in range(3)]
            await busy.say(post(b"abc", path="/busy"))
            await half.say(post(b"abc", path="/half")[:-1])
            await until(lambda: gate.running == 1 and server.connections == 3)
            draining = asyncio.create_task(server.drain(10.0))
            await asyncio.sleep(0.05)
            with pytest.raises(ConnectionRefusedError):
                await Peer.of(server.port)
            await half.say(b"c")  # its first byte came before the drain
            gate.open.set()
            for peer, path in ((busy, b"/busy"), (half, b"/half")):
                status, headers, body = await peer.answer()
                assert (status, headers["connection"], body) == (200, "close", path + b"abc")
                assert await peer.rest() == b""
            assert await idle.rest() == b""
            for peer in (idle, busy, half):
                await peer.close()
            assert await draining == 0
            assert server.connections == 0

    run(main)


def test_a_drain_is_bounded_and_close_cancels() -> None:
    async def main() -> None:
        gate = Gate()
        server = await up(gate)
        peer = await Peer.of(server.port)
        await peer.say(GET)
        await until(lambda: gate.running == 1)
        assert await server.drain(0.05) == 1
        await server.close()
        await server.close()
        assert (gate.cancelled, gate.running, server.connections) == (1, 0, 0)
        await peer.close()

    run(main)


# -- addresses --------------------------------------------------------------------------------------------


def test_unix_sockets_and_inherited_sockets(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "s"
        for _ in range(2):  # the second finds no stale file
            async with await up(echo, uds=path) as server:
                assert server.port == 0
                peer = Peer(*await asyncio.open_unix_connection(str(path)))
                await peer.say(GET)
                assert (await peer.answer())[0] == 200
                await peer.close()
                with pytest.raises(MachineError, match="cannot listen"):
                    await up(echo, uds=path)
            assert not path.exists()
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(path))
        stale.close()
        async with await up(echo, uds=path):
            pass
        inherited = socket.create_server(("127.0.0.1", 0))
        async with await up(echo, sockets=[inherited]) as server:
            assert (await ask(server.port, GET))[0] == 200

    run(main)


def test_a_port_that_is_taken_and_servers_that_are_not_there() -> None:
    async def main() -> None:
        async with await up(echo) as server:
            with pytest.raises(MachineError, match="cannot listen") as caught:
                await up(echo, port=server.port)
            assert caught.value.code == "E340"
        with pytest.raises(InputError, match="no server is called"):
            await serve(echo, server="thick")  # type: ignore[arg-type]
        with pytest.raises(InputError, match="idle_s"):
            HttpLimits(idle_s=0)

    run(main)


def test_an_app_that_cannot_start_is_an_error() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no model"})

    async def main() -> None:
        with pytest.raises(MachineError, match="no model"):
            await serve(app)

    run(main)


def test_an_app_without_a_lifespan_is_served() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await say(send, b"ok")

    async def main() -> None:
        async with await serve(app) as server:
            assert (await ask(server.port, GET))[2] == b"ok"

    run(main)
