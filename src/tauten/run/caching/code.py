"""What code does, as values that have names by content: its instructions, and all that it holds.

Closures of one function differ in what they hold and in nothing else; so do methods of two objects, and partials of one
function. What is held is named like a setting. What code calls and reads by name besides, `pure=True` answers for.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from tauten.describe.stage import StageKind

GENERATED = "<string>"  # where the methods that a dataclass is given come from: its fields say what they do


def code_of(kind: StageKind[..., Any]) -> Any:
    """The code of a stage; what `content_name` finds nameless in it, it holds."""
    return _Spelling().of(kind)


class _Spelling:
    """Of one stage. A function that was met before is named by its place: closures may hold themselves."""

    def __init__(self) -> None:
        self._met: list[FunctionType] = []
        self._ways: dict[type, Callable[[Any], Any]] = {
            FunctionType: self._function,
            MethodType: lambda method: ("method", self.of(method.__func__), self.of(method.__self__)),
            functools.partial: self._partial,
            functools._lru_cache_wrapper: lambda cached: ("cached", self.of(cached.__wrapped__)),
            BuiltinFunctionType: lambda built: ("built in", built.__qualname__, self.of(built.__self__)),
            ModuleType: lambda module: ("module", module.__name__),
            re.Pattern: lambda pattern: ("pattern", pattern.pattern, pattern.flags),
            type(Path()): lambda path: ("path", str(path)),
            StageKind: self._stage,
            list: lambda members: [self.of(each) for each in members],
            tuple: lambda members: tuple(self.of(each) for each in members),
            dict: lambda members: {key: self.of(each) for key, each in members.items()},
        }

    def of(self, value: Any) -> Any:
        """A thing that code holds; what is no code is its own content."""
        spell = self._ways.get(value.__class__)
        return value if spell is None else spell(value)

    def _stage(self, kind: StageKind[..., Any]) -> Any:
        beside = list(self._methods(kind.function)) if isinstance(kind.function, type) else []
        return ("stage", kind.name, self.of(kind.body), beside)

    def _partial(self, partial: functools.partial[Any]) -> Any:
        return ("partial", self.of(partial.func), self.of(partial.args), self.of(partial.keywords))

    def _function(self, function: FunctionType) -> Any:
        for place, met in enumerate(self._met):
            if met is function:
                return ("again", place)
        self._met.append(function)
        return (
            f"{function.__module__}.{function.__qualname__}",
            _spelled(function.__code__),
            [self._cell(each) for each in function.__closure__ or ()],
            self.of(function.__defaults__),
            self.of(function.__kwdefaults__),
            self.of(getattr(function, "__wrapped__", None)),
        )

    def _cell(self, cell: CellType) -> Any:
        try:
            held = cell.cell_contents
        except ValueError:  # nothing was put there yet
            return ("empty",)
        return self.of(held)

    def _methods(self, kind: type) -> Iterator[Any]:
        """Those of a class, and those that it inherits: it is made anew in each process."""
        for each in kind.__mro__:
            for value in vars(each).values():
                method = getattr(value, "__func__", value)  # of one that is bound to the class, or to nothing
                if isinstance(method, FunctionType) and method.__code__.co_filename != GENERATED:
                    yield self.of(method)


def _spelled(code: CodeType) -> tuple[Any, ...]:
    return (code.co_code, code.co_names, tuple(map(_constant, code.co_consts)))


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _spelled(value)
    if isinstance(value, frozenset):
        return tuple(sorted(map(repr, value)))  # in itself it has no order
    return f"{value.__class__.__name__} {value!r}"
