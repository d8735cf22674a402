"""A cache as one writes it in an hour: raw ASGI on uvicorn, the body's hash looked up in Redis, MessagePack, JSON.

Prints the port that it listens on. BENCH_REDIS_PORT is that of the server, BENCH_BACKEND_S what a miss takes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from typing import Any

import msgspec
import redis.asyncio
import uvicorn

PREFIX = b"plain:"
HEADERS = [(b"content-type", b"application/json")]
backend_s = float(os.environ["BENCH_BACKEND_S"])
client = redis.asyncio.Redis(host="127.0.0.1", port=int(os.environ["BENCH_REDIS_PORT"]))


async def answer(body: bytes) -> Any:
    """What was kept for these bytes, or the backend's answer."""
    key = PREFIX + hashlib.blake2b(body, digest_size=16).digest()
    kept = await client.get(key)
    if kept is not None:
        return msgspec.msgpack.decode(kept)
    await asyncio.sleep(backend_s)
    made = {"output": "Dictionaries keep the order in which their keys came. " * 5}
    await client.set(key, msgspec.msgpack.encode(made))
    return made


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    value = msgspec.json.encode(await answer(b"".join(parts)))
    headers = [*HEADERS, (b"content-length", str(len(value)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": value})


def main() -> None:
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    config = uvicorn.Config(
        app, loop="uvloop", http="httptools", lifespan="off", log_level="error", access_log=False
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
