"""L17: what batching does at rising rates: none, those who wait together, a fixed wait, a wait that slack allows."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tauten.describe.payload import Tensor, Text
from tauten.describe.slo import Slo
from tauten.describe.stages.embed import embed
from tauten.describe.workflow import Workflow, workflow
from tauten.improve.headlines.how import How
from tauten.improve.headlines.rounds import Measure, Reading, lines
from tauten.improve.headlines.row import Column, Row
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.result import Run
from tauten.improve.load.samples import Samples
from tauten.improve.load.schedule import Load
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.plan.plan import Batch, Plan
from tauten.run.engine import Engine
from tauten.statistics import percentile

CLAIM = "dynamic batching: more inferences a second, no added latency"

OFF, TOGETHER, FIXED, SLACK = "off", "no wait", "fixed wait", "slack"
MOST = 8  # items a batch: beyond it the model here gains little
FIXED_MS = 5.0  # a few times what the model takes for one text
BATCHES: Mapping[str, Batch] = {
    OFF: Batch(max=1),
    TOGETHER: Batch(max=MOST, wait="off"),
    FIXED: Batch(max=MOST, wait=FIXED_MS),
    SLACK: Batch(max=MOST, wait="slack"),
}
COLUMNS = [
    Column(OFF, "one text a run"),
    Column(TOGETHER, f"up to {MOST} that wait together leave together, and nobody waits for others"),
    Column(FIXED, f"up to {MOST}, held {FIXED_MS:g} ms for others"),
    Column(SLACK, f"up to {MOST}, held as long as the deadline's slack and the gain allow"),
]
SHARES = (0.3, 0.6, 0.9, 1.2, 1.8)  # of what one client after another gets: the last two need batches
QUICK_SHARES = (0.5,)
SECONDS, QUICK_SECONDS = 6.0, 2.0  # of each rate, setting and round
SLACK_TIMES = 20.0  # the SLO's p95, in times of one request alone
ALONE = 20  # requests one after another, to know what one takes
SHOWN = {
    "p50": Measure("ms"),
    "p95": Measure("ms", headline=True),
    "answered": Measure("/s"),
    "answered in time": Measure("/s", headline=True),
}


async def measure(how: How) -> Row:
    """All settings in one engine under the same schedules of an open loop, in an order drawn anew each round."""
    flow = _flow()
    async with Engine(how.store) as engine:
        how.say("L17: how long one takes alone")
        sides = [await _side(engine, flow, name, Slo(), how) for name in BATCHES]
        alone_s = await _alone_s(sides[0], how)
        slo = Slo(p95_ms=SLACK_TIMES * alone_s * 1e3)
        sides = [await _side(engine, flow, name, slo, how) for name in BATCHES]
        bencher = Bencher(sides, slo=slo, say=how.say)
        shares = QUICK_SHARES if how.quick else SHARES
        load = Load(duration_s=QUICK_SECONDS if how.quick else SECONDS, seed=how.seed)
        runs = await bencher.runs(load, [share / alone_s for share in shares], how.rounds)
    others = [each for at_rate in runs for run in at_rate if (each := _others(run)) is not None]
    return Row(
        id="L17",
        claim=CLAIM,
        naive=OFF,
        zero_effort=TOGETHER,
        ours=SLACK,
        conditions=_conditions(how, alone_s, load),
        columns=COLUMNS,
        lines=lines(
            _readings(shares, alone_s, bencher.rounds),
            SHOWN,
            naive=OFF,
            zero_effort=TOGETHER,
            ours=SLACK,
        ),
        quality=["equivalent: the same model on the same texts, whatever shares its batch"],
        notes=sorted(
            {
                f"{run.plan} at {run.rate_per_s:.3g}/s: {why}"
                for each in runs
                for run in each
                for why in _void(run)
            }
        ),
        rounds=how.rounds,
        others=statistics.median(others) if others else None,
        worst=max(others, default=None),
    )


def _flow() -> Workflow[..., Any]:
    @workflow
    def embedded(text: Text) -> Tensor:
        found: Tensor = embed(text)
        return found

    return embedded


async def _side(engine: Engine, flow: Workflow[..., Any], name: str, slo: Slo, how: How) -> Side:
    plan = Plan(name=name).edit("embed", batch=BATCHES[name])
    target = WorkflowTarget(engine, flow, plan, slo)
    await target.open()
    return Side(name, target, [target.prepare({"text": Text(each)}) for each in how.inputs.texts])


async def _alone_s(side: Side, how: How) -> float:
    """The median of requests one after another, of the setting without batches."""
    bencher = Bencher([side], slo=Slo(), say=how.say)
    samples, _ = await bencher.once(side, Load(clients=1, requests=ALONE))
    return percentile([sample.service for sample in samples.measured], 0.5)


def _readings(
    shares: Sequence[float], alone_s: float, rounds: Sequence[Sequence[Sequence[Samples]]]
) -> dict[str, list[Reading]]:
    """By setting, a reading a round over all rates; `rounds` are by rate, setting and round."""
    found: dict[str, list[Reading]] = {}
    for place, name in enumerate(BATCHES):
        turns = zip(*(at_rate[place] for at_rate in rounds), strict=True)
        found[name] = [_reading(shares, alone_s, turn) for turn in turns]
    return found


def _reading(shares: Sequence[float], alone_s: float, turn: Sequence[Samples]) -> Reading:
    read: dict[tuple[str, str], float] = {}
    for share, samples in zip(shares, turn, strict=True):
        case = f"{share / alone_s:.3g}/s ({share:g} of one client's)"
        good = [sample for sample in samples.measured if sample.good]
        in_time = [sample for sample in good if sample.latency <= SLACK_TIMES * alone_s]
        read[case, "answered"] = len(good) / samples.window_s
        read[case, "answered in time"] = len(in_time) / samples.window_s
        if len(good) == len(samples.measured):  # with refusals the rest says nothing of those who were let in
            latencies = [sample.latency for sample in good]
            read |= {
                (case, "p50"): percentile(latencies, 0.5) * 1e3,
                (case, "p95"): percentile(latencies, 0.95) * 1e3,
            }
    return read


def _void(run: Run) -> list[str]:
    return run.why if run.answer == "void" else []


def _others(run: Run) -> float | None:
    """The share of the cores that others had; the meter tells cores."""
    from tauten.plan.hardware import hardware

    return None if run.costs.other_cores is None else run.costs.other_cores / hardware().cores


def _conditions(how: How, alone_s: float, load: Load) -> dict[str, str]:
    return {
        "model": "minilm-l6-v2:fp32 on ONNX Runtime, its defaults: all cores",
        "load": f"open loop, poisson, seed {load.seed}, {load.duration_s:g} s of each rate, setting and round",
        "texts": f"{len(how.inputs.texts)} different questions",
        "one alone": f"{alone_s * 1e3:.3g} ms",
        "in time": f"within {SLACK_TIMES:g} times that, the SLO's p95; requests that cannot be are refused",
        "latency": "only of rounds in which nobody was refused",
    }
