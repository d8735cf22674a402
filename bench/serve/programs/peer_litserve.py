"""LitServe: FastAPI in front, the model in a process of its own, raw bodies."""
# SPDX-License-Identifier: Apache-2.0
# No postponed annotations: LitServe reads the annotation of `decode_request` as an object.

from typing import Annotated, Any

import litserve
from fastapi import Depends, Request, Response
from peer_model import HOST, MAX_BATCH, PORT, WAIT_MS, WORKERS, Model


async def raw_body(request: Request) -> bytes:
    return await request.body()


class Inference(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = Model()

    def decode_request(self, request: Annotated[bytes, Depends(raw_body)]) -> bytes:
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return inputs

    def predict(self, inputs: list[bytes]) -> list[bytes]:
        return self.model.run_bodies(inputs)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> Any:
        return Response(content=output, media_type="application/octet-stream")


if __name__ == "__main__":
    api = Inference(max_batch_size=MAX_BATCH, batch_timeout=WAIT_MS / 1e3)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS)
    server.run(host=HOST, port=PORT, log_level="error", generate_client_file=False)
