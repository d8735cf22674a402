"""A semantic tier as a plan asks for it: its model, its gate, and how answers are compared."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from tauten.describe.stage import StageKind
from tauten.plan.plan import SemanticPlan
from tauten.run.caching.semantic.checks import checks_revision
from tauten.run.caching.semantic.embedding import Embedding, choice_of, revision_of
from tauten.run.caching.semantic.likeness import Semantic
from tauten.run.caching.semantic.remembered import Walked
from tauten.run.caching.semantic.sameness import sameness
from tauten.run.contracts import Cache
from tauten.run.gating.gate import Terms
from tauten.run.gating.gates import KeptGate, open_gate

if TYPE_CHECKING:
    from tauten.run.deploy.deployments import Deployments

Maker = Callable[[int, Mapping[str, Cache]], Semantic]
"""Makes the tier, of a size, beside the exact ones of its step."""

_PLAIN = re.compile(r"[^A-Za-z0-9_.-]+")
_MOST = 64  # letters of a gate's name


async def opened(
    deployments: Deployments,
    keys: list[str],
    kind: StageKind[..., Any],
    rules: SemanticPlan,
    gate: KeptGate,
) -> Maker:
    """Open the model that embeds for the holder of `keys`; raises PlanError E135 for one that does not."""
    clock = deployments.clock
    embed = Embedding(deployments, clock, choice_of(rules), keys)
    revision = await embed.open()

    def make(size_bytes: int, tiers: Mapping[str, Cache]) -> Semantic:
        disk = tiers.get("disk")
        return Semantic(
            size_bytes,
            embed=embed,
            revision=revision,
            gate=gate,
            same=sameness(kind, rules.agree),
            field=rules.field,
            category=rules.category,
            disk=cast(Walked, disk) if hasattr(disk, "labelled") else None,
            clock=clock,
            now=deployments.caches.now,
        )

    return make


def gate_of(workflow: str, step: str, rules: SemanticPlan) -> KeptGate:
    """The gate of a step: what it claims, and what of."""
    terms = Terms(epsilon=rules.epsilon, eta=round(1.0 - rules.confidence, 9), floor=rules.shadow)
    return open_gate(gate_name(workflow, step, rules), terms, about=about(rules))


def gate_name(workflow: str, step: str, rules: SemanticPlan) -> str:
    """The name that a plan gives it, else one of the workflow and the step."""
    if rules.gate:
        return rules.gate
    plain = _PLAIN.sub("-", ".".join(filter(None, (workflow, step)))).lstrip("._-")
    return plain[:_MOST] or "semantic"


def about(rules: SemanticPlan) -> str:
    """What the scores are of: another model, other checks, or another input are other scores."""
    return f"likeness of {rules.field or 'the text'} by {revision_of(choice_of(rules))}, checks {checks_revision()}"
