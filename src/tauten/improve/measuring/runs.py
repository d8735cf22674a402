"""What a simulation is taught of a model alone: its runs by their weight, and how its streams slow one another."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tauten.clock import Clock, real
from tauten.errors import BackendError
from tauten.improve.measuring.process import started
from tauten.improve.measuring.profile import BUDGET_S, REPEATS, WARM, Profile, Start, measure_model
from tauten.improve.measuring.stages import wanted
from tauten.plan.measurements import Measurements
from tauten.plan.plan import ModelChoice

BATCHES = (1, 2, 4, 8)  # a line through four points, of which each doubles the one before
TOGETHER = (1, 2, 4, 8)  # streams: engines take eight at a time where nobody says otherwise

Runs = list[tuple[float, float]]
"""(weight of the batch, as its deployment weighs it; seconds)."""
Together = tuple[tuple[int, float], ...]
"""(streams at a time, times as long a token takes then), ascending; the first is (1, 1.0)."""
Held = tuple[tuple[int, int], ...]
"""(items in a batch, or streams at a time; bytes that the model holds by then), ascending; empty off Linux."""


@dataclass(frozen=True, slots=True)
class How:
    """How often and how long, in whose time and processes; what was measured is added to `into` as well.

    Warming up and the rounds behind it each have `budget_s` seconds: of a slow model large batches are left out. Counts
    of streams are not: each is run twice at least.
    """

    repeats: int = REPEATS
    budget_s: float = BUDGET_S
    seed: int = 0
    into: Measurements | None = None
    clock: Clock = real
    start: Start = started
    share: Callable[[], float] | None = None
    progress: Callable[[str], None] | None = None
    seen: Callable[[Profile], None] | None = None  # told all that was measured, whatever of it was asked for


HOW = How()


async def measured_runs(
    choice: ModelChoice,
    files: Mapping[str, Path],
    items: Sequence[Any],
    *,
    batches: Sequence[int] = BATCHES,
    how: How = HOW,
) -> Runs:
    """Run a batch model alone, in a process of its own, with the threads of the choice and items that reach it.

    Raises BackendError where no batch ran, InputError E255 for items
    that only this process can hold.
    """
    profile = await _measured(choice, files, items, batches, how, warm=WARM, warm_s=how.budget_s)
    return [(run.weight, run.seconds) for row in profile.rows for run in row.runs]


async def measured_streams(
    choice: ModelChoice,
    files: Mapping[str, Path],
    items: Sequence[Any],
    *,
    together: Sequence[int] = TOGETHER,
    how: How = HOW,
) -> Together:
    """How many times longer a token takes among so many streams of one engine; no more than its slots.

    Prompts that the engine keeps are read once: what is compared is how fast streams speak. Raises BackendError
    where one stream alone said nothing.
    """
    counts = sorted({1, *together})
    # once warms a count of streams up; none is left out, or nothing is known of how they slow one another
    profile = await _measured(choice, files, items, counts, how, warm=1, warm_s=math.inf)
    slots = int(profile.openings[0].properties.get("slots", counts[-1]))
    rates = {
        row.key.batch: statistics.median(said)
        for row in profile.rows
        if (said := [run.tokens_out for run in row.runs if run.tokens_out]) and row.key.batch <= slots
    }
    if 1 not in rates:
        raise BackendError(
            f"{choice.model} on {choice.backend} said no two tokens to any of {len(items)} items",
            help="give items whose answers are longer, or raise max_tokens",
        )
    return slowed(rates)


async def measured_memory(
    choice: ModelChoice, files: Mapping[str, Path], items: Sequence[Any], *, how: How = HOW
) -> Held:
    """What a model holds once it has run one item, in a process of its own. Raises as `measured_runs`."""
    once = replace(how, repeats=1)
    return held_of(await _measured(choice, files, items[:1], (1,), once, warm=1, warm_s=how.budget_s))


def held_of(profile: Profile) -> Held:
    """By batch, or number of streams, the most that its process held once those had run; of a model that nobody
    could run what opening it took."""
    found: dict[int, int] = {}
    for row in profile.rows:
        if row.memory_bytes is not None:
            found[row.key.batch] = max(found.get(row.key.batch, 0), row.memory_bytes)
    opened = [each.memory_bytes for each in profile.openings if each.memory_bytes is not None]
    return tuple(sorted(found.items())) or tuple((1, each) for each in opened[:1])


def slowed(rates: Mapping[int, float]) -> Together:
    """Tokens a second of one stream among so many, as times that a token takes longer: they never fall, whatever
    the noise.

    >>> slowed({1: 60.0, 2: 40.0, 4: 41.0})
    ((1, 1.0), (2, 1.5), (4, 1.5))
    """
    found, worst = [], 1.0
    for count in sorted(rates):
        worst = max(worst, rates[1] / rates[count])
        found.append((count, worst))
    return tuple(found)


async def _measured(
    choice: ModelChoice,
    files: Mapping[str, Path],
    items: Sequence[Any],
    batches: Sequence[int],
    how: How,
    *,
    warm: int,
    warm_s: float,
) -> Profile:
    """The profile of a choice; raises BackendError where nothing of it ran."""
    model = wanted(choice, files, items)
    profile = await measure_model(
        model.backend,
        model.spec,
        model.items,
        batches=batches,
        threads=(choice.threads,),
        repeats=how.repeats,
        warm=warm,
        warm_s=warm_s,
        budget_s=how.budget_s,
        seed=how.seed,
        probe=how.into is not None,
        into=how.into,
        clock=how.clock,
        start=how.start,
        share=how.share,
        progress=how.progress,
    )
    if how.seen is not None:
        how.seen(profile)
    if not any(row.runs for row in profile.rows):
        said = [each.reason for each in profile.openings] + [each.reason for each in profile.rows]
        raise BackendError(
            f"{choice.model} on {choice.backend} could not be measured: {next(filter(None, said), 'no run')}",
            help="see whether the workflow runs under that plan: tauten run",
        )
    return profile
