"""Control flow of drawn workflows: when, choose, fallback, map, equals, default.

Each is a stage whose sides are evaluated as the word says: the stages that only feed a side run only
when that side is taken. In an `async def` workflow write Python instead; `map` and `gather` work in both.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import msgspec

from tauten.describe.drawing import Drawing, stage_output
from tauten.describe.graph import Source
from tauten.describe.policy import policy_params, policy_sources
from tauten.describe.port import Port
from tauten.describe.ports import PortType
from tauten.describe.stage import AMBIENT, StageKind, caller_place
from tauten.errors import WorkflowError, suggest

T = TypeVar("T")

Errors = Literal["raise", "drop", "keep"]


class Option(msgspec.Struct, frozen=True):
    """One way that `choose` may go: a value, the gate that must open for it, and what a policy is told of it."""

    value: Any
    gate: Any = True
    score: Any = None
    cents_per_token: float | None = None


def when(condition: Any, then: Any, otherwise: Any = None, *, name: str = "") -> Any:
    """Give `then` where the condition's value is true, else `otherwise`; only the taken side runs."""
    drawing = _drawing("when")
    sources = {key: drawing.source(value) for key, value in _sides(condition, then, otherwise).items()}
    types = _types(then, otherwise)
    absent = otherwise is None or _maybe(then) or _maybe(otherwise)
    return _control(drawing, "when", sources, {}, name, types, maybe=absent)


def option(
    value: Any, gate: Any = True, *, score: Any = None, cents_per_token: float | None = None
) -> Option:
    """An option of `choose`. The gate is a port (tried before the value's stages run) or a function of
    the value (tried after); it opens when true.

    `score` says how sure a shortcut is of its value: a function of the value, or a port. It gives a number, or a
    number and its lead over the next best. `cents_per_token` is the price of what runs there; left out, nobody knows.
    """
    return Option(value, gate, score, cents_per_token)


def choose(
    *options: Any,
    name: str = "",
    policy: str = "",
    key: Any = None,
    same: Callable[[Any, Any], bool] | None = None,
    **settings: Any,
) -> Any:
    """Give the value of the first option whose gate opens; a bare value always opens, so put one last.

    With a `policy` (`latency`, `cost`, `cascade` ...; see docs/routing.md) that chooses among the options whose gates
    open, by what each is foreseen to take; `settings` are the policy's own. `key` is a port: what is equal in it stays
    together, and prompts with equal beginnings. `same` says of two values whether the first would have done for the
    second; policies with a gate verify their shortcuts by it. A plan may name the policy, too.
    """
    drawing = _drawing("choose")
    listed = [each if isinstance(each, Option) else Option(each) for each in options]
    if not listed or listed[-1].gate is not True:
        raise WorkflowError(
            "tt.choose() needs a last option that always opens",
            help="end with a bare value: tt.choose(tt.option(a, gate=...), b)",
            where=caller_place(),
            code="E102",
        )
    sources: dict[str, Source] = {}
    gates: dict[str, Callable[[Any], bool]] = {}
    for index, each in enumerate(listed):
        sources[f"value{index}"] = drawing.source(each.value)
        if isinstance(each.gate, Port):
            sources[f"gate{index}"] = drawing.source(each.gate)
        elif each.gate is not True:
            gates[f"gate{index}"] = _gate(each.gate)
    types = _types(*(each.value for each in listed))
    maybe = any(_maybe(each.value) for each in listed)
    params = {"gates": gates, **policy_params(listed, policy, gates, same, settings)}
    sources |= policy_sources(drawing, listed, key)
    return _control(drawing, "choose", sources, params, name, types, maybe=maybe)


def fallback(*alternatives: Any, name: str = "") -> Any:
    """Give the first alternative whose stages do not fail; the later ones run only then."""
    drawing = _drawing("fallback")
    if not alternatives:
        raise WorkflowError(
            "tt.fallback() has nothing to give", help="give alternatives", where=caller_place(), code="E102"
        )
    sources = {f"value{index}": drawing.source(each) for index, each in enumerate(alternatives)}
    types = _types(*alternatives)
    maybe = any(_maybe(each) for each in alternatives)
    return _control(drawing, "fallback", sources, {}, name, types, maybe=maybe)


def equals(port: Any, value: Any, *, name: str = "") -> Any:
    """Whether a port's value will equal `value`; texts compare as text."""
    drawing = _drawing("equals")
    sources = {"port": drawing.source(port), "value": drawing.source(value)}
    return _control(drawing, "equals", sources, {}, name, [PortType((bool,))])


def default(port: Any, value: Any, *, name: str = "") -> Any:
    """Give `value` where the port is absent."""
    drawing = _drawing("default")
    sources = {"port": drawing.source(port), "value": drawing.source(value)}
    maybe = value is None or _maybe(value)
    return _control(drawing, "default", sources, {}, name, _types(port, value), maybe=maybe)


def map(
    stage: StageKind[..., T],
    items: Any,
    *,
    concurrency: int = 8,
    errors: Errors = "raise",
    name: str = "",
    **fixed: Any,
) -> Any:
    """Run a stage for each member of a list or stream; results keep the order.

    At most `concurrency` members run at once (8: enough to fill a batch, few enough to bound memory).
    ``errors="drop"`` leaves failed members out, ``"keep"`` puts the exception in their place. `fixed`
    inputs are the same for all members.
    """
    ambient = AMBIENT.get()
    first = _mapped(stage, errors)
    if not isinstance(ambient, Drawing):
        from tauten.describe.stage import outside

        runner: Any = ambient if ambient is not None else outside()
        return runner.call_map(stage, items, concurrency, errors, fixed, name)
    inputs, params = ambient.bound(stage, (items,), fixed)
    sources = {"items": ambient.source(inputs.pop(first))}
    sources |= {key: ambient.input(stage, key, value) for key, value in inputs.items()}
    _check_members(stage, items, first)
    params |= {"concurrency": concurrency, "errors": errors, "first": first}
    element = stage_output(stage)
    output = PortType(element.kinds, many=True, optional=False)
    return ambient.add(stage, sources, params, name, control="map", output=output, maybe=_maybe(items))


def _mapped(stage: StageKind[..., Any], errors: str) -> str:
    """The input that a map fans out."""
    if errors not in get_args(Errors):
        raise WorkflowError(
            f"tt.map(errors={errors!r})",
            help=suggest(errors, get_args(Errors)),
            where=caller_place(),
            code="E102",
        )
    if not stage.inputs:
        raise WorkflowError(
            f"tt.map({stage.name}): the stage has no input to fan out",
            help="map a stage whose first parameter is one member",
            where=caller_place(),
            code="E102",
        )
    if taken := [name for name in _OF_MAPS if name in stage.params]:
        raise WorkflowError(
            f"tt.map({stage.name}): its setting `{taken[0]}` has the name of one that the map has itself",
            help="rename it in the stage, or map it in an `async def` workflow",
            where=caller_place(),
            code="E102",
        )
    return next(iter(stage.inputs))


_OF_MAPS = ("concurrency", "errors", "first")  # settings of the step: a stage's own would be overwritten


def _check_members(stage: StageKind[..., Any], items: Any, first: str) -> None:
    if not isinstance(items, Port):
        return
    wanted, given = stage.inputs[first], items._type
    if not (given.many or given.stream or Any in given.kinds or not given.kinds):
        raise WorkflowError(
            f"tt.map() needs a list or stream, but {items._label} gives {given}",
            help=f"call {stage.name}({first}) directly",
            where=caller_place(),
            code="E102",
        )
    if not wanted.accepts(given.element):
        raise WorkflowError(
            f"tt.map({stage.name}) wants members of {wanted}, but {items._label} gives {given}",
            help=f"map a stage that takes {given.element}",
            where=caller_place(),
            code="E102",
        )


def _drawing(word: str) -> Drawing:
    ambient = AMBIENT.get()
    if isinstance(ambient, Drawing):
        return ambient
    raise WorkflowError(
        f"tt.{word}() belongs in a `def` workflow, where values are not known yet",
        help="in an `async def` workflow or outside one, write Python's own control flow",
        where=caller_place(),
        code="E113",
    )


def _sides(condition: Any, then: Any, otherwise: Any) -> dict[str, Any]:
    return {"condition": condition, "then": then, "otherwise": otherwise}


def _gate(gate: Any) -> Callable[[Any], bool]:
    """A gate that looks at the value: a plain function."""
    if callable(gate) and not isinstance(gate, StageKind) and not inspect.iscoroutinefunction(gate):
        return gate  # type: ignore[no-any-return]
    raise WorkflowError(
        f"{gate!r} cannot be a gate",
        help="give a plain function of the value, or a port: gate=stage(value)",
        where=caller_place(),
        code="E102",
    )


def _types(*values: Any) -> list[PortType]:
    """The types of what a control stage may give; plain values count as what they are."""
    return [
        value._type
        if isinstance(value, Port)
        else PortType((Any,) if isinstance(value, list | tuple | dict) else (value.__class__,))
        for value in values
        if value is not None
    ]


def _maybe(value: Any) -> bool:
    return isinstance(value, Port) and value._maybe


def _control(
    drawing: Drawing,
    word: str,
    sources: dict[str, Source],
    params: dict[str, Any],
    name: str,
    types: list[PortType],
    *,
    maybe: bool = False,
) -> Port:
    output = PortType(
        tuple(dict.fromkeys(kind for type in types for kind in type.kinds)) or (Any,),
        optional=False,
        many=any(type.many for type in types),
        stream=any(type.stream for type in types),
    )
    full = name or _free(drawing, word)
    return drawing.add(_KINDS[word], sources, params, full, control=word, output=output, maybe=maybe)


def _free(drawing: Drawing, word: str) -> str:
    """Control stages hold no settings in a plan, so they may be numbered."""
    taken = (f"{word}{index or ''}" for index in range(len(drawing.stages) + 1))
    return next(each for each in taken if drawing.prefix + each not in drawing.stages)


def _kind(word: str) -> StageKind[..., Any]:
    def body(value: Any) -> Any:
        return value

    body.__name__ = word
    return StageKind(body, name=word, effects="pure", inline=True)


def _choose(value: Any, *, policy: str = "") -> Any:
    return value


def choice_kind() -> StageKind[..., Any]:
    """The kind of a `choose`, for plans that put one in place of a stage."""
    return _KINDS["choose"]


_KINDS = {word: _kind(word) for word in ("when", "fallback", "equals", "default")}
_KINDS["choose"] = StageKind(_choose, name="choose", effects="pure", inline=True)  # a plan may say its policy
