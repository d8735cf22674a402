"""Ray Serve on one machine: HTTP proxy, one replica, its batch decorator."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import os
import threading

import ray
from peer_model import HOST, MAX_BATCH, PORT, WAIT_MS, WORKERS, Model
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

ONGOING = 512  # above the clients of the comparison: else the proxy, not the batcher, holds them back


@serve.deployment(num_replicas=WORKERS, max_ongoing_requests=ONGOING, ray_actor_options={"num_cpus": 0.5})
class Inference:
    def __init__(self) -> None:
        self.model = Model()

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=WAIT_MS / 1e3)
    async def infer(self, bodies: list[bytes]) -> list[bytes]:
        return self.model.run_bodies(bodies)

    async def __call__(self, request: Request) -> Response:
        return Response(await self.infer(await request.body()), media_type="application/octet-stream")


if __name__ == "__main__":
    # Workers of a Ray older than the last release write usage reports unless told not to.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    here = os.path.dirname(os.path.abspath(__file__))
    ray.init(
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
        _temp_dir=os.environ["BENCH_SCRATCH"],
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )
    serve.start(http_options={"host": HOST, "port": PORT}, logging_config={"enable_access_log": False})
    serve.run(Inference.bind(), name="bench", route_prefix="/")
    threading.Event().wait()
