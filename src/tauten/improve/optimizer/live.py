"""The testbed of this machine: real engines, real models, the recording's own requests."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from tauten.describe.slo import Slo
from tauten.describe.workflow import Workflow
from tauten.errors import InputError, PlanError
from tauten.explain.account import Account, account
from tauten.improve.analyze import header
from tauten.improve.drawn import drawn
from tauten.improve.labelled import score, settles
from tauten.improve.labels.keeper import Keeper
from tauten.improve.load.bench import Bencher, Side
from tauten.improve.load.result import Run
from tauten.improve.load.schedule import Load
from tauten.improve.load.targets.workflow import WorkflowTarget
from tauten.improve.measuring.moving import moving_of
from tauten.improve.measuring.overheard import Ear, OverhearingEngine, Where, overhear
from tauten.improve.measuring.pace import AROUND, Pace
from tauten.improve.measuring.profile import Profile
from tauten.improve.measuring.runs import How, held_of, measured_memory, measured_runs, measured_streams
from tauten.improve.optimizer.aside import Outliving, aside
from tauten.improve.optimizer.cutout import Cutout, cutout
from tauten.improve.optimizer.testbed import WARM_UP, Items, Runs, Scored, Together
from tauten.improve.quality import Metric
from tauten.improve.recording import Item, evenly
from tauten.improve.replay import Replay, Served, replay, serve_one
from tauten.improve.simulate.capture import Captured, KeepingEngine, capture
from tauten.improve.simulate.costs import STILL, Moving
from tauten.improve.simulate.library import Held, form_key
from tauten.improve.situation import computes_in
from tauten.plan.hardware import hardware
from tauten.plan.lower import lower
from tauten.plan.peaks import Peaks
from tauten.plan.plan import ModelChoice, Plan
from tauten.run.ambient import run_async
from tauten.run.caching.caches import Caches, NoCaches
from tauten.run.caching.naming import Nameless, content_name
from tauten.run.contracts import find
from tauten.run.engine import Engine
from tauten.run.here import gather

REPEATS: Final = 2  # of each request behind the one that warms up: a search looks at many plans
BATCHES: Final = (1, 4, 16)  # a line takes two, a third shows whether it is one
STREAMS: Final = (1, 2, 4)  # more at a time than a machine can hold only wait for one another
HOW: Final = How(repeats=3, budget_s=4.0)  # of one model on one engine: there are some thirty of them
JUDGES: Final = 2  # requests at a time: what one waits for, another uses
WARM_UP_S: Final = 60.0  # for one request that warms up
HEARD: Final = 16  # items of a model: one batch of the largest size
APART: Final[Together] = ((1, 1.0), (2, 1.0))  # streams that share no core

Say = Callable[[str], None]
T = TypeVar("T")


class _Engine(KeepingEngine, OverhearingEngine):
    """Keeps what steps give and what models are given."""


class LiveTestbed:
    """A `Testbed`. `metric` and labelled items are needed for `scores` only, the machine's `peaks` for what models
    move; a `keeper` notes what was answered."""

    def __init__(
        self,
        workflow: Workflow[..., Any],
        recorded: Sequence[Item],
        metric: Metric | None = None,
        *,
        peaks: Peaks | None = None,
        keeper: Keeper | None = None,
        say: Say = lambda text: None,
    ) -> None:
        self.workflow = workflow
        self.graph = drawn(workflow)
        self.recorded = {item.id: item for item in recorded}
        self.metric = metric
        self.peaks = peaks
        self.keeper = keeper
        self.say = say
        self.pace: Pace | None = None  # by which what is measured in a slow hour is told as in the first one
        self.known: dict[str, Held] = {}  # memory of what was measured here, by the form of a model
        self.before = Outliving()  # what stages gave
        self._named: dict[
            Any, dict[str, bytes | None]
        ] = {}  # by part and its plan what it gives, by its name
        self.heard: dict[Where, tuple[Mapping[str, Path], list[Any]]] = {}

    def close(self) -> None:
        """Let go of the process that tells the machine's pace."""
        if self.pace is not None:
            self.pace.close()

    def capture(self, plan: Plan, items: Items, only: Collection[str] = ()) -> Captured:
        if not only:
            return self._capture(plan, items, NoCaches())
        return self._sparing(
            aside(self.graph, plan, only), plan, lambda plan, caches: self._capture(plan, items, caches)
        )

    def _sparing(self, kept: Plan, plan: Plan, run: Callable[[Plan, Caches], T]) -> T:
        """Run a plan that keeps what its stages give, or where a setting has no name for that the plain one."""
        try:
            return run(kept, self.before)
        except PlanError as error:
            if error.code != "E133":
                raise
        return run(plan, NoCaches())

    def _capture(self, plan: Plan, items: Items, caches: Caches) -> Captured:
        if self.pace is not None:
            self.pace.begin()

        async def run() -> Captured:
            ear = Ear(HEARD)
            engine = _Engine(ear=ear)
            engine.deployments.caches = caches
            async with engine:
                seen = await capture(
                    engine, self.workflow, plan, items, repeats=REPEATS, progress=self._counted(len(items))
                )
            self._listen(ear.all())
            return seen

        found: Captured = run_async(run())
        return found if self.pace is None else found.at_pace(self._times(self.pace), _needs_files)

    def _times(self, pace: Pace) -> float:
        """By what the seconds of a measurement that is over are multiplied."""
        times = pace.taken()
        self.say(f"the machine ran at {times:.0%} of the speed that it had when the search began")
        return times

    def _counted(self, items: int) -> Callable[[str], None]:
        """Tells how far a capture is."""
        done, whole = 0, items * (REPEATS + 1)

        def tell(id: str) -> None:
            nonlocal done
            done += 1
            if self.pace is not None:
                self.pace.look()
            self.say(f"run {done} of {whole}: {id}")

        return tell

    def _listen(self, heard: Mapping[Where, Any]) -> None:
        for where, each in heard.items():
            if each.items:
                self.heard.setdefault(where, (each.files, each.items))

    def runs(self, plan: Plan, step: str, role: str, items: Items) -> Runs:
        choice, given = self._choice(plan, step, role), self._given(plan, step, role, items)

        async def run() -> Runs:
            how = self._how(choice)
            return await measured_runs(choice, await _files(choice), given, batches=BATCHES, how=how)

        if self.pace is None or not _needs_files(choice):
            return list(run_async(run()))
        self.pace.begin()
        self.pace.look(AROUND)
        found: Runs = run_async(run())
        self.pace.look(AROUND)
        times = self._times(self.pace)
        return [(weight, seconds * times) for weight, seconds in found]

    def streams(self, plan: Plan, step: str, role: str, items: Items) -> Together:
        choice = self._choice(plan, step, role)
        if not _runs_here(choice):
            return APART
        given = self._given(plan, step, role, items)

        async def run() -> Together:
            how = self._how(choice)
            return await measured_streams(choice, await _files(choice), given, together=STREAMS, how=how)

        found: Together = run_async(run())
        return found

    def _how(self, choice: ModelChoice) -> How:
        """As usual; what the model holds of memory meanwhile is noted."""

        def seen(profile: Profile) -> None:
            if found := held_of(profile):
                self.known.setdefault(form_key(choice), found)

        return replace(HOW, seen=seen)

    def moving(self, plan: Plan, step: str, role: str, items: Items) -> Moving:
        choice = self._choice(plan, step, role)
        if self.peaks is None or not _needs_files(choice):
            return STILL
        given = self._given(plan, step, role, items)
        files: Mapping[str, Path] = run_async(_files(choice))
        precision = computes_in(choice, hardware())
        return moving_of(choice, files, given, self.peaks, precision=precision)

    def held(self, plan: Plan, step: str, role: str, items: Items) -> Held:
        choice = self._choice(plan, step, role)
        if not _needs_files(choice):
            return ((1, 0),)  # what computes elsewhere, or in Python, holds no weights here
        key = form_key(choice)
        if key not in self.known:
            given = self._given(plan, step, role, items)

            async def run() -> Held:
                return await measured_memory(choice, await _files(choice), given, how=HOW)

            self.say(f"{choice.model}: its memory")
            self.known[key] = run_async(run())
        return self.known[key]

    def _given(self, plan: Plan, step: str, role: str, items: Items) -> list[Any]:
        """What a model is given by the requests."""
        if (step, role) not in self.heard:
            self._listen(
                run_async(overhear(self.workflow, plan, [inputs for _, inputs in items], most=HEARD))
            )
        if (step, role) not in self.heard:
            raise PlanError(
                f"no request came to the model of {step}.{role}", help="record others", code="E131"
            )
        return self.heard[step, role][1]

    def _choice(self, plan: Plan, step: str, role: str) -> ModelChoice:
        steps = {each.name: each for each in lower(self.graph, plan).steps}
        return steps[step].models[role]

    # -- answers ----------------------------------------------------------------------------------------------

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        if self.metric is None:
            raise InputError(
                "no metric says which answer is right", help="write one: @tt.metric", code="E253"
            )
        metric = self.metric

        def run(plan: Plan, caches: Caches) -> dict[str, Scored]:
            found: dict[str, Scored] = run_async(self._scores(plan, ids, metric, caches))
            return found

        return self._sparing(aside(self.graph, plan), plan, run)

    async def _scores(
        self, plan: Plan, ids: Sequence[str], metric: Metric, caches: Caches
    ) -> dict[str, Scored]:
        """What plans have in common works once, and what no score hangs on not at all: answers are judged, not times."""
        found: dict[str, Scored] = {}
        enough = (
            settles(metric, self.workflow) if self.keeper is None else None
        )  # who keeps answers keeps them whole

        def judge(id: str, served: Served) -> None:
            right = score(metric, self.workflow, served, self.recorded[id].label)
            told = self.keeper.told(served) if self.keeper is not None else None
            found[id] = Scored(right, _hash(served) if told is None else told.content, told)
            self.say(f"{plan.id}: {len(found)} of {len(ids)} answers judged")

        await self._each(self.workflow, plan, ids, caches, judge, enough)
        return {id: found[id] for id in ids}

    async def _each(
        self,
        workflow: Workflow[..., Any],
        plan: Plan,
        ids: Sequence[str],
        caches: Caches,
        seen: Callable[[str, Served], None],
        enough: Callable[[list[Any]], bool] | None = None,
    ) -> None:
        """Run recorded requests, some at a time."""
        async with Engine() as engine:
            engine.deployments.caches = caches
            name = await engine.open(workflow, plan)
            left = iter(ids)

            async def run() -> None:
                for id in left:
                    item = self.recorded[id]
                    inputs = workflow.bind(**item.inputs)
                    served = await serve_one(engine, name, id, inputs, enough=enough)
                    item.forget()
                    seen(id, served)

            await gather(*(run() for _ in range(JUDGES)))

    def alike(self, before: Plan, after: Plan, ids: Sequence[str]) -> dict[str, bool]:
        part = cutout(self.workflow, before, after)
        if part is None or self.keeper is not None:  # who keeps answers wants them all
            return {}
        was, now = (self._names(part, part.plan(plan), ids) for plan in (before, after))
        return {id: was[id] is not None and was[id] == now[id] for id in ids}

    def _names(self, part: Cutout, plan: Plan, ids: Sequence[str]) -> dict[str, bytes | None]:
        """Names of what a part of the workflow gives requests; None where it failed, or gives what has no name."""
        known = self._named.setdefault((part.stages, plan.content), {})
        if missing := [id for id in ids if id not in known]:
            assert part.workflow.graph is not None  # it was cut out of one

            def run(plan: Plan, caches: Caches) -> None:
                run_async(self._name(part.workflow, plan, missing, caches, known))

            self._sparing(aside(part.workflow.graph, plan), plan, run)
        return known

    async def _name(
        self,
        workflow: Workflow[..., Any],
        plan: Plan,
        ids: Sequence[str],
        caches: Caches,
        found: dict[str, bytes | None],
    ) -> None:
        def named(id: str, served: Served) -> None:
            found[id] = _named(served)
            self.say(f"{plan.id}: what it changes for {len(found)} requests")

        await self._each(workflow, plan, ids, caches, named)

    # -- one request ------------------------------------------------------------------------------------------

    def accounts(self, before: Plan, after: Plan, items: Items) -> tuple[Account, Account]:
        """Where the time of one request went under each of two plans: of that with the median time under the first."""
        was = self._replayed(before, [*items[:1], *items])  # the first one warms up
        median = was.at("p50")
        now = self._replayed(after, [each for each in items if each[0] == median.id] * 2)
        one, other = (
            account(
                served.trace,
                header=msgspec.structs.replace(header(self.workflow, done, "p50"), request=median.id),
            )
            for done, served in ((was, median), (now, now.good[-1]))
        )
        return one, other

    def _replayed(self, plan: Plan, items: Items) -> Replay:
        async def run() -> Replay:
            async with Engine() as engine:
                name = await engine.open(self.workflow, plan)
                return await replay(
                    engine, name, items, progress=lambda served: self.say(f"{plan.id}: {served.id}")
                )

        found: Replay = run_async(run())
        return found

    # -- load -------------------------------------------------------------------------------------------------

    def bench(self, plans: Sequence[Plan], items: Items, load: Load, rounds: int, slo: Slo) -> list[Run]:
        found: list[Run] = run_async(self._bench(plans, items, load, rounds, slo))
        return found

    def _prepared(self, load: Load) -> list[Mapping[str, Any]]:
        """As many requests of the recording as a load sends, bound; made before it begins."""
        count = len(load.schedule(len(self.recorded)))
        self.say(f"prepare {min(count, len(self.recorded))} requests")
        return [self.workflow.bind(**item.inputs) for item in list(self.recorded.values())[:count]]

    async def _bench(
        self, plans: Sequence[Plan], items: Items, load: Load, rounds: int, slo: Slo
    ) -> list[Run]:
        """Each round on an engine of its own: a request that comes again is read again."""
        prepared = [inputs for _, inputs in items] or self._prepared(load)
        first = (
            self._others({id for id, _ in items}) if items else []
        )  # what a load sends first warms it up itself
        async with AsyncExitStack() as stack:

            async def opened() -> list[Side]:
                await stack.aclose()
                engine = await stack.enter_async_context(Engine())
                sides = await self._sides(engine, plans, prepared, slo)
                for side, inputs in itertools.product(sides, first):
                    self.say(f"{side.name}: warm up")
                    await side.target.send(inputs, WARM_UP_S)
                return sides

            bencher = Bencher(await opened(), slo=slo, renew=opened, say=self.say)
            return (await bencher.runs(load, rounds=rounds))[0]

    def _others(self, measured: Collection[str]) -> list[Mapping[str, Any]]:
        """Some recorded requests that are not measured: the first ones of an engine read what all prompts begin with,
        and compile what theirs need."""
        left = [item for id, item in self.recorded.items() if id not in measured]
        return [self.workflow.bind(**item.inputs) for item in evenly(left, WARM_UP)]

    async def _sides(
        self, engine: Engine, plans: Sequence[Plan], prepared: Sequence[Mapping[str, Any]], slo: Slo
    ) -> list[Side]:
        sides = []
        for plan in plans:
            target = WorkflowTarget(engine, self.workflow, plan, slo)
            await target.open()
            sides.append(Side(plan.id, target, prepared))
        return sides


def _needs_files(choice: ModelChoice) -> bool:
    """Whether a model holds weights here; of those that do not, some only wait for another machine."""
    return bool(getattr(find("backends", choice.backend), "needs_files", True))


def _runs_here(choice: ModelChoice) -> bool:
    """Whether this machine runs a model. Streams of one elsewhere share nothing here, and to ask for some to see that
    would cost money that no budget was asked for."""
    return bool(getattr(find("backends", choice.backend), "local", True))


async def _files(choice: ModelChoice) -> Mapping[str, Path]:
    async with Engine() as engine:  # it knows the store
        return await engine.deployments.files(choice)


def _named(served: Served) -> bytes | None:
    """The name of all that a request gave."""
    try:
        return None if served.error is not None else content_name(served.values)
    except Nameless:
        return None


def _hash(served: Served) -> str:
    """A name for what a request gave; its error's code where it failed."""
    if served.error is not None:
        return served.error.code
    told = msgspec.json.encode(served.values, enc_hook=str)
    return hashlib.sha256(told).hexdigest()[:16]
