"""One file an API; the class named ``Api`` in it gives its routes. Other packages add theirs by entry points."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from typing import Any

from tauten.errors import NotFound, suggest

GROUP = "tauten.apis"


def names() -> tuple[str, ...]:
    """The APIs that are here: our files, then other packages' entry points."""
    own = [info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_")]
    theirs = [point.name for point in importlib.metadata.entry_points(group=GROUP)]
    return tuple(dict.fromkeys([*own, *theirs]))


def find(name: str) -> type[Any]:
    """The class of the API of that name; raises NotFound with the closest one."""
    for point in importlib.metadata.entry_points(group=GROUP, name=name):
        loaded: type[Any] = point.load()
        return loaded
    if name not in names():
        raise NotFound(f"no API is called {name!r}", help=suggest(name, names()))
    found: type[Any] = importlib.import_module(f"{__name__}.{name}").Api
    return found
