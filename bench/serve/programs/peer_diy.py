"""A reference of forty lines, not a peer: raw ASGI on uvicorn, a batch is whatever is queued, no timer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from peer_model import HOST, MAX_BATCH, PORT, Model

model, thread = Model(), ThreadPoolExecutor(1)
queue: list[tuple[bytes, asyncio.Future[bytes]]] = []
worker: asyncio.Task[None] | None = None


async def batches() -> None:
    loop = asyncio.get_running_loop()
    while queue:
        members = queue[:MAX_BATCH]
        del queue[:MAX_BATCH]
        answers = await loop.run_in_executor(thread, model.run_bodies, [body for body, _ in members])
        for (_, answer), value in zip(members, answers, strict=True):
            answer.set_result(value)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    global worker
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    answer = asyncio.get_running_loop().create_future()
    queue.append((b"".join(parts), answer))
    if worker is None or worker.done():
        worker = asyncio.create_task(batches())
    value = await answer
    headers = [(b"content-length", str(len(value)).encode()), (b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": value})


uvicorn.run(
    app,
    host=HOST,
    port=PORT,
    loop="uvloop",
    http="httptools",
    lifespan="off",
    log_level="error",
    access_log=False,
)
