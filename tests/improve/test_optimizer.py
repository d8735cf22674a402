"""The whole optimisation on a virtual clock: what it takes, what it refuses, what it remembers."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

from improve.kit_testbed import EVERY, ITEMS, NAIVE, VirtualTestbed, desk
from tauten.describe.slo import Slo
from tauten.improve.optimizer import testbed
from tauten.improve.optimizer.journal import Journal, Remembered
from tauten.improve.optimizer.optimizer import Asked, Optimizer, Result
from tauten.improve.optimizer.order import ordered
from tauten.improve.simulate.machine import Shared
from tauten.plan.plan import Plan, format_plan, parse_plan

LABELLED = [id for id, _ in EVERY]
ROOMY = Shared(cores=64)


def optimized(
    slo: Slo, on: testbed.Testbed | None = None, *, without: tuple[str, ...] = (), **more: Any
) -> Result:
    asked = Asked(
        slo=slo, rate=more.pop("rate", 1.0), dry_run=more.pop("dry_run", False), target="desk.py:desk"
    )
    return Optimizer(
        desk,
        ITEMS,
        on or VirtualTestbed(),
        ordered(without=without),
        asked,
        labelled=more.pop("labelled", LABELLED),
        shared=ROOMY,
        **more,
    ).run(NAIVE)


WIDE, TIGHT = Slo(p95_ms=170.0), Slo(p95_ms=140.0, quality_loss=0.05)


@functools.cache
def usual(slo: Slo) -> Result:
    """What several tests look at."""
    return optimized(slo)


def test_what_keeps_answers_is_enough_where_the_slo_is_wide() -> None:
    """Hearing takes 30 ms, reading six rows 150: one after another 180, side by side 150."""
    found = usual(WIDE)
    assert found.outcome.answer == "met"
    assert all(each.answers != "lossy" for each in found.outcome.decisions if each.taken)
    assert found.plan.stage("hear").beside or found.plan.stage("look").beside
    assert found.evidence is None  # nothing that may alter answers was needed
    by_name = {each.name: each for each in found.outcome.candidates}
    naive, chosen = by_name["naive"].alone, by_name["chosen"].alone
    assert naive is not None
    assert chosen is not None
    assert naive.values["p50_ms"] == pytest.approx(180.0, abs=1.0)
    assert chosen.values["p50_ms"] == pytest.approx(150.0, abs=1.0)


def test_lossy_changes_come_only_while_the_slo_is_missed_and_are_proven() -> None:
    """Under 140 ms only fewer rows help; two are enough, so one is not judged."""
    found = usual(TIGHT)
    assert found.outcome.answer == "met"
    taken = [each.change for each in found.outcome.decisions if each.taken]
    assert taken[-1] == "look: last = 2"
    assert found.evidence is not None
    assert found.evidence.verdict.decision == "accept"
    assert found.evidence.verdict.flips == []
    refused = {each.change: each for each in found.outcome.decisions if not each.taken}
    assert refused["look: last = 1"].why == "look: last = 2 is enough"


def test_what_gains_most_is_judged_first_where_nothing_is_enough() -> None:
    """One row loses a tenth of the answers, two rows none."""
    found = optimized(Slo(p95_ms=60.0, quality_loss=0.05))
    taken = [each.change for each in found.outcome.decisions if each.taken and each.answers == "lossy"]
    assert taken == ["look: last = 2"]
    refused = {each.change: each for each in found.outcome.decisions if not each.taken}
    worse = refused["look: last = 1"]
    assert "got worse" in worse.why
    assert worse.verdict is not None
    assert worse.verdict.bad_flips


def test_too_few_labels_are_said_before_and_nothing_lossy_is_taken() -> None:
    machine = VirtualTestbed()
    found = optimized(Slo(p95_ms=140.0, quality_loss=0.01), machine)
    assert found.outcome.labels is not None
    assert found.outcome.labels.needed == 299
    assert not any(each.answers == "lossy" and each.taken for each in found.outcome.decisions)
    assert any("n >= 299" in each.why for each in found.outcome.decisions if each.answers == "lossy")
    assert not any(asked.startswith("scores") for asked in machine.asked)  # no model ran for nothing
    assert found.outcome.answer == "missed"
    assert found.outcome.gap_what == "p95_ms"
    assert found.outcome.gap[0].step == "look"
    assert "hear" not in [row.step for row in found.outcome.gap]  # it runs beside, and is not in the way
    p95_ms = next(each for each in found.outcome.candidates if each.name == "chosen").simulated.values[
        "p95_ms"
    ]
    assert sum(row.ms for row in found.outcome.gap) == pytest.approx(p95_ms, rel=0.02)


FEW = (
    "backend",
    "prefix",
    "lookup",
    "chunk",
    "cache",
    "quantize",
    "refine",
    "compact",
)  # strategies left out


def test_a_limit_on_memory_is_held_like_any_other() -> None:
    """Without one a second replica of what looks is taken, which costs 60 MB."""
    assert memory_of(usual(WIDE)) == 160_000_000
    found = optimized(Slo(p95_ms=400.0, memory_bytes=110_000_000), without=FEW)
    assert found.outcome.answer == "met"
    assert memory_of(found) == 100_000_000
    assert all(each.memory_bytes for each in usual(WIDE).outcome.candidates), "told without a limit, too"


def memory_of(found: Result) -> int | None:
    """Of the chosen plan."""
    chosen = next(each for each in found.outcome.candidates if each.name == "chosen")
    return chosen.memory_bytes


def test_a_limit_on_memory_that_is_passed_is_missed() -> None:
    found = optimized(Slo(p95_ms=400.0, memory_bytes=90_000_000), without=(*FEW, "batch"))
    assert found.outcome.answer == "missed"
    assert found.outcome.why[-1] == "its models and caches take up to 100 MB of 90"


def test_memory_that_nobody_knows_is_not_said_to_fit() -> None:
    class Closed(VirtualTestbed):
        def held(self, plan: Plan, step: str, role: str, items: Any) -> tuple[tuple[int, int], ...]:
            return ()

    found = optimized(Slo(p95_ms=400.0, memory_bytes=10**12), Closed(), without=(*FEW, "batch"))
    assert found.outcome.answer == "cannot conclude"
    assert "memory" in found.outcome.why[-1]
    assert all(each.memory_bytes is None for each in found.outcome.candidates)


def test_a_limit_that_is_not_judged_here_is_not_said_to_hold() -> None:
    found = optimized(Slo(p95_ms=170.0, cost_cents=1.0))
    assert found.outcome.answer == "cannot conclude"
    assert any("cost_cents is not judged here" in each for each in found.outcome.why)
    assert sum(each.taken for each in found.outcome.decisions) <= len(ordered())


def test_what_it_varies_is_told_by_its_setting() -> None:
    lines: list[str] = []
    optimized(TIGHT, say=lines.append, dry_run=True, without=(*FEW, "batch"))
    assert any("look.last = 2" in line for line in lines if line.startswith("run "))
    assert any(line.startswith("simulate overlap: ") for line in lines)


def test_the_plan_file_says_why_and_what_was_measured() -> None:
    found = usual(WIDE)
    text = format_plan(found.plan)
    again = parse_plan(text)
    assert again.content == found.plan.content
    assert "side by side" in again.stage("hear").why + again.stage("look").why
    assert again.result["p95_ms"]["now"] == pytest.approx(150.0, abs=2.0)
    assert again.result["p95_ms"]["predicted"] == pytest.approx(150.0, abs=2.0)
    assert again.rejected


def test_forecasts_stand_beside_what_came() -> None:
    found = usual(WIDE)
    errors = {
        (each.of, each.what): abs(each.predicted / each.measured - 1.0) for each in found.outcome.forecasts
    }
    assert {of for of, _ in errors} >= {"naive, alone", "chosen, alone", "chosen, at the rate"}
    # told times, no noise, and the same engine: alone there is no difference; at a rate the instants are others
    assert max(error for (of, _), error in errors.items() if of.endswith("alone")) < 0.01


def test_an_ablation_is_the_chosen_plan_without_a_strategy() -> None:
    found = usual(TIGHT)
    without = {each.strategy: each.without.values["p50_ms"] for each in found.outcome.ablation}
    assert without["reduce"] == pytest.approx(150.0, abs=1.0)  # six rows again


def test_a_strategy_that_is_left_out_is_not_asked() -> None:
    found = optimized(TIGHT, without=("overlap", "reduce"), dry_run=True)
    assert not {"overlap", "reduce"} & {each.strategy for each in found.outcome.decisions}


def told(found: Result) -> list[tuple[str, bool, str]]:
    return [(each.change, each.taken, each.why) for each in found.outcome.decisions]


class _Interrupted(Exception):
    pass


class _Dying(VirtualTestbed):
    """Is interrupted at its so-manieth act."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def __getattribute__(self, name: str) -> Any:
        if name in ("capture", "runs", "scores"):
            at = object.__getattribute__(self, "at")
            object.__setattr__(self, "at", at - 1)
            if at == 0:
                raise _Interrupted
        return object.__getattribute__(self, name)


def test_the_same_measurements_give_the_same_plan_interrupted_or_not(tmp_path: Path) -> None:
    assert desk.graph is not None
    machine = VirtualTestbed()
    whole = optimized(TIGHT, Remembered(machine, Journal(), desk.graph))
    assert whole.plan.content == usual(TIGHT).plan.content
    assert told(whole) == told(usual(TIGHT))
    every = [each for each in machine.asked if not each.startswith("bench")]
    at, path = len(every) // 2, tmp_path / "search.jsonl"
    with pytest.raises(_Interrupted):
        optimized(TIGHT, Remembered(_Dying(at), Journal(path), desk.graph))
    path.write_bytes(path.read_bytes() + b'["cut off by a cra')
    machine = VirtualTestbed()
    resumed = optimized(TIGHT, Remembered(machine, Journal(path), desk.graph))
    assert resumed.plan.content == whole.plan.content
    assert told(resumed) == told(whole)
    again = [each for each in machine.asked if not each.startswith("bench")]
    assert again == every[at:]  # nothing is measured twice


def test_settings_that_do_not_run_are_told_and_left_out() -> None:
    machine = VirtualTestbed()
    machine.failing = "look"
    found = optimized(Slo(p95_ms=140.0, quality_loss=0.05), machine)
    assert any("the engine died" in note for note in found.outcome.notes)
    assert not any(each.strategy == "reduce" and each.taken for each in found.outcome.decisions)


def test_without_time_the_best_so_far_is_told_and_that_it_is_not_all() -> None:
    now = iter(range(10**9))
    found = optimized(
        Slo(p95_ms=140.0, quality_loss=0.05), clock=lambda: float(next(now)) * 400.0, dry_run=True
    )
    assert found.outcome.interrupted
    assert found.outcome.answer in ("missed", "cannot conclude")


def test_a_dry_run_measures_no_finalist() -> None:
    machine = VirtualTestbed()
    found = optimized(Slo(p95_ms=170.0), machine, dry_run=True)
    assert not any(each.startswith("bench") for each in machine.asked)
    assert found.outcome.answer == "cannot conclude"
    assert "simulated only" in found.outcome.why[0]
