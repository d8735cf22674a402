"""Caches before a whole workflow, as a service keeps its answers: none, by equality, and by meaning behind that."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from bench.ground import figures
from numpy.typing import NDArray

import tauten as tt
from tauten.plan.plan import CachePlan
from tauten.run.caching.caches import Caches
from tauten.run.caching.keeper import Keeper
from tauten.run.caching.place import Place
from tauten.run.caching.semantic.likeness import Semantic
from tauten.run.request import Request

SIZE_BYTES = 64_000_000  # that of `cache = true`
NONE, EXACT, BOTH = "no cache", "exact", "exact and semantic"
LAYERS: Final[dict[str, tuple[str, ...]]] = {NONE: (), EXACT: ("memory",), BOTH: ("memory", "semantic")}
COMPUTED = "computed"  # where an answer came from, if from no tier
KEPT: Final = ("memory", "semantic")

Full = Callable[[str], Awaitable[str]]  # the full path: a question's answer
Embed = Callable[[str], Awaitable[NDArray[Any]]]


class Given(NamedTuple):
    """One answer: what was asked, which question it was made for, where it came from, and how long that took."""

    asked: str
    text: str
    made_for: str
    came_from: str
    seconds: float


class _Ask(NamedTuple):
    name: str
    request: Request


class Passing:
    """A gate that lets pass what the checks let pass, and notes the last score: what that is worth is counted by labels."""

    def __init__(self) -> None:
        self.score = 0.0

    def allows(self, score: float, tenant: str, category: str) -> bool:
        self.score = score
        return True

    def opens(self, tenant: str, category: str) -> bool:
        return True

    def shadows(self, score: float, tenant: str, category: str) -> float:
        """No hit is verified."""
        return 0.0

    def observe(
        self, score: float, correct: bool, tenant: str, category: str, *, chance: float | None = None
    ) -> None:
        """It learns nothing."""

    def took(self, tenant: str, category: str) -> None:
        """Hits are counted elsewhere."""

    def bound(self, tenant: str, category: str) -> float:
        """Nothing was proved."""
        return 1.0

    def refresh(self) -> bool:
        return False


@dataclass
class Front:
    """What stands before the full path; without a keeper nothing does."""

    full: Full
    keeper: Keeper | None = None
    place: Place | None = None
    given: list[Given] = field(default_factory=list)

    async def answer(self, question: str) -> Given:
        """The answer, and a note of it."""
        began, ask = time.perf_counter(), _Ask("answer", Request())
        made: list[bool] = []

        async def compute(_: float | None) -> dict[str, str]:
            made.append(True)
            return {"text": await self.full(question), "made_for": question}

        if self.keeper is None:
            found = await compute(None)
        else:
            found = await self.keeper.value(ask, {"question": tt.Text(question)}, None, compute)
        came_from = COMPUTED if made else KEPT[found["made_for"] != question]
        given = Given(question, found["text"], found["made_for"], came_from, time.perf_counter() - began)
        self.given.append(given)
        return given

    def figures(self) -> dict[str, float | None]:
        """How many answers came from where, and how long each kind took."""
        counts = Counter(each.came_from for each in self.given)
        return {
            "mean_ms": 1e3 * statistics.fmean(each.seconds for each in self.given) if self.given else None,
            COMPUTED: counts[COMPUTED],
            **{kind: counts[kind] for kind in KEPT},
            **{f"{kind}_p50_ms": self._p50_ms(kind) for kind in (COMPUTED, *KEPT)},
        }

    def _p50_ms(self, kind: str) -> float | None:
        seconds = sorted(each.seconds for each in self.given if each.came_from == kind)
        middle = figures.percentile(seconds, 50)
        return None if middle is None else 1e3 * middle


@asynccontextmanager
async def front(layers: str, full: Full, embed: Embed, revision: str) -> AsyncIterator[Front]:
    """Empty caches of these layers before the full path."""
    tiers = LAYERS[layers]
    if not tiers:
        yield Front(full)
        return

    async def same(given: Any, computed: Any) -> bool:
        return bool(given["text"] == computed["text"])

    caches = Caches()
    caches.offer(
        "semantic",
        lambda size: Semantic(size, embed=embed, revision=revision, gate=Passing(), same=same),
    )
    place = caches.take([], "answer", "results", SIZE_BYTES, CachePlan(tiers=tiers))
    assert place is not None
    try:
        yield Front(full, Keeper(place, b"front", {}), place)
    finally:
        await caches.close()
