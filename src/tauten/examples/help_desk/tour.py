"""The tour behind `tauten demo`: the recording under two plans, side by side, and what each change is worth."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tauten.describe.workflow import Workflow
from tauten.examples.help_desk.scoring import score
from tauten.explain.account import Ablation, Account, Comparison, Header, account, compare
from tauten.explain.figures import slo_table
from tauten.improve.quality import Outcome, Summary, Verdict, summarize
from tauten.improve.quality import compare as compare_outcomes
from tauten.improve.recording import Item
from tauten.improve.replay import Replay, Served, estimates, learn, replay, serve_one
from tauten.plan.hardware import hardware
from tauten.plan.lower import Lowered
from tauten.plan.measurements import Measurements
from tauten.plan.plan import Plan, StagePlan, load_plan, stage_keys
from tauten.run.engine import Engine
from tauten.statistics import smallest_provable_loss

HERE = Path(__file__).parent
ABLATION_ITEMS = 12  # requests a change is judged on: enough for a median, few enough for a tour
Say = Callable[[str], None]


@dataclass(slots=True, eq=False)
class Side:
    """One plan's part of the tour."""

    plan: Plan
    replay: Replay
    lowered: Lowered
    outcomes: list[Outcome]
    properties: dict[str, dict[str, Mapping[str, str]]]

    @property
    def quality(self) -> Summary:
        return summarize(self.outcomes)

    def usage(self) -> dict[str, float]:
        """Tokens and other resources of all requests together."""
        total: dict[str, float] = {}
        for served in self.replay.served:
            for _, unit, amount in served.trace.spent:
                total[unit] = total.get(unit, 0.0) + amount
        return total


@dataclass(slots=True, eq=False)
class Tour:
    """What the tour found."""

    workflow: Workflow[..., Any]
    sides: list[Side]
    verdict: Verdict
    comparison: Comparison
    ablation: list[Ablation] = field(default_factory=list)


def plans() -> list[Plan]:
    """The two hand-written plans: every default, and tuned."""
    return [load_plan(HERE / "naive.toml"), load_plan(HERE / "tuned.toml")]


async def first_answer(workflow: Workflow[..., Any], item: Item, show: Callable[[Any], None]) -> Served:
    """Answer one request under the tuned plan and show each part as it comes."""
    async with Engine() as engine:
        name = await engine.open(workflow, plans()[1])
        values: list[Any] = []
        request = engine.request()
        async for value in engine.stream(item.inputs, plan=name, request=request):
            values.append(value)
            show(value)
        from tauten.run.attribution import attribute

        return Served(item.id, values, request.trace, attribute(request.trace))


async def tour(
    workflow: Workflow[..., Any],
    items: Sequence[Item],
    *,
    measurements: Measurements,
    say: Say,
    margin: float,
    ablate: bool = True,
) -> Tour:
    """Replay the items under both plans, compare, and take the tuned plan apart."""
    sides = [await _side(workflow, plan, items, say) for plan in plans()]
    known = [estimates(measurements, side.lowered) for side in sides]  # before this run teaches them
    for side in sides:
        learn(measurements, side.lowered, side.replay.good)
    accounts = [_account(workflow, side, table) for side, table in zip(sides, known, strict=True)]
    naive, tuned = (_correct(side) for side in sides)
    verdict = compare_outcomes(naive, tuned, margin)
    ablation = await ablate_plan(workflow, sides[0].plan, sides[1].plan, items, say) if ablate else []
    comparison = compare(accounts[0], accounts[1], name_a="naive", name_b="tuned", ablation=ablation)
    return Tour(workflow, sides, verdict, comparison, ablation)


async def _side(workflow: Workflow[..., Any], plan: Plan, items: Sequence[Item], say: Say) -> Side:
    """One plan alone: two sets of models do not share the cores."""
    say(f"{plan.name}: loading")
    async with Engine() as engine:
        name = await engine.open(workflow, plan)
        properties = engine.step_properties(name)
        lowered = engine.plans[name].lowered
        await serve_one(engine, name, "warm-up", items[0].inputs)  # first calls compile kernels
        done = await replay(engine, name, _requests(items), progress=_counter(plan.name, len(items), say))
    assert lowered is not None  # the help desk is drawn
    by_id = {item.id: item for item in items}
    outcomes = [judge(by_id[served.id], served) for served in done.served]
    return Side(plan, done, lowered, outcomes, properties)


def _requests(items: Iterable[Item]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    for item in items:
        yield item.id, item.inputs
        item.forget()


def _counter(plan: str, count: int, say: Say) -> Callable[[Served], None]:
    seen = 0

    def tell(served: Served) -> None:
        nonlocal seen
        seen += 1
        say(f"{plan}: {seen} of {count}   {served.wall_ms:.0f} ms   {served.id}")

    return tell


def judge(item: Item, served: Served) -> Outcome:
    """How a request came out against its label; a failed request is wrong."""
    reply = next((value for value in served.values if value.answer is not None), None)
    if served.error is not None or reply is None:
        return Outcome(item.id, False, item.label.answerable, False, None)
    passages = [passage.chunk for passage in reply.passages]
    scored = score(item, reply.answer, passages)
    refused = not reply.answer.found
    return Outcome(item.id, scored.correct, item.label.answerable, refused, scored.hit_rank)


def _correct(side: Side) -> dict[str, bool]:
    return {outcome.item: outcome.correct for outcome in side.outcomes}


def _account(workflow: Workflow[..., Any], side: Side, table: Mapping[str, Any]) -> Account:
    served = side.replay.at("p50")
    quality = side.quality
    header = Header(
        workflow=workflow.name,
        plan=side.replay.plan,
        machine=str(hardware()),
        requests=len(side.replay.served),
        load="one at a time",
        request=f"the median (#{side.replay.number(served)})",
        slo=slo_table(
            workflow.slo,
            side.replay.held(),
            correct=(quality.correct.right, quality.correct.n),
            interval=(quality.correct.low, quality.correct.high),
        ),
    )
    return account(served.trace, estimates=table, header=header)


# -- what each difference is worth ---------------------------------------------------------------------------


def differences(naive: Plan, tuned: Plan) -> dict[str, Plan]:
    """For each difference from the naive plan, the tuned plan without it: the overlap, then each stage."""
    without: dict[str, Plan] = {}
    if any(stage.beside for stage in tuned.stages.values()):
        stages = {name: msgspec.structs.replace(stage, beside=()) for name, stage in tuned.stages.items()}
        without["branches side by side"] = msgspec.structs.replace(tuned, name="no-overlap", stages=stages)
    for name, stage in tuned.stages.items():
        plain = msgspec.structs.replace(naive.stages.get(name, StagePlan()), beside=stage.beside)
        mine, theirs = stage_keys(stage), stage_keys(plain)
        said = [key for key in {**mine, **theirs} if key not in ("why", "beside", "locked")]
        changed = [key for key in said if mine.get(key) != theirs.get(key)]
        if changed:
            label = f"{name}: {', '.join(changed)}"
            plan = msgspec.structs.replace(tuned, name=f"no-{name}", stages={**tuned.stages, name: plain})
            without[label] = plan
    return without


async def ablate_plan(
    workflow: Workflow[..., Any], naive: Plan, tuned: Plan, items: Sequence[Item], say: Say
) -> list[Ablation]:
    """Run the same requests under the tuned plan, then without each difference, then tuned once more.

    Each run has an engine of its own, alone: none finds another's prompts in the language model's cache, or
    shares the memory. A request's time under the tuned plan is the mean of its two, so that drift cancels.
    """
    chosen = _spread(items, ABLATION_ITEMS)
    say("ablation: the tuned plan")
    before = await _walls_ms(workflow, tuned, chosen)
    without = {}
    for label, plan in differences(naive, tuned).items():
        say(f"ablation: without {label}")
        without[label] = await _walls_ms(workflow, plan, chosen)
    say("ablation: the tuned plan again")
    after = await _walls_ms(workflow, tuned, chosen)
    base = {id: (before[id] + after[id]) / 2 for id in before.keys() & after.keys()}
    found = [_ablation(label, base, walls) for label, walls in without.items()]
    return sorted((each for each in found if each is not None), key=lambda each: each.p50_ms)


async def _walls_ms(workflow: Workflow[..., Any], plan: Plan, items: Sequence[Item]) -> dict[str, float]:
    """Milliseconds of each request that ended well; the first only warms up."""
    async with Engine() as engine:
        name = await engine.open(workflow, plan)
        done = await replay(engine, name, _requests(items))
    return {served.id: served.wall_ms for served in done.good if served.id != items[0].id}


def _ablation(label: str, base: Mapping[str, float], walls: Mapping[str, float]) -> Ablation | None:
    gains = [base[id] - walls[id] for id in base.keys() & walls.keys()]
    if not gains:
        return None
    note = f"{len(gains)} pairs, {min(gains):+.0f} to {max(gains):+.0f}"
    return Ablation(label, statistics.median(gains), None, note)


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """Evenly spread over the kinds of requests, so that each change meets what it changes."""
    ordered = sorted(items, key=lambda item: item.tags)
    count = min(count + 1, len(ordered))  # and one to warm up with
    return [ordered[place * len(ordered) // count] for place in range(count)]


# -- as plain values -----------------------------------------------------------------------------------------


def document(found: Tour) -> dict[str, Any]:
    """The tour for programs: schema `tauten.demo/1`."""
    accounts = (found.comparison.a, found.comparison.b)
    return {
        "schema": "tauten.demo/1",
        "machine": str(hardware()),
        "plans": [_side_document(side, shown) for side, shown in zip(found.sides, accounts, strict=True)],
        "verdict": {"decision": found.verdict.decision, "words": str(found.verdict)},
        "smallest_provable_loss": smallest_provable_loss(len(found.sides[0].outcomes)),
        "ablation": [
            {"change": each.change, "p50_ms": each.p50_ms, "note": each.note} for each in found.ablation
        ],
    }


def _side_document(side: Side, shown: Account) -> dict[str, Any]:
    quality = side.quality
    five = ("model", "preparation", "network", "contention", "io")
    return {
        "plan": side.plan.name,
        "id": side.replay.plan,
        "requests": len(side.replay.served),
        "failed": len(side.replay.served) - len(side.replay.good),
        **side.replay.percentiles(),
        "unattributed_share_p95": side.replay.unattributed_share_p95(),
        "worst_gap_ms": worst_gap_ms(side.replay),
        "request": shown.header.request,
        "rows": shown.rows(),
        "sources": {name: shown.sources.get(name, 0.0) for name in five},
        "quality": {
            "hit_at_1": _rate(quality.hit_at_1),
            "hit_at_3": _rate(quality.hit_at_3),
            "correct": _rate(quality.correct),
            "answered_right": _rate(quality.answered_right),
            "refused_right": _rate(quality.refused_right),
            "n": quality.n,
        },
        "usage": side.usage(),
        "properties": side.properties,
    }


def _rate(rate: Any) -> dict[str, float] | None:
    if rate is None:
        return None
    return {"share": rate.value, "low": rate.low, "high": rate.high, "right": rate.right, "n": rate.n}


def worst_gap_ms(done: Replay) -> float:
    """The largest difference, over all requests, between the books and the wall time; rounding only."""
    return max(abs(_booked(served) - served.wall_ms) for served in done.good)


def _booked(served: Served) -> float:
    exclusive = served.attribution.exclusive()
    return sum(seconds for seconds in exclusive.values()) * 1e3
