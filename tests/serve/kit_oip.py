"""The services of the protocol's tests, and servers for its clients: HTTP and gRPC on one loop, in a thread."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tauten as tt
from serve import kit_onnx
from tauten.serve.app import App, Site
from tauten.serve.door import Door
from tauten.serve.http.limits import HttpLimits
from tauten.serve.http.listener import ServerName, serve
from tauten.serve.oip.grpc import serve_grpc
from tauten.serve.service import Service
from tauten.serve.tensor_model import tensor_model

BODY_BYTES = 256 * 1024  # of a test's server: what is refused need not be large


class Zombies:
    """Work that was begun and has not ended."""

    def __init__(self) -> None:
        self.running = 0
        self.begun = 0


ZOMBIES = Zombies()


@tt.stage
async def slow_stage(text: str) -> str:
    ZOMBIES.running += 1
    ZOMBIES.begun += 1
    try:
        await asyncio.sleep(30)
    finally:
        ZOMBIES.running -= 1
    return text


@tt.stage(pure=True)
async def shout_stage(text: str) -> str:
    return text.upper()


@tt.stage(pure=True)
async def words_stage(text: str) -> tt.Stream[tt.Text]:
    for word in text.split():
        if word == "FAIL":
            raise ValueError("asked to fail")
        yield tt.Text(word + " ")


@tt.stage(pure=True)
async def size_stage(photo: tt.Image, note: tt.Text | None) -> tt.Json:
    return tt.Json({"bytes": photo.size_bytes, "note": None if note is None else note.text})


@tt.stage(pure=True)
async def double_stage(numbers: tt.Tensor) -> tt.Tensor:
    return tt.Tensor(numbers.array * 2)


@tt.workflow
def shout(text: str) -> str:
    return shout_stage(text)


@tt.workflow
def slow(text: str) -> str:
    return slow_stage(text)


@tt.workflow
def words(text: str) -> tt.Stream[tt.Text]:
    return words_stage(text)


@tt.workflow
def size(photo: tt.Image, note: tt.Text | None = None) -> tt.Json:
    return size_stage(photo, note)


@tt.workflow
def double(numbers: tt.Tensor) -> tt.Tensor:
    return double_stage(numbers)


def services(folder: Path) -> list[Service]:
    """Models alone and workflows."""
    found: list[Service] = [
        tensor_model(kit_onnx.linear(folder), threads=1),
        tensor_model(kit_onnx.two(folder), threads=1),
        tensor_model(kit_onnx.pick(folder), threads=1),
    ]
    found += [tensor_model(kit_onnx.identity(folder, dtype), threads=1) for dtype in SAME]
    return [*found, *(Service(each) for each in (shout, slow, words, size, double))]


SAME = {
    "float32": ("FP32", np.float32),
    "float16": ("FP16", np.float16),
    "float64": ("FP64", np.float64),
    "int8": ("INT8", np.int8),
    "int64": ("INT64", np.int64),
    "uint16": ("UINT16", np.uint16),
    "bool": ("BOOL", np.bool_),
    "str": ("BYTES", np.object_),
}


@dataclass
class Running:
    """Where the servers listen, and a way to ask on their loop."""

    http: str
    grpc: str
    app: App
    loop: asyncio.AbstractEventLoop

    def on_loop(self, work: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)


@contextmanager
def served(folder: Path, door: Door | None = None, *, server: ServerName = "thin") -> Iterator[Running]:
    """Both servers on free ports of the loopback address."""
    started: dict[str, Any] = {}
    ready = threading.Event()

    async def main() -> None:
        app = App(Site(services(folder), door or Door(body_bytes=BODY_BYTES)), names=["oip"])
        await app.site.services.open()
        limits = HttpLimits(body_bytes=4 * BODY_BYTES)  # the door refuses first, in the protocol's own form
        http = await serve(app, host="127.0.0.1", server=server, limits=limits, lifespan=False)
        grpc = await serve_grpc(app.site, "127.0.0.1")
        try:
            started.update(http=f"127.0.0.1:{http.port}", grpc=f"127.0.0.1:{grpc.port}", app=app)
            started.update(loop=asyncio.get_running_loop(), stop=asyncio.Event())
            ready.set()
            await started["stop"].wait()
        finally:
            ready.set()
            await http.close()
            await grpc.stop(0.1)
            await app.site.services.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="servers")
    thread.start()
    ready.wait(30)
    try:
        yield Running(started["http"], started["grpc"], started["app"], started["loop"])
    finally:
        if "stop" in started:
            started["loop"].call_soon_threadsafe(started["stop"].set)
        thread.join(30)
        assert not thread.is_alive()
