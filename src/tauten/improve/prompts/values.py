"""Values for a preview: what a command line gives, else what a request gave, else the samples of the template."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tauten.describe.graph import FromInput, FromStage, Listed, Literal, Source
from tauten.describe.template import Template
from tauten.describe.workflow import Workflow
from tauten.errors import InputError, WorkflowError, suggest
from tauten.improve.drawn import drawn
from tauten.improve.simulate.capture import KeepingEngine
from tauten.plan.lower import Step, lower
from tauten.plan.plan import Plan


class Asking(NamedTuple):
    """A step that asks a model by a template."""

    step: Step
    template: Template  # as the step's settings have it

    @property
    def model(self) -> tuple[str, str, str]:
        """Backend, model and variant; empty where it has none."""
        found = (
            (each.backend, each.model, each.variant) for each in self.step.models.values() if each.backend
        )
        return next(found, ("", "", ""))


def asking(workflow: Workflow[..., Any], plan: Plan | None = None) -> dict[str, Asking]:
    """The steps of a drawn workflow that ask by a template, by name; raises PlanError E132 for a program."""
    graph = drawn(workflow)
    found = {}
    for step in lower(graph, plan).steps:
        source = step.inputs.get("template")
        if isinstance(source, Literal) and isinstance(source.value, Template):
            found[step.name] = Asking(step, chosen_from(source.value, step.params))
    return found


def chosen_from(template: Template, settings: Mapping[str, Any]) -> Template:
    """A template as a step's settings have it; raises WorkflowError E108 for what it has not."""
    found = template.choose(settings.get("prompt_format") or "", settings.get("without_examples") or ())
    return found.fixed_first() if settings.get("fixed_first") else found


def pick(workflow: Workflow[..., Any], stage: str, plan: Plan | None = None) -> Asking:
    """The step of that name, or the only one; raises InputError E260."""
    found = asking(workflow, plan)
    if stage in found:
        return found[stage]
    if stage:
        what = f"{workflow.name} has no step {stage!r} that asks by a template"
        raise InputError(what, help=suggest(stage, found), code="E260")
    if len(found) != 1:
        listed = ", ".join(found) or "none"
        what = f"{workflow.name} has {len(found)} steps that ask by a template ({listed})"
        help = "name one: --stage NAME" if found else "give a template's file"
        raise InputError(what, help=help, code="E260")
    return next(iter(found.values()))


async def given(
    workflow: Workflow[..., Any], plan: Plan | None, step: Step, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    """What a request gives a step's template: the request is run once, and the step's inputs are looked at. A stream
    has been read by then, and is not among them."""
    engine = KeepingEngine()
    async with engine:
        name = await engine.open(workflow, plan)
        async for _ in engine.stream(inputs, plan=name):
            pass
        opened, run = engine.plans[name], engine.last
        assert opened.lowered is not None  # a drawn workflow has steps
        assert run is not None  # it has just ended
        values = dict(
            zip([each.name for each in opened.lowered.steps], run.values[len(opened.inputs) :], strict=True)
        )
    top = step.params.get("top")
    ports = {key: source for key, source in step.inputs.items() if key != "template"}
    resolved = {key: _value(source, inputs, values) for key, source in ports.items()}
    return {key: _first(value, top) for key, value in resolved.items() if not hasattr(value, "__aiter__")}


def _first(value: Any, top: int | None) -> Any:
    """As the stage trims a list."""
    return value[:top] if top is not None and isinstance(value, list | tuple) else value


def _value(source: Source, inputs: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    if isinstance(source, Literal):
        return source.value
    if isinstance(source, Listed):
        members = [_value(each, inputs, values) for each in source.members]
        return dict(zip(source.keys, members, strict=True)) if source.keys else members
    held = inputs if isinstance(source, FromInput) else values
    assert isinstance(source, FromInput | FromStage)
    value = held.get(source.name)
    return getattr(value, source.attribute, None) if source.attribute and value is not None else value


def chosen(
    template: Template, written: Mapping[str, str], request: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """A value for each field, and which of them are samples. Raises InputError E260 for a name that the template has
    not, WorkflowError E103 for a field that has no value."""
    declared, fields = template.front.variables, template.fields
    for name in written:
        if name not in fields:
            raise InputError(
                f"{template.name} has no variable `{name}`", help=suggest(name, fields), code="E260"
            )
    values = {name: request[name] for name in fields if request.get(name) is not None}
    values |= {
        name: declared[name].read(text) if name in declared else text for name, text in written.items()
    }
    samples = {
        name: declared[name].sample
        for name in fields
        if name not in values and name in declared and declared[name].sample is not None
    }
    values |= samples
    for use in template.uses:
        if use.name not in values and not use.optional:
            raise WorkflowError(
                f"{use} has no value",
                help=f"give {use.name}=VALUE or {use.name}=@FILE, a --recording that has it, or a `sample` in the front matter",
                where=f"{template.name}:{use.line}",
                code="E103",
            )
    return values, list(samples)
