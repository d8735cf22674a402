"""What control steps decide: when, choose, fallback, equals, default.

A decider is given the run and a way to evaluate one of the step's ports; sides are evaluated only then.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tauten.describe.payload import Text
from tauten.describe.ports import PortType
from tauten.errors import StageError, TautenError
from tauten.plan.lower import Step
from tauten.run.bound import BoundStep
from tauten.run.routing.choosing import Choosing
from tauten.run.routing.judging import Judging
from tauten.run.routing.outlook import Surroundings
from tauten.run.routing.policy import opened
from tauten.run.slots import Run, begun
from tauten.run.staging import stage_error
from tauten.run.usage.prices import Prices
from tauten.run.values import truth

Evaluate = Callable[[Run, str], Awaitable[Any]]
Decide = Callable[[Run, Evaluate], Awaitable[Any]]


def decider(
    step: Step, bound: Mapping[str, BoundStep], slots: Mapping[str, int], prices: Prices, output: PortType
) -> Decide:
    """The decision of a control step, which gives `output`. A policy looks at what its options are bound to, at the
    values that are there (`slots` says where), and at prices."""
    if step.control == "choose" and step.params.get("policy"):
        choosing = Choosing(step, Surroundings(bound, slots, prices), opened(step))
        judges = choosing.policy.router.judges
        return Judging(choosing, output).decide if judges else choosing.direct
    return _DECIDERS[step.control](step)


def _when(step: Step) -> Decide:
    async def decide(run: Run, value: Evaluate) -> Any:
        side = "then" if truth(await value(run, "condition")) else "otherwise"
        return await value(run, side)

    return decide


def _choose(step: Step) -> Decide:
    gates: dict[str, Callable[[Any], bool]] = step.params["gates"]
    count = sum(1 for name in step.inputs if name.startswith("value"))

    async def decide(run: Run, value: Evaluate) -> Any:
        for index in range(count):
            gate = f"gate{index}"
            if gate in step.inputs and not truth(await value(run, gate)):
                continue
            chosen = await value(run, f"value{index}")
            if gate not in gates or _opens(gates[gate], chosen, step.name):
                run.request.trace.notes[step.name] = f"option {index + 1} of {count}"
                return chosen
        raise StageError(
            f"'{step.name}': no option's gate opened", help="end tt.choose with a bare value", code="E408"
        )

    return decide


def _fallback(step: Step) -> Decide:
    count = len(step.inputs)

    async def decide(run: Run, value: Evaluate) -> Any:
        for index in range(count):
            try:
                return await begun(await value(run, f"value{index}"))
            except TautenError as error:
                if index == count - 1:
                    raise
                run.request.trace.notes[f"{step.name}.{index}"] = f"failed: {error.message}"
        raise AssertionError("a fallback has at least one alternative")

    return decide


def _equals(step: Step) -> Decide:
    async def decide(run: Run, value: Evaluate) -> bool:
        return bool(_bare(await value(run, "port")) == _bare(await value(run, "value")))

    return decide


def _default(step: Step) -> Decide:
    async def decide(run: Run, value: Evaluate) -> Any:
        given = await value(run, "port")
        return await value(run, "value") if given is None else given

    return decide


def _opens(gate: Callable[[Any], Any], value: Any, step: str) -> bool:
    try:
        return truth(gate(value))
    except TautenError:
        raise
    except Exception as error:
        raise stage_error(step, error) from error


def _bare(value: Any) -> Any:
    return value.text if isinstance(value, Text) else value


_DECIDERS: dict[str, Callable[[Step], Decide]] = {
    "when": _when,
    "choose": _choose,
    "fallback": _fallback,
    "equals": _equals,
    "default": _default,
}
