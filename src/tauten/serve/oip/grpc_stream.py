"""ModelStreamInfer: many requests on one stream, each with one answer or, from a streaming workflow, several.

Requests run side by side. Whole answers come in the order of their requests; the increments of streaming
workflows come as they are made, told apart by their ids. An error ends its request, not the stream; while the
server drains those that come are refused, and with the last of those that run the stream ends.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc

from tauten.clock import real
from tauten.errors import InputError, TautenError
from tauten.run.oip.messages import message, parse
from tauten.run.siblings import cancel_all
from tauten.serve.door import Call, draining, refusal_headers
from tauten.serve.kept.idempotency import HEADER as IDEMPOTENCY_KEY
from tauten.serve.oip import calls
from tauten.serve.oip import grpc_tensors as tensors
from tauten.serve.oip.grpc_call import One, in_words, route_of
from tauten.serve.oip.models import Model, Models
from tauten.serve.oip.parameters import Parameters, honour, of_message

if TYPE_CHECKING:
    from tauten.serve.app import Site

SIDE_BY_SIDE = 64  # requests of one stream that run at a time; the next is read when one has ended
_Request = message("ModelInferRequest")
_Answer = message("ModelStreamInferResponse")


class Stream:
    """The method."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.route = route_of("ModelStreamInfer")
        self.models = Models(site)

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> None:
        """Until the client has said all and has its answers, or the server drains and nothing runs."""
        running: set[asyncio.Task[None]] = set()
        reading = asyncio.create_task(self._read(requests, context, running))
        drained = asyncio.create_task(self._drained(running))
        try:
            await asyncio.wait((reading, drained), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                error = draining()
                metadata = tuple(refusal_headers(error))
                await context.abort(grpc.StatusCode.UNAVAILABLE, in_words(error), metadata)
            await reading
            if running:
                await asyncio.gather(*running)
        finally:
            await cancel_all([reading, drained, *running])

    async def _read(
        self, requests: AsyncIterator[bytes], context: Any, running: set[asyncio.Task[None]]
    ) -> None:
        """Begin each request that comes."""
        room = asyncio.Semaphore(SIDE_BY_SIDE)
        writing = asyncio.Lock()
        before: asyncio.Task[None] | None = None

        def ended(task: asyncio.Task[None]) -> None:
            running.discard(task)
            room.release()

        async for data in requests:
            await room.acquire()
            turn = asyncio.create_task(_Turn(self, context, writing, before).run(data))
            running.add(turn)
            turn.add_done_callback(ended)
            before = turn

    async def _drained(self, running: set[asyncio.Task[None]]) -> None:
        """Until the server drains and nothing runs here."""
        await self.site.door.closing.wait()
        while running:
            await asyncio.wait(running)


class _Turn:
    """One request of a stream."""

    def __init__(
        self, stream: Stream, context: Any, writing: asyncio.Lock, before: asyncio.Task[None] | None
    ) -> None:
        self.models = stream.models
        self.one = One(stream.site, stream.route, context)
        self.writing = writing
        self.before = before

    async def run(self, data: bytes) -> None:
        one = self.one
        request: Any = None
        try:
            call = one.enter()
            if IDEMPOTENCY_KEY in call.exchange.headers:
                raise InputError(
                    f"{IDEMPOTENCY_KEY} on a stream, which holds many requests",
                    help="send what must not run twice by ModelInfer, each with a key of its own",
                    code="E291",
                )
            request = parse(_Request, data)
            model = self.models.find(request.model_name, request.model_version)
            asked = of_message(request.parameters)
            honour(call, asked)
            if asked.sequence_id:
                await self._turn()  # the requests of a sequence build upon one another
                call.exchange.came = real()  # and its time begins when it has its turn
            if model.decoupled:
                self.before = None  # its increments wait for nobody
                await self._increments(call, model, request, asked)
            else:
                answer = await calls.infer(call, model, tensors.read(request), asked)
                await self._whole(model, request, model.tensors(answer.value), asked)
        except asyncio.CancelledError as error:
            one.left(error)
            raise
        except Exception as error:  # noqa: BLE001  # every request gets an answer
            await self._failed(request, error)
        finally:
            self.before = None
            one.close()

    async def _whole(self, model: Model, request: Any, results: dict[str, Any], asked: Parameters) -> None:
        answer = tensors.written(request, model, results)
        if asked.triton_enable_empty_final_response:
            answer.parameters["triton_final_response"].bool_param = True
        await self._turn()
        await self._write(_Answer(infer_response=answer))

    async def _turn(self) -> None:
        """Wait until the request before this one was answered."""
        if self.before is not None:
            await asyncio.wait([self.before])

    async def _increments(self, call: Call, model: Model, request: Any, asked: Parameters) -> None:
        stream = calls.values(call, model, tensors.read(request), asked)
        try:
            async for value in stream:
                answer = tensors.written(request, model, model.tensors(value))
                answer.parameters["triton_final_response"].bool_param = False
                await self._write(_Answer(infer_response=answer))
        finally:
            await stream.aclose()
        if asked.triton_enable_empty_final_response:
            await self._write(_Answer(infer_response=_empty(model, request)))

    async def _failed(self, request: Any, error: Exception) -> None:
        words = self.one.failed(error)
        if self.one.call is not None and isinstance(self.one.problem, TautenError):
            self.one.call.error = self.one.problem
        answer = _Answer(error_message=words)
        if request is not None:
            answer.infer_response.id = request.id
            answer.infer_response.model_name = request.model_name
        await self._turn()
        await self._write(answer)

    async def _write(self, answer: Any) -> None:
        async with self.writing:
            await self.one.context.write(answer.SerializeToString())


def _empty(model: Model, request: Any) -> Any:
    """Says that a request's last answer was sent."""
    answer = tensors.ModelInferResponse(model_name=model.service.name, id=request.id)
    answer.parameters["triton_final_response"].bool_param = True
    return answer
