"""What names the work of a step without its inputs: its code, its settings, its models as the plan runs them.

How many threads, replicas and places in a batch a model has is left out: it decides when a result comes, and no
more about the result than what another order of the same sums rounds.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from types import CodeType
from typing import Any

from tauten.describe.stage import StageKind
from tauten.errors import PlanError
from tauten.plan.plan import ModelChoice
from tauten.run.caching.naming import Nameless, content_name
from tauten.run.caching.revisions import revision
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
    """The name of what a step computes; raises PlanError E133 where one of its settings has no name.

    Reads files whose content is not known yet: call it in a thread.
    """
    try:
        return content_name(
            __version__, kind.name, _code_of(kind), dict(params), _models(models), _states(files)
        )
    except Nameless as nameless:
        raise PlanError(
            f"stage '{step}' cannot be cached: one of its settings is {nameless}, which has no name by content",
            help="leave `cache` out, or write the setting as text, numbers or a msgspec.Struct",
            code="E133",
        ) from None


def _models(models: Mapping[str, ModelChoice]) -> dict[str, Any]:
    return {
        role: (each.model, each.variant, each.backend, each.precision, each.options)
        for role, each in models.items()
    }


def _states(files: Files) -> dict[str, Any]:
    """The content of each file, whatever machine it lies on: other weights are another model."""
    return {role: {name: revision(path) for name, path in each.items()} for role, each in files.items()}


def _code_of(kind: StageKind[..., Any]) -> tuple[Any, ...]:
    """The stage's own code; what it calls and reads besides, `pure=True` answers for."""
    body = inspect.unwrap(kind.body)
    code = getattr(body, "__code__", None)
    name = f"{getattr(body, '__module__', '')}.{getattr(body, '__qualname__', '')}"
    return (name, *(_spelled(code) if code is not None else ()))


def _spelled(code: CodeType) -> tuple[Any, ...]:
    return (code.co_code, code.co_names, tuple(map(_constant, code.co_consts)))


def _constant(value: Any) -> Any:
    if isinstance(value, CodeType):
        return _spelled(value)
    if isinstance(value, frozenset):
        return tuple(sorted(map(repr, value)))  # in itself it has no order
    return f"{value.__class__.__name__} {value!r}"
