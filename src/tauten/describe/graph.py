"""A drawn workflow's graph: stages, where their inputs come from, and their identity.

A stage's name is its identity (explicit ``name=`` or the kind's name); its signature says what it is, so
that a plan made for another graph is noticed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tauten.describe.payload import Payload
from tauten.describe.ports import PortType
from tauten.describe.stage import StageKind


@dataclass(frozen=True, slots=True)
class FromInput:
    """The request's input of that name, or a field of it."""

    name: str
    attribute: str = ""


@dataclass(frozen=True, slots=True)
class FromStage:
    """The result of a stage, or a field of it."""

    name: str
    attribute: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Literal:
    """A value written in the workflow."""

    value: Any


@dataclass(frozen=True, slots=True)
class Listed:
    """Several sources gathered into a list, tuple or dict of the same shape."""

    members: tuple[Source, ...]
    keys: tuple[Any, ...] = ()
    container: str = "list"


Source = FromInput | FromStage | Literal | Listed


@dataclass(frozen=True, slots=True, eq=False)
class Stage:
    """One use of a stage kind in a workflow.

    `control` is "" for an ordinary stage, else when, choose, fallback, map, default or equals: its
    inputs are then evaluated as the word says. `mapped` names the inputs of a map that are fanned out.
    """

    name: str
    kind: StageKind[..., Any]
    inputs: dict[str, Source]
    params: dict[str, Any]
    output: PortType
    place: str
    control: str = ""

    @property
    def upstream(self) -> tuple[str, ...]:
        """Names of the stages whose results it uses, in order, once each."""
        return tuple(dict.fromkeys(name for source in self.inputs.values() for name in stages_in(source)))

    @property
    def signature(self) -> str:
        """Eight hex digits over kind, ports, upstream and parameters."""
        parts = [
            self.control,
            self.kind.name,
            str(self.output),
            *sorted(map(_show_param, self.params.items())),
        ]
        parts += [f"{name}={_show(source)}" for name, source in sorted(self.inputs.items())]
        parts += [f"{name}:{port}" for name, port in sorted(self.kind.inputs.items())]
        return _digest(parts)[:8]


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """The stages in the order they were written, the inputs, and what is returned."""

    stages: dict[str, Stage]
    inputs: dict[str, PortType]
    result: Source
    output: PortType
    session: str = ""  # the parameter that a session is injected into
    notes: list[str] = field(default_factory=list)
    drawn: str = ""  # the hash of the drawing, where a plan's routes put several stages in place of one

    @property
    def hash(self) -> str:
        """Eight hex digits that change when a stage, an edge or a parameter of the drawing does."""
        if self.drawn:
            return self.drawn
        parts = [f"{name} {stage.signature}" for name, stage in sorted(self.stages.items())]
        parts += [f"{name}:{port}" for name, port in sorted(self.inputs.items())]
        return _digest([*parts, _show(self.result)])[:8]

    def consumers(self, name: str) -> list[tuple[str, str]]:
        """(stage, input) pairs that use a stage's result."""
        return [
            (stage.name, port)
            for stage in self.stages.values()
            for port, source in stage.inputs.items()
            if name in stages_in(source)
        ]


def stages_in(source: Source) -> Iterator[str]:
    """Names of the stages that a source reads."""
    if isinstance(source, FromStage):
        yield source.name
    elif isinstance(source, Listed):
        for member in source.members:
            yield from stages_in(member)


def inputs_in(source: Source) -> Iterator[str]:
    """Names of the request inputs that a source reads."""
    if isinstance(source, FromInput):
        yield source.name
    elif isinstance(source, Listed):
        for member in source.members:
            yield from inputs_in(member)


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _show_param(item: tuple[str, Any]) -> str:
    return f"{item[0]}={_show_value(item[1])}"


def _show(source: Source) -> str:
    if isinstance(source, FromInput):
        return f"input.{source.name}.{source.attribute}" if source.attribute else f"input.{source.name}"
    if isinstance(source, FromStage):
        return f"{source.name}.{source.attribute}" if source.attribute else source.name
    if isinstance(source, Listed):
        keys = source.keys or ("",) * len(source.members)
        inner = ",".join(f"{key}:{_show(each)}" for key, each in zip(keys, source.members, strict=True))
        return f"{source.container}[{inner}]"
    return _show_value(source.value)


def _show_value(value: Any) -> str:
    """A stable spelling of a literal: content where it has one, a name where it says so."""
    if isinstance(value, Payload):
        return value.hash
    identity = getattr(value, "identity", None)
    if isinstance(identity, str):
        return identity  # an index, a template: named by its own identity, not by its address
    if isinstance(value, StageKind):
        return f"stage {value.name}"
    try:
        return msgspec.json.encode(value, order="deterministic").decode()
    except (TypeError, NotImplementedError):
        return f"{value.__class__.__module__}.{getattr(value, '__qualname__', value.__class__.__qualname__)}"
