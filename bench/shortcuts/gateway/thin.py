"""The thinnest gateway: aiohttp hands on what comes, both ways, and knows nothing of it.

python -m bench.shortcuts.gateway.thin PORT URL
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import aiohttp
import uvloop
from aiohttp import web

KEPT = ("content-type", "x-request-id")  # headers of an answer that are handed on


def application(url: str) -> web.Application:
    """All paths go to `url`, which has none."""
    app = web.Application(client_max_size=32 << 20)

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as client:
            app["client"] = client
            yield

    async def handed_on(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        client: aiohttp.ClientSession = request.app["client"]
        headers = {"content-type": request.content_type}
        async with client.request(
            request.method, url + request.path_qs, data=body, headers=headers
        ) as answer:
            chosen = {name: answer.headers[name] for name in KEPT if name in answer.headers}
            if answer.content_length is not None:
                return web.Response(status=answer.status, headers=chosen, body=await answer.read())
            reply = web.StreamResponse(status=answer.status, headers=chosen)
            await reply.prepare(request)
            async for piece in answer.content.iter_any():
                await reply.write(piece)
            await reply.write_eof()
            return reply

    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", handed_on)
    return app


def main() -> None:
    uvloop.install()
    web.run_app(
        application(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None
    )


if __name__ == "__main__":
    main()
