"""A floor, not a peer: one loop reads, runs the model on the spot and writes; no parser, no batch, no second thread.

What it takes over the bare run is the socket's: system calls, and waking the other process.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio

import uvloop
from peer_model import HOST, PORT, Model

model = Model()


def end_of_request(data: bytes) -> int:
    """Where a whole request ends; 0 while it is not whole."""
    head = data.find(b"\r\n\r\n") + 4
    place = data[:head].lower().find(b"content-length:")
    if head < 4:
        return 0
    if place < 0:
        return head
    end = head + int(data[place + 15 : data.index(b"\r\n", place)])
    return end if len(data) >= end else 0


class Connection(asyncio.Protocol):
    """One client, one request at a time."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data
        end = end_of_request(self.data)
        if not end:
            return
        request, self.data = self.data[:end], self.data[end:]
        body = request[request.index(b"\r\n\r\n") + 4 :]
        answer = model.run_bodies([body])[0] if body else b""
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {len(answer)}\r\n\r\n"
        self.transport.write(head.encode() + answer)  # type: ignore[attr-defined]


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, HOST, PORT)
    await server.serve_forever()


uvloop.run(main())
