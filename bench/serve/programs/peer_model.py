"""What each peer program shares: its settings (from the environment) and the model behind onnxruntime."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import os
from typing import Any

import numpy as np

MODEL = os.environ["BENCH_MODEL"]
NAME = os.path.splitext(os.path.basename(MODEL))[0]
PORT = int(os.environ["BENCH_PORT"])
WAIT_MS = float(os.environ.get("BENCH_WAIT_MS", "0"))
WORKERS = int(os.environ.get("BENCH_WORKERS", "1"))
THREADS = int(os.environ.get("BENCH_THREADS", "1"))
MAX_BATCH = int(os.environ.get("BENCH_MAX_BATCH", "32"))
HOST = "127.0.0.1"


class Model:
    """One session on float32; `run` takes rows and gives rows."""

    def __init__(self) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name
        self.width = int(self.session.get_inputs()[0].shape[1])
        self.run(np.zeros((1, self.width), np.float32))

    def run(self, rows: Any) -> Any:
        return self.session.run(None, {self.input: rows})[0]

    def run_bodies(self, bodies: list[bytes]) -> list[bytes]:
        """Raw float32 bodies in, raw float32 answers out, as one batch."""
        rows = np.frombuffer(b"".join(bodies), np.float32).reshape(len(bodies), self.width)
        return [row.tobytes() for row in self.run(rows)]
