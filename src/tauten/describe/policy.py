"""What a `choose` says of its policy: scores, prices, what stays together; checked where it is written."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from tauten.describe.drawing import Drawing
from tauten.describe.graph import Source
from tauten.describe.port import Port
from tauten.describe.stage import StageKind, caller_place
from tauten.errors import WorkflowError


class Offered(Protocol):
    """An option of `choose`."""

    @property
    def value(self) -> Any: ...
    @property
    def score(self) -> Any: ...
    @property
    def cents_per_token(self) -> float | None: ...


def policy_params(
    options: Sequence[Offered],
    policy: str,
    gates: Mapping[str, Any],
    same: Callable[[Any, Any], bool] | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The settings of a choose that its policy reads; nothing where nothing was said, so that old plans still fit."""
    if settings and not policy:
        raise _refused(
            f"tt.choose({next(iter(settings))}=) is a setting of a policy, and none is named",
            "write policy= beside it, or put both into the plan",
        )
    if policy and gates:
        raise _refused(
            "a policy chooses before an option's stages run; this gate is a function of the value",
            "give a port as the gate: gate=stage(value), or say how sure the value is: score=function",
        )
    scores = {f"score{at}": _function(each.score) for at, each in enumerate(options) if _is_function(each)}
    prices = {str(at): _price(each) for at, each in enumerate(options) if each.cents_per_token is not None}
    said = {"policy": policy, "scores": scores, "prices": prices, "options": dict(settings), "same": same}
    return {key: value for key, value in said.items() if value}


def policy_sources(drawing: Drawing, options: Sequence[Offered], key: Any) -> dict[str, Source]:
    """The ports that a policy reads beside the options' values and gates."""
    sources: dict[str, Source] = {}
    for at, each in enumerate(options):
        if isinstance(each.score, Port):
            if isinstance(each.value, Port) and each.value._type.stream:
                raise _refused(
                    f"{each.value._label} comes as a stream; a stage that scores it would read it a second time",
                    "give a plain function as score=: it is called with the whole value",
                )
            sources[f"score{at}"] = drawing.source(each.score)
    if key is not None:
        if not isinstance(key, Port):
            raise _refused(f"tt.choose(key={key!r}) is the same for all requests", "give a port")
        sources["key"] = drawing.source(key)
    return sources


def _is_function(option: Offered) -> bool:
    return option.score is not None and not isinstance(option.score, Port)


def _function(score: Any) -> Callable[[Any], Any]:
    if callable(score) and not isinstance(score, StageKind) and not inspect.iscoroutinefunction(score):
        return score  # type: ignore[no-any-return]
    raise _refused(f"{score!r} cannot score a value", "give a plain function of the value, or a port")


def _price(option: Offered) -> float:
    price = option.cents_per_token
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0.0 <= price < float("inf"):
        raise _refused(
            f"cents_per_token={price!r} is no price", "give cents, 0 or more; leave out what is unknown"
        )
    return float(price)


def _refused(what: str, help: str) -> WorkflowError:
    return WorkflowError(what, help=help, where=caller_place(), code="E102")
