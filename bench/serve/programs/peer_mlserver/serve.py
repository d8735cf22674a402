"""MLServer with a runtime of our own: writes its two settings files, then starts it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from peer_model import HOST, MAX_BATCH, NAME, PORT, WAIT_MS  # noqa: E402 (found through the line above)

SERVER = {
    "host": HOST,
    "http_port": PORT,
    "grpc_port": int(os.environ["BENCH_SPARE_PORT"]),
    "metrics_endpoint": None,
    "parallel_workers": 0,  # inference in the server's own process: its fastest setting on two cores
    "use_structured_logging": False,
    "debug": False,
}


def model_settings() -> dict[str, object]:
    return {
        "name": NAME,
        "implementation": "runtime.Inference",
        "max_batch_size": MAX_BATCH,
        "max_batch_time": WAIT_MS / 1e3,
    }


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="mlserver-", dir=os.environ["BENCH_SCRATCH"]))
    (folder / "settings.json").write_text(json.dumps(SERVER))
    (folder / "model-settings.json").write_text(json.dumps(model_settings()))
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.execv(sys.executable, [sys.executable, "-m", "mlserver.cli.main", "start", str(folder)])
