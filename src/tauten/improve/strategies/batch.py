"""How many items share a run, on how many threads, in how many replicas: one joint choice for each model."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import msgspec

from tauten.improve.branches import beside, independent
from tauten.improve.situation import Asks, Proposal, Refusal, Situation, label, with_choice
from tauten.plan.hardware import processors_of, spelled
from tauten.plan.lower import Step
from tauten.plan.plan import ModelChoice, Plan
from tauten.run.contracts import batches_itself

FILLED = 1.5  # items that a run would find, its own included: below, it mostly runs alone
MOST = 64  # items: runs of more gain nothing on the machines that this was measured on
TOGETHER = (
    3  # busiest models, every pair of which is changed at once: more pairs cost more time than they gain
)
HEAD_ROOM = 2.0  # times what a run finds in the mean: arrivals come in crowds


class Loaded(NamedTuple):
    """One model that a plan's batches and threads could be changed of."""

    step: Step
    role: str
    choice: ModelChoice
    asks: Asks
    run_s: float  # of one item

    @property
    def work_s(self) -> float:
        """For each request of the workflow."""
        return self.run_s * self.asks.share * self.asks.items


class Batching:
    """Batches up to twice what a run would find waiting; threads and replicas in every split of the cores, and replicas
    that there are each on processors of its own. Models that run side by side share the cores, so that one thread each may beat all threads for each: the busiest
    are also changed together, side by side where they can be, because the first of two that gives way may gain
    nothing by itself."""

    name: ClassVar[str] = "batch"
    reason: ClassVar[str] = "last of those that keep answers: it spends the slack that the others have left"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        every = sorted(_models(seen), key=lambda each: -each.work_s)
        if not every:
            yield Refusal(self.name, "any model", "none that takes batches was seen to run")
        for each in every:
            if why := seen.idle(each.step):
                yield Refusal(self.name, f"{label(each.step, each.role)} otherwise", why)
        models = [each for each in every if not seen.idle(each.step)]
        for each in models:
            yield from self._batches(seen, each)
            yield from self._threads(seen, each)
            yield from self._bound(seen, each)
        yield from self._together(seen, models)

    def _together(self, seen: Situation, models: Sequence[Loaded]) -> Iterator[Proposal]:
        """Several models changed at once; each plan once."""
        plans: dict[bytes, tuple[str, Plan]] = {seen.plan.content: ("", seen.plan)}
        if len(models) > 1:
            plan = seen.plan
            for each in models:
                plan = _on(plan, each, 1)
            plans.setdefault(plan.content, ("one thread for every model", plan))
        for one, other in itertools.combinations(models[:TOGETHER], 2):
            for threads, others in shares(seen.hardware.cores):
                plan = _on(_on(seen.plan, one, threads), other, others)
                change = f"{label(one.step, one.role)} and {label(other.step, other.role)} on {threads} + {others} threads"
                plans.setdefault(plan.content, (change, plan))
                apart = beside(plan, _apart(seen, one, other))
                plans.setdefault(apart.content, (f"{change}, side by side", apart))
        filled = [each for each in models if self._found(seen, each) >= FILLED]
        if len(filled) > 1:
            plan = seen.plan
            for each in filled:
                batch = msgspec.structs.replace(each.choice.batch, max=_fitting(self._found(seen, each)))
                plan = with_choice(plan, each.step, each.role, batch=batch)
            plans.setdefault(plan.content, ("every model that finds company in batches", plan))
        for change, plan in [*plans.values()][1:]:
            yield Proposal(self.name, change, plan, "equivalent")

    def _found(self, seen: Situation, each: Loaded) -> float:
        return found_by_a_run(each.asks, seen.rate, each.run_s)

    def _batches(self, seen: Situation, each: Loaded) -> Iterator[Proposal | Refusal]:
        what, found = label(each.step, each.role), self._found(seen, each)
        if found < FILLED:
            yield Refusal(
                self.name,
                f"{what} in batches",
                f"at {seen.rate:g} requests a second a run of {each.run_s * 1e3:.3g} ms finds {found:.2f} items: too few to share",
            )
            return
        most = 2
        while most <= min(MOST, HEAD_ROOM * found * 2):
            batch = msgspec.structs.replace(each.choice.batch, max=most)
            if batch != each.choice.batch:
                plan = with_choice(seen.plan, each.step, each.role, batch=batch)
                yield Proposal(self.name, f"{what} in batches of {most}", plan, "equivalent")
            most *= 2

    def _threads(self, seen: Situation, each: Loaded) -> Iterator[Proposal]:
        what = label(each.step, each.role)
        for threads, replicas in splits(seen.hardware.cores):
            if (threads, replicas) == (each.choice.threads, each.choice.replicas):
                continue
            plan = _split(seen.plan, each, threads, replicas)
            copies = f", {replicas} replicas" if replicas > 1 else ""
            change = f"{what} on {threads} thread{'s' * (threads > 1)}{copies}"
            yield Proposal(self.name, change, plan, "equivalent")

    def _bound(self, seen: Situation, each: Loaded) -> Iterator[Proposal | Refusal]:
        """Each replica on processors of its own: nobody moves it away from what its caches hold, and nobody else
        of its kind comes there."""
        choice, there = each.choice, seen.processors
        if choice.replicas < 2 or choice.cpus or choice.nodes:
            return
        change = f"{label(each.step, each.role)}, each replica on processors of its own"
        if not choice.threads or choice.replicas * choice.threads > len(there):
            wanted = f"{choice.threads} threads each" if choice.threads else "all processors each"
            why = f"{choice.replicas} replicas of {wanted} want more than the {len(there)} that there are"
            yield Refusal(self.name, change, why)
            return
        cpus = own_sets(there, _taken(seen), choice.replicas, choice.threads)
        plan = with_choice(seen.plan, each.step, each.role, cpus=cpus)
        why = f"replicas on processors {' and '.join(cpus)}"
        yield Proposal(self.name, change, plan, "equivalent", why)


def _models(seen: Situation) -> Iterator[Loaded]:
    for step, role, choice in seen.models():
        run_s = 0.0 if batches_itself(choice.backend) else seen.facts.run_s(step.name, role)
        if run_s:
            yield Loaded(step, role, choice, seen.facts.asks(step.name, role), run_s)


def _on(plan: Plan, each: Loaded, threads: int) -> Plan:
    """On so many threads, once; as it is where it does that."""
    if (each.choice.threads, each.choice.replicas) == (threads, 1):
        return plan
    return _split(plan, each, threads, 1)


def _split(plan: Plan, each: Loaded, threads: int, replicas: int) -> Plan:
    """With so many threads and replicas; sets of processors that were for others fall away."""
    changes: dict[str, object] = {"threads": threads, "replicas": replicas}
    if each.choice.cpus and len(each.choice.cpus) != replicas:
        changes["cpus"] = ()
    return with_choice(plan, each.step, each.role, **changes)


def _taken(seen: Situation) -> set[int]:
    """Processors that others of the plan are bound to: also stages that nobody may change, and code of stages."""
    found: set[int] = set()
    for step in seen.lowered.steps:
        for sets in [choice.cpus for choice in step.models.values()] or [step.plan.cpus]:
            for each in sets:
                found |= processors_of(each)
    return found


def own_sets(there: Sequence[int], taken: set[int], replicas: int, threads: int) -> tuple[str, ...]:
    """A set for each replica, none of them in two; of processors that nobody else is bound to, where those are
    enough.

    >>> own_sets((0, 1, 2, 3), set(), 2, 2), own_sets((0, 1, 2, 3), {0}, 2, 1), own_sets((4, 6), {4}, 2, 1)
    (('0-1', '2-3'), ('1', '2'), ('4', '6'))
    """
    free = [each for each in there if each not in taken]
    every = free if len(free) >= replicas * threads else list(there)
    return tuple(spelled(every[place * threads : (place + 1) * threads]) for place in range(replicas))


def _apart(seen: Situation, one: Loaded, other: Loaded) -> list[tuple[str, str]]:
    """The pair of their stages, where neither needs the other's result."""
    wanted = {one.step.name, other.step.name}
    return [pair for pair in independent(seen.lowered) if set(pair) == wanted]


def _fitting(found: float) -> int:
    """The batch that holds what a run finds in a crowd."""
    return min(MOST, 1 << max(1, math.ceil(math.log2(HEAD_ROOM * found))))


def found_by_a_run(asks: Asks, rate: float, run_s: float) -> float:
    """Items that a run would find, in the mean: those of its own request, and of others that came during the run
    before it.

    >>> found_by_a_run(Asks(share=1.0, items=1.0, together=1.0), rate=2.0, run_s=0.1)
    1.2
    """
    return asks.together + rate * asks.share * asks.items * run_s


def splits(cores: int) -> list[tuple[int, int]]:
    """(threads, replicas) that fill the cores, or leave some of them to others.

    >>> splits(2)
    [(1, 1), (1, 2), (2, 1)]
    """
    found = []
    threads = 1
    while threads <= cores:
        replicas = 1
        while threads * replicas <= cores:
            found.append((threads, replicas))
            replicas *= 2
        threads *= 2
    return found


def shares(cores: int) -> list[tuple[int, int]]:
    """Threads of two models side by side that fill more than half of the cores, and no more than there are.

    >>> shares(2), shares(4)
    ([(1, 1)], [(1, 2), (2, 1), (2, 2)])
    """
    counts = [1 << power for power in range(cores.bit_length())]
    return [(one, other) for one in counts for other in counts if cores / 2 < one + other <= cores]
