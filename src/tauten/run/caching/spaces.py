"""What names the work of a step without its inputs: its code, its settings, its models as the plan runs them.

How many threads, replicas and places in a batch a model has is left out: it decides when a result comes, and no
more about the result than what another order of the same sums rounds.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tauten.describe.stage import StageKind
from tauten.errors import PlanError
from tauten.plan.plan import ModelChoice
from tauten.run.caching.code import code_of
from tauten.run.caching.naming import Nameless, content_name
from tauten.run.caching.revisions import revision
from tauten.run.contracts import find
from tauten.run.remote.providers import read_providers
from tauten.version import __version__

VIEWS = content_name("view", __version__)  # codecs are ours, and deterministic: payload and view say the rest

Files = Mapping[str, Mapping[str, Path]]  # by role, then by name


def space_of(
    step: str,
    kind: StageKind[..., Any],
    params: Mapping[str, Any],
    models: Mapping[str, ModelChoice],
    files: Files,
) -> bytes:
    """The name of what a step computes; raises PlanError E133 where one of its settings, or what its code holds, has
    no name.

    Reads files whose content is not known yet: call it in a thread.
    """
    try:
        code = content_name(code_of(kind))
    except Nameless as nameless:
        raise PlanError(
            f"stage '{step}' cannot be cached: its code holds {nameless}, which has no name by content",
            help="leave `cache` out, let it hold text, numbers or a msgspec.Struct, or give what it holds a `revision`: "
            "a text that changes with what it is",
            code="E133",
        ) from None
    try:
        return content_name(__version__, kind.name, code, dict(params), _models(models), _states(files))
    except Nameless as nameless:
        raise PlanError(
            f"stage '{step}' cannot be cached: one of its settings is {nameless}, which has no name by content",
            help="leave `cache` out, or write the setting as text, numbers or a msgspec.Struct",
            code="E133",
        ) from None


def _models(models: Mapping[str, ModelChoice]) -> dict[str, Any]:
    return {
        role: (each.model, each.variant, each.backend, each.precision, each.options, _elsewhere(each))
        for role, each in models.items()
    }


def _elsewhere(choice: ModelChoice) -> list[tuple[Any, ...]]:
    """Who runs a model that is not run here, and as what: two machines may know other providers by one name."""
    if not choice.backend or getattr(find("backends", choice.backend), "local", True):
        return []
    said = choice.options.get("provider") or ()
    return list(_served([said] if isinstance(said, str) else said, choice.model))


def _served(asked: Sequence[str], model: str) -> Iterator[tuple[Any, ...]]:
    """Of providers as a plan names them: address, their name of the model, and what of the machine's file is in calls."""
    known = read_providers()
    for name, _, other in (each.partition("/") for each in asked):
        if name in known:  # where nobody is asked, in a simulation, nobody need be known
            each, wanted = known[name], other or model
            theirs = each.models.get(wanted, wanted) if isinstance(each.models, dict) else wanted
            yield each.url, theirs, each.speaks, each.without, each.prefill


def _states(files: Files) -> dict[str, Any]:
    """The content of each file, whatever machine it lies on: other weights are another model."""
    return {role: {name: revision(path) for name, path in each.items()} for role, each in files.items()}
