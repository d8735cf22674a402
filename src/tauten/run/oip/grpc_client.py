"""A client of any server of the protocol over gRPC: raw contents, one channel."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import grpc
import grpc.aio

from tauten.run.oip import wire
from tauten.run.oip.messages import SERVICE, message
from tauten.run.oip.refusal import refusal
from tauten.run.oip.tensors import Array
from tauten.run.oip.traffic import Traffic
from tauten.run.remote.failure import Kind
from tauten.run.signature import Signature

_WRONG: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)
_DENIED: Final = (
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
)
_OPTIONS: Final = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class GrpcClient:
    """`address` is HOST:PORT; `tls` checks the server's certificate."""

    def __init__(self, address: str, secret: str, *, tls: bool) -> None:
        if tls:
            self._channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), options=_OPTIONS)
        else:
            self._channel = grpc.aio.insecure_channel(address, options=_OPTIONS)
        self._metadata = (("authorization", f"Bearer {secret}"),) if secret else ()

    async def signature(self, model: str) -> Signature:
        request = message("ModelMetadataRequest")(name=model)
        reply = await self._ask("ModelMetadata", request, Traffic())
        return wire.signature_of_message(reply)

    async def infer(self, model: str, inputs: Mapping[str, Array], traffic: Traffic) -> dict[str, Array]:
        request = wire.question_message(model, inputs)
        traffic.sent_bytes = request.ByteSize()
        return wire.answer_of_message(await self._ask("ModelInfer", request, traffic))

    async def _ask(self, method: str, request: Any, traffic: Traffic) -> Any:
        read = message(f"{method}Response").FromString

        def received(data: bytes) -> Any:
            traffic.received_bytes = len(data)
            return read(data)

        call = self._channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=received,
        )
        try:
            return await call(request, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            what = f"gRPC {error.code().name}: {(error.details() or '')[:200]}"
            raise refusal(_kind(error.code()), what) from error

    async def close(self) -> None:
        await self._channel.close()


def _kind(code: Any) -> Kind:
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        return "limit"
    if code in _WRONG:
        return "wrong"
    return "denied" if code in _DENIED else "fault"
