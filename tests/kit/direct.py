"""Run a stage without a plan, a deployment or an engine: its backends are opened directly.

`direct(ocr, image)` runs on real models from the store; `fakes` puts a function in a role's place, so that
the code around a model is tested without one.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from tauten.describe.ports import Session
from tauten.describe.stage import Role, StageKind
from tauten.models import Store
from tauten.run.contracts import ModelSpec, find

Fake = Callable[[Any], Any]


class DirectContext:
    """The `Context` of one stage call. Use it as ``async with``, which closes slot backends.

    `backends`, `models` name what a role uses instead of its first choice (``minilm-l6-v2:int8`` names a
    variant); `fakes` answer in a role's place: a value for `infer`, chunks for `stream`. `items` keeps what
    each role was given, `spent` what was booked. `folder` is where a template's file would lie.
    """

    def __init__(
        self,
        kind: StageKind[..., Any],
        *,
        backends: Mapping[str, str] | None = None,
        models: Mapping[str, str] | None = None,
        fakes: Mapping[str, Fake] | None = None,
        files: Mapping[str, Mapping[str, Path]] | None = None,
        options: Mapping[str, Any] | None = None,
        threads: int = 2,
        precision: str = "",
        session: Session | None = None,
        folder: Path = Path(),
    ) -> None:
        self.kind, self.backends, self.models = kind, dict(backends or {}), dict(models or {})
        self.fakes, self.given_files = dict(fakes or {}), dict(files or {})
        self.options, self.threads, self.precision = dict(options or {}), threads, precision
        self.session, self.folder = session, folder
        self.params: Mapping[str, Any] = {}
        self.items: dict[str, list[Any]] = {}
        self.spent: Counter[str] = Counter()
        self._slots: dict[str, Any] = {}

    async def __aenter__(self) -> DirectContext:
        return self

    async def __aexit__(self, *_: object) -> None:
        for backend in self._slots.values():
            await backend.close()

    def deadline_left(self) -> float:
        return float("inf")

    async def infer(self, role: str, item: Any) -> Any:
        self.items.setdefault(role, []).append(item)
        if role in self.fakes:
            await asyncio.sleep(0)
            return self.fakes[role](item)
        thread, backend = _opened(*self._choice(role))
        (result,) = await asyncio.get_running_loop().run_in_executor(thread, backend.run, [item])
        if isinstance(result, BaseException):
            raise result
        return result

    async def stream(self, role: str, item: Any) -> AsyncIterator[Any]:
        self.items.setdefault(role, []).append(item)
        if role in self.fakes:
            for chunk in self.fakes[role](item):
                await asyncio.sleep(0)
                self._book(chunk)
                yield chunk
            return
        if role not in self._slots:
            name, spec = self._choice(role)
            self._slots[role] = find("backends", name)(_spec(spec))
            await self._slots[role].open()
        async with contextlib.aclosing(self._slots[role].start(item)) as chunks:
            async for chunk in chunks:
                self._book(chunk)
                yield chunk

    def _book(self, chunk: Any) -> None:
        """As a slot deployment does: what a chunk says it took."""
        for unit, amount in chunk.usage.items():
            if amount:
                self.spend(unit, amount)

    def files(self, role: str) -> Mapping[str, Path]:
        if role in self.given_files:
            return self.given_files[role]
        return Store().files(*self._model(role))

    async def work(self, function: Callable[..., Any], *args: Any, cause: str = "decode") -> Any:
        return await asyncio.to_thread(function, *args)

    @contextlib.contextmanager
    def charge(self, cause: str) -> Iterator[None]:
        yield

    def spend(self, unit: str, amount: float) -> None:
        self.spent[unit] += amount  # type: ignore[assignment]

    def _role(self, role: str) -> Role:
        return self.kind.roles[role]

    def _model(self, role: str) -> tuple[str, str | None]:
        own = self._role(role)
        model, _, variant = self.models.get(role, own.model).partition(":")
        return model, variant or (own.variant if model == own.model else "") or None

    def _choice(self, role: str) -> tuple[str, bytes]:
        """The backend's name and its ModelSpec, encoded so that equal choices are one opened backend."""
        model, variant = self._model(role)
        spec = ModelSpec(
            model,
            variant or "",
            Store().files(model, variant),
            self.threads,
            self.precision,
            {**self._role(role).options, **self.options},
        )
        encoded = msgspec.json.encode(spec, enc_hook=str, order="deterministic")
        return self.backends.get(role, self._role(role).backends[0]), encoded


def _spec(encoded: bytes) -> ModelSpec:
    return msgspec.json.decode(encoded, type=ModelSpec, dec_hook=lambda kind, value: kind(value))


@functools.lru_cache(maxsize=16)
def _opened(name: str, spec: bytes) -> tuple[ThreadPoolExecutor, Any]:
    """A batch backend and the one thread that it is called from; shared by all tests of a process."""
    thread = ThreadPoolExecutor(1, thread_name_prefix=f"direct-{name}")
    backend = find("backends", name)(_spec(spec))
    thread.submit(backend.open).result()
    return thread, backend


async def run(context: DirectContext, *inputs: Any, **settings: Any) -> Any:
    """Call the context's stage as the engine would: inputs coerced and decoded, a stream collected."""
    kind = context.kind
    given, params = kind.bind(inputs, settings)
    if kind.prepare:
        given, params = kind.prepare(given, params, context.folder)
    context.params = {**kind.params, **params}
    for name, value in given.items():
        port = kind.inputs.get(name)
        value = port.coerce(value) if port else value
        given[name] = _decoded(kind, name, value, context.params)
    extra = {kind.context_param: context} if kind.context_param else {}
    called = kind.function(**extra, **given, **params)
    if kind.is_generator:
        return [value async for value in called]
    return await called


def _decoded(kind: StageKind[..., Any], name: str, value: Any, params: Mapping[str, Any]) -> Any:
    """The view of one input; a view's parameters follow the step's settings of the same names."""
    if name not in kind.views or value is None:
        return value
    view = kind.views[name]
    view = view.with_params(**{key: params[key] for key in view.params if key in params})
    codec = find("codecs", view.codec)()
    if not codec.accepts(value):
        return value
    return codec.decode(value.data, value.type, view.params, f"{value.hash}/{view.name}")


def direct(
    kind: StageKind[..., Any], *inputs: Any, context: DirectContext | None = None, **settings: Any
) -> Any:
    """Run one stage to its end and return its value; a stream as a list."""

    async def once() -> Any:
        async with context or DirectContext(kind) as opened:
            return await run(opened, *inputs, **settings)

    return asyncio.run(once())
