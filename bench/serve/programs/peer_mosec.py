"""Mosec: a Rust front, one worker process per model instance, dynamic batching."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys

from mosec import Server, Worker
from peer_model import HOST, MAX_BATCH, PORT, WAIT_MS, WORKERS, Model


class Inference(Worker):
    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[bytes] | bytes) -> list[bytes] | bytes:
        """A worker without batching is given the body itself, not a list of one."""
        return self.model.run_bodies(data) if isinstance(data, list) else self.model.run_bodies([data])[0]


if __name__ == "__main__":
    # A wait below 1 ms is understood only as a flag of the whole server.
    sys.argv[1:] = ["--address", HOST, "--port", str(PORT), "--log-level", "error"]
    sys.argv += ["--wait", "0"] if WAIT_MS < 1 else []
    server = Server()
    server.append_worker(Inference, num=WORKERS, max_batch_size=MAX_BATCH, max_wait_time=int(WAIT_MS))
    server.run()
