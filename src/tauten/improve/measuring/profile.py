"""One model measured alone: load time, memory, and its times by batch, threads and item size, interleaved.

Each thread count has a process of its own, in which the model is loaded once; between them the runs take turns,
in an order drawn anew each round, so that an hour that grows slower slows all of them alike. What fails is a row
with the reason. The order is the seed's; the times are the clock's of whoever measures.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tauten.clock import Clock, real
from tauten.errors import InputError, TautenError
from tauten.improve.measuring.bench import Opened, Ran
from tauten.improve.measuring.prober import Slice, probe_of
from tauten.improve.measuring.process import Measurer, started
from tauten.improve.measuring.quiet import LIMIT, Watch
from tauten.plan import measurements as causes
from tauten.plan.hardware import hardware
from tauten.plan.measurements import Key, Measurements, shape_class
from tauten.plan.peaks import Probe
from tauten.run.contracts import ModelSpec

REPEATS = 9  # the median of 9 runs has a 95 % interval; 6 are the fewest
WARM = 2  # the first run builds kernels and touches memory, the second finds them
BUDGET_S = 60.0  # for a model: a slow one gets fewer repeats, never none
TIMEOUT_S = 300.0  # for one answer: an engine may compile for minutes when it opens

Start = Callable[[], Awaitable[Measurer]]


@dataclass(frozen=True, slots=True)
class Case:
    """What is repeated: these batches of items, of one group and size class, with so many threads."""

    threads: int
    batch: int
    shape: int
    pool: tuple[int, ...]  # items that may share a batch

    def members(self, turn: int) -> list[int]:
        """The items of that turn: the pool round and round, so that each item has its turn."""
        return [self.pool[(turn * self.batch + place) % len(self.pool)] for place in range(self.batch)]


@dataclass(slots=True)
class Row:
    """What came of one case. `reason` says why nothing did, or why it ended early."""

    key: Key
    items: int = 0  # of the recording, that are of its size class and may share a batch
    runs: list[Ran] = field(default_factory=list)
    memory_bytes: int | None = None
    reason: str = ""

    @property
    def seconds(self) -> float | None:
        """The median of its runs."""
        return statistics.median(run.seconds for run in self.runs) if self.runs else None


@dataclass(slots=True)
class Opening:
    """What opening took with so many threads, or why it could not."""

    threads: int
    load_s: float | None = None
    memory_bytes: int | None = None
    properties: dict[str, str] = field(default_factory=dict)
    reason: str = ""


@dataclass(slots=True)
class Profile:
    """All that was measured of one model, and the probe of the machine meanwhile."""

    backend: str
    spec: ModelSpec
    rows: list[Row] = field(default_factory=list)
    openings: list[Opening] = field(default_factory=list)
    probe: Probe | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Turn:
    """A process, its opening, and its cases."""

    measurer: Measurer
    rows: list[tuple[Case, Row]] = field(default_factory=list)


async def measure_model(
    backend: str,
    spec: ModelSpec,
    items: Sequence[Any],
    *,
    batches: Sequence[int] = (1,),
    threads: Sequence[int] = (0,),
    repeats: int = REPEATS,
    warm: int = WARM,
    warm_s: float = math.inf,
    budget_s: float = BUDGET_S,
    timeout_s: float = TIMEOUT_S,
    seed: int = 0,
    probe: bool = True,
    into: Measurements | None = None,
    clock: Clock = real,
    start: Start = started,
    share: Callable[[], float] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Profile:
    """Measure `spec` on `backend` with `items` as they reach it, at every batch x threads x size class.

    `spec.threads` is replaced by each of `threads` (0 is the engine's default). What was measured is added
    to `into` under `Key("", model, variant, ...)`. Raises InputError where there is nothing to measure; a
    model that does not open, and a run that fails, are rows with their reason. `probe` takes a slice of the
    machine's probe in each round. Rounds end after `budget_s` seconds of `clock`, the first excepted. A round
    in which others had more than `LIMIT` of the machine, as `share` tells, is thrown away and repeated, as
    often as there are rounds and while there is time; after that it counts, and the notes say so.

    Warming up takes what it takes, unless `warm_s` bounds it: then each process warms its smallest batches up, and
    larger ones that are not yet warm are rows with that reason.
    """
    _check(items, batches, threads, repeats)
    say = progress or (lambda _: None)
    profile = Profile(backend, spec)
    turns: list[_Turn] = []
    prober: Measurer | None = None
    try:
        for count in dict.fromkeys(threads):
            say(f"open {spec.model} with {count or 'default'} threads")
            turns += await _opened(profile, count, items, batches, timeout_s, start)
        prober = await start() if probe and turns else None
        how = _How(
            repeats, budget_s, timeout_s, seed, clock, share or Watch(hardware().cores, clock).share, say
        )
        until = clock() + warm_s
        for turn in turns:
            await _warm_up(turn, warm, how, until)
        slices = await _rounds(profile, turns, prober, how)
        profile.probe = probe_of(slices) if slices else None
    finally:
        for measurer in [*(turn.measurer for turn in turns), *([prober] if prober is not None else [])]:
            await measurer.end()
    if into is not None:
        keep(profile, into)
    return profile


def _check(items: Sequence[Any], batches: Sequence[int], threads: Sequence[int], repeats: int) -> None:
    if not items or not batches or not threads or min(batches) < 1 or min(threads) < 0 or repeats < 1:
        raise InputError(
            f"{len(items)} items, batches {list(batches)}, threads {list(threads)}, {repeats} repeats",
            help="give at least one item, batch, thread count and repeat; 0 threads is the engine's default",
            code="E255",
        )


async def _opened(
    profile: Profile,
    threads: int,
    items: Sequence[Any],
    batches: Sequence[int],
    timeout_s: float,
    start: Start,
) -> list[_Turn]:
    """A process with the model in it, and its cases; none where it does not open."""
    spec = msgspec.structs.replace(profile.spec, threads=threads)
    opening = Opening(threads)
    profile.openings.append(opening)
    measurer = await start()
    try:
        message = {"open": profile.backend, "spec": msgspec.structs.asdict(spec), "items": list(items)}
        told = msgspec.convert(await measurer.ask(message, timeout_s), Opened)
    except TautenError as error:
        await measurer.end()
        opening.reason = f"{error.code} {error.message}"
        return []
    except BaseException:
        await measurer.end()
        raise
    opening.load_s, opening.memory_bytes, opening.properties = told.load_s, told.memory_bytes, told.properties
    turn = _Turn(measurer)
    for case in _cases(told, threads, batches):
        row = Row(_key(profile, case), len(case.pool))
        profile.rows.append(row)
        turn.rows.append((case, row))
    return [turn]


def _cases(told: Opened, threads: int, batches: Sequence[int]) -> list[Case]:
    """One for each batch and size class, of the largest group in it; smaller batches first."""
    pools: dict[int, dict[int, list[int]]] = {}
    for index, (group, weight) in enumerate(told.places):
        pools.setdefault(shape_class(weight), {}).setdefault(group, []).append(index)
    return [
        Case(threads, batch, shape, _largest(groups.values()))
        for batch in sorted(set(batches))
        for shape, groups in sorted(pools.items())
    ]


def _largest(groups: Iterable[list[int]]) -> tuple[int, ...]:
    found: list[int] = max(groups, key=len)
    return tuple(found)


def _key(profile: Profile, case: Case) -> Key:
    spec = profile.spec
    return Key(
        "",
        spec.model,
        spec.variant,
        profile.backend,
        spec.precision,
        case.threads,
        case.batch,
        case.shape,
    )


async def _warm_up(turn: _Turn, warm: int, how: _How, until: float) -> None:
    """Run each case a few times for nothing; what its process holds after that is its memory."""
    for case, row in turn.rows:
        late = how.clock() > until
        if late and case.batch > turn.rows[0][0].batch:  # they are sorted: the smallest is first
            row.reason = row.reason or "left out: warming up took too long"
            continue
        for number in range(1 if late else max(1, warm)):
            ran = await _run(turn, case, row, number, how.timeout_s)
            if ran is None:
                break
            row.memory_bytes = ran.memory_bytes


async def _run(turn: _Turn, case: Case, row: Row, number: int, timeout_s: float) -> Ran | None:
    """One run; None where the case failed, which it then says of itself."""
    if row.reason:
        return None
    try:
        ran = msgspec.convert(await turn.measurer.ask({"run": case.members(number)}, timeout_s), Ran)
    except TautenError as error:  # the process is gone, and with it all the cases in it
        for _, each in turn.rows:
            each.reason = each.reason or f"{error.code} {error.message}"
        return None
    if ran.error:
        row.reason = ran.error
        return None
    return ran


@dataclass(frozen=True, slots=True)
class _How:
    """How often, how long, in which order, by which clock, and whom to tell."""

    repeats: int
    budget_s: float
    timeout_s: float
    seed: int
    clock: Clock
    share: Callable[[], float]
    say: Callable[[str], None]


async def _rounds(
    profile: Profile, turns: Sequence[_Turn], prober: Measurer | None, how: _How
) -> list[Slice]:
    """Every case once a round, in an order of the round's own; the probe's slices of the rounds that count."""
    draw, began = random.Random(how.seed), how.clock()
    slices: list[Slice] = []
    done = repeated = 0
    worst = 0.0
    how.share()
    while done < how.repeats:
        if done and how.clock() - began > how.budget_s:
            profile.notes.append(f"{done} of {how.repeats} rounds: {how.budget_s:g} s were over")
            break
        how.say(f"round {done + 1} of {how.repeats}")
        ran, piece = await _round(turns, prober, how, draw, done)
        others = how.share()
        if others > LIMIT and repeated < how.repeats and how.clock() - began <= how.budget_s:
            repeated += 1
            continue
        for row, run in ran:
            row.runs.append(run)
        slices += piece
        worst, done = max(worst, others), done + 1
    profile.notes += _remarks(done - len(slices) if prober is not None else 0, repeated, worst)
    return slices


def _remarks(failed: int, repeated: int, worst: float) -> Iterator[str]:
    if failed:
        yield f"the probe failed in {failed} rounds"
    if repeated:
        yield f"{repeated} rounds were disturbed and repeated"
    if worst > LIMIT:
        yield f"disturbed all the same: others had up to {worst * 100:.0f} % of the machine"


async def _round(
    turns: Sequence[_Turn], prober: Measurer | None, how: _How, draw: random.Random, number: int
) -> tuple[list[tuple[Row, Ran]], list[Slice]]:
    cases = [(turn, case, row) for turn in turns for case, row in turn.rows]
    ran = []
    for turn, case, row in draw.sample(cases, len(cases)):
        run = await _run(turn, case, row, number, how.timeout_s)
        if run is not None:
            ran.append((row, run))
    return ran, [] if prober is None else await _slice(prober, how.timeout_s)


async def _slice(prober: Measurer, timeout_s: float) -> list[Slice]:
    """One slice of the probe; none where it could not be had, which spoils no measurement."""
    try:
        return [msgspec.convert(await prober.ask({"probe": True}, timeout_s), Slice)]
    except TautenError:
        return []


def keep(profile: Profile, into: Measurements) -> None:
    """Add a profile to the measurements: each run's seconds, sizes and rates, each opening's time and memory."""
    for opening in profile.openings:
        if opening.load_s is not None:
            key = _key(profile, Case(opening.threads, 1, 0, ()))
            into.observe(key, causes.LOAD, opening.load_s)
            if opening.memory_bytes is not None:
                into.observe(key, causes.MEMORY, float(opening.memory_bytes))
    for row in profile.rows:
        for run in row.runs:
            _observe(into, row.key, run)
        if row.memory_bytes is not None and row.key.shape:
            into.observe(row.key, causes.MEMORY, float(row.memory_bytes))
    into.probe = into.probe or profile.probe


def _observe(into: Measurements, key: Key, run: Ran) -> None:
    """How large the items of a stream were, only the engine could tell, when it had run them."""
    if not key.shape and run.weight:
        key = msgspec.structs.replace(key, shape=shape_class(run.weight / key.batch))
    into.observe(key, causes.COMPUTE, run.seconds)
    amounts = {
        causes.WEIGHT: run.weight / key.batch or None,
        causes.FIRST: run.first_s,
        causes.TOKENS_IN: run.tokens_in,
        causes.TOKENS_OUT: run.tokens_out,
    }
    for cause, value in amounts.items():
        if value is not None:
            into.observe(key, cause, value)
