"""Predictions and what came of them: scored when a plan is run again in the same way, and shown afterwards."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from tauten.describe.workflow import Workflow
from tauten.explain.calibration import Prediction
from tauten.improve.optimizer.record import SOONEST, Record
from tauten.improve.replay import Replay
from tauten.improve.whatif.awaited import Awaited, Took, content_hash
from tauten.plan.hardware import Hardware
from tauten.plan.plan import Plan

LATEST: Final = 200  # predictions on a page: a chart of more is a cloud


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
