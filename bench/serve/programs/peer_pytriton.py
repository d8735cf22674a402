"""Triton through its Python binding, which bundles the server: dynamic batcher, OIP over HTTP."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

import numpy as np
from peer_model import HOST, MAX_BATCH, NAME, PORT, WAIT_MS, WORKERS, Model
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

models = [Model() for _ in range(WORKERS)]


def instance(model: Model) -> Any:
    @batch
    def infer(x: Any) -> dict[str, Any]:
        return {"y": model.run(x)}

    return infer


if __name__ == "__main__":
    config = TritonConfig(
        http_address=HOST, http_port=PORT, allow_grpc=False, allow_metrics=False, log_verbose=0
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=NAME,
            infer_func=[instance(model) for model in models],
            inputs=[Tensor(name="x", dtype=np.float32, shape=(models[0].width,))],
            outputs=[Tensor(name="y", dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH,
                batcher=DynamicBatcher(max_queue_delay_microseconds=int(WAIT_MS * 1000)),
            ),
        )
        triton.serve()
