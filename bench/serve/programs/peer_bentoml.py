"""BentoML: JSON rows through its adaptive batcher, raw bytes beside it (which it cannot batch)."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
import sys
from typing import Any

import bentoml
import numpy as np
from peer_model import HOST, MAX_BATCH, PORT, WORKERS, Model

LATENCY_MS = 1000  # its batcher drops requests that it expects to take longer; waiting adapts below it

Rows = np.ndarray[Any, np.dtype[np.float32]]


@bentoml.service(workers=WORKERS, traffic={"timeout": 30}, logging={"access": {"enabled": False}})
class Inference:
    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=max(MAX_BATCH, 2), max_latency_ms=LATENCY_MS)
    def predict(self, row: Rows) -> Rows:
        return self.model.run(np.asarray(row, np.float32).reshape(-1, self.model.width))

    @bentoml.api
    def raw(self, body: bytes, /) -> bytes:
        return self.model.run_bodies([body])[0]


if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    serve = ["-m", "bentoml", "serve", "peer_bentoml:Inference", "--host", HOST, "--port", str(PORT)]
    os.execv(sys.executable, [sys.executable, *serve, "--working-dir", here])
