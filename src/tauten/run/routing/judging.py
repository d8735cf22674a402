"""Shortcuts that are judged: asked one after another, each behind the gate, and some of them verified by lot."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec.structs import replace

from tauten.describe.ports import PortType, Stream
from tauten.errors import StageError, TautenError
from tauten.run.contracts import Evidence, Stand
from tauten.run.gating.news import News
from tauten.run.routing.choosing import Choice, Choosing, Evaluate
from tauten.run.routing.scores import evidence_of, told
from tauten.run.slots import Around, Run, whole
from tauten.run.values import join


class Held(NamedTuple):
    """A shortcut's answer that was not given, or not yet: it did not stand, or was drawn to be verified."""

    name: str
    value: Any
    joined: Any
    evidence: Evidence
    stand: Stand
    chance: float


class Judging:
    """Asks the options in order. What the gate learns comes from here: of each shortcut that was drawn, and of each
    that was not taken, whether it would have done for the full answer."""

    def __init__(self, choosing: Choosing, output: PortType) -> None:
        self._choosing = choosing
        self._output = output
        self._random = random.Random(choosing.policy.seed)
        self._news = News(choosing.policy.gate) if choosing.policy.gate is not None else None
        self._same: Callable[[Any, Any], bool] | None = choosing.step.params.get("same")

    async def decide(self, run: Run, value: Evaluate) -> Any:
        """The first answer that stands, unless it is drawn to be verified; else the last option's.

        What is drawn is followed by the last option at once. Another shortcut in between would be given unverified, or
        would answer in the first one's place.
        """
        if self._news is not None:
            self._news.hear(run.request.clock())
        choosing = self._choosing
        choice = await choosing.begin(run, value)
        held: list[Held] = []
        for name in choice.route.order[:-1]:
            shortcut = await self._shortcut(choice, name, value)
            if shortcut is None:
                continue
            held.append(shortcut)
            if not shortcut.stand.stands:
                continue
            if self._random.random() < shortcut.chance:
                break
            self._taken(choice)
            choosing.note(choice, name, shortcut.stand.why)
            choosing.end(choice, name)
            return shortcut.value
        return await self._full(choice, choice.route.order[-1], held, value)

    def _taken(self, choice: Choice) -> None:
        """A shortcut is given unverified: the gate counts it."""
        gate = self._choosing.policy.gate
        if gate is not None and choice.run.request.teaches:
            gate.took(choice.ask.tenant, choice.ask.category)

    async def _shortcut(self, choice: Choice, name: str, value: Evaluate) -> Held | None:
        """What a shortcut answers, and whether that stands; None where it failed, which costs its time alone."""
        choosing = self._choosing
        try:
            given = await choosing.asked(choice, name, value, ends=False)
            parts = await given.collect() if isinstance(given, Stream) else None
        except TautenError as error:
            choice.run.request.trace.notes[f"{choosing.step.name}.{name}"] = f"failed: {error.message}"
            return None
        joined = given if parts is None else join(parts, self._output)
        evidence = await self._evidence(choice, name, value, joined if parts is None else parts, joined)
        stand = choosing.policy.router.accepts(choice.ask, evidence)
        gate = choosing.policy.gate if choice.run.request.teaches else None
        chance = gate.shadows(evidence.score, choice.ask.tenant, choice.ask.category) if gate else 0.0
        choice.outcomes[name] = replace(choice.outcomes[name], score=evidence.score, accepted=stand.stands)
        handed = given if parts is None else Stream(whole(parts))
        return Held(name, handed, joined, evidence, stand, chance)

    async def _evidence(self, choice: Choice, name: str, value: Evaluate, said: Any, joined: Any) -> Evidence:
        """By the port or the function of the workflow, else by what the answer tells of itself."""
        step, at = self._choosing.step, self._choosing.place[name]
        port = f"score{at}"
        if port in step.inputs:
            return told(step.name, await value(choice.run, port))
        score = step.params.get("scores", {}).get(port)
        return evidence_of(step.name, said if score is None else joined, score)

    async def _full(self, choice: Choice, name: str, held: list[Held], value: Evaluate) -> Any:
        """The last option's answer, by which the others are judged. Where it fails, one that stands is given."""
        choosing = self._choosing
        choosing.note(choice, name, _why(choice, held))
        if held and held[-1].stand.stands:  # its answer would have done: what follows is work to verify it
            trace = choice.run.request.trace
            trace.kinds = {**trace.kinds, **dict.fromkeys(choosing.steps_of(name), "verify")}
        try:
            given = await choosing.asked(choice, name, value, ends=True)
        except TautenError:
            spare = next((each for each in held if each.stand.stands), None)
            choosing.end(choice, spare.name if spare is not None else "")
            if spare is None:
                raise
            choosing.note(choice, spare.name, f"{spare.stand.why}; drawn to be verified, but {name} failed")
            return spare.value
        if isinstance(given, Stream):
            return Stream(_Kept(given, lambda parts: self._judge(choice, held, join(parts, self._output))))
        self._judge(choice, held, given)
        choosing.end(choice, name)
        return given

    def _judge(self, choice: Choice, held: list[Held], full: Any) -> None:
        """Tell the gate of each shortcut whether it would have done."""
        gate, ask = self._choosing.policy.gate, choice.ask
        if gate is None or self._same is None or not choice.run.request.teaches:
            return
        for each in held:
            if each.stand.counts:
                correct = _agree(self._choosing.step.name, self._same, each.joined, full)
                chance = each.chance or None
                gate.observe(each.evidence.score, correct, ask.tenant, ask.category, chance=chance)


class _Kept(Around):
    """A stream whose increments are kept, and looked at once it came to its end."""

    __slots__ = ("_parts", "_whole")

    def __init__(self, stream: Stream[Any], whole: Callable[[list[Any]], None]) -> None:
        super().__init__(stream, aiter(stream))
        self._parts: list[Any] = []
        self._whole = whole

    async def __anext__(self) -> Any:
        try:
            value = await anext(self._source)
        except StopAsyncIteration:
            parts, self._parts = self._parts, []
            if parts:
                self._whole(parts)
            raise
        self._parts.append(value)
        return value


def _why(choice: Choice, held: list[Held]) -> str:
    if not held:
        return choice.route.why
    last = held[-1]
    return f"{last.name} is verified: drawn by lot" if last.stand.stands else f"{last.name}: {last.stand.why}"


def _agree(step: str, same: Callable[[Any, Any], bool], shortcut: Any, full: Any) -> bool:
    try:
        return bool(same(shortcut, full))
    except Exception as error:
        raise StageError(
            f"same= of '{step}' raised {error.__class__.__name__}: {error}",
            help="the chained error shows the line in your code",
        ) from error
