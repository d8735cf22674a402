"""Plain Python: a user's function, or a class that is constructed once per replica."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import traceback
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any, ClassVar

from tauten.describe.stage import StageKind
from tauten.errors import BackendError, PlanError, StageError, TautenError
from tauten.extras import install
from tauten.run.contracts import ModelSpec

Call = tuple[tuple[Any, ...], dict[str, Any]] | tuple[tuple[Any, ...], dict[str, Any], Context]


class PythonBackend:
    """Calls the stage kind in the option `kind`. An item is ``(args, kwargs)``; the result is what it returns.

    A third member of the item, a context, surrounds the call. Of a kind that streams the items are its steps:
    ``args`` is a function that is called. A kind with ``max_batch > 1`` is called once with lists: each input becomes the list of the members'
    values, its settings are shared, and it must return a list of the same length.
    """

    name: ClassVar[str] = "python"
    option_keys: ClassVar[frozenset[str]] = frozenset({"kind"})

    def __init__(self, spec: ModelSpec) -> None:
        kind = spec.options.get("kind")
        if not isinstance(kind, StageKind):
            raise PlanError(
                "the python backend runs stages of Python code", help="pin another backend", code="E122"
            )
        if kind.is_async:
            raise PlanError(
                f"{kind.name} is asynchronous: it runs on the event loop",
                code="E122",
                help="leave the backend out: an `async def` stage needs none",
            )
        self.spec = spec
        self.kind: StageKind[..., Any] = kind
        self._call: Callable[..., Any] | None = None
        self._dead = False  # said by what it raised

    def open(self) -> None:
        if self._call is not None:
            return
        if not self.kind.is_class:
            self._call = _step if self.kind.streams else self.kind.function
            return
        try:
            self._call = self.kind.function()
        except Exception as error:
            raise _stage_error(self.kind.name, "could not be constructed", error) from error

    def group(self, item: Any) -> Hashable:
        """Members of one call share their settings and their session; single calls share anything."""
        if self.kind.max_batch == 1:
            return ()
        args, kwargs = item[:2]
        shared = {key: value for key, value in kwargs.items() if self._is_shared(key)}
        return len(args), tuple(sorted((key, _hashable(value)) for key, value in shared.items()))

    def _is_shared(self, key: str) -> bool:
        return key not in self.kind.inputs and key != self.kind.context_param

    def weight(self, item: Any) -> float:
        return 1.0

    def run(self, items: Sequence[Any]) -> list[Any]:
        if self._call is None:
            raise BackendError(
                "python: run() on a backend that is not open", help="call open() first", code="E406"
            )
        if self.kind.max_batch == 1:
            return [self._run_one(self._call, item) for item in items]
        groups: dict[Hashable, list[int]] = {}
        for index, item in enumerate(items):
            groups.setdefault(self.group(item), []).append(index)
        results: list[Any] = [None] * len(items)
        for members in groups.values():
            answers = self._run_together(self._call, [items[index] for index in members])
            for index, answer in zip(members, answers, strict=True):
                results[index] = answer
        return results

    def _run_one(self, call: Callable[..., Any], item: Call) -> Any:
        args, kwargs = item[:2]
        try:
            if len(item) == 2:
                return call(*args, **kwargs)
            return item[2].run(call, *args, **kwargs)
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a user's exception is that member's result
            self._dead = self._dead or bool(getattr(error, "dead", False))
            return error if isinstance(error, TautenError) else _stage_error(self.kind.name, "raised", error)

    def alive(self) -> bool:
        """Whether it can go on: an instance may have a method of this name, or mark what it raises as `dead`."""
        ask = getattr(self._call, "alive", None) if self.kind.is_class else None
        return not self._dead and (not callable(ask) or bool(ask()))

    def _run_together(self, call: Callable[..., Any], members: list[Call]) -> list[Any]:
        args = [list(column) for column in zip(*(member[0] for member in members), strict=True)]
        kwargs = dict(members[0][1])
        for key in [key for key in kwargs if key in self.kind.inputs]:
            kwargs[key] = [member[1][key] for member in members]
        answer = self._run_one(call, (tuple(args), kwargs))
        if isinstance(answer, Exception):
            return [answer] * len(members)
        if not isinstance(answer, list | tuple) or len(answer) != len(members):
            seen = f"{len(answer)} results" if isinstance(answer, list | tuple) else type(answer).__name__
            raise StageError(
                f"{self.kind.name} was given {len(members)} items and returned {seen}",
                help="a stage with max_batch takes lists and returns a list of the same length",
            )
        return list(answer)

    def properties(self) -> Mapping[str, str]:
        return {
            "precision": "as written",
            "threads": "1",
            "device": "CPU",
            "max_batch": str(self.kind.max_batch),
        }

    def close(self) -> None:
        """Forget the instance; one that has a `close` method is told."""
        instance, self._call = self._call, None
        if self.kind.is_class and hasattr(instance, "close"):
            instance.close()  # type: ignore[union-attr]


def _step(function: Callable[[], Any]) -> Any:
    return function()


def _stage_error(name: str, what: str, error: BaseException) -> StageError:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    ours = StageError(
        f"{name} {what}: {type(error).__name__}: {error}",
        where=place,
        help=install(error) or "the chained error shows the line in your code",
    )
    ours.__cause__ = error
    return ours


def _hashable(value: Any) -> Hashable:
    try:
        hash(value)
    except TypeError:
        return id(value)  # an unhashable setting is shared only by calls that hold the same object
    return value  # type: ignore[no-any-return]
