"""Shelves: what a package of ours has a file for each of, and what other packages add by entry points."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import importlib
import pkgutil
import sys
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any


class Shelf:
    """The files of `package`, each named for what it holds; `group` is that of the entry points."""

    def __init__(self, package: str, group: str) -> None:
        self.package = package
        self.group = group

    def names(self) -> tuple[str, ...]:
        """Our files, then what others added."""
        path = importlib.import_module(self.package).__path__
        own = [info.name for info in pkgutil.iter_modules(path) if not info.name.startswith("_")]
        return tuple(dict.fromkeys([*own, *sorted(_added().select(group=self.group).names)]))

    def added(self, name: str) -> Any:
        """What another package added by that name, which goes before ours; None where none did."""
        for point in _added().select(group=self.group, name=name):
            return point.load()
        return None

    def own(self, name: str) -> ModuleType:
        """Our file of that name."""
        return importlib.import_module(f"{self.package}.{name}")


def _added() -> Any:
    return _added_on(tuple(sys.path))


@functools.lru_cache(maxsize=1)
def _added_on(path: tuple[str, ...]) -> Any:
    """All entry points there, to `select` from. Read once: that opens a file of every package that is installed."""
    return entry_points()
