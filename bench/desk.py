"""The help desk under both plans, request by request in turn, on a half of the recording; with intervals.

    python bench/desk.py [dev|held_out|all] [OUT.json] [EVERY]    EVERY 3 takes each third request

Both plans stay open and alternate on each request, so that what else the machine does falls on both.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

from tauten.examples.help_desk.desk import help_desk
from tauten.examples.help_desk.manual import ensure_manual
from tauten.examples.help_desk.recording import recording, render
from tauten.examples.help_desk.tour import judge, plans, worst_gap_ms
from tauten.improve.quality import compare, summarize
from tauten.improve.recording import Item
from tauten.improve.replay import Replay, serve_one
from tauten.plan.hardware import hardware
from tauten.run.ambient import run_async
from tauten.run.engine import Engine
from tauten.statistics import median_interval, smallest_provable_loss

MARGIN = 0.05  # as `tauten demo`


async def measure(items: list[Item]) -> tuple[list[Replay], list[list[Any]]]:
    """Replays and outcomes of the naive and the tuned plan."""
    async with Engine() as engine:
        names = [await engine.open(help_desk, plan) for plan in plans()]
        done = [Replay(name, in_force=engine.step_properties(name)) for name in names]
        outcomes: list[list[Any]] = [[], []]
        for name in names:
            await serve_one(engine, name, "warm-up", items[0].inputs)
        for number, item in enumerate(items, 1):
            for side, name in enumerate(names):
                served = await serve_one(engine, name, item.id, item.inputs)
                served.values[:] = served.values[:1] if served.error is None else []
                done[side].served.append(served)
                outcomes[side].append(judge(item, served))
            item.forget()
            print(f"\r{number} of {len(items)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return done, outcomes


def report(items: list[Item], done: list[Replay], outcomes: list[list[Any]]) -> dict[str, Any]:
    """The figures, and the lines that are printed."""
    found: dict[str, Any] = {"machine": str(hardware()), "requests": len(items), "plans": []}
    for replay, judged in zip(done, outcomes, strict=True):
        quality = summarize(judged)
        row = {
            "plan": replay.plan,
            **replay.percentiles(),
            "unattributed_share_p95": replay.unattributed_share_p95(),
            "worst_gap_ms": worst_gap_ms(replay),
            "failed": len(replay.served) - len(replay.good),
            "correct": str(quality.correct),
            "hit@1": str(quality.hit_at_1),
            "hit@3": str(quality.hit_at_3),
            "answered right": str(quality.answered_right),
            "refused right": str(quality.refused_right),
        }
        found["plans"].append(row)
    pairs = [(a.wall_ms, b.wall_ms) for a, b in zip(done[0].served, done[1].served, strict=True)]
    naive, tuned = zip(*pairs, strict=True)
    ratio = median_interval([a / b for a, b in pairs])
    found["p50_ratio"] = statistics.median(naive) / statistics.median(tuned)
    found["paired_ratio"] = None if ratio is None else [ratio.low, ratio.mid, ratio.high]
    correct = [{each.item: each.correct for each in judged} for judged in outcomes]
    verdict = compare(correct[0], correct[1], MARGIN)
    found["verdict"] = str(verdict)
    found["flips"] = {
        "lost": [flip.item for flip in verdict.bad_flips],
        "won": [flip.item for flip in verdict.good_flips],
    }
    found["smallest_provable_loss"] = smallest_provable_loss(len(items))
    return found


def main() -> None:
    half = sys.argv[1] if len(sys.argv) > 1 else "held_out"
    ensure_manual()
    every = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    items = list(recording(split=None if half == "all" else half))[::every]
    render(items)
    found = report(items, *run_async(measure(items)))
    text = json.dumps(found, indent=1)
    print(text)
    if len(sys.argv) > 2:
        with open(sys.argv[2], "w") as out:
            out.write(text + "\n")


if __name__ == "__main__":
    main()
