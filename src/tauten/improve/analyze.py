"""EXPLAIN ANALYZE from Python: run a workflow on some inputs and get the account of one real request."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

from tauten.describe.workflow import Workflow
from tauten.explain.account import Account, Header, account, compare
from tauten.explain.figures import slo_table
from tauten.explain.notebook import Explanation
from tauten.improve.replay import Replay, replay
from tauten.plan.hardware import hardware
from tauten.plan.plan import Plan, load_plan
from tauten.run.ambient import shared
from tauten.run.engine import Engine

REPEATS = 3  # the median of three is not the first, cold one


def analyze(
    workflow: Workflow[..., Any],
    *args: Any,
    plan: Plan | str | Path | None = None,
    against: Plan | str | Path | None = None,
    repeat: int = REPEATS,
    at: str = "p50",
    **inputs: Any,
) -> Explanation:
    """Run the inputs `repeat` times and explain the request at `at` (p50, p95, #2).

    With `against`, a second plan runs too and both are shown side by side. The result prints as the
    screen of `tauten explain --analyze` and shows as a chart in a notebook. Blocks; raises what the
    request raises.
    """
    values = workflow.bind(*args, **inputs)
    chosen = [_plan(plan)] + ([_plan(against)] if against is not None else [])
    accounts = [shared().block(_account(workflow, each, values, repeat, at)) for each in chosen]
    if len(accounts) == 1:
        return Explanation(accounts[0])
    return Explanation(compare(accounts[0], accounts[1]))


def _plan(given: Plan | str | Path | None) -> Plan | None:
    return load_plan(Path(given)) if isinstance(given, str | Path) else given


async def _account(
    workflow: Workflow[..., Any], plan: Plan | None, values: dict[str, Any], repeat: int, at: str
) -> Account:
    async with Engine() as engine:
        name = await engine.open(workflow, plan)
        done = await replay(engine, name, ((f"#{n + 1}", values) for n in range(max(1, repeat))))
    served = done.at(at)
    if served.error is not None:
        raise served.error
    return account(served.trace, header=header(workflow, done, at))


def header(workflow: Workflow[..., Any], done: Replay, at: str) -> Header:
    """Which request of what run is shown."""
    served = done.at(at)
    word = "the median" if at == "p50" else at
    return Header(
        workflow=workflow.name,
        plan=done.plan,
        machine=str(hardware()),
        requests=len(done.served),
        load=f"one at a time, {done.failed} failed" if done.failed else "one at a time",
        request=f"{word} (#{done.number(served)})" if not at.startswith("#") else at,
        graph="" if workflow.graph else f"graph observed in {len(done.served)} requests",
        slo=slo_table(workflow.slo, done.held()) if len(done.served) > 1 else [],
    )
