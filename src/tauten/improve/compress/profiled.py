"""What a card says of a variant, from the profile of a model measured alone."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

from tauten.improve.compress.cards import Figures
from tauten.improve.measuring.profile import Opening, Profile, Row, measure_model
from tauten.plan.card import CardLatency
from tauten.run.contracts import ModelSpec
from tauten.statistics import median_interval, percentile
from tauten.statistics.order_statistics import interval_needs

BATCHES: Final = (1, 4, 8)  # alone, and the sizes at which most models here gain or stop gaining
THREADS: Final = (0,)  # what a plan gets that says nothing; other numbers are a matter of the plan
MOST_ITEMS: Final = 32  # the sizes that a recording has; more only make the message to the process long
P95_NEEDS: Final = interval_needs(0.95)


async def profiled(backend: str, spec: ModelSpec, items: Sequence[Any]) -> Figures:
    """Measure a model alone, in a process of its own; a `Measure`."""
    step = max(1, len(items) // MOST_ITEMS)
    profile = await measure_model(
        backend, spec, items[::step][:MOST_ITEMS], batches=BATCHES, threads=THREADS, probe=False
    )
    return figures_of(profile)


def figures_of(profile: Profile) -> Figures:
    """The figures of a profile: medians over all sizes of items, each size with equal weight.

    Fewer than six runs have no 95 % interval, and are a note instead of a row.
    """
    runs: dict[tuple[int, int], list[float]] = {}
    for row in profile.rows:
        found = runs.setdefault((row.key.threads, row.key.batch), [])
        found += [run.seconds for run in row.runs]
    latency = {case: _latency(*case, seconds) for case, seconds in runs.items()}
    loads = [each.load_s for each in profile.openings if each.load_s is not None]
    told: list[Opening | Row] = [*profile.openings, *profile.rows]
    held = [each.memory_bytes for each in told]
    reasons = [each.reason for each in told if each.reason]
    few = [
        f"batch {batch}: {len(runs[threads, batch])} runs"
        for (threads, batch), row in latency.items()
        if not row
    ]
    return Figures(
        load_ms=statistics.median(loads) * 1000 if loads else None,
        memory_bytes=max((each for each in held if each is not None), default=0),
        latency=tuple(row for row in latency.values() if row is not None),
        notes=tuple(dict.fromkeys([*reasons, *([] if reasons else few)])),
    )


def _latency(threads: int, batch: int, seconds: list[float]) -> CardLatency | None:
    """One row of a card; None where so few runs say nothing."""
    found = median_interval(seconds)
    if found is None:
        return None
    p95 = percentile(seconds, 0.95) * 1000 if len(seconds) >= P95_NEEDS else None
    return CardLatency(
        batch, found.mid * 1000, found.low * 1000, found.high * 1000, found.n, threads=threads, p95_ms=p95
    )
