"""Text in, text out, as plain JSON: what `generate` and `generate_stream` read and say."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from tauten.describe.said import Said
from tauten.errors import InputError, TautenError
from tauten.run.oip.tensors import Array, strings
from tauten.run.trace import SHARED
from tauten.serve import sse
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.oip import calls
from tauten.serve.oip.models import VERSION, Flow, Model, as_bytes
from tauten.serve.oip.parameters import Parameters, honour, parameters

Failure = Callable[[TautenError], Reply]
_LOGPROBS = "logprobs"  # the input by which a workflow is asked for the probabilities of its tokens


class Body(msgspec.Struct):
    """A generate request; inputs of the workflow may stand beside `text_input` by their names."""

    text_input: str | None = None
    id: str = ""
    parameters: dict[str, Any] = {}


class Question:
    """A request as it was read: the workflow, its inputs, and what the answer shall hold."""

    def __init__(
        self, call: Call, model: Flow, id: str, tensors: dict[str, Array], asked: Parameters
    ) -> None:
        self.call = call
        self.model = model
        self.id = id
        self.tensors = tensors
        self.asked = asked
        self.said: list[Said] = []

    async def whole(self) -> Reply:
        """The answer at once."""
        call, model = self.call, self.model
        if not self.asked.details:
            whole = await calls.infer(call, model, self.tensors, self.asked)
            return Reply.json(self._answer(self._text(whole.value)))
        values = calls.values(call, model, self.tensors, self.asked)  # the parts know more than the whole
        async with aclosing(values):
            texts = [self._text(value) async for value in values]
        return Reply.json({**self._answer("".join(texts)), "details": self._details()})

    async def streamed(self, failed: Failure) -> Reply:
        """An event for each increment; what fails before the first one has its own status."""
        values = await sse.begun(calls.values(self.call, self.model, self.tensors, self.asked))

        def broken(error: TautenError) -> bytes:
            return b"data: " + failed(error).whole() + b"\n\n"

        return sse.told_reply(self.call, self._events(values), broken)

    async def _events(self, values: AsyncGenerator[Any, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(values):
            async for value in values:
                yield _event(self._answer(self._text(value)))
            if self.asked.details:  # only now they are known
                yield _event({**self._answer(""), "details": self._details()})

    def _text(self, value: Any) -> str:
        if self.asked.details and isinstance(value, Said):
            self.said.append(value)
        arrays = self.model.tensors(value).values()
        return "".join(as_bytes(each).decode(errors="replace") for array in arrays for each in array.ravel())

    def _answer(self, text: str) -> dict[str, Any]:
        said = {"model_name": self.model.service.name, "model_version": VERSION, "text_output": text}
        return {**said, "id": self.id} if self.id else said

    def _details(self) -> dict[str, Any]:
        """Why the answer ended (a stop string counts as its own end), its tokens, and how likely each was."""
        request = self.call.request
        assert request is not None  # it ran
        spent: dict[str, float] = {}
        for _, unit, amount in request.trace.spent:
            name = unit.removeprefix(SHARED)
            spent[name] = spent.get(name, 0.0) + amount
        tokens = [token for said in self.said for token in said.tokens]
        return {
            "finish_reason": "length" if request.trace.cut else "eos_token",
            "input_tokens": round(spent.get("input_tokens", 0.0)),
            "output_tokens": round(spent.get("output_tokens", 0.0)),
            "logprobs": [
                {"text": token.piece.decode(errors="replace"), "logprob": token.logprob} for token in tokens
            ],
        }


async def read(call: Call, model: Model) -> Question:
    """The request of a call; parameters and fields that nobody takes are named in the reply."""
    if not isinstance(model, Flow):
        raise InputError(f"'{model.service.name}' takes tensors, no text", help="use infer", code="E297")
    body = await call.read(Body)
    fields = await call.read(dict[str, Any])
    beside = {name: value for name, value in fields.items() if name not in Body.__struct_fields__}
    given = {name: value for name, value in {**body.parameters, **beside}.items() if name in model.ports}
    if body.text_input is not None:
        given[model.text_input(given)] = body.text_input
    asked = parameters({name: value for name, value in body.parameters.items() if name not in model.ports})
    asked.unknown += tuple(name for name in beside if name not in model.ports)
    honour(call, asked)
    if asked.details and _LOGPROBS in model.ports:
        given.setdefault(_LOGPROBS, True)
    tensors = {name: _field(value) for name, value in given.items() if value is not None}
    return Question(call, model, body.id, tensors, asked)


def _field(value: Any) -> Array:
    """A JSON field as the one element, or the elements, of a tensor."""
    values = value if isinstance(value, list) else [value]
    if all(isinstance(each, bool | int | float) for each in values):
        return strings(values)
    return strings([each.encode() if isinstance(each, str) else msgspec.json.encode(each) for each in values])


def _event(value: Any) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
