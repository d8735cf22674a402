"""Wraps a client that you already have, so that its calls have spans, the deadline and their tokens booked.

    client = tt.wrap(AsyncOpenAI())      # used as before; inside a request its calls are seen

Works with any client whose methods are called, awaited or iterated. Outside a request nothing changes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast

from tauten.describe.stage import AMBIENT
from tauten.run.context import StepContext

C = TypeVar("C")

_USAGE = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
"""What OpenAI-style answers call their counts, and what the books call them."""


def wrap(client: C) -> C:
    """The same client to its users: same methods, same signatures, same results.

    Inside a request each call is a `remote` row of the step that makes it, its token counts are booked,
    and a call that takes a `timeout` and was given none gets the time that the request has left.
    Cancelling the request cancels an awaited call.
    """
    return cast(C, _Wrapped(client))


class _Wrapped:
    """A client or one of its parts (``client.chat.completions``)."""

    def __init__(self, target: Any) -> None:
        object.__setattr__(self, "_target", target)

    def __getattr__(self, name: str) -> Any:
        value = getattr(object.__getattribute__(self, "_target"), name)
        if name.startswith("_") or isinstance(
            value, str | bytes | int | float | bool | dict | list | type(None)
        ):
            return value
        if inspect.isroutine(value):
            return _watched(value)
        return _Wrapped(value)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_target"), name, value)

    def __repr__(self) -> str:
        return f"<wrapped {object.__getattribute__(self, '_target')!r}>"


def _watched(call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def watched(*args: Any, **kwargs: Any) -> Any:
        context = AMBIENT.get()
        if not isinstance(context, StepContext):
            return call(*args, **kwargs)
        started = context.request.clock()
        result: Any = None
        try:
            result = call(*args, **_within_deadline(call, kwargs, context))
        finally:
            if not inspect.isawaitable(result):
                _record(context, started)
        return _seen(context, result, started)

    return watched


def _within_deadline(
    call: Callable[..., Any], kwargs: dict[str, Any], context: StepContext
) -> dict[str, Any]:
    left = context.deadline_left()
    if "timeout" in kwargs or left == math.inf or not _takes_timeout(call):
        return kwargs
    return {**kwargs, "timeout": max(left, 0.001)}  # zero means "no timeout" to some clients


def _takes_timeout(call: Callable[..., Any]) -> bool:
    try:
        return "timeout" in inspect.signature(call).parameters
    except (TypeError, ValueError):  # built-in callables may have no signature
        return False


def _seen(context: StepContext, result: Any, started: float) -> Any:
    """The call's result; what is awaited or iterated is watched to its end."""
    if inspect.isawaitable(result):
        return _awaited(context, result, started)
    if hasattr(result, "__aiter__"):
        return _Chunks(context, result)
    if isinstance(result, Iterator):
        return _iterated(context, result)
    _book(context, result)
    return result


async def _awaited(context: StepContext, work: Awaitable[Any], started: float) -> Any:
    try:
        result = await work
    finally:
        _record(context, started)
    return _seen(context, result, started)


class _Chunks:
    """An asynchronous stream of a client: iterated as before, closed as before."""

    def __init__(self, context: StepContext, stream: Any) -> None:
        self._context = context
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._chunks()

    async def __aenter__(self) -> _Chunks:
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *why: Any) -> Any:
        return await self._stream.__aexit__(*why)

    async def _chunks(self) -> AsyncIterator[Any]:
        source = aiter(self._stream)
        while True:
            started = self._context.request.clock()
            try:
                chunk = await anext(source)
            except StopAsyncIteration:
                return
            finally:
                _record(self._context, started)
            _book(self._context, chunk)
            yield chunk


def _iterated(context: StepContext, stream: Iterator[Any]) -> Iterator[Any]:
    while True:
        started = context.request.clock()
        try:
            chunk = next(stream)
        except StopIteration:
            return
        finally:
            _record(context, started)
        _book(context, chunk)
        yield chunk


def _record(context: StepContext, started: float) -> None:
    context.request.trace.rows.append((context.name, "remote", started, context.request.clock()))


def _book(context: StepContext, answer: Any) -> None:
    """Book an answer's own token counts; one that says nothing books nothing."""
    usage = getattr(answer, "usage", None)
    for theirs, ours in _USAGE.items():
        amount = getattr(usage, theirs, None)
        if isinstance(amount, int | float) and amount:
            context.spend(ours, float(amount))
