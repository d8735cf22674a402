"""Runs one stage: its inputs as it wants them, its code where it belongs, its visit in the trace."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple, Protocol

from tauten.describe.payload import Payload
from tauten.describe.stage import AMBIENT, Ambient, StageKind
from tauten.describe.view import View
from tauten.errors import StageError, TautenError
from tauten.extras import install
from tauten.run.bound import BoundStep, DecodeMode, Dynamic
from tauten.run.caching.keeper import Anew, Keeper
from tauten.run.contracts import find
from tauten.run.deploy.deployment import Deployment
from tauten.run.door.known_steps import step_of
from tauten.run.request import Request
from tauten.run.trace import VISIT
from tauten.run.values import unwrapped

_END = object()


class Hand(Ambient, Protocol):
    """A step joined to its request: what is needed to run it. `name` is of this visit."""

    bound: BoundStep
    name: str
    request: Request
    dynamic: Dynamic

    async def work(self, function: Callable[..., Any], *args: Any, cause: str = "decode") -> Any: ...

    def again(self, request: Request) -> Hand: ...


async def fitted(
    context: Hand, kind: StageKind[..., Any], inputs: dict[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Plain values as the payloads that a stage takes, and payloads as the views that it wants."""
    values = dict(inputs)
    for name, port in kind.inputs.items():
        if name in values:
            values[name] = unwrapped(port.coerce(values[name]), port)
    for name in kind.views:
        if name in values:
            view = kind.view_of(name, params, context.bound.view)
            values[name] = await decoded(context, name, values[name], view)
    return values


async def decoded(context: Hand, port: str, value: Any, view: View, mode: DecodeMode | None = None) -> Any:
    """One input as its stage wants to see it; what the codec does not read passes through."""
    codec = find("codecs", view.codec)()
    if not isinstance(value, Payload) or not codec.accepts(value):
        return value
    return await decode(
        context.dynamic,
        context.request,
        f"{context.name}.{port}",
        value,
        view,
        mode or context.bound.decode,
        views=context.bound.views,
    )


class _Decode(NamedTuple):
    """A decode step at work for a request."""

    name: str
    request: Request


def decode(
    dynamic: Dynamic,
    request: Request,
    name: str,
    payload: Payload,
    view: View,
    mode: DecodeMode,
    since: float | None = None,
    views: Keeper | None = None,
) -> Coroutine[Any, Any, Any]:
    """Decode one payload as the step `name`, through `views` where the plan keeps them."""
    if views is None:
        return _decode(dynamic, request, name, payload, view, mode, since)
    asked = {"payload": payload, "view": view}
    work = partial(_decode, dynamic, request, name, payload, view, mode)
    return views.value(_Decode(name, request), asked, since, work)


async def _decode(
    dynamic: Dynamic,
    request: Request,
    name: str,
    payload: Payload,
    view: View,
    mode: DecodeMode,
    since: float | None = None,
) -> Any:
    """Its wait, its work and the way back are rows."""
    clock, rows = request.clock, request.trace.rows
    asked, decoders = clock(), dynamic.decoders
    try:
        crew = decoders.crew(mode)
        dynamic.waits(step_of(name), crew)
        value, started, ended = await decoders.decode(payload, view, mode=mode, request=request, step=name)
        rows.append((name, "queue", asked, started))
        rows.append((name, "decode", started, ended))
        back = clock()
        rows.append((name, "loop", ended, back))
        request.trace.calls.append((name, crew.label, asked, started, ended, back))
    finally:
        rows.append((name, VISIT, asked if since is None else since, clock()))
    return value


def run_stage(
    context: Hand,
    kind: StageKind[..., Any],
    inputs: dict[str, Any],
    params: Mapping[str, Any],
    since: float | None = None,
) -> Coroutine[Any, Any, Any]:
    """Run a stage that gives one value, through its cache where the plan gives it one.

    The visit begins at `since`, where the step waited for streams that it wants whole.
    """
    results = context.bound.results
    if results is None:
        return _run_stage(context, kind, inputs, params, since)
    work = partial(_run_stage, context, kind, inputs, params)
    anew = _anew(_run_stage, context, kind, inputs, params)
    return results.value(context, _asked(context, inputs, params), since, work, anew)


def _anew(
    run: Callable[..., Any],
    context: Hand,
    kind: StageKind[..., Any],
    inputs: dict[str, Any],
    params: Mapping[str, Any],
) -> Anew:
    """The same work once more, for a request that nobody made: its cache wants it computed anew."""

    def anew() -> tuple[Hand, Callable[..., Any]]:
        again = context.again(context.request.behind())
        return again, partial(run, again, kind, inputs, params)

    return anew


def _asked(context: Hand, inputs: dict[str, Any], params: Mapping[str, Any]) -> Mapping[str, Any]:
    """What names a result: the inputs, and the settings where running code gives its own."""
    return inputs if params is context.bound.params else {**params, **inputs}


async def _run_stage(
    context: Hand,
    kind: StageKind[..., Any],
    inputs: dict[str, Any],
    params: Mapping[str, Any],
    since: float | None = None,
) -> Any:
    """Writes the stage's visit, wraps what its code raises."""
    request, name = context.request, context.name
    clock, rows = request.clock, request.trace.rows
    started = clock()
    token = AMBIENT.set(context)
    try:
        arguments = arguments_of(kind, context, inputs, params)
        if kind.is_async:
            return await kind.body(**arguments)
        if kind.deployed:
            return await _deployed(context, (), arguments)
        return kind.body(**arguments)
    except TautenError:
        raise
    except (Exception, SystemExit) as error:
        raise stage_error(name, error) from error
    finally:
        AMBIENT.reset(token)
        ended = clock()
        if not kind.deployed:  # the stage's own code: what nothing inside the visit claims
            rows.append((name, "user", started, ended))
        rows.append((name, VISIT, started if since is None else since, ended))


async def run_simple(context: Hand, kind: StageKind[..., Any], inputs: dict[str, Any]) -> Any:
    """`run_stage` of a coroutine that takes its inputs and nothing else: the common step of user code."""
    request = context.request
    started = request.clock()
    token = AMBIENT.set(context)
    try:
        return await kind.body(**inputs)
    except TautenError:
        raise
    except (Exception, SystemExit) as error:
        raise stage_error(context.name, error) from error
    finally:
        AMBIENT.reset(token)
        ended = request.clock()
        rows = request.trace.rows
        rows.append((context.name, "user", started, ended))
        rows.append((context.name, VISIT, started, ended))


def stream_stage(
    context: Hand,
    kind: StageKind[..., Any],
    inputs: dict[str, Any],
    params: Mapping[str, Any],
    since: float | None = None,
) -> AsyncGenerator[Any, None]:
    """Iterate a stage that gives increments, through its cache where the plan gives it one.

    A blocking generator runs in threads, step by step. Closing the iterator closes the stage's own.
    """
    results = context.bound.results
    if results is None:
        return _stream_stage(context, kind, inputs, params, since)
    work = partial(_stream_stage, context, kind, inputs, params)
    anew = _anew(_stream_stage, context, kind, inputs, params)
    return results.stream(context, _asked(context, inputs, params), since, work, anew)


async def _stream_stage(
    context: Hand,
    kind: StageKind[..., Any],
    inputs: dict[str, Any],
    params: Mapping[str, Any],
    since: float | None = None,
) -> AsyncGenerator[Any, None]:
    """Writes the stage's visit, wraps what its code raises."""
    name, rows, clock = context.name, context.request.trace.rows, context.request.clock
    visited = clock()
    if since is not None:  # its task waited for a turn of the loop; what it collected meanwhile says more
        rows.append((name, "loop", since, visited))
        visited = since
    source: AsyncIterator[Any] | None = None
    try:
        source = await _opened_stream(context, kind, arguments_of(kind, context, inputs, params))
        while True:
            started = clock()
            token = AMBIENT.set(context)
            try:
                value = await anext(source, _END)
            finally:
                AMBIENT.reset(token)
                if kind.is_async:
                    rows.append((name, "user", started, clock()))
            if value is _END:
                return
            yield value
    except TautenError:
        raise
    except (Exception, SystemExit) as error:
        raise stage_error(name, error) from error
    finally:
        try:
            if source is not None:
                await _closed(name, source)
        finally:
            rows.append((name, VISIT, visited, clock()))


async def _closed(name: str, source: Any) -> None:
    """Close a stage's own increments; what its clean-up raises is its own, too."""
    try:
        if hasattr(source, "aclose"):
            await source.aclose()
    except TautenError:
        raise
    except (Exception, SystemExit) as error:
        raise stage_error(name, error) from error


async def _opened_stream(
    context: Hand, kind: StageKind[..., Any], arguments: dict[str, Any]
) -> AsyncIterator[Any]:
    """The increments of a body that is a generator, or that returns a stream or a list."""
    if kind.is_generator:
        generator = kind.body(**arguments)
        return generator if kind.is_async else _Steps(context, generator)
    token = AMBIENT.set(context)
    try:
        if kind.is_async:
            given = await kind.body(**arguments)
        elif kind.inline:
            given = kind.body(**arguments)
        else:
            given = await _deployed(context, (partial(kind.body, **arguments),), {})
    finally:
        AMBIENT.reset(token)
    if hasattr(given, "__aiter__"):
        stream: AsyncIterator[Any] = aiter(given)
        return stream
    return _Steps(context, iter(given))


class _Steps:
    """A blocking iterator, advanced in the threads of its stage; a list that a coroutine gave, in any.

    Each step queues anew, so that a slow reader holds no thread; what has begun to answer is not refused.
    """

    def __init__(self, context: Hand, source: Iterator[Any]) -> None:
        self._context = context
        self._source = source
        self._lock = threading.Lock()  # a step that was left alone still runs while we close
        self._busy = False

    def __aiter__(self) -> _Steps:
        return self

    async def __anext__(self) -> Any:
        self._busy = True
        try:
            value = await self._step()
        except asyncio.CancelledError:
            raise  # the thread is still in it
        except BaseException:
            self._busy = False
            raise
        self._busy = False
        if value is _END:
            raise StopAsyncIteration
        self._context.request.admitted = True
        return value

    async def _step(self) -> Any:
        context = self._context
        if "body" in context.bound.deployments:
            return await _deployed(context, (self._next,), {})
        return await context.work(self._next, cause="user")

    def _next(self) -> Any:
        with self._lock:
            return next(self._source, _END)

    async def aclose(self) -> None:
        """Close the generator in a thread; where a step still runs there, after it, without waiting."""
        if not hasattr(self._source, "close") or getattr(self._source, "gi_frame", True) is None:
            return
        workers = self._context.bound.workers
        if self._busy:
            workers.later(self._close)
        else:
            await workers.finish(self._context.request, self._context.name, "user", self._close)

    def _close(self) -> None:
        with self._lock:
            self._source.close()  # type: ignore[attr-defined]


async def _deployed(context: Hand, args: tuple[Any, ...], arguments: dict[str, Any]) -> Any:
    """Run a stage's blocking code in its own deployment, with the surroundings of the caller."""
    deployment = context.bound.deployments["body"]
    assert isinstance(deployment, Deployment)  # bound so by the opener
    item = (args, arguments, copy_context())
    try:
        return await deployment.infer(context.request, context.name, item, cause="user")
    except StageError as error:
        if error.__cause__ is not None and error.where:  # said of the kind; the caller knows its step
            raise stage_error(context.name, error.__cause__) from error.__cause__
        raise


def arguments_of(
    kind: StageKind[..., Any], context: Hand, inputs: dict[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """The body's keyword arguments: inputs, the settings it declares, context and session."""
    arguments = dict(inputs)
    for key in kind.params:
        arguments[key] = params[key]
    if kind.context_param:
        arguments[kind.context_param] = context
    if kind.session_param:
        arguments[kind.session_param] = context.request.conversation()
    return arguments


def stage_error(step: str, error: BaseException) -> StageError:
    """What a stage's own code raised, with its step."""
    return StageError(
        f"stage '{step}' raised {error.__class__.__name__}: {error}",
        help=install(error) or "the chained error shows the line in your code",
    )
