"""The strategies in their order: what costs no answer first, and what shortens the path before what fills it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tauten.errors import InputError, suggest
from tauten.improve.situation import Strategy
from tauten.improve.strategies.backend import Backend
from tauten.improve.strategies.batch import Batching
from tauten.improve.strategies.cache import Caching
from tauten.improve.strategies.chunk import Chunk
from tauten.improve.strategies.compact import Compact
from tauten.improve.strategies.lookup import Lookup
from tauten.improve.strategies.overlap import Overlap
from tauten.improve.strategies.prefix import Prefix
from tauten.improve.strategies.preload import Preload
from tauten.improve.strategies.quantize import Quantize
from tauten.improve.strategies.reduce import Reduce
from tauten.improve.strategies.refine import Refine

ORDER: Final[tuple[Strategy, ...]] = (
    Overlap(),  # changes no step, and shows which steps are left on the path
    Backend(),  # before batches and threads, whose best values differ from engine to engine
    Prefix(),  # before anything that makes prompts shorter: a beginning that is kept costs nothing
    Lookup(),  # after the prefix cache, which leaves tokens as what takes time
    Chunk(),  # only cuts a stream otherwise, once it is short
    Caching(),  # after what changes how long steps take: what is quick already is not worth a lookup
    Preload(),  # beside the others: it changes no request but the first ones after a start
    Batching(),  # spends the slack that the others have left
    Quantize(),  # first of those that may change answers: gains most where a model is what takes long
    Reduce(),  # loses more for what it gains than shorter numbers do
    Refine(),  # changes what a model is told: before what cuts off its words, which may then be few enough
    Compact(),  # last: it changes what people read
)


def ordered(*, until: str = "", without: Sequence[str] = ()) -> list[Strategy]:
    """The order, up to a strategy and that one too, without others. Raises InputError E279 for unknown names."""
    names = [each.name for each in ORDER]
    for name in [*([until] if until else []), *without]:
        if name not in names:
            raise InputError(f"no strategy is called {name!r}", help=suggest(name, names), code="E279")
    last = names.index(until) if until else len(names)
    return [each for place, each in enumerate(ORDER) if place <= last and each.name not in without]
