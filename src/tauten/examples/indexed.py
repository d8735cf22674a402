"""Indexes that examples bring along: made of what lies beside them when they are first needed, by whoever comes first."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

from tauten.describe.stages.store import BUSY
from tauten.errors import InputError, MachineError, NotFound
from tauten.run.retrieval.index import Index, remove_index
from tauten.run.retrieval.ranking import IndexSettings

PAUSE_S: Final = 0.05  # between two looks at what another process writes
PATIENCE_S: Final = 300.0  # an example's documents are embedded in less, on two slow cores

T = TypeVar("T")


def opened(name: str, settings: IndexSettings | None = None) -> Index:
    """The index of that name; an empty one where there is none, or a damaged one."""
    return _in_turn(lambda: _opened(name, settings))


def ensured(
    name: str, settings: IndexSettings | None, whole: Callable[[Index], bool], fill: Callable[[Index], object]
) -> Index:
    """The index of that name, filled unless it is whole; where another process fills it, once that has ended."""

    def look() -> Index:
        index = _opened(name, settings)
        if not whole(index):
            fill(index)
        return index

    return _in_turn(look)


def _opened(name: str, settings: IndexSettings | None) -> Index:
    try:
        return Index.open(name)
    except NotFound:
        pass  # it is made below
    except MachineError as error:
        if error.code == BUSY:
            raise
        remove_index(name)  # damaged: it is made of what ships
    try:
        return Index.create(name, settings)
    except InputError:
        return Index.open(name)  # another process was quicker


def _in_turn(work: Callable[[], T]) -> T:
    """What `work` gives, tried again while another process writes; raises MachineError E322 when that takes too long."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except MachineError as error:
            if error.code != BUSY or time.monotonic() > until:
                raise
        time.sleep(PAUSE_S)
