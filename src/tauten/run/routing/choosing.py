"""One choice under a policy: what the options would take, whom the router sends it to, and what came of it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from msgspec.structs import replace

from tauten.describe.graph import FromStage
from tauten.describe.payload import Text
from tauten.describe.ports import Stream
from tauten.errors import StageError, TautenError
from tauten.plan.lower import Step
from tauten.run.contracts import Ask, Candidate, Outcome, Route
from tauten.run.request import Request
from tauten.run.routing.decision import Decision
from tauten.run.routing.foresight import Foresight, There
from tauten.run.routing.outlook import Outlook, Surroundings, outlook_of
from tauten.run.routing.policy import Opened
from tauten.run.slots import Around, Run, begun
from tauten.run.trace import Invocation
from tauten.run.values import join, truth

Evaluate = Callable[[Run, str], Awaitable[Any]]

TOKENS = ("input_tokens", "output_tokens")  # units of the books that a price is asked for


class Choice:
    """One request at a choice: what it asks, what there is, and what came of those that were asked."""

    def __init__(self, run: Run, ask: Ask, candidates: Sequence[Candidate], route: Route) -> None:
        self.run = run
        self.ask = ask
        self.candidates = tuple(candidates)
        self.route = route
        self.there: Mapping[Foresight, There] = {}
        self.outcomes: dict[str, Outcome] = {}
        self.goes_on = False  # where who is asked now fails before its first output, another is asked


class Choosing:
    """The options of one choose step, for all requests of an opened plan."""

    def __init__(self, step: Step, around: Surroundings, policy: Opened) -> None:
        self.step = step
        self.policy = policy
        self.count = sum(1 for port in step.inputs if port.startswith("value"))
        self._names = _names(step, self.count)
        self.place = {name: at for at, name in enumerate(self._names)}
        prices = step.params.get("prices", {})
        self._outlooks = [
            outlook_of(step, f"value{at}", name, around, prices.get(str(at)))
            for at, name in enumerate(self._names)
        ]
        self._sides = [_side(step, f"value{at}") for at in range(self.count)]

    async def begin(self, run: Run, value: Evaluate) -> Choice:
        """Ask the router; raises StageError E408 where no option's gate opens."""
        able = []
        for at in range(self.count):
            gate = f"gate{at}"
            if gate not in self.step.inputs or truth(await value(run, gate)):
                able.append(self._outlooks[at])
        if not able:
            raise StageError(
                f"'{self.step.name}': no option's gate opened",
                help="end tt.choose with a bare value",
                code="E408",
            )
        key = await _text(await value(run, "key")) if "key" in self.step.inputs else ""
        ask, candidates, there = _seen(run, able, ask_of(run.request, key, self.policy.category))
        choice = Choice(
            run, ask, candidates, self._whole(self.policy.router.route(ask, candidates), candidates)
        )
        choice.there = there
        self.note(choice, choice.route.order[0], choice.route.why)
        return choice

    def _whole(self, route: Route, candidates: Sequence[Candidate]) -> Route:
        """The order, ended by those whom the router left out where a policy falls back: any answer beats none."""
        if not self.policy.falls_back:
            return route
        left = sorted((each for each in candidates if each.name not in route.order), key=_ill)
        return Route((*route.order, *(each.name for each in left)), route.why)

    def note(self, choice: Choice, name: str, why: str) -> None:
        """Say in the trace who was chosen, and why."""
        said = f"{self.policy.name}: option {self.place[name] + 1} of {self.count}, {why}"
        choice.run.request.trace.notes[self.step.name] = said

    async def direct(self, run: Run, value: Evaluate) -> Any:
        """Run the option that the router chose; where the policy falls back, those after it while they fail."""
        choice = await self.begin(run, value)
        order = choice.route.order
        names = order if self.policy.falls_back else order[:1]
        failed: list[str] = []
        for name in names:
            choice.goes_on = name != names[-1]
            if failed:
                self.note(choice, name, f"{name}, because {'; '.join(failed)}")
            try:
                given = await self._begun(choice, name, value)
            except BaseException as error:
                if choice.goes_on and isinstance(error, TautenError):
                    failed.append(f"{name} failed: {error.message}")
                    continue
                self.end(choice, "")
                raise
            choice.goes_on = False
            if not isinstance(given, Stream):
                self.end(choice, name)
            return given
        raise AssertionError("an order has at least one name")

    async def _begun(self, choice: Choice, name: str, value: Evaluate) -> Any:
        """What an option gives, its first increment there where another is asked for one that fails before."""
        given = await self.asked(choice, name, value, ends=True)
        if not choice.goes_on:
            return given
        try:
            return await begun(given)
        except BaseException:
            if isinstance(given, Stream):
                await given.aclose()
            raise

    async def asked(self, choice: Choice, name: str, value: Evaluate, *, ends: bool) -> Any:
        """What an option gives. Of a stream the outcome is known at its end; with `ends` the choice is over then."""
        request = choice.run.request
        outlook, since, started = self._outlook(name), Since.of(request), request.clock()
        outlook.outstanding += 1
        try:
            given = await value(choice.run, f"value{self.place[name]}")
        except BaseException as error:
            self.failed(choice, name, started, error)
            raise
        if isinstance(given, Stream):
            return Stream(_Watched(given, self, choice, name, (started, since), ends=ends))
        self.did(choice, name, started, 0.0, since)
        return given

    def steps_of(self, name: str) -> frozenset[str]:
        """The steps that run for an option and for nothing else."""
        return self._sides[self.place[name]]

    # -- what came of it -----------------------------------------------------------------------------------------

    def did(self, choice: Choice, name: str, started: float, first_s: float, since: Since) -> None:
        """An option answered."""
        request = choice.run.request
        now = request.clock()
        spent = since.spent(request, self._sides[self.place[name]])
        tokens = math.fsum(amount for _, unit, amount in spent if unit in TOKENS)
        outlook = self._outlook(name)
        outlook.outstanding -= 1
        outlook.did(now - started, first_s, now)
        outlook.learn(choice.there, spent, since.core_s(request, self._sides[self.place[name]]))
        self._learn(choice, name, Outcome(now - started, first_s, tokens=tokens), now)

    def failed(self, choice: Choice, name: str, started: float, error: BaseException) -> None:
        """It failed, or its request left."""
        now = choice.run.request.clock()
        outlook = self._outlook(name)
        outlook.outstanding -= 1
        if isinstance(error, TautenError):
            outlook.failed(error, now)
            self._learn(choice, name, Outcome(now - started, failed=True), now)

    def left(self, name: str) -> None:
        """The reader of its stream went away before the end: that says nothing of the option."""
        self._outlook(name).outstanding -= 1

    def _learn(self, choice: Choice, name: str, outcome: Outcome, now: float) -> None:
        choice.outcomes[name] = outcome
        self.policy.router.ended(choice.ask, name, outcome, now)

    def end(self, choice: Choice, chosen: str) -> None:
        """Write the decision down."""
        trace = choice.run.request.trace
        decision = Decision(
            step=self.step.name,
            policy=self.policy.name,
            ask=choice.ask,
            candidates=choice.candidates,
            order=choice.route.order,
            why=choice.route.why,
            chosen=chosen,
            outcomes=dict(choice.outcomes),
        )
        trace.routes = (*trace.routes, decision)

    def _outlook(self, name: str) -> Outlook:
        return self._outlooks[self.place[name]]


class _Watched(Around):
    """A stream whose first increment, end and failure are noted."""

    __slots__ = ("_choice", "_choosing", "_ends", "_first_s", "_name", "_over", "_since")

    def __init__(
        self,
        stream: Stream[Any],
        choosing: Choosing,
        choice: Choice,
        name: str,
        since: tuple[float, Since],
        *,
        ends: bool,
    ) -> None:
        super().__init__(stream, aiter(stream))
        self._choosing, self._choice, self._name = choosing, choice, name
        self._since, self._first_s, self._ends, self._over = since, 0.0, ends, False

    async def __anext__(self) -> Any:
        started, since = self._since
        try:
            value = await anext(self._source)
        except StopAsyncIteration:
            if self._close():
                self._choosing.did(self._choice, self._name, started, self._first_s, since)
                self._told(self._name)
            raise
        except Exception as error:
            if self._close():
                self._choosing.failed(self._choice, self._name, started, error)
                self._told("")
            raise
        self._first_s = self._first_s or self._choice.run.request.clock() - started
        return value

    async def aclose(self) -> None:
        if self._close():
            self._choosing.left(self._name)
        await super().aclose()

    def _close(self) -> bool:
        """Whether it was open until now."""
        was_open, self._over = not self._over, True
        return was_open

    def _told(self, chosen: str) -> None:
        if self._ends and (chosen or not self._choice.goes_on):
            self._choosing.end(self._choice, chosen)


def ask_of(request: Request, key: str = "", category: str = "") -> Ask:
    """What routers are told of a request."""
    now = request.clock()
    until = min(request.deadline, request.target, request.start + request.aim.end_s)
    session = request.session.id if request.session is not None else ""
    return Ask(
        at=now,
        key=key or session or request.tenant,
        prefix=key,
        tenant=request.tenant,
        category=category,
        priority=request.priority,
        first_left_s=min(until, request.start + request.aim.first_s) - now,
        left_s=until - now,
    )


async def _text(value: Any) -> str:
    if isinstance(value, Stream):
        value = join(await value.collect())
    if isinstance(value, Text):
        return value.text
    return "" if value is None else str(value)


def _names(step: Step, count: int) -> list[str]:
    """What the options are called: the stages whose values they are, else by their places."""
    found: list[str] = []
    for at in range(count):
        source = step.inputs[f"value{at}"]
        name = source.name if isinstance(source, FromStage) else ""
        found.append(name if name and name not in found else f"option {at + 1}")
    return found


def _side(step: Step, port: str) -> frozenset[str]:
    side = step.sides.get(port)
    return frozenset(each.name for each in side.steps()) if side is not None else frozenset()


def _ill(candidate: Candidate) -> bool:
    return not candidate.healthy


class Since(NamedTuple):
    """Where a request's trace stood when an option was asked."""

    booked: int
    called: int

    @classmethod
    def of(cls, request: Request) -> Since:
        return cls(len(request.trace.spent), len(request.trace.calls))

    def spent(self, request: Request, steps: frozenset[str]) -> list[tuple[str, str, float]]:
        """What the steps of an option have booked since."""
        booked = request.trace.spent[self.booked :]
        return [each for each in booked if each[0].partition("[")[0] in steps]

    def core_s(self, request: Request, steps: frozenset[str]) -> float:
        """Core-seconds of this machine that they took since: as booked, and of engines that are processes."""
        booked = math.fsum(amount for _, unit, amount in self.spent(request, steps) if unit == "core_seconds")
        calls = [Invocation(*call) for call in request.trace.calls[self.called :]]
        return booked + math.fsum(each.core_s for each in calls if each.step.partition("[")[0] in steps)


def _seen(
    run: Run, able: Sequence[Outlook], ask: Ask
) -> tuple[Ask, list[Candidate], Mapping[Foresight, There]]:
    """What options would take and cost, and the request with the tokens that are foreseen."""
    foreseen = [each.foreseen(run, ask) for each in able]
    tokens = [each.candidate.input_tokens + each.candidate.output_tokens for each in foreseen]
    ask = replace(ask, tokens=max(tokens))
    wall = datetime.now(UTC)
    candidates = [each.priced(seen, ask, wall) for each, seen in zip(able, foreseen, strict=True)]
    return ask, candidates, {each: there for seen in foreseen for each, there in seen.there.items()}
