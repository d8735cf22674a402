"""A server of the Open Inference Protocol in a thread, written without ours: one tiny model in NumPy, over HTTP."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

_WEIGHTS = np.random.default_rng(7).normal(size=(4, 3)).astype(np.float32)
CARRIED: list[tuple[int, int]] = []
"""Of each inference: bytes of the question and of the answer, as the server counts them."""

_METADATA = {
    "name": "tiny",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [
        {"name": "y", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "total", "datatype": "FP32", "shape": [-1]},
    ],
}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._send(200, json.dumps(_METADATA).encode(), {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked_bytes = len(body)
        end = int(self.headers["inference-header-content-length"])
        [tensor] = json.loads(body[:end])["inputs"]
        x = np.frombuffer(body, "<f4", offset=end).reshape(tensor["shape"])
        if x.shape[1:] != (4,):
            self._send(400, json.dumps({"error": f"x has shape {x.shape}"}).encode(), {})
            return
        y = np.maximum(x @ _WEIGHTS, 0)
        outputs: list[dict[str, Any]] = []
        parts: list[bytes] = []
        for name, array in (("y", y), ("total", y.sum(axis=1))):
            parts.append(np.ascontiguousarray(array, "<f4").tobytes())
            parameters = {"binary_data_size": len(parts[-1])}
            outputs.append(
                {"name": name, "datatype": "FP32", "shape": list(array.shape), "parameters": parameters}
            )
        head = json.dumps({"model_name": "tiny", "outputs": outputs}).encode()
        self._send(200, b"".join((head, *parts)), {"Inference-Header-Content-Length": str(len(head))})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        if (asked := getattr(self, "asked_bytes", 0)) and self.command == "POST":
            CARRIED.append((asked, len(body)))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def tensors() -> Iterator[str]:
    """Serve until the block ends."""
    CARRIED.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
