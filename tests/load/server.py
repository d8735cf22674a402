"""An aiohttp server in a thread, on a free port of 127.0.0.1: what a target of load tests speaks to."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Routes that answer, and what was asked of them."""

    def __init__(self) -> None:
        self.url = ""
        self.seen: list[tuple[str, dict[str, str], bytes]] = []
        self.pause_s, self.every_s = 0.0, 1.0
        self._started = 0.0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/workflows/{name}", self._kept(self.native))
        app.router.add_post("/v1/chat/completions", self._kept(self.chat))
        app.router.add_post("/v1/embeddings", self._kept(self.whole))
        app.router.add_get("/v2/models/{name}", self.metadata)
        app.router.add_post("/v2/models/{name}/infer", self._kept(self.whole))
        app.router.add_post("/plain", self._kept(self.whole))
        app.router.add_post("/status/{code}", self._kept(self.status))
        app.router.add_post("/cut", self._kept(self.cut))
        app.router.add_post("/pause", self.pausing)
        return app

    def _kept(self, handler: Handler) -> Handler:
        async def kept(request: web.Request) -> web.StreamResponse:
            headers = {name.lower(): value for name, value in request.headers.items()}
            self.seen.append((request.path, headers, await request.read()))
            return await handler(request)

        return kept

    async def whole(self, request: web.Request) -> web.StreamResponse:
        return web.json_response({"ok": True, "usage": {"completion_tokens": 3}})

    async def native(self, request: web.Request) -> web.StreamResponse:
        if "text/event-stream" not in request.headers.get("accept", ""):
            return await self.whole(request)
        blocks = [": hello\n\n", 'event: output\ndata: "a"\n\n', 'data: "b"\n\n', "event: done\ndata: {}\n\n"]
        if request.match_info["name"] == "broken":
            blocks[2] = 'event: error\ndata: {"code": "E404"}\n\n'
        return await _streamed(request, blocks)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        asked = json.loads(await request.read())
        if not asked.get("stream"):
            told: dict[str, Any] = {
                "broken": {"error": {"message": "no provider"}},
                "polite": {"error": None, "choices": []},
            }
            return (
                web.json_response(told[asked["model"]])
                if asked["model"] in told
                else await self.whole(request)
            )
        deltas: list[Any] = [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {}]
        chunks = [{"choices": [{"delta": delta}]} for delta in deltas]
        chunks.append({"choices": [], "usage": {"completion_tokens": 2}})
        blocks = [f"data: {json.dumps(chunk)}\r\n\r\n" for chunk in chunks]
        return await _streamed(request, [*blocks, "data: [DONE]\r\n\r\n"])

    async def metadata(self, request: web.Request) -> web.StreamResponse:
        inputs = [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "words", "datatype": "BYTES", "shape": [-1]},
        ]
        name = request.match_info["name"]
        told: dict[str, Any] = {"list": [1], "bare": {"inputs": [{"name": "x"}]}}
        return web.json_response(told.get(name, {"name": name, "platform": "", "inputs": inputs}))

    async def status(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=int(request.match_info["code"]), text="no\nreason")

    async def cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async def pausing(self, request: web.Request) -> web.StreamResponse:
        """Stands still for the first `pause_s` of every `every_s`."""
        await request.read()
        phase = asyncio.get_running_loop().time() % self.every_s
        if phase < self.pause_s:
            await asyncio.sleep(self.pause_s - phase)
        return web.Response()


async def _streamed(request: web.Request, blocks: list[str]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for block in blocks:
        await response.write(block.encode())
        await asyncio.sleep(0.01)
    return response


@contextmanager
def serving() -> Iterator[Server]:
    """The server, while the block runs; stopped also when it fails."""
    server, ready = Server(), threading.Event()
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(server.app(), shutdown_timeout=1.0)

    async def start() -> None:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        server.url = f"http://{host}:{port}"
        ready.set()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(start())
        loop.run_forever()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert ready.wait(10)
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
