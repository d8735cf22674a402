"""A policy as a plan or a workflow names it: its router, its settings, the gate that it stands behind."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tauten.errors import PlanError, suggest
from tauten.plan.lower import Step
from tauten.run.contracts import Router, find
from tauten.run.gating.gate import Gate
from tauten.run.gating.gates import open_gate

OURS: Mapping[str, type] = {"seed": int}
SENDS: Mapping[str, type] = {"falls_back": bool}  # of those that send a request to one
JUDGES: Mapping[str, type] = {"risk_gate": str, "category": str}  # of those whose shortcuts are judged
"""Settings that every policy takes, and those of policies that judge and that do not."""


class Opened(NamedTuple):
    """A policy that is ready to choose."""

    name: str
    router: Router
    seed: int
    gate: Gate | None
    category: str
    falls_back: bool = False  # who fails before its first output is followed by the next in the order


def setting_keys(policy: str) -> frozenset[str]:
    """The settings that a policy takes in a plan; raises PlanError where there is no such policy."""
    kind = find("routers", policy)
    return frozenset(_settings_of(kind))


def _settings_of(kind: type[Any]) -> dict[str, type]:
    return {**OURS, **(JUDGES if kind.judges else SENDS), **kind.option_keys}


def opened(step: Step) -> Opened:
    """The policy of a choose step. Raises PlanError E121 for an unknown one, E140 for one that does not fit."""
    name = str(step.params["policy"])
    kind = find("routers", name)
    settings = {**_planned(step), **step.params.get("options", {})}
    if kind.judges and step.params.get("planned"):
        raise _misfit(
            f"policy {name!r} of '{step.name}' judges answers, and a plan cannot say what they are worth",
            f"write it in the workflow: tt.choose(a, b, policy={name!r}, same=function)",
        )
    check_options(name, settings, _settings_of(kind), step.name)
    if step.params["gates"]:
        raise _misfit(
            f"policy {name!r} of '{step.name}' chooses before an option's stages run; one has a function as its gate",
            "give a port as the gate, or say how sure the value is: tt.option(value, score=function)",
        )
    gate = _gate(step, name, settings)
    seed = int(settings.get("seed", 0))
    own = {key: value for key, value in settings.items() if key in kind.option_keys}
    router: Router = kind(own, seed=seed, allows=gate.allows if gate is not None else None)
    falls_back = bool(settings.get("falls_back", False))
    return Opened(name, router, seed, gate, str(settings.get("category", "")), falls_back)


def _planned(step: Step) -> dict[str, Any]:
    """The plan's settings, less the policy itself; where both say one, they must agree."""
    planned = {key: value for key, value in step.plan.settings.items() if key != "policy"}
    for key, value in step.params.get("options", {}).items():
        if planned.get(key, value) != value:
            raise PlanError(
                f"stage '{step.name}': the workflow writes {key}={value!r}, the plan says {planned[key]!r}",
                help="what you write, it keeps: drop one of the two",
                code="E126",
            )
    return planned


def _gate(step: Step, policy: str, settings: Mapping[str, Any]) -> Gate | None:
    name = settings.get("risk_gate", "")
    if not name:
        return None
    if step.params.get("same") is None:
        raise _misfit(
            f"policy {policy!r} of '{step.name}' stands behind the gate {name!r}, and nothing verifies its shortcuts",
            "give tt.choose(..., same=function): whether the shortcut's value would have done for the full one",
        )
    return open_gate(str(name))


def check_options(
    policy: str, settings: Mapping[str, Any], known: Mapping[str, type], step: str = "it"
) -> None:
    """Raise PlanError E140 for a setting that a policy does not have, or of another type."""
    for key, value in settings.items():
        if key not in known:
            raise _misfit(f"policy {policy!r} of '{step}' has no setting `{key}`", suggest(key, known))
        wanted = known[key]
        fits = isinstance(value, wanted) or (wanted is float and isinstance(value, int))
        if not fits or isinstance(value, bool) != (wanted is bool):
            raise _misfit(f"policy {policy!r} of '{step}': {key} = {value!r}", f"give a {wanted.__name__}")


def _misfit(what: str, help: str) -> PlanError:
    return PlanError(what, help=help, code="E140")
