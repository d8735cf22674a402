"""What `tauten bench --stages` found: each model of a plan alone, as plain data that the screen and files show."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tauten.improve.measuring.overheard import Heard, Where
from tauten.improve.measuring.profile import Opening, Profile, Row
from tauten.improve.measuring.stages import Wanted, wanted
from tauten.plan.peaks import Peaks
from tauten.statistics import median_interval

SCHEMA = "tauten.stages/1"


class StageRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One way to run a model: the median of its runs and its 95 % interval, which takes six; or why there is none."""

    threads: int
    batch: int
    size: int  # class of its items' sizes, in the engine's unit; 0 is any
    n: int = 0
    mid_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    memory_bytes: int | None = None
    first_ms: float | None = None  # of streams: until the first token
    tokens_in_s: float | None = None
    tokens_out_s: float | None = None
    reason: str = ""


class StageLoad(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What opening a model took with so many threads, or why it could not; `properties` are in force."""

    threads: int
    load_ms: float | None = None
    memory_bytes: int | None = None
    properties: dict[str, str] = {}
    reason: str = ""


class StageModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model as the plan runs it, measured alone."""

    model: str
    variant: str
    engine: str
    precision: str
    used_by: list[str]  # as step.role
    items: int
    loads: list[StageLoad] = []
    rows: list[StageRow] = []
    notes: list[str] = []

    @property
    def measured(self) -> bool:
        return any(row.n for row in self.rows)


class Stages(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="schema", tag=SCHEMA):
    """The whole result. Nobody came to the `unheard` models: their steps were not reached by any request."""

    workflow: str
    plan: str
    machine: str
    requests: int
    models: list[StageModel]
    unheard: list[str] = []
    peaks: Peaks | None = None


class Model(msgspec.Struct, frozen=True):
    """A model to be measured, and who uses it."""

    wanted: Wanted
    used_by: list[str]


def models_of(heard: Mapping[Where, Heard], most: int) -> tuple[list[Model], list[str]]:
    """The models of a plan, each once with what all its steps give it, at most `most` items; and those without any.

    Two steps share a model where they run it the same way, whatever their threads: those are varied.
    """
    found: dict[bytes, list[tuple[str, Heard]]] = {}
    unheard = []
    for (step, role), each in heard.items():
        name = f"{step}.{role}"
        if each.items:
            found.setdefault(_identity(each), []).append((name, each))
        else:
            unheard.append(name)
    return [_model(users, most) for users in found.values()], unheard


def _identity(heard: Heard) -> bytes:
    choice = heard.choice
    model = wanted(choice, {}, ())
    parts = [choice.model, choice.variant, choice.backend, choice.precision, model.spec.options]
    return msgspec.json.encode(parts, enc_hook=repr, order="deterministic")


def _model(users: Sequence[tuple[str, Heard]], most: int) -> Model:
    first = users[0][1]
    items = [item for _, each in users for item in each.items]
    step = max(1, -(-len(items) // most))
    return Model(wanted(first.choice, first.files, items[::step]), [name for name, _ in users])


def stage_model(model: Model, profile: Profile) -> StageModel:
    """A profile as data."""
    spec = profile.spec
    in_force = next(
        (each.properties.get("precision", "") for each in profile.openings if each.properties), ""
    )
    return StageModel(
        model=spec.model,
        variant=spec.variant,
        engine=profile.backend,
        precision=spec.precision or in_force,
        used_by=model.used_by,
        items=len(model.wanted.items),
        loads=[_load(each) for each in profile.openings],
        rows=[_row(each) for each in profile.rows],
        notes=list(profile.notes),
    )


def _load(opening: Opening) -> StageLoad:
    return StageLoad(
        threads=opening.threads,
        load_ms=None if opening.load_s is None else opening.load_s * 1e3,
        memory_bytes=opening.memory_bytes,
        properties=opening.properties,
        reason=opening.reason,
    )


def _row(row: Row) -> StageRow:
    seconds = [run.seconds for run in row.runs]
    interval = median_interval(seconds)
    mid_s = row.seconds
    first_s = _median(run.first_s for run in row.runs)
    return StageRow(
        threads=row.key.threads,
        batch=row.key.batch,
        size=row.key.shape,
        n=len(seconds),
        mid_ms=None if mid_s is None else mid_s * 1e3,
        low_ms=None if interval is None else interval.low * 1e3,
        high_ms=None if interval is None else interval.high * 1e3,
        memory_bytes=row.memory_bytes,
        first_ms=None if first_s is None else first_s * 1e3,
        tokens_in_s=_median(run.tokens_in for run in row.runs),
        tokens_out_s=_median(run.tokens_out for run in row.runs),
        reason=row.reason,
    )


def _median(values: Iterable[Any]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None
