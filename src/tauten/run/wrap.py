"""Wraps a client that you already have, so that its calls have spans, the deadline, their tokens and their price booked.

    client = tt.wrap(AsyncOpenAI())      # used as before; inside a request its calls are seen

Works with any client whose methods are called, awaited or iterated. Outside a request nothing changes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import inspect
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from typing import Any, TypeVar, cast

from tauten.describe.stage import AMBIENT
from tauten.run.context import StepContext
from tauten.run.wrapped.attempt import Attempt
from tauten.run.wrapped.client import Client

C = TypeVar("C")
_PLAIN = frozenset({"builtins", "types"})  # modules whose classes are no clients, and common as results


def wrap(client: C) -> C:
    """The same client to its users: same methods, same signatures, same results.

    Inside a request each call is a `remote` row of the step that makes it. One that names a model, or whose answer
    counts tokens, is booked as a call to its provider, however it ends; budgets are asked before it, and a model that
    keeps failing is left alone for a while. A call that takes a `timeout` and was given none gets the time that
    the request has left. Cancelling the request cancels an awaited call. Retries are the client's own.
    """
    return cast(C, _Wrapped(client, Client(client)))


class _Wrapped:
    """A client or one of its parts (``client.chat.completions``)."""

    def __init__(self, target: Any, client: Client) -> None:
        object.__setattr__(self, "_target", target)
        object.__setattr__(self, "_client", client)

    def __getattr__(self, name: str) -> Any:
        value = getattr(object.__getattribute__(self, "_target"), name)
        if name.startswith("_") or isinstance(
            value, str | bytes | int | float | bool | dict | list | type(None)
        ):
            return value
        client = object.__getattribute__(self, "_client")
        if inspect.isroutine(value):
            return _watched(client, value)
        return _Wrapped(value, client)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(object.__getattribute__(self, "_target"), name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        target, client = object.__getattribute__(self, "_target"), object.__getattribute__(self, "_client")
        return _watched(client, target)(*args, **kwargs)

    async def __aenter__(self) -> Any:
        return self._entered(await object.__getattribute__(self, "_target").__aenter__())

    async def __aexit__(self, *why: Any) -> Any:
        return await object.__getattribute__(self, "_target").__aexit__(*why)

    def __enter__(self) -> Any:
        return self._entered(object.__getattribute__(self, "_target").__enter__())

    def __exit__(self, *why: Any) -> Any:
        return object.__getattribute__(self, "_target").__exit__(*why)

    def _entered(self, entered: Any) -> Any:
        """What its block works with: itself, where the client gives itself."""
        if entered is object.__getattribute__(self, "_target"):
            return self
        return _again(object.__getattribute__(self, "_client"), entered)

    def __repr__(self) -> str:
        return f"<wrapped {object.__getattribute__(self, '_target')!r}>"


class _Watch:
    """One call inside a request: whose it is, and what becomes of it."""

    def __init__(self, client: Client, context: StepContext, attempt: Attempt) -> None:
        self.client = client
        self.context = context
        self.attempt = attempt
        self.entered = False  # it was let through
        self.begun = False  # pieces of an answer came

    async def let_in(self) -> None:
        """Before it is made: raise where its model is left alone, or no budget pays for it."""
        if not self.entered:
            self.entered = True
            self.attempt.enter()
            await self.attempt.hold()

    def now(self) -> float:
        return self.context.request.clock()

    def record(self, started: float) -> None:
        self.context.request.trace.rows.append((self.context.name, "remote", started, self.now()))


def _watched(client: Client, call: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(call)
    def watched(*args: Any, **kwargs: Any) -> Any:
        context = AMBIENT.get()
        if not isinstance(context, StepContext):
            return _again(client, call(*args, **kwargs))
        watch = _Watch(client, context, Attempt(client, context, kwargs))
        if not _awaits(client, call):  # it is made at once
            watch.attempt.enter()
            watch.attempt.hold_now()
            watch.entered = True
        return _made(watch, call, args, kwargs)

    return watched


def _made(watch: _Watch, call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    started = watch.now()
    result: Any = None
    try:
        result = call(*args, **_within_deadline(call, kwargs, watch.context))
    except BaseException as error:
        watch.attempt.ended(error)
        raise
    finally:
        if not inspect.isawaitable(result):
            watch.record(started)
    return _seen(watch, result)


def _awaits(client: Client, call: Callable[..., Any]) -> bool:
    """Whether it is made when it is awaited, and not when it is called."""
    body = inspect.unwrap(call)
    if inspect.iscoroutinefunction(body) or inspect.isasyncgenfunction(body):
        return True
    return "Async" in type(client.root).__name__


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


def _seen(watch: _Watch, result: Any) -> Any:
    """The call's result; what is awaited, iterated or entered is watched to its end."""
    if inspect.isawaitable(result):
        more = hasattr(result, "__aiter__") or hasattr(result, "__aenter__")
        return _Either(watch, result) if more else _awaited(watch, result)
    if _made_by(watch.client, result):
        watch.attempt.ended()
        return _again(watch.client, result)
    if hasattr(result, "__aiter__"):
        return _Chunks(watch, result)
    if isinstance(result, Iterator):
        return _Pieces(watch, result)
    if hasattr(result, "__aenter__") or hasattr(result, "__enter__"):
        return _Opening(watch, result)
    watch.attempt.answer.add(result)
    watch.attempt.ended()
    return result


def _again(client: Client, result: Any) -> Any:
    """A client that was made from this one (``client.with_options()``) is wrapped as well."""
    return _Wrapped(result, Client(result)) if _made_by(client, result) else result


def _made_by(client: Client, result: Any) -> bool:
    """Whether a result is a client like this one."""
    kind = type(client.root)
    return kind.__module__ not in _PLAIN and isinstance(result, kind)


async def _awaited(watch: _Watch, work: Awaitable[Any]) -> Any:
    try:
        await watch.let_in()
    except BaseException:
        getattr(work, "close", lambda: None)()  # a coroutine that nobody awaits
        raise
    started = watch.now()
    try:
        result = await work
    except BaseException as error:
        watch.attempt.ended(error)
        raise
    finally:
        watch.record(started)
    return _seen(watch, result)


class _Watched:
    """A stream of a client on its way; one that nobody reads to its end is booked when it is let go."""

    def __init__(self, watch: _Watch, stream: Any) -> None:
        self._watch = watch
        self._stream = stream
        self._dropped = weakref.finalize(self, watch.attempt.ended, whole=False)
        self._dropped.atexit = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _came(self, piece: Any) -> Any:
        self._watch.begun = True
        self._watch.attempt.answer.add(piece)
        return piece

    def _failed(self, error: BaseException | None) -> None:
        self._watch.attempt.ended(error, begun=self._watch.begun)

    async def _chunks(self) -> AsyncIterator[Any]:
        await self._watch.let_in()
        source = aiter(self._stream)
        try:
            while True:
                started = self._watch.now()
                try:
                    chunk = await anext(source)
                except StopAsyncIteration:
                    self._watch.attempt.ended()
                    return
                finally:
                    self._watch.record(started)
                yield self._came(chunk)
        except BaseException as error:
            self._failed(error)
            raise

    def _left(self, error: BaseException | None) -> None:
        """Its block was left; where others read it, by ways of their own, nobody here knows how far."""
        begun = self._watch.begun
        self._watch.attempt.ended(error, whole=not begun, begun=begun)


class _Chunks(_Watched):
    """An asynchronous stream: iterated as before, closed as before."""

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._chunks()

    async def __aenter__(self) -> _Chunks:
        await self._watch.let_in()
        if hasattr(self._stream, "__aenter__"):
            await self._stream.__aenter__()
        return self

    async def __aexit__(self, *why: Any) -> Any:
        try:
            return await self._stream.__aexit__(*why)
        finally:
            self._left(why[1])


class _Pieces(_Watched):
    """A stream that blocks."""

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        started = self._watch.now()
        try:
            piece = next(self._stream)
        except StopIteration:
            self._watch.attempt.ended()
            raise
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._watch.record(started)
        return self._came(piece)

    def __enter__(self) -> _Pieces:
        if hasattr(self._stream, "__enter__"):
            self._stream.__enter__()
        return self

    def __exit__(self, *why: Any) -> Any:
        try:
            return self._stream.__exit__(*why) if hasattr(self._stream, "__exit__") else None
        finally:
            self._left(why[1])


class _Opening(_Watched):
    """What opens a stream when its block is entered."""

    async def __aenter__(self) -> Any:
        await self._watch.let_in()
        return _seen(self._watch, await self._opened(self._stream.__aenter__()))

    async def _opened(self, work: Awaitable[Any]) -> Any:
        started = self._watch.now()
        try:
            return await work
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._watch.record(started)

    async def __aexit__(self, *why: Any) -> Any:
        try:
            return await self._stream.__aexit__(*why)
        finally:
            self._left(why[1])

    def __enter__(self) -> Any:
        started = self._watch.now()
        try:
            entered = self._stream.__enter__()
        except BaseException as error:
            self._failed(error)
            raise
        finally:
            self._watch.record(started)
        return _seen(self._watch, entered)

    def __exit__(self, *why: Any) -> Any:
        try:
            return self._stream.__exit__(*why)
        finally:
            self._left(why[1])


class _Either(_Opening):
    """What is awaited, or else iterated or entered, as its user likes: pages of a list, a response of aiohttp's."""

    def __await__(self) -> Generator[Any, None, Any]:
        self._dropped.detach()  # what it gives is watched instead
        return _awaited(self._watch, self._stream).__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._chunks()
