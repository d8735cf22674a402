"""A recipe: how a variant is made, with which settings, and why those are the defaults.

One file on the shelf `recipes/` is one recipe; the file's name is its name. It holds `RECIPE`. What a recipe
makes depends on nothing but the files, settings and items that it is given, and the versions of its tools:
the variant is named by these.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tauten.errors import InputError, MachineError, suggest
from tauten.shelf import Shelf

Value = bool | int | float | str
Settings = Mapping[str, Value]
Feed = Mapping[str, Any]
"""One calibration item: an array for each input of the model, batch axis included."""
Tell = Callable[[str], None]
"""Hears in a few words what a recipe does now."""
Make = Callable[[Mapping[str, Path], Path, Settings, Sequence[Feed], Tell], Mapping[str, Path]]
"""(files of the source variant, an empty folder to write to, settings, calibration items, progress) ->
the files that were written, by the names that backends look for."""

_SHELF = Shelf("tauten.improve.compress.recipes", "tauten.recipes")


class Setting(msgspec.Struct, frozen=True):
    """One setting: its default and the reason for it. `choices` or bounds say what else it can be."""

    default: Value
    reason: str
    choices: tuple[Value, ...] = ()
    low: float | None = None
    high: float | None = None

    def read(self, name: str, given: Value) -> Value:
        """The value in the type of the default, text included; InputError E276 for one that it cannot be."""
        value = _typed(self.default, given)
        if value is not None and (not self.choices or value in self.choices) and self._within(value):
            return value
        raise InputError(f"setting {name} = {given!r}", help=f"it is {self.range}", code="E276")

    def _within(self, value: Value) -> bool:
        if self.low is None and self.high is None:
            return True
        number = float(value)
        return (self.low is None or number >= self.low) and (self.high is None or number <= self.high)

    @property
    def range(self) -> str:
        """What it can be, in words."""
        if self.choices:
            return "one of " + ", ".join(str(each) for each in self.choices)
        if isinstance(self.default, bool):
            return "true or false"
        if isinstance(self.default, str):
            return "a word"
        bounds = [f"at least {self.low:g}"] if self.low is not None else []
        bounds += [f"at most {self.high:g}"] if self.high is not None else []
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        return " ".join([kind, " and ".join(bounds)]).strip()


class Recipe(msgspec.Struct, frozen=True):
    """How one form of a model is made of another.

    `reads` and `writes` are formats as cards name them (onnx, openvino). `replaces` are the source's files
    that the made ones stand for; all others are taken over. `tools` are the packages whose versions shape
    the result. `extra` is the install extra that brings them. `doubt` is why an optimizer does not advise it.
    """

    name: str
    summary: str
    reads: str
    writes: str
    replaces: tuple[str, ...]
    tools: tuple[str, ...]
    make: Make
    settings: dict[str, Setting] = {}
    needs_calibration: bool = False
    extra: str = "local"
    doubt: str = ""

    def read_settings(self, given: Settings) -> dict[str, Value]:
        """Every setting, given or by default; InputError E276 with the closest name for one it lacks."""
        for name in given:
            if name not in self.settings:
                raise InputError(
                    f"recipe {self.name} has no setting {name!r}",
                    help=suggest(name, self.settings) if self.settings else "it has none at all",
                    code="E276",
                )
        return {
            name: setting.read(name, given.get(name, setting.default))
            for name, setting in self.settings.items()
        }

    def versions(self) -> dict[str, str]:
        """The installed versions of its tools; MachineError E315 for one that is missing."""
        found = {}
        for tool in self.tools:
            try:
                found[tool] = importlib.metadata.version(tool)
            except importlib.metadata.PackageNotFoundError:
                raise MachineError(
                    f"recipe {self.name} needs the Python package `{tool}`, which is not installed",
                    help=f"pip install 'tauten[{self.extra}]'",
                    code="E315",
                ) from None
        return found


def names() -> tuple[str, ...]:
    """Every recipe on the shelf, and those that other packages add."""
    return _SHELF.names()


def find(name: str) -> Recipe:
    """The recipe of that name; InputError E276 with the closest."""
    added = _SHELF.added(name)
    if added is None and name not in names():
        raise InputError(f"there is no recipe {name!r}", help=suggest(name, names()), code="E276")
    found: Recipe = added if added is not None else _SHELF.own(name).RECIPE
    return found


def _typed(default: Value, given: Value) -> Value | None:
    """`given` in the type of the default, or None."""
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(str(given).lower())
    if isinstance(default, str):
        return given if isinstance(given, str) else None
    if isinstance(given, bool) or (isinstance(default, int) and isinstance(given, float)):
        return None
    try:
        value = type(default)(given)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
