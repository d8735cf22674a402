"""Hostile input at every door of the application: answered with 4xx, nothing leaks, and the server lives on."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import base64
import builtins
import gzip
import io
import json
import struct
import zlib
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

import tauten as tt
from serve import kit_http
from serve.kit_asgi import Answered, ask, site
from tauten.errors import InputError
from tauten.run.codecs import pixels
from tauten.run.decode import fetch as fetching
from tauten.serve.app import App
from tauten.serve.door import Door
from tauten.serve.exchange import Exchange
from tauten.serve.safety.guard import Guard
from tauten.serve.safety.keys import Keys, new_key
from tauten.serve.safety.safe_fetch import safe_fetch
from tauten.serve.samples import picture
from tauten.serve.service import Service

SECRET = "sesame-4711"


@tt.stage(pure=True)
def look(photo: tt.Image) -> tt.Text:
    seen = pixels.PixelsCodec().decode(photo.data, photo.type, {}, "picture")
    return tt.Text(f"{seen.width}x{seen.height}")


@tt.stage(pure=True)
def both(question: tt.Audio | tt.Text) -> tt.Text:
    return question if isinstance(question, tt.Text) else tt.Text(f"heard {question.size_bytes} bytes")


@tt.stage(pure=True)
def counted(numbers: list[float], note: tt.Json | None = None) -> tt.Text:
    return tt.Text(str(len(numbers)))


@tt.workflow
def photo_of(photo: tt.Image) -> tt.Text:
    return look(photo)


@tt.workflow
def question_of(question: tt.Audio | tt.Text) -> tt.Text:
    return both(question)


@tt.workflow
def numbers_of(numbers: list[float], note: tt.Json | None = None) -> tt.Text:
    return counted(numbers, note)


APIS = ["native", "openai", "oip", "operations"]


@asynccontextmanager
async def whole(door: Door | None = None) -> Any:
    """All APIs, and a look afterwards at whether the server still works."""
    services = [Service(photo_of), Service(question_of), Service(numbers_of)]
    async with site(*services, door=door, apis=APIS) as app:
        yield app
        alive = await ask(app, "POST", "/v1/workflows/question_of", {"inputs": {"question": "alive?"}})
        assert (alive.status, alive.json["output"]) == (200, "alive?")
        assert app.site.in_flight == 0


def refused(answer: Answered) -> dict[str, Any]:
    """A 4xx that says what is wrong in its API's words, and names no place of our code."""
    assert 400 <= answer.status < 500, (answer.status, answer.body[:300])
    text = answer.body.decode()
    assert "Traceback" not in text
    assert ".py" not in text
    return dict(answer.json) if text else {}


def posts(app: App) -> list[str]:
    """Every path that reads a body, with a workflow's name where it wants one."""
    paths = [route.path for route in app.router.routes if route.method == "POST"]
    paths = [
        path for path in paths if "sharedmemory" not in path and not path.endswith("/index")
    ]  # look at none
    return sorted({path.replace("{name}", "numbers_of").replace("{version}", "1") for path in paths})


@pytest.mark.parametrize("server_name", ["thin", "uvicorn"])
def test_digits_that_are_no_ascii_are_no_number(server_name: str) -> None:
    """To Python a raised two is a digit, which no number begins with."""
    data = json.dumps({"model": "question_of", "messages": [{"role": "user", "content": "hi"}]}).encode()
    begin = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % len(data)

    async def main() -> None:
        async with whole() as app, await kit_http.up(app, server=server_name) as server:
            for name, status in (
                (b"x-stainless-read-timeout", 200),
                (b"inference-header-content-length", 200),
                (b"x-tauten-deadline-ms", 400),
                (b"x-tauten-priority", 400),
            ):
                asked = begin + name + b": \xb2\r\n\r\n" + data
                assert (await kit_http.ask(server.port, asked))[0] == status, name

    kit_http.run(main)


def test_a_length_that_is_no_ascii_says_nothing_of_a_body() -> None:
    """No server of ours lets one pass; others might."""
    parts = [{"type": "http.request", "body": part, "more_body": part == b"a"} for part in (b"a", b"b")]

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        raise AssertionError("nothing is answered")

    async def main() -> None:
        scope = {"method": "POST", "path": "/", "headers": [(b"content-length", b"\xb2")]}
        assert await Exchange(scope, receive, send).body(10) == b"ab"

    asyncio.run(main())


BODIES: dict[str, bytes] = {
    "nothing": b"",
    "half": b'{"inputs": {"numbers": [1,',
    "not utf-8": b'{"inputs": {"numbers": "\xff\xfe"}}',
    "a lone surrogate": b'{"inputs": {"numbers": "\\ud800"}}',
    "a zero byte": b'{"inputs": {"nu\x00mbers": 1}}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"inputs":' * 10_000 + b"1" + b"}" * 10_000,
    "deep value": b'{"inputs": {"numbers": [1], "note": ' + b"[" * 900 + b"]" * 900 + b"}}",
    "a huge number": b'{"inputs": {"numbers": [1e999999]}}',
    "many digits": b'{"inputs": {"numbers": [' + b"9" * 100_000 + b"]}}",
    "not a number": b'{"inputs": {"numbers": [NaN]}}',
    "infinity": b'{"inputs": {"numbers": [Infinity]}}',
    "a number": b"17",
    "a list": b"[]",
    "null": b"null",
    "two documents": b"{}{}",
    "gzip": gzip.compress(b'{"inputs": {}}'),
    "a picture": picture(),
    "noise": bytes(range(256)) * 16,
    "wrong types": b'{"inputs": {"numbers": {"a": {"b": "c"}}, "model": [], "messages": 3, "input": {}}}',
    "unknown names": b'{"inputs": {"__class__": "x", "self": 1, "numbers": [1]}}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_bodies_that_are_none(body: bytes) -> None:
    async def main() -> None:
        async with whole() as app:
            assert len(posts(app)) > 5
            for path in posts(app):
                for kind in ("application/json", "multipart/form-data; boundary=x", "", "text/plain"):
                    answer = await ask(app, "POST", path, body, {"content-type": kind})
                    refused(answer)

    asyncio.run(main())


def test_a_compressed_body_is_not_unpacked() -> None:
    bomb = gzip.compress(b" " * 50_000_000)

    async def main() -> None:
        async with whole() as app:
            for coding in ("gzip", "deflate", "br"):
                headers = {"content-encoding": coding}
                refused(await ask(app, "POST", "/v1/workflows/numbers_of", bomb, headers))

    asyncio.run(main())


def test_bodies_that_are_too_large() -> None:
    async def main() -> None:
        async with whole(Door(body_bytes=10_000)) as app:
            for path in posts(app):
                answer = await ask(app, "POST", path, b" " * 10_001)
                refused(answer)
                reads = path.endswith(("infer", "generate", "_of", "completions", "speech", "transcriptions"))
                assert answer.status == 413 or not reads, path
            liar = {"content-length": "10"}
            assert (await ask(app, "POST", "/v1/workflows/numbers_of", b" " * 10_001, liar)).status == 413

    asyncio.run(main())


HEADERS = [
    ("x-request-id", "a\r\nset-cookie: x=1"),
    ("x-request-id", "a" * 200),
    ("x-request-id", "<script>"),
    ("x-tauten-deadline-ms", "1e999"),
    ("x-tauten-deadline-ms", "nan"),
    ("x-tauten-deadline-ms", "0x10"),
    ("x-tauten-priority", "inf"),
    ("x-tauten-priority", "first"),
    ("x-tauten-session", "../../etc/passwd"),
]


@pytest.mark.parametrize(("name", "value"), HEADERS)
def test_headers_that_are_none(name: str, value: str) -> None:
    async def main() -> None:
        async with whole() as app:
            body = {"inputs": {"numbers": [1]}}
            answer = await ask(app, "POST", "/v1/workflows/numbers_of", body, {name: value})
            if name != "x-tauten-session":  # a workflow without sessions does not look
                refused(answer)
            assert "set-cookie" not in answer.headers
            assert all("\r" not in each and "\n" not in each for each in answer.headers.values())

    asyncio.run(main())


@pytest.mark.parametrize(
    "value", ["00-" + "0" * 32 + "-" + "0" * 16 + "-01", "x" * 5000, "00-zz-1-01", "ff-1-1-1"]
)
def test_a_trace_context_that_is_none_is_no_error(value: str) -> None:
    async def main() -> None:
        async with whole() as app:
            body = {"inputs": {"numbers": [1]}}
            answer = await ask(app, "POST", "/v1/workflows/numbers_of", body, {"traceparent": value})
            assert answer.status == 200

    asyncio.run(main())


# -- media ---------------------------------------------------------------------------------------------------


def bomb(side: int) -> bytes:
    """A PNG of side x side pixels that has a few bytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def as_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


MEDIA: dict[str, Any] = {
    "a pixel bomb": as_url(bomb(50_000)),
    "a picture cut short": as_url(picture()[:60]),
    "no picture": as_url(b"hello hello hello"),
    "nothing": as_url(b""),
    "not base64": "data:image/png;base64,!!!!",
    "no comma": "data:image/png;base64",
    "text": "what a picture",
    "a number": 4711,
    "a list": [1, 2],
    "a null type": {"data": "", "type": None},
    "another field": {"data": as_url(picture()), "path": "/etc/passwd"},
}


@pytest.mark.parametrize("photo", MEDIA.values(), ids=MEDIA.keys())
def test_media_that_are_none(photo: Any) -> None:
    async def main() -> None:
        async with whole() as app:
            refused(await ask(app, "POST", "/v1/workflows/photo_of", {"inputs": {"photo": photo}}))
            good = {"inputs": {"photo": as_url(picture())}}
            assert (await ask(app, "POST", "/v1/workflows/photo_of", good)).json["output"] == "256x256"

    asyncio.run(main())


# -- the file system -----------------------------------------------------------------------------------------


@pytest.fixture
def nothing_opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """What was opened of the names that look like the secret's, by any way there is."""
    opened: list[str] = []
    real_open = builtins.open

    def watched(file: Any, *args: Any, **kwargs: Any) -> Any:
        if SECRET in str(file):
            opened.append(str(file))
        return real_open(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", watched)
    monkeypatch.setattr(io, "open", watched)
    for name in ("open", "read_bytes", "read_text", "stat", "exists", "is_file"):
        real = getattr(Path, name)

        def told(self: Path, *args: Any, _real: Any = real, **kwargs: Any) -> Any:
            if SECRET in str(self):
                opened.append(str(self))
            return _real(self, *args, **kwargs)

        monkeypatch.setattr(Path, name, told)
    return lambda: opened


def test_the_watch_sees_what_it_should(nothing_opened: Callable[[], list[str]], tmp_path: Path) -> None:
    file = tmp_path / f"{SECRET}.png"
    file.write_bytes(picture())
    photo_of.bind(photo=str(file))  # in Python a string is a path: over the network it never is
    assert str(file) in nothing_opened()


@pytest.mark.parametrize("suffix", [".png", ".wav", ".json", ""])
def test_no_string_of_a_request_opens_a_file(
    tmp_path: Path, suffix: str, nothing_opened: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{SECRET}{suffix}").write_bytes(picture())
    name = f"{SECRET}{suffix}"
    nothing_opened().clear()

    async def main() -> None:
        async with whole() as app:
            for path in (name, f"./{name}", str(tmp_path / name), f"file://{tmp_path / name}", f"@{name}"):
                for photo in (path, {"url": path}, {"data": path}, {"path": path}, [path]):
                    refused(await ask(app, "POST", "/v1/workflows/photo_of", {"inputs": {"photo": photo}}))
                text = await ask(app, "POST", "/v1/workflows/question_of", {"inputs": {"question": path}})
                assert (text.status, text.json["output"]) == (200, path)  # it is what it says: text
                form = (
                    f'--x\r\ncontent-disposition: form-data; name="photo"; filename="{path}"\r\n'
                    f"content-type: image/png\r\n\r\n{path}\r\n--x--\r\n"
                ).encode()
                kind = {"content-type": "multipart/form-data; boundary=x"}
                refused(await ask(app, "POST", "/v1/workflows/photo_of", form, kind))
                part = {"type": "image_url", "image_url": {"url": path}}
                chat = {"model": "photo_of", "messages": [{"role": "user", "content": [part]}]}
                refused(await ask(app, "POST", "/v1/chat/completions", chat))
                said = {"model": "question_of", "messages": [{"role": "user", "content": path}]}
                await ask(app, "POST", "/v1/chat/completions", said)
                tensor = {"name": "question", "shape": [1], "datatype": "BYTES", "data": [path]}
                await ask(app, "POST", "/v2/models/question_of/infer", {"inputs": [tensor]})
                await ask(app, "POST", "/v2/models/photo_of/infer", {"inputs": [{**tensor, "name": "photo"}]})
                await ask(app, "GET", f"/{path}")
                await ask(app, "GET", f"/v1/workflows/{path}")
                await ask(app, "POST", f"/v1/workflows/{path}", {"inputs": {}})
                await ask(app, "GET", f"/v2/models/{path}")

    asyncio.run(main())
    assert nothing_opened() == []


# -- addresses -----------------------------------------------------------------------------------------------

PRIVATE = [
    "http://127.0.0.1/",
    "http://127.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0177.0.0.1/",
    "http://0x7f.1/",
    "http://0/",
    "http://[::1]/",
    "http://[::]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:a9fe:a9fe]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[2002:7f00:1::]/",
    "http://[fe80::1]/",
    "http://[fd00::1]/",
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://localhost/",
    "http://localhost./",
    "http://LOCALHOST/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    "http://public.example@127.0.0.1/",
    "http://127.0.0.1#@public.example/",
    "http://127.0.0.1\\@public.example/",
    "http://127.0.0.1%2523@public.example/",
    "http://public.example\r\nHost: 127.0.0.1/",
    "http://\u2460\u2461\u2466.0.0.1/",
    "//127.0.0.1/",
    "file:///etc/passwd",
    "gopher://127.0.0.1:6379/_SET",
    "ftp://127.0.0.1/",
    "dict://127.0.0.1:11211/",
    "jar:http://127.0.0.1!/",
    "data://x",
    "http:///",
    "http://",
    "",
    "http://x:99999999/",
]


@pytest.mark.parametrize("url", PRIVATE)
def test_no_address_leads_into_this_network(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def connected(*_: Any, **__: Any) -> Any:
        raise AssertionError(f"{url!r} was connected to")

    async def looked_up(host: str, port: int) -> Sequence[str]:
        """A name server of the attacker: its names lead here; literals are resolved as the system does."""
        if host.rstrip(".").endswith("example"):
            return ["127.0.0.1"]
        return await fetching._system_resolver(host, port)

    monkeypatch.setattr(asyncio, "open_connection", connected)

    async def main() -> None:
        async with whole(Door(fetch=lambda url: safe_fetch(url, resolve=looked_up))) as app:
            inputs = {"inputs": {"photo": {"url": url}}}
            refused(await ask(app, "POST", "/v1/workflows/photo_of", inputs))
            part = {"type": "image_url", "image_url": {"url": url}}
            chat = {"model": "photo_of", "messages": [{"role": "user", "content": [part]}]}
            refused(await ask(app, "POST", "/v1/chat/completions", chat))

    asyncio.run(main())


class Far:
    """A server that counts as public; the rest of this machine does not."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer = b""
        self.asked = 0
        self.slow = False
        monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")

    async def __aenter__(self) -> Far:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://far.example:{self.server.sockets[0].getsockname()[1]}/"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        writer.write(self.answer)
        if self.slow:
            await asyncio.sleep(0.5)
        writer.close()

    async def __aexit__(self, *_: object) -> None:
        self.server.close()


async def leads(host: str, port: int) -> Sequence[str]:
    return ["127.0.0.1"] if host == "far.example" else ["10.0.0.1"]


def far(monkeypatch: pytest.MonkeyPatch, body: Callable[[Far], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Far(monkeypatch) as server:
            await body(server)

    asyncio.run(main())


def test_redirects_are_checked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(server: Far) -> None:
        for place in (
            "http://inside.example/",
            "http://10.0.0.1/",
            "file:///etc/passwd",
            "//inside.example/",
        ):
            server.answer = f"HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n".encode()
            with pytest.raises(InputError) as caught:
                await safe_fetch(server.url, resolve=leads)
            assert caught.value.code == "E241", place
        server.asked = 0
        server.answer = (
            b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"  # to itself, for ever
        )
        with pytest.raises(InputError, match="redirects"):
            await safe_fetch(server.url, resolve=leads)
        assert server.asked <= 6

    far(monkeypatch, body)


def test_a_name_that_changes_its_address_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    async def rebinding(host: str, port: int) -> Sequence[str]:
        nonlocal asked
        asked += 1
        return ["127.0.0.1"] if asked == 1 else ["10.0.0.1"]

    async def body(server: Far) -> None:
        server.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        assert await safe_fetch(server.url, resolve=rebinding) == b"ok"
        assert asked == 1  # what was checked is what was connected to

    far(monkeypatch, body)


def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both_ways(host: str, port: int) -> Sequence[str]:
        return ["127.0.0.1", "10.0.0.1"]

    async def body(server: Far) -> None:
        with pytest.raises(InputError):
            await safe_fetch(server.url, resolve=both_ways)
        assert server.asked == 0

    far(monkeypatch, body)


def test_answers_that_are_too_large_or_too_slow_or_none_are_the_requests_mistake(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body(server: Far) -> None:
        for answer in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 5000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffff\r\n" + b"x" * 5000,
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nxx",
            b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n",
            b"SSH-2.0-OpenSSH\r\n\r\n",
            b"",
        ):
            server.answer = answer
            with pytest.raises(InputError) as caught:
                await safe_fetch(server.url, resolve=leads, max_bytes=1000)
            assert 400 <= caught.value.http_status < 500
        server.answer, server.slow = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", True
        with pytest.raises(InputError, match="in time"):
            await safe_fetch(server.url, resolve=leads, timeout_s=0.1)

    far(monkeypatch, body)


def test_media_are_not_fetched_unless_asked() -> None:
    async def main() -> None:
        async with whole() as app:
            inputs = {"inputs": {"photo": {"url": "https://far.example/x.png"}}}
            refused(await ask(app, "POST", "/v1/workflows/photo_of", inputs))

    asyncio.run(main())


# -- sockets -------------------------------------------------------------------------------------------------


async def talk(
    app: App, path: str, messages: Sequence[str | bytes], headers: dict[str, str] | None = None
) -> list[dict[str, Any]]:
    """Send messages over a WebSocket, then leave; returns what the server sent."""
    sent: list[dict[str, Any]] = []
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    queue.put_nowait({"type": "websocket.connect"})
    for message in messages:
        key = "text" if isinstance(message, str) else "bytes"
        queue.put_nowait({"type": "websocket.receive", "text": None, "bytes": None, key: message})

    async def receive() -> dict[str, Any]:
        if queue.empty():
            await asyncio.sleep(0.05)
            return {"type": "websocket.disconnect", "code": 1006}
        return queue.get_nowait()

    async def send(message: Any) -> None:
        sent.append(dict(message))

    given = {"host": "localhost", **(headers or {})}
    scope = {
        "type": "websocket",
        "path": path,
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "subprotocols": [],
    }
    await asyncio.wait_for(app(scope, receive, send), 10)
    return sent


ABUSE: list[list[str | bytes]] = [
    ["{"],
    [b"\xff\x00" * 100],
    ["[" * 100_000],
    ['{"inputs": 1}'],
    ['{"inputs": {"numbers": [1]}}', '{"inputs": {"numbers": [1]}}'],
    ['{"type": "input", "input": "numbers"}', b"x"],
    ['{"type": "cancel"}', '{"type": "end", "input": "x"}', '{"type": "??"}'],
    ['{"inputs": {"numbers": [1e999999]}}'],
    ['{"inputs": {}, "id": "a\\r\\nb", "deadline_ms": "soon"}'],
    ["null", "17", '""'],
    [""] * 50,
    [],
]


@pytest.mark.parametrize("messages", ABUSE)
def test_sockets_that_are_abused(messages: list[str | bytes]) -> None:
    async def main() -> None:
        async with whole() as app:
            sent = await talk(app, "/v1/workflows/numbers_of/ws", messages)
            for each in sent:
                if each["type"] == "websocket.send":
                    said = json.loads(each["text"])
                    assert said.get("error", {}).get("code", "") != "E500", said
                    assert "Traceback" not in each["text"]
                elif each["type"] == "websocket.close":
                    assert each["code"] != 1011, sent

    asyncio.run(main())


def test_sockets_go_through_the_same_door(tmp_path: Path) -> None:
    token = new_key(tmp_path / "keys.toml", "shop", created="2026-01-01", concurrent=1)
    guard = Guard(Keys(tmp_path / "keys.toml"))
    door = Door(identify=guard.identify, meet=guard.meet)
    run = '{"inputs": {"numbers": [1, 2]}}'

    async def main() -> None:
        async with site(Service(numbers_of), door=door, apis=APIS) as app:
            path = "/v1/workflows/numbers_of/ws"
            for headers in (
                {},
                {"x-api-key": "wrong"},
                {"x-api-key": token, "origin": "http://evil.example"},
            ):
                sent = await talk(app, path, [run], headers)
                assert [each["type"] for each in sent] == ["websocket.close"], headers
            sent = await talk(app, path, [run], {"x-api-key": token})
            said = [json.loads(each["text"])["type"] for each in sent if each["type"] == "websocket.send"]
            assert said == ["started", "output", "done"]
            assert [each["type"] for each in await talk(app, "/v1/nothing", [run], {"x-api-key": token})] == [
                "websocket.close"
            ]
        assert guard.running == 0

    asyncio.run(main())


def test_our_own_mistakes_tell_the_client_nothing() -> None:
    class Broken(Service):
        def check(self) -> None:
            raise ZeroDivisionError(SECRET)

    async def main() -> None:
        async with site(Broken(question_of), apis=["native"]) as app:
            failed = await ask(app, "POST", "/v1/workflows/question_of", {"inputs": {"question": "x"}})
            assert (failed.status, failed.json["error"]["code"]) == (500, "E500")
            assert SECRET not in failed.body.decode()

    asyncio.run(main())
