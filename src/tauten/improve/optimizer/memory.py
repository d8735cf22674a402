"""The memory of a plan: what its models hold, as measured, and the bounds of its caches.

The interpreter, the engines' libraries and the code of stages are the same under every plan, and are left out.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.improve.simulate.library import Library, form_key
from tauten.plan.caching import RESULTS_BYTES, VIEWS_BYTES, cache_bytes, cache_rules
from tauten.plan.lower import Lowered, Step
from tauten.plan.plan import ModelChoice

NEAR = "memory"  # the tier of a cache that lies in this process


def memory_of(library: Library, lowered: Lowered) -> int | None:
    """Bytes; None where nobody measured one of its models. What several steps share counts once."""
    held = [library.held(choice) for choice in models_of(lowered).values()]
    known = [each for each in held if each is not None]
    return None if len(known) < len(held) else sum(known) + caches_of(lowered)


def models_of(lowered: Lowered) -> dict[tuple[object, ...], ModelChoice]:
    """The models that a plan opens, each deployment once."""
    found: dict[tuple[object, ...], ModelChoice] = {}
    for step in lowered.steps:
        for choice in step.models.values():
            if choice.backend:
                apart = (choice.threads, choice.replicas, choice.batch, choice.cpus, choice.nodes)
                found.setdefault((form_key(choice), *apart), choice)
    return found


def caches_of(lowered: Lowered) -> int:
    """Bytes that caches in memory may come to hold."""
    return sum(_bound(step) for step in lowered.steps)


def _bound(step: Step) -> int:
    if step.view is not None:
        return cache_bytes(step.plan.cache_view, VIEWS_BYTES)
    if not step.plan.cache or NEAR not in cache_rules(step.plan.cache).tiers:
        return 0
    return cache_bytes(step.plan.cache, RESULTS_BYTES)
