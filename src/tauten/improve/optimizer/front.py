"""The Pareto front: plans of which no other is better in one way and no worse in all others."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from tauten.describe.slo import Slo
from tauten.improve.optimizer.outcome import Candidate
from tauten.improve.optimizer.search import Figures

TIMES: Final = ("p50_ms", "p95_ms", "p99_ms", "first_output_ms")
USUAL: Final = ("p95_ms",)  # where an SLO limits no time
COSTS: Final = ("cost_cents", "core_ms")  # the first that is known of all


def front(candidates: Sequence[Candidate], slo: Slo = Slo()) -> list[Candidate]:
    """Those on the front over latency (each time that the SLO limits), cost, memory and quality loss, in their order.

    A figure that is not known of every candidate compares nothing. Measured figures count where all were measured,
    else simulated ones for all.
    """
    points = list(_points(candidates, slo))
    return [candidates[place] for place in undominated(points)]


def marked(candidates: Sequence[Candidate], slo: Slo = Slo()) -> list[Candidate]:
    """All of them, those on the front marked as such."""
    names = {id(each) for each in front(candidates, slo)}
    return [msgspec.structs.replace(each, front=id(each) in names) for each in candidates]


def undominated(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Places of the points that none dominates; less is better. Of equal points all stay.

    >>> undominated([(1.0, 3.0), (2.0, 2.0), (2.0, 3.0), (3.0, 1.0)])
    [0, 1, 3]
    """
    return [
        place for place, point in enumerate(points) if not any(dominates(other, point) for other in points)
    ]


def dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one is better in some way and no worse in all."""
    return one != other and all(mine <= theirs for mine, theirs in zip(one, other, strict=True))


def _points(candidates: Sequence[Candidate], slo: Slo) -> Iterator[tuple[float, ...]]:
    figures = [each.measured for each in candidates]
    seen = [
        each.simulated if None in figures or each.measured is None else each.measured for each in candidates
    ]
    names = [*([name for name in TIMES if name in slo.limits()] or USUAL)]
    names = [name for name in names if _known(name, seen)]
    names += [name for name in COSTS if _known(name, seen)][:1]
    memory = all(each.memory_bytes is not None for each in candidates)
    for each, told in zip(candidates, seen, strict=True):
        more = (float(each.memory_bytes or 0),) if memory else ()
        yield (*(told.values[name] for name in names), told.failed, each.quality_loss, *more)


def _known(name: str, figures: Sequence[Figures]) -> bool:
    return all(name in each.values for each in figures)
