"""Replays requests through a plan, one after another, and keeps what came of each.

What is shown of a replay is always one real request: percentiles of parts do not add up to a whole.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tauten.errors import InputError, MachineError, TautenError
from tauten.explain.account import Estimate
from tauten.plan.lower import Lowered, Step
from tauten.plan.measurements import Key, Measurements
from tauten.run.attribution import Attribution, attribute
from tauten.run.engine import Engine
from tauten.run.kernel import core_seconds
from tauten.run.trace import Trace
from tauten.run.visits import rank
from tauten.statistics import percentile

WORK = "work"
"""The measured quantity of a step: all its working time in one request, shown or hidden."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """One request that was run: what it yielded, how, and the error that ended it, if one did."""

    id: str
    values: list[Any]
    trace: Trace
    attribution: Attribution
    error: TautenError | None = None

    @property
    def wall_ms(self) -> float:
        return (self.trace.end - self.trace.start) * 1e3

    @property
    def first_output_ms(self) -> float | None:
        first = self.trace.first_output
        return None if first is None else (first - self.trace.start) * 1e3

    @property
    def unattributed_ms(self) -> float:
        return self.attribution.unattributed * 1e3


@dataclass(slots=True, eq=False)
class Replay:
    """The requests of one replay of one plan, in the order they were run."""

    plan: str
    served: list[Served] = field(default_factory=list)
    in_force: dict[str, dict[str, Mapping[str, str]]] = field(
        default_factory=dict
    )  # step -> role -> properties

    @property
    def good(self) -> list[Served]:
        """The requests that ended well."""
        return [each for each in self.served if each.error is None]

    def walls_ms(self) -> list[float]:
        return [each.wall_ms for each in self.good]

    @property
    def failed(self) -> int:
        """How many requests ended in an error."""
        return len(self.served) - len(self.good)

    def held(self) -> dict[str, dict[str, float]]:
        """p50, p95 and p99 of wall and first output in ms, as an SLO means them: who failed never ended."""
        lost = [math.inf] * self.failed
        firsts = [ms for each in self.good if (ms := each.first_output_ms) is not None]
        tables = {"wall_ms": [*self.walls_ms(), *lost], "first_output_ms": [*firsts, *lost] if firsts else []}
        return {
            name: {at: percentile(values, q) for at, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}
            for name, values in tables.items()
            if values
        }

    def percentiles(self) -> dict[str, dict[str, float]]:
        """p50 and p95 of wall, first output and unattributed time of those that ended well, in ms."""
        tables = {
            "wall_ms": self.walls_ms(),
            "first_output_ms": [ms for each in self.good if (ms := each.first_output_ms) is not None],
            "unattributed_ms": [each.unattributed_ms for each in self.good],
        }
        return {
            name: {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95)}
            for name, values in tables.items()
            if values
        }

    def unattributed_share_p95(self) -> float:
        """p95 over requests of the share of the wall time that nobody claimed."""
        return percentile([each.attribution.unattributed / each.attribution.wall for each in self.good], 0.95)

    def at(self, which: str) -> Served:
        """One real request: ``p50`` and the like take the one at that rank of wall time, ``#7`` the 7th."""
        quantile = parse_rank(which)
        if isinstance(quantile, int):
            return self._numbered(quantile)
        ordered = sorted(self.good, key=lambda each: each.wall_ms)
        if not ordered:
            failed = (each.error for each in self.served if each.error is not None)
            raise next(failed, InputError("no request was run", help="give some", code="E209"))
        return ordered[min(len(ordered) - 1, math.ceil(quantile * len(ordered)) - 1 if quantile else 0)]

    def number(self, served: Served) -> int:
        """Which one it is, counted from 1."""
        return self.served.index(served) + 1

    def _numbered(self, number: int) -> Served:
        if not 1 <= number <= len(self.served):
            raise InputError(f"no request '#{number}'", help=f"write #1 to #{len(self.served)}", code="E209")
        return self.served[number - 1]


def parse_rank(which: str) -> float | int:
    """A quantile (0 to 1) for ``p95``, a number for ``#7``; anything else is an InputError."""
    if which.startswith("#") and which[1:].isdecimal():
        return int(which[1:])
    try:
        quantile = float(which[1:]) / 100 if which.startswith("p") else -1.0
    except ValueError:
        quantile = -1.0
    if not 0 <= quantile <= 1:
        raise InputError(f"no request {which!r}", help="write p50, p95 or #7", code="E209")
    return quantile


async def replay(
    engine: Engine,
    plan: str,
    requests: Iterable[tuple[str, Mapping[str, Any]]],
    *,
    progress: Callable[[Served], None] | None = None,
) -> Replay:
    """Run (id, inputs) pairs one after another under an open plan; failed requests are kept too."""
    done = Replay(plan, in_force=engine.step_properties(plan))
    for id, inputs in requests:
        served = await serve_one(engine, plan, id, inputs)
        done.served.append(served)
        if progress is not None:
            progress(served)
    return done


async def serve_one(
    engine: Engine,
    plan: str,
    id: str,
    inputs: Mapping[str, Any],
    *,
    partition: str = "",
    enough: Callable[[list[Any]], bool] | None = None,
) -> Served:
    """Run one request to its end, or until its increments so far are `enough`; what the process computes meanwhile is
    booked to it as core-seconds. Caches give it only what requests of its partition left there."""
    values: list[Any] = []
    error: TautenError | None = None
    before = core_seconds()
    request = engine.request()  # its clock starts here
    request.partition = partition
    request.teaches = False
    async with aclosing(engine.stream(inputs, plan=plan, request=request)) as increments:
        while enough is None or not values or not enough(values):
            try:
                values.append(await anext(increments))
            except StopAsyncIteration:
                break
            except TautenError as failed:
                error = failed
                break
    request.trace.spend("", "core_seconds", core_seconds() - before)
    return Served(id, values, request.trace, attribute(request.trace), error)


# -- what a replay teaches -----------------------------------------------------------------------------------


def step_key(lowered: Lowered, step: Step) -> Key:
    """How a step was run, as measurements are keyed: what it is (kind, ports, upstream), then its settings."""
    stage = lowered.graph.stages[step.stage]
    chosen = [choice for choice in step.models.values() if choice.backend]
    settings = " ".join(f"{key}={_spelled(value)}" for key, value in sorted(_settings(step).items()))
    view = step.view.name if step.view is not None else ""
    name = " ".join(filter(None, (f"{step.name}#{stage.signature}", view, settings)))

    def joined(values: Iterable[str]) -> str:
        return "+".join(dict.fromkeys(filter(None, values)))

    return Key(
        step=name,
        model=joined(choice.model for choice in chosen),
        variant=joined(choice.variant for choice in chosen),
        backend=joined(choice.backend for choice in chosen),
        precision=joined(choice.precision for choice in chosen),
        threads=max((choice.threads for choice in chosen), default=0),
        batch=max((choice.batch.max for choice in chosen), default=1),
    )


def _settings(step: Step) -> dict[str, Any]:
    """What a plan says of a step beside the names of its models: settings of its own and of single roles, how what it
    takes is decoded, and where what is decoded for it."""
    plan, found = step.plan, dict(step.plan.settings)
    if step.view is None:  # else its name says how
        found |= {f"view.{key}": value for key, value in plan.view.items()}
        for role, choice in plan.roles.items():
            found |= {f"{role}.{key}": value for key, value in choice.options.items()}
    if plan.decode != "thread" and (step.view is not None or step.control == "map"):
        found["decode"] = plan.decode
    return found


def _spelled(value: Any) -> str:
    """A setting in a key; a long one by its hash."""
    text = str(value)
    return text if len(text) <= 40 else hashlib.sha256(text.encode()).hexdigest()[:8]


def learn(measurements: Measurements, lowered: Lowered, served: Iterable[Served]) -> None:
    """Add each step's working time of each request to the measurements."""
    keys = {step.name: step_key(lowered, step) for step in lowered.steps}
    for each in served:
        for name, seconds in work_of(each.attribution).items():
            if name in keys:
                measurements.observe(keys[name], WORK, seconds)


def work_of(attribution: Attribution) -> dict[str, float]:
    """Seconds that each step worked, on the path or beside it; members of a map are added up."""
    found: dict[str, float] = {}
    for stay in attribution.stays:
        name = stay.step.partition("[")[0]
        worked = sum(piece.end - piece.start for piece in stay.pieces if rank(piece.cause) == 0)
        found[name] = found.get(name, 0.0) + worked
    return found


def estimates(measurements: Measurements, lowered: Lowered) -> dict[str, Estimate]:
    """What each step would take, where it was measured before."""
    found = {}
    for step in lowered.steps:
        known = measurements.estimate(step_key(lowered, step), WORK)
        if known is not None:
            found[step.name] = Estimate(known.mid_ms, known.low_ms, known.high_ms)
    return found


def load_measurements(path: Path) -> Measurements:
    """The measurements kept on this machine; none yet is no error, a damaged file is."""
    return Measurements.load(path) if path.exists() else Measurements()


def keep_measurements(measurements: Measurements, path: Path) -> None:
    """Save for the next explain; raises MachineError when the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(
            f"cannot write {path.name}: {error}", help="set TAUTEN_STORE to a writable folder", code="E302"
        ) from error
    measurements.save(path)
