"""A client of any server of the protocol over HTTP: tensors as raw bytes behind a JSON head."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from tauten.clock import real
from tauten.errors import TautenError
from tauten.run.oip import wire
from tauten.run.oip.refusal import refusal
from tauten.run.oip.tensors import Array
from tauten.run.oip.traffic import Traffic
from tauten.run.remote.failure import Failure, of_status
from tauten.run.remote.line import Content, HttpLine, Reply
from tauten.run.remote.phases import Phases
from tauten.run.remote.question import whole
from tauten.run.signature import Signature


class RestClient:
    """One server; its connections are kept."""

    def __init__(self, url: str, secret: str) -> None:
        self._line = HttpLine(url, secret)

    async def signature(self, model: str) -> Signature:
        reply = await self._ask(_path(model), Content(method="GET"), Traffic())
        return wire.signature(reply[0])

    async def infer(self, model: str, inputs: Mapping[str, Array], traffic: Traffic) -> dict[str, Array]:
        body, length = wire.question(inputs)
        traffic.sent_bytes = len(body)
        headers = {wire.HEAD_LENGTH: str(length), "content-type": "application/octet-stream"}
        data, head_length = await self._ask(f"{_path(model)}/infer", Content(body, headers=headers), traffic)
        return wire.answer(data, head_length)

    async def _ask(self, path: str, content: Content, traffic: Traffic) -> tuple[bytes, str | None]:
        """(body, length of its head); raises what the caller is to see."""
        reply: Reply | None = None
        try:
            reply = await self._line.send(path, content, Phases(real))
            body = await whole(reply)
            traffic.received_bytes = len(body)
            if reply.status != 200:
                raise of_status(reply.status, reply.headers, body)
            reply.release()
        except Failure as failure:
            if reply is not None:
                reply.close()
            raise _said(failure) from failure
        except BaseException:
            if reply is not None:
                reply.close()
            raise
        return body, reply.headers.get(wire.HEAD_LENGTH)

    async def close(self) -> None:
        await self._line.close()


def _path(model: str) -> str:
    return f"/v2/models/{quote(model, safe='')}"


def _said(failure: Failure) -> TautenError:
    return refusal(failure.kind, failure.what, failure.retry_after_s)
