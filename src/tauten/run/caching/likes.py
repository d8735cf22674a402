"""The tiers of an engine that take likeness for equality: one for each step and promise, kept as long as some plan has it.

They are no tiers of a `Place`: a plan that promises equal answers shares its place with one that does not.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from tauten.plan.likeness import LIKENESS
from tauten.plan.plan import SemanticPlan
from tauten.run.caching.behind import Behind
from tauten.run.caching.place import TierSeen
from tauten.run.contracts import Likeness


class Liked(NamedTuple):
    """What a keeper has of such a tier: the tier, where work for it goes on behind, and the label of its questions."""

    tier: Likeness
    behind: Behind
    mark: str


@dataclass(slots=True)
class _Held:
    tier: Likeness
    holders: list[list[str]] = field(default_factory=list)
    marks: set[str] = field(default_factory=set)  # whose questions were looked for on disk


class Likes:
    """Tiers by (step, rules). Work for them waits in a line of its own: embedding a text would hold up a disk."""

    def __init__(self) -> None:
        self.behind = Behind()
        self._held: dict[tuple[str, SemanticPlan], _Held] = {}

    def take(
        self,
        holder: list[str],
        step: str,
        rules: SemanticPlan,
        make: Callable[[], Likeness],
        size_bytes: int,
        mark: str,
    ) -> Liked:
        """The tier of a step under these rules; made where no open plan has it."""
        held = self._held.get((step, rules))
        if held is None:
            held = self._held[step, rules] = _Held(make())
        held.tier.resize(size_bytes)
        if not any(each is holder for each in held.holders):
            held.holders.append(holder)
        recall = getattr(held.tier, "recall", None)
        if recall is not None and mark not in held.marks:
            held.marks.add(mark)
            self.behind.put(partial(recall, mark))
        return Liked(held.tier, self.behind, mark)

    def release(self, holder: list[str]) -> None:
        """What no opened plan holds any more is forgotten."""
        for name, held in list(self._held.items()):
            held.holders = [each for each in held.holders if each is not holder]
            if not held.holders:
                del self._held[name]
                self.behind.put(held.tier.close)

    def every(self) -> list[Likeness]:
        return [held.tier for held in self._held.values()]

    def seen(self, step: str) -> dict[str, TierSeen]:
        """What each tier of a step did; a second one, of another promise, has a number."""
        found = [held.tier for (of, _), held in self._held.items() if of == step]
        return {
            LIKENESS if not place else f"{LIKENESS} {place + 1}": TierSeen(
                tier.hits, tier.holdings(), dict(tier.events)
            )
            for place, tier in enumerate(found)
        }

    async def close(self) -> None:
        """End what goes on behind."""
        await self.behind.close()
        for tier in self.every():
            await tier.close()
