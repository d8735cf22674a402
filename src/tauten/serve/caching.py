"""What an operator sees of a server's caches and gates, and how caches are emptied."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from tauten.errors import InputError, TautenError, suggest
from tauten.plan.likeness import LIKENESS
from tauten.run.contracts import names
from tauten.run.gating.gates import KeptGate
from tauten.run.gating.scope import Verdict

if TYPE_CHECKING:
    from tauten.serve.app import Site


class Clear(msgspec.Struct, forbid_unknown_fields=True):
    """What is to be forgotten: of every workflow, every tier and every result, where nothing is said."""

    workflow: str = ""
    tier: str = ""
    label: str = ""  # as `step:ocr`, `model:NAME`, `tenant:NAME`, `tag:NAME`


KINDS = ("step", "model", "tenant", "tag")


def shown(site: Site) -> list[dict[str, Any]]:
    """Each cache of each workflow, with its tiers."""
    return [
        {"workflow": service.name, "stage": stage, "holds": holds, **msgspec.to_builtins(_flat(seen))}
        for service in site.services
        for (stage, holds), seen in service.engine.deployments.caches.seen().items()
    ]


def _flat(seen: Any) -> dict[str, Any]:
    """A named tuple as JSON names it."""
    return {
        key: _flat(value)
        if hasattr(value, "_asdict")
        else {name: _flat(each) for name, each in value.items()}
        if key == "tiers"
        else value
        for key, value in seen._asdict().items()
    }


def gates_shown(gates: dict[str, KeptGate]) -> list[dict[str, object]]:
    """How gates stand, as JSON shows it."""
    return [
        {
            "gate": name,
            "about": gate.about,
            "learned": gate.learned,
            "needed": gate.needed,
            "problem": gate.problem,
            "scopes": [{**_shown(each), "taken": gate.taken[each.scope]} for each in gate.verdicts()],
        }
        for name, gate in gates.items()
    ]


def _shown(verdict: Verdict) -> dict[str, object]:
    return {name: getattr(verdict, name) for name in verdict.__struct_fields__}


async def cleared(site: Site, asked: Clear) -> int:
    """Forget it; says how many results a label had, summed over tiers, and 0 without one.

    Raises what a tier raises that cannot, when all others have.
    """
    check_label(asked.label)
    _check_tier(site, asked.tier)
    if site.door.flights is not None:
        site.door.flights.part()
    forgotten = 0
    failed: TautenError | None = None
    for service in site.services:
        if asked.workflow not in ("", service.name):
            continue
        caches = service.engine.deployments.caches
        try:
            if asked.label:
                forgotten += await caches.forget(asked.label, asked.tier)
            else:
                await caches.clear(asked.tier)
        except TautenError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return forgotten


def check_label(label: str) -> None:
    """Raise InputError for a label that nothing carries."""
    kind, _, name = label.partition(":")
    if label and (kind not in KINDS or (not name and kind != "tenant")):
        raise InputError(
            f"label {label!r}", help=f"write KIND:NAME with KIND one of {', '.join(KINDS)}", code="E260"
        )


def _check_tier(site: Site, tier: str) -> None:
    """Raise InputError for a tier that there is not: who misspells one would be told that it was emptied."""
    caches = (service.engine.deployments.caches for service in site.services)
    used = {name for each in caches for seen in each.seen().values() for name in seen.tiers}
    known = {*names("caches"), LIKENESS, *used}
    if tier and tier not in known:
        raise InputError(f"tier {tier[:40]!r}", help=suggest(tier[:40], known), code="E260")
