"""The native API behind the thin server, with raw sockets: clients that leave in mid-stream free everything."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import json

import pytest

import tauten as tt
from serve.kit_http import Peer, run, until, up
from tauten.serve.app import App, Site
from tauten.serve.service import Service


@pytest.mark.parametrize("pure", [True, False])
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_leaves_a_stream_frees_its_work_and_its_connection(how: str, pure: bool) -> None:
    stopped: list[str] = []

    @tt.stage(pure=pure)
    async def endless(text: str) -> tt.Stream[str]:  # type: ignore[misc]
        try:
            while True:
                yield text
                await asyncio.sleep(0.005)
        except (asyncio.CancelledError, GeneratorExit):
            stopped.append(how)
            raise

    @tt.workflow
    def forever(text: str) -> tt.Stream[str]:
        return endless(text)

    async def main() -> None:
        app = App(Site([Service(forever)]), names=["native"])
        await app.site.services.open()
        async with await up(app) as server:
            peer = await Peer.of(server.port)
            body = json.dumps({"inputs": {"text": "x"}})
            head = f"POST /v1/workflows/forever?stream=true HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
            await peer.say(f"{head}\r\n\r\n{body}".encode())
            await peer.reader.readuntil(b"event: output")
            peer.go(how)
            await until(lambda: stopped == [how])
            await until(lambda: server.connections == 0 and app.site.in_flight == 0)
            await peer.close()
        await app.site.services.close()

    run(main)
