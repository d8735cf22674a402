"""The shelf of exporters: our traces for other people's tools. One file each; the file's name is its name.

An exporter is a module with `suffix` (what its files end in) and
`export(traces: Mapping[str, Trace], *, workflow: str = "") -> str`. Other packages add theirs by entry
points (``tauten.exports``) that name such a module.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from tauten.errors import NotFound, suggest
from tauten.run.trace import Trace
from tauten.shelf import Shelf


class Exporter(Protocol):
    """Pure: reads finished traces, opens no file and sends nothing."""

    suffix: str

    def export(self, traces: Mapping[str, Trace], *, workflow: str = "") -> str:
        """The text of one file that holds these requests, by id."""
        ...


_SHELF = Shelf(__name__, "tauten.exports")


def names() -> tuple[str, ...]:
    """The exporters that are here: our files, then other packages' entry points."""
    return _SHELF.names()


def find(name: str) -> Exporter:
    """The exporter of that name; raises NotFound with the closest one."""
    found = _SHELF.added(name)
    if found is None:
        if name not in names():
            raise NotFound(f"no exporter is called {name!r}", help=suggest(name, names()))
        found = _SHELF.own(name)
    return cast(Exporter, found)
