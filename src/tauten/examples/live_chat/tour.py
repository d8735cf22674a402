"""The tour behind `tauten demo document-chat`: the index grows while it is asked, a gate is certified on the development
half, and the held-out half is answered under two plans."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

import tauten as tt
from tauten.examples.explained import SHORT
from tauten.examples.live_chat.adding import Added, add_document
from tauten.examples.live_chat.chat import (
    FOUND,
    MARGIN,
    about,
    answered,
    certainty,
    closest,
    live_chat,
    metric,
    quotation,
)
from tauten.examples.live_chat.handbook import Handbook
from tauten.examples.live_chat.library import HERE, documents, inputs_of, newcomers
from tauten.examples.live_chat.recording import items_of
from tauten.examples.live_chat.rendered import file_names, files
from tauten.improve.labelled import scores
from tauten.improve.quality import Verdict
from tauten.improve.quality import compare as compare_outcomes
from tauten.improve.recording import Item
from tauten.improve.replay import Replay, Served, replay, serve_one
from tauten.plan.plan import Batch, Plan, load_plan
from tauten.run.engine import Engine
from tauten.run.gating import scope
from tauten.run.gating.gate import Gate, Labelled, Terms
from tauten.run.gating.gates import open_gate

GATE = "live-chat"  # as the tuned plan names it
EPSILON = 0.05  # of the shortcuts that are taken may be wrong: what a hundred labelled questions can prove
THRESHOLDS = (
    0.7,
    0.65,
    0.6,
    0.55,
)  # by scores alone: above the first lie some sixty questions, as a proof needs
READING_S = (
    0.05  # between an answer and the next question: what was asked before comes out of a cache at once
)
Say = Callable[[str], None]


# -- the index grows -------------------------------------------------------------------------------------------


class Newcomer(msgspec.Struct, frozen=True):
    """A document that came in: a question about it before and after, and how long it took until it was answered from."""

    added: Added
    question: str
    before: str
    after: str
    right: bool
    took_s: float


@dataclass(slots=True)
class Grown:
    """What was answered while documents came in."""

    newcomers: list[Newcomer] = field(default_factory=list)
    asked: int = 0
    failed: list[str] = field(default_factory=list)


async def grow(items: Sequence[Item], say: Say) -> Grown:
    """Put in handbooks one after another, while two people keep asking about those that are there."""
    grown = Grown()
    books = newcomers()
    forget(books)
    async with Engine() as engine:
        adding = await engine.open(add_document, load_plan(HERE / "adding.toml"))
        chat = await engine.open(live_chat, load_plan(HERE / "tuned.toml"))
        await serve_one(engine, chat, "warm-up", items[0].inputs)
        over = asyncio.Event()
        asking = [asyncio.create_task(_keep_asking(engine, chat, items[n::2], grown, over)) for n in (0, 1)]
        try:
            for book in books:
                grown.newcomers += [each async for each in _come_in(engine, adding, chat, book)]
                say(f"{len(documents.sources)} documents, {grown.asked} questions answered meanwhile")
        finally:
            over.set()
            await asyncio.gather(*asking)
    return grown


def forget(books: Iterable[Handbook]) -> None:
    """Take handbooks out of the index, where they are."""
    documents.refresh()
    for name in (name for book in books for name in file_names(book)):
        if name in documents.sources:
            documents.remove(name)


async def _come_in(engine: Engine, adding: str, chat: str, book: Handbook) -> AsyncIterator[Newcomer]:
    item = next(items_of(book))
    before = await _answer(engine, chat, item)
    for name, file in files(book):
        began = engine.clock()
        added = (await engine.run(inputs_of(name, file), plan=adding)).value
        after = await _answer(engine, chat, item)
        took_s = engine.clock() - began
        right = metric(tt.Text(after.partition(SHORT)[0]), item.label) == 1.0  # what was found in it
        yield Newcomer(added, str(item.inputs["question"]), before, after, right, took_s)


async def _answer(engine: Engine, chat: str, item: Item) -> str:
    return str((await engine.run(item.inputs, plan=chat)).value)


async def _keep_asking(
    engine: Engine, chat: str, items: Sequence[Item], grown: Grown, over: asyncio.Event
) -> None:
    """Ask one after another until it is over; every failure is kept."""
    while not over.is_set():
        for item in items:
            served = await serve_one(engine, chat, item.id, item.inputs)
            grown.asked += 1
            if served.error is not None:
                grown.failed.append(f"{item.id}: {served.error.message}")
            if over.is_set():
                return
            await asyncio.sleep(READING_S)


# -- the gate --------------------------------------------------------------------------------------------------


class Searched(msgspec.Struct, frozen=True):
    """What the search alone answers, and how sure it is of it."""

    text: str
    found: bool
    score: float
    lead: float


@tt.stage(pure=True, inline=True)
def seen(answer: tt.Answer, sure: tuple[float, float]) -> Searched:
    """The search's answer beside its certainty."""
    return Searched(quotation(answer), answer.found, *sure)


@tt.workflow
def searched(question: tt.Text) -> Searched:
    """What `live_chat` would answer without its model."""
    found = closest(about(tt.retrieve(question, documents, k=FOUND), question), question)
    return seen(answered(found), certainty(found, question))


_COMPILED = {"backend": "openvino", "precision": "f32"}
PLAN = Plan(name="searched").edit("retrieve", **_COMPILED).edit("closest", **_COMPILED, batch=Batch(max=16))


async def certify(items: Sequence[Item], say: Say) -> tuple[Gate, scope.Verdict]:
    """Certify the gate on labelled questions of the development half, each once; what it knew before is forgotten."""
    labelled: list[Labelled] = []
    async with Engine() as engine:
        await engine.open(searched, PLAN)
        for item in items:
            if "repeated" in item.tags:
                continue
            answer: Searched = (await engine.run(item.inputs)).value
            if answer.found and answer.lead >= MARGIN:
                right = metric(tt.Text(answer.text), item.label) == 1.0
                labelled.append(Labelled(answer.score, right))
    gate = open_gate(GATE, Terms(epsilon=EPSILON))
    gate.forget()
    [verdict] = gate.certify(labelled, thresholds=THRESHOLDS)
    gate.flush()
    say(f"gate: {verdict.why}")
    return gate, verdict


# -- two plans -------------------------------------------------------------------------------------------------


class Routed(msgspec.Struct, frozen=True):
    """Where one request went, and why."""

    item: str
    kind: str  # simple, complex or refused, as labelled
    chosen: str
    why: str
    asked_model: bool
    wall_ms: float


@dataclass(slots=True, eq=False)
class Side:
    """One plan's part of the tour."""

    plan: Plan
    replay: Replay
    routed: list[Routed]
    right: dict[str, bool]

    @property
    def model_calls(self) -> int:
        return sum(each.asked_model for each in self.routed)

    def by_kind(self) -> dict[str, Counter[str]]:
        """How many of each kind went where."""
        found: dict[str, Counter[str]] = {}
        for each in self.routed:
            found.setdefault(each.kind, Counter())[each.chosen] += 1
        return found


async def sides(items: Sequence[Item], say: Say) -> list[Side]:
    """The items under the naive plan, then under the tuned one, one request after another, each plan alone."""
    return [await _side(load_plan(HERE / f"{name}.toml"), items, say) for name in ("naive", "tuned")]


async def _side(plan: Plan, items: Sequence[Item], say: Say) -> Side:
    say(f"{plan.name}: loading")
    async with Engine() as engine:
        name = await engine.open(live_chat, plan)
        await serve_one(engine, name, "warm-up", {"question": tt.Text("What is this?")})
        done = await replay(
            engine, name, [(item.id, item.inputs) for item in items], progress=_teller(plan, say)
        )
    kinds = {item.id: next(tag for tag in item.tags if tag in KINDS) for item in items}
    judged = scores(metric, live_chat, done.served, items)
    right = {id: value == 1.0 for id, value in judged.items()}
    return Side(plan, done, [routed(each, kinds[each.id]) for each in done.served], right)


KINDS = ("simple", "complex", "refused")


def _teller(plan: Plan, say: Say) -> Callable[[Served], None]:
    seen = 0

    def tell(served: Served) -> None:
        nonlocal seen
        seen += 1
        say(f"{plan.name}: {seen}   {served.wall_ms:.0f} ms   {served.id}")

    return tell


def routed(served: Served, kind: str) -> Routed:
    """Where a request went, as its trace says."""
    trace = served.trace
    chosen = trace.routes[0].chosen if trace.routes else ""
    asked = any(unit == "output_tokens" and amount > 0 for _, unit, amount in trace.spent)
    return Routed(served.id, kind, chosen, trace.notes.get("route", ""), asked, served.wall_ms)


def verdict(sides: Sequence[Side], margin: float) -> Verdict:
    """Whether the tuned plan's answers are no worse."""
    naive, tuned = sides
    return compare_outcomes(naive.right, tuned.right, margin)


def examples(side: Side) -> Iterator[Routed]:
    """One request of each kind and way."""
    told: set[tuple[str, str]] = set()
    for each in side.routed:
        if (each.kind, each.chosen) not in told:
            told.add((each.kind, each.chosen))
            yield each


def as_document(
    grown: Grown | None, gate: scope.Verdict, sides: Sequence[Side], said: Verdict
) -> dict[str, Any]:
    """The tour for programs: schema `tauten.demo.document_chat/1`."""
    return {
        "schema": "tauten.demo.document_chat/1",
        "grown": None
        if grown is None
        else {
            "newcomers": msgspec.to_builtins(grown.newcomers),
            "asked": grown.asked,
            "failed": grown.failed,
        },
        "gate": msgspec.to_builtins(gate),
        "plans": [_as_document(side) for side in sides],
        "verdict": {"decision": said.decision, "words": str(said)},
    }


def _as_document(side: Side) -> dict[str, Any]:
    return {
        "plan": side.plan.name,
        "id": side.replay.plan,
        "requests": len(side.routed),
        "failed": len(side.replay.served) - len(side.replay.good),
        **side.replay.percentiles(),
        "right": sum(side.right.values()),
        "model_calls": side.model_calls,
        "routed": {kind: dict(counts) for kind, counts in side.by_kind().items()},
        "requests_routed": msgspec.to_builtins(side.routed),
    }
