"""What `tauten bench --stages` does: the machine's peaks, then every model, each kept as soon as it is measured."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tauten.clock import Clock, real
from tauten.improve.measuring.prober import PROBE_S, Slice, probe_of
from tauten.improve.measuring.process import started
from tauten.improve.measuring.profile import BUDGET_S, REPEATS, TIMEOUT_S, Profile, Start, measure_model
from tauten.plan.hardware import Hardware, hardware
from tauten.plan.measurements import Measurements
from tauten.plan.peaks import Peaks, Probe, load_peaks
from tauten.plan.plan import ModelChoice
from tauten.run.contracts import ModelSpec, find

PEAKS_FILE = "peaks.json"  # beside the measurements


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to be measured, and what reaches its backend."""

    backend: str
    spec: ModelSpec
    items: Sequence[Any]


@dataclass(slots=True)
class Measured:
    """What was measured in one go."""

    peaks: Peaks
    profiles: list[Profile] = field(default_factory=list)


def wanted(choice: ModelChoice, files: Mapping[str, Path], items: Sequence[Any]) -> Wanted:
    """What a plan chose for a role, as its deployment would open it."""
    known = find("backends", choice.backend).option_keys
    options = {key: value for key, value in choice.options.items() if key in known}
    spec = ModelSpec(choice.model, choice.variant, dict(files), choice.threads, choice.precision, options)
    return Wanted(choice.backend, spec, items)


async def measure_stages(
    models: Sequence[Wanted],
    path: Path,
    *,
    batches: Sequence[int] = (1, 2, 4, 8),
    threads: Sequence[int] = (),
    repeats: int = REPEATS,
    budget_s: float = BUDGET_S,
    seed: int = 0,
    again: bool = False,
    here: Hardware | None = None,
    clock: Clock = real,
    start: Start = started,
    share: Callable[[], float] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Measured:
    """Measure the machine (once; `again` measures it anew) and every model into the file at `path`.

    `threads` are 1 and all cores where none are given. The file is saved after each model, so that what was
    measured survives an interruption. Raises what cannot be read or written, MachineError without a process.
    """
    here, say = here or hardware(), progress or (lambda _: None)
    measurements = Measurements.load(path, here) if path.exists() else Measurements(here)
    done = Measured(
        await machine_peaks(path.parent / PEAKS_FILE, here, again=again, start=start, progress=say)
    )
    measurements.probe = done.peaks.probe or measurements.probe
    for each in models:
        profile = await measure_model(
            each.backend,
            each.spec,
            each.items,
            batches=batches,
            threads=threads or sorted({1, here.cores}),
            repeats=repeats,
            budget_s=budget_s,
            seed=seed,
            into=measurements,
            clock=clock,
            start=start,
            share=share,
            progress=say,
        )
        done.profiles.append(profile)
        measurements.save(path)
    return done


async def machine_peaks(
    path: Path,
    here: Hardware | None = None,
    *,
    again: bool = False,
    start: Start = started,
    progress: Callable[[str], None] | None = None,
) -> Peaks:
    """The kept peaks of this machine, or those of a minute's measuring, which are then kept at `path`."""
    here = here or hardware()
    kept = None if again else load_peaks(path, here)
    if kept is not None:
        return kept
    if progress is not None:
        progress("measure what this machine can do at most: about a minute, once")
    measurer = await start()
    try:
        told = await measurer.ask({"peaks": msgspec.to_builtins(here)}, 2 * TIMEOUT_S)
    finally:
        await measurer.end()
    peaks = msgspec.convert(told, Peaks)
    peaks.save(path)
    return peaks


@asynccontextmanager
async def probing(start: Start = started) -> AsyncIterator[Callable[[], Awaitable[Slice]]]:
    """A process that gives a slice of the probe whenever it is asked: between measurements of anything."""
    measurer = await start()

    async def piece() -> Slice:
        return msgspec.convert(await measurer.ask({"probe": True}, TIMEOUT_S), Slice)

    try:
        yield piece
    finally:
        await measurer.end()


async def machine_probe(*, seconds: float = PROBE_S, clock: Clock = real, start: Start = started) -> Probe:
    """The machine's two speeds now, from so many seconds of slices. Raises MachineError, BackendError."""
    async with probing(start) as piece:
        slices, began = [await piece()], clock()
        while clock() - began < seconds:
            slices.append(await piece())
    return probe_of(slices)
