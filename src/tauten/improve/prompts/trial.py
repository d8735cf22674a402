"""Runs a recording under several templates in turns, one request at a time, and keeps what each took and gave.

One at a time, so that a difference is the template's and not the queue's; in turns within each item, in an order that
is drawn anew, so that a slow minute of the machine hits all of them. What load does shows `tauten bench --plan`.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from tauten.describe.workflow import Workflow
from tauten.improve.labelled import score
from tauten.improve.quality import Metric
from tauten.improve.recording import Item, Label
from tauten.improve.replay import Served, serve_one
from tauten.plan.plan import Plan
from tauten.run.engine import Engine
from tauten.run.trace import Trace
from tauten.run.usage.call import Call

Price = Callable[[Call], float | None]
"""Cents of one call to a provider; None: its price is not known."""

Say = Callable[[str], None]


class Arm(NamedTuple):
    """One side: the workflow with its template in one of its steps, under its plan."""

    name: str
    workflow: Workflow[..., Any]
    plan: Plan
    step: str


class Took(msgspec.Struct, frozen=True, kw_only=True):
    """One request under one arm. `cents` is None where a price is not known, `score` where no label is."""

    item: str
    asked: bool  # it came to the step whose template is tried
    tokens_in: float
    tokens_cached: float
    tokens_out: float
    cut: float  # answers that their bound ended
    ms: float
    first_ms: float | None
    cents: float | None
    score: float | None
    error: str = ""


async def trial(
    engine: Engine,
    arms: Sequence[Arm],
    items: Sequence[Item],
    *,
    rounds: int = 1,
    seed: int = 0,
    metric: Metric | None = None,
    price: Price | None = None,
    say: Say = lambda text: None,
) -> list[list[Took]]:
    """What every request took, a list an arm. Each arm's first request is run once before, and left out."""
    opened = [await engine.open(each.workflow, each.plan) for each in arms]
    draw = random.Random(seed)
    found: list[list[Took]] = [[] for _ in arms]
    for place in range(len(arms)):
        await serve_one(engine, opened[place], "warm-up", arms[place].workflow.bind(**items[0].inputs))
    for turn in range(rounds):
        for number, item in enumerate(items, 1):
            order = draw.sample(range(len(arms)), len(arms))
            for place in order:
                say(f"round {turn + 1} of {rounds}, request {number} of {len(items)}: {arms[place].name}")
                whose = f"prompt {place}.{turn}"
                arm = arms[place]
                inputs = arm.workflow.bind(**item.inputs)
                served = await serve_one(engine, opened[place], item.id, inputs, partition=whose)
                judged = metric is not None and item.label != Label()
                scored = score(metric, arm.workflow, served, item.label) if judged and metric else None
                found[place].append(_took(served, arm.step, price, scored))
            item.forget()
    return found


def _took(served: Served, step: str, price: Price | None, scored: float | None) -> Took:
    trace: Trace = served.trace
    return Took(
        item=served.id,
        asked=any(
            whose.partition("[")[0] == step and unit == "input_tokens" for whose, unit, _ in trace.spent
        ),
        tokens_in=_sum(trace, "input_tokens"),
        tokens_cached=_sum(trace, "cached_tokens"),
        tokens_out=_sum(trace, "output_tokens"),
        cut=_sum(trace, "cut_answers"),
        ms=served.wall_ms,
        first_ms=served.first_output_ms,
        cents=cents(trace, price),
        score=scored,
        error="" if served.error is None else f"{served.error.code} {served.error.message}"[:120],
    )


def _sum(trace: Trace, unit: str) -> float:
    return sum(amount for _, booked, amount in trace.spent if booked == unit)


def cents(trace: Trace, price: Price | None) -> float | None:
    """What a request's calls to providers cost, refused ones nothing; None without any, or where one has no price."""
    if not trace.provider_calls or price is None:
        return None
    priced = [0.0 if call.outcome == "refused" else _cents(call, price) for call in trace.provider_calls]
    known = [each for each in priced if each is not None]
    return sum(known) if len(known) == len(priced) else None


def _cents(call: Call, price: Price) -> float | None:
    """A call that nobody counted has no price."""
    return price(call) if call.units and call.counted != "none" else None
