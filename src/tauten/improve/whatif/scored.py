"""Predictions and what came of them: scored when a plan is run again in the same way, and shown afterwards."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from tauten.describe.workflow import Workflow
from tauten.explain.calibration import Prediction
from tauten.improve.load.result import Run
from tauten.improve.optimizer.finals import figures_of_run
from tauten.improve.optimizer.outcome import Candidate, Optimized
from tauten.improve.optimizer.record import SOONEST, Record
from tauten.improve.optimizer.search import Figures
from tauten.improve.replay import Replay
from tauten.improve.whatif.awaited import Awaited, Took, content_hash
from tauten.plan.hardware import Hardware
from tauten.plan.plan import Plan, parse_plan

LATEST: Final = 200  # predictions on a page: a chart of more is a cloud
LEAST_REQUESTS: Final = 20  # of a load: the p95 of fewer is only their slowest one


def settle(
    folder: Path,
    here: Hardware,
    workflow: Workflow[..., Any],
    recording: str,
    runs: Iterable[tuple[Plan, Replay]],
) -> None:
    """Score what was predicted of plans whose recorded requests have just run, one at a time, and keep it in a store's
    ledger. Raises MachineError."""
    if workflow.graph is None:
        return  # nobody predicts programs
    awaited, record = Awaited.load(folder), Record.load(folder, here)
    for plan, done in runs:
        took = {each.id: Took(each.wall_ms, each.first_output_ms or each.wall_ms) for each in done.good}
        under = (workflow.graph.hash, content_hash(plan), str(here), recording, 0.0)
        for strategy, forecast in awaited.settle(under, took):
            record.keep([forecast], strategy=strategy)


class Loaded(NamedTuple):
    """What a plan did under so many requests a second, as measured in an open loop."""

    plan: Plan
    rate_per_s: float
    figures: Figures
    requests: int


def settle_loads(folder: Path, here: Hardware, graph: str, recording: str, loads: Iterable[Loaded]) -> None:
    """Score what was predicted of plans at the rates that they have just been measured at, by whomever, and keep it in
    a store's ledger. A run of few requests, and one that refused some, says nothing of a prediction. Raises
    MachineError."""
    awaited, record = Awaited.load(folder), Record.load(folder, here)
    for plan, rate, figures, requests in loads:
        if requests < LEAST_REQUESTS or figures.failed:
            continue
        under = (graph, content_hash(plan), str(here), recording, rate)
        for strategy, forecast in awaited.settle_load(under, figures.values):
            record.keep([forecast], strategy=strategy)


def settle_outcome(folder: Path, here: Hardware, graph: str, recording: str, found: Optimized) -> None:
    """The same of all plans that an optimisation has measured at its rate. Raises MachineError."""
    measured = {each.plan: each for each in found.candidates if each.measured is not None}
    settle_loads(
        folder,
        here,
        graph,
        recording,
        [
            Loaded(parse_plan(text), found.rate_per_s, each.measured, _requests(each))
            for text, each in measured.items()
            if each.measured is not None
        ],
    )


def settle_runs(
    folder: Path,
    here: Hardware,
    workflow: Workflow[..., Any],
    recording: str,
    runs: Iterable[tuple[Plan, Run]],
) -> None:
    """The same of runs of `tauten bench` on a recording, as far as they came as predictions have requests come: in an
    open loop, by a Poisson process, from a generator that kept up. Raises MachineError."""
    if workflow.graph is None:
        return  # nobody predicts programs
    loads = [
        Loaded(plan, run.rate_per_s, figures_of_run(run), run.requests.sent)
        for plan, run in runs
        if not run.clients and run.answer != "void"
    ]
    settle_loads(folder, here, workflow.graph.hash, recording, loads)


def _requests(each: Candidate) -> int:
    return max((interval.n for interval in each.intervals.values()), default=0)


def scored(record: Record) -> list[Prediction]:
    """Predictions that were measured, the latest of them, as a chart takes them."""
    rows = [row for row in record.ledger.rows if row.what in SOONEST and row.inside is not None]
    return [
        Prediction(
            f"{row.of} {row.what.removesuffix('_ms')}",
            row.predicted,
            row.low or 0.0,
            row.high or 0.0,
            row.measured,
            SOONEST.index(row.what),
        )
        for row in rows[-LATEST:]
    ]
