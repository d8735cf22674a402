"""The best plan that takes no thought: every model on one engine, compiled, with the right number of threads.

Most published gains vanish against it, so ours are quoted against it too.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Final

from tauten.improve.situation import FULL, Situation, with_choice
from tauten.plan.plan import Batch, Plan

THREADS: Final = (0, 1)  # what the engine takes by itself, and one: the two that people try


def zero_effort(seen: Situation) -> list[Plan]:
    """Plans of one switch each: every model that can on one engine, and so many threads for all; the framework's own
    batches. Caches of language models are on by themselves."""
    plans = []
    for engine in _engines(seen):
        for threads in THREADS:
            plan = seen.plan
            for step, role, choice in seen.models():
                assert step.kind is not None  # a model's step is a stage
                changes: dict[str, object] = {"threads": threads, "batch": Batch()}
                offered = engine in step.kind.roles[role].backends and not seen.written_backend(step)
                if offered and engine != choice.backend:
                    changes |= {"backend": engine, "precision": FULL}
                plan = with_choice(plan, step, role, **changes)
            plans.append(plan)
    return plans


def _engines(seen: Situation) -> list[str]:
    """All that models here can run on, in the order in which stages name them."""
    found: dict[str, None] = {}
    for step, role, _ in seen.models():
        assert step.kind is not None  # as above
        found |= dict.fromkeys(step.kind.roles[role].backends)
    return list(found)
