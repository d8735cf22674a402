"""One file an API; the class named ``Api`` in it gives its routes. Other packages add theirs by entry points."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from tauten.errors import NotFound, suggest
from tauten.shelf import Shelf

_SHELF = Shelf(__name__, "tauten.apis")


def names() -> tuple[str, ...]:
    """The APIs that are here: our files, then other packages' entry points."""
    return _SHELF.names()


def find(name: str) -> type[Any]:
    """The class of the API of that name; raises NotFound with the closest one."""
    found: type[Any] | None = _SHELF.added(name)
    if found is not None:
        return found
    if name not in names():
        raise NotFound(f"no API is called {name!r}", help=suggest(name, names()))
    own: type[Any] = _SHELF.own(name).Api
    return own
