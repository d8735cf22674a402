"""Where plans are run for real: what an optimizer asks of a machine."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from tauten.describe.slo import Slo
from tauten.improve.labels.answers import Answer
from tauten.improve.load.result import Run
from tauten.improve.load.schedule import Load
from tauten.improve.simulate.capture import Captured
from tauten.improve.simulate.costs import Moving
from tauten.improve.simulate.library import Held
from tauten.plan.plan import Plan

WARM_UP: Final = 3  # requests that are not measured, of each plan before a round over given items
Items = Sequence[tuple[str, Mapping[str, Any]]]
"""(id, bound inputs) of recorded requests."""
Runs = list[tuple[float, float]]
"""(weight of the batch, seconds) of runs of one model."""
Together = tuple[tuple[int, float], ...]
"""(streams at a time, times as long a token takes then), ascending; the first is (1, 1.0)."""


class Scored(NamedTuple):
    """What came of one labelled request."""

    score: float  # 0 to 1 by the workflow's metric; 0 where it failed
    answer: str  # hash of what it gave
    told: Answer | None = None  # what it gave, where answers are kept


ALIKE: Final = Scored(1.0, "")
"""Stands for a request that two plans answer the same: what it scores was not looked at."""


class Testbed(Protocol):
    """One workflow on one machine. Everything blocks, and raises what the workflow or an engine raises."""

    def capture(self, plan: Plan, items: Items, only: Collection[str] = ()) -> Captured:
        """Tapes of requests, one at a time, a few times each. With stages named `only` the work of others need not be
        in them."""
        ...

    def runs(self, plan: Plan, step: str, role: str, items: Items) -> Runs:
        """A model of a step by itself, as the plan runs it, on what the requests give it, in batches of several
        sizes."""
        ...

    def streams(self, plan: Plan, step: str, role: str, items: Items) -> Together:
        """How many times longer a token takes among several streams of a step's model."""
        ...

    def moving(self, plan: Plan, step: str, role: str, items: Items) -> Moving:
        """For how much of a run of a step's model bytes move, as the machine's peaks have it. Nothing is run."""
        ...

    def held(self, plan: Plan, step: str, role: str, items: Items) -> Held:
        """What a model holds of memory; empty where this system does not tell."""
        ...

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        """What labelled requests of the recording score under a plan."""
        ...

    def alike(self, before: Plan, after: Plan, ids: Sequence[str]) -> dict[str, bool]:
        """Whether two plans answer a labelled request the same because the part in which they differ gives it the same;
        empty where that cannot be told without running all of it."""
        ...

    def bench(self, plans: Sequence[Plan], items: Items, load: Load, rounds: int, slo: Slo) -> list[Run]:
        """All plans in turn under the same load, in rounds whose order is drawn anew; a run for each. Items
        are sent to engines that were warmed up by other requests of the recording; without items the recording's own requests in their order, so that they repeat one another as often as they did."""
        ...
