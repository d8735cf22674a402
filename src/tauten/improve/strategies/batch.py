"""How many items share a run, on how many threads, in how many replicas: one joint choice for each model."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import msgspec

from tauten.improve.situation import Asks, Proposal, Refusal, Situation, label, with_choice
from tauten.plan.lower import Step
from tauten.plan.plan import ModelChoice, Plan
from tauten.run.contracts import batches_itself

FILLED = 1.5  # items that a run would find, its own included: below, it mostly runs alone
MOST = 64  # items: runs of more gain nothing on the machines that this was measured on
HEAD_ROOM = 2.0  # times what a run finds in the mean: arrivals come in crowds


class Batching:
    """Batches up to twice what a run would find waiting; threads and replicas in every split of the cores. Models
    that run side by side share the cores, so that one thread each may beat all threads for each."""

    name: ClassVar[str] = "batch"
    reason: ClassVar[str] = "last of those that keep answers: it spends the slack that the others have left"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        single = seen.plan
        for step, role, choice in seen.models():
            if batches_itself(choice.backend):
                continue
            asks, run_s = seen.facts.asks(step.name, role), seen.facts.run_s(step.name, role)
            if not run_s:
                continue
            yield from self._batches(seen, step, role, choice, asks, run_s)
            yield from self._threads(seen, step, role, choice)
            if choice.threads != 1:
                single = with_choice(single, step, role, threads=1)
        if single != seen.plan:
            yield Proposal(self.name, "one thread for every model", single, "equivalent")

    def _batches(
        self, seen: Situation, step: Step, role: str, choice: ModelChoice, asks: Asks, run_s: float
    ) -> Iterator[Proposal | Refusal]:
        what = label(step, role)
        found = found_by_a_run(asks, seen.rate, run_s)
        if found < FILLED:
            yield Refusal(
                self.name,
                f"{what} in batches",
                f"at {seen.rate:g} requests a second a run of {run_s * 1e3:.3g} ms finds {found:.2f} items: too few to share",
            )
            return
        most = 2
        while most <= min(MOST, HEAD_ROOM * found * 2):
            batch = msgspec.structs.replace(choice.batch, max=most)
            if batch != choice.batch:
                plan = with_choice(seen.plan, step, role, batch=batch)
                yield Proposal(self.name, f"{what} in batches of {most}", plan, "equivalent")
            most *= 2

    def _threads(self, seen: Situation, step: Step, role: str, choice: ModelChoice) -> Iterator[Proposal]:
        what = label(step, role)
        for threads, replicas in splits(seen.hardware.cores):
            if (threads, replicas) == (choice.threads, choice.replicas):
                continue
            plan: Plan = with_choice(seen.plan, step, role, threads=threads, replicas=replicas)
            copies = f", {replicas} replicas" if replicas > 1 else ""
            yield Proposal(
                self.name, f"{what} on {threads} thread{'s' * (threads > 1)}{copies}", plan, "equivalent"
            )


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
