"""Retrieval first (L9): simple questions answered by the search behind a certified gate, the language model for the rest."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from bench.ground.check import Check
from bench.shortcuts.routed import arms, certified
from bench.shortcuts.section import Column, Measure, Rows, Section, Settings, Subject, Value

from tauten.describe.payload import Text
from tauten.improve.recording import Item, Recording
from tauten.plan.plan import StagePlan
from tauten.run.gating.gate import Labelled

MODEL, SEARCH, ALONE = "the model explains everything", "retrieval first", "search alone"
SAVED, FASTER = 0.37, 0.68  # published: 37 to 46 % fewer calls, simple ones 32 to 38 % faster (L9)
MARGIN: Final = 0.05  # of right answers that may be lost: 60 items without a bad flip prove it

COLUMNS = (
    Column("calls", "model calls"),
    Column("saved", "of them saved", "share"),
    Column("simple_p50_ms", "simple questions, p50", "ms"),
    Column("complex_p50_ms", "others, p50", "ms"),
    Column("right", "right answers", "share"),
    Column("taken", "answered by the search"),
    Column("wrong", "worse than explained, among those"),
    Column("bound", "at most, with 95 %", "share"),
)


class Measured:
    """The arms that were run; each is run once, because greedy answers do not change."""

    def __init__(self, items: Sequence[Item]) -> None:
        from bench.shortcuts.routed import chat

        self.chat = chat
        self.items = {item.id: item for item in items}
        self.simple = {item.id for item in items if chat.is_simple(item)}
        self.asked = [_asked(item) for item in items]
        self.arms: dict[str, arms.Arm] = {}

    def _would_do(self, name: str, arm: arms.Arm) -> bool:
        """Whether what the search answered is no worse than its explanation would have been."""
        item = self.items[name]
        [said] = [arms.answer(each) for each in arm.served if each.id == name]
        return bool(self.chat.would_do(getattr(said, "text", ""), item.label, self.chat.is_simple(item)))

    @property
    def others(self) -> list[str]:
        return [each.name for each in self.asked if each.name not in self.simple]

    def figures(self, name: str, taken: Sequence[str]) -> dict[str, Value]:
        arm = self.arms[name]
        worse = [each for each in taken if not self._would_do(each, arm)]
        wrong, bound = len(worse), arms.bound(len(worse), len(taken))
        return {
            "calls": len(arm.made("generate")),
            "simple_p50_ms": arm.p50_ms(list(self.simple)),
            "complex_p50_ms": arm.p50_ms(self.others),
            "right": arm.share,
            "taken": len(taken),
            "wrong": wrong,
            "bound": bound,
        }


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Section]:
    """The gate is certified on the development half; the held-out half is measured."""
    chat, dev, held_out = await asyncio.to_thread(_recordings, settings)
    labelled = await labels(dev)
    measured = Measured(held_out)
    with certified.certified(chat.GATE, labelled) as verdict:
        subjects = [
            Subject(
                MODEL, _arm(measured, MODEL, chat.model_first), note="whatever is found goes to the model"
            ),
            Subject(SEARCH, _arm(measured, SEARCH, chat.search_first), True, "behind the gate"),
            Subject(ALONE, _searched(measured), note="no model at all: what the gate is there for"),
        ]
        yield Section(
            "retrieval_first",
            "Retrieval first (L9)",
            "On a labelled mix of simple and complex questions the search answers what it is sure of: 37 % fewer model calls, "
            "simple questions 32 % faster, and right answers as before.",
            "The document chat's recording: a definition is simple, prose wants a sentence of the model beside the quotation, some questions "
            "must be refused. A shortcut is wrong where the full path, which explains the same quotation, would have been right and it is not. The gate is certified on first askings of the development half; figures are of the held-out half, one request after "
            "another, each arm once.",
            COLUMNS,
            subjects,
            partial(judge, measured),
            conditions={
                "gate": verdict.why,
                "epsilon": certified.EPSILON,
                "labelled for the gate": len(labelled),
                "held-out requests": len(held_out),
                "simple among them": len(measured.simple),
                "model": "smollm2-135m-instruct, prefix cache on",
            },
        )


def _recordings(settings: Settings) -> tuple[Any, list[Item], list[Item]]:
    """The workflows, which build their index when they are imported, and both halves."""
    from bench.shortcuts.routed import chat

    from tauten.examples.document_chat.recording import recording

    held_out: Recording = recording(split="held_out", quick=settings.quick)
    return chat, [item for item in recording(split="dev") if "first" in item.tags], list(held_out)


def _asked(item: Item) -> arms.Asked:
    from bench.shortcuts.routed import chat

    simple = chat.is_simple(item)
    return arms.Asked(
        item.id,
        item.inputs,
        lambda answer: isinstance(answer, Text) and chat.right(answer.text, item.label, simple),
    )


async def labels(dev: Sequence[Item]) -> list[Labelled]:
    """What the search alone would have answered to each, how sure it was, and whether that would have done."""
    from bench.shortcuts.routed import chat

    by_name = {item.id: item for item in dev}
    found = await arms.run(chat.searched, [arms.Asked(item.id, item.inputs, bool) for item in dev])
    answers = {each.id: arms.answer(each) for each in found.served if each.error is None}
    return [
        Labelled(said.score, chat.would_do(said.text, by_name[name].label, chat.is_simple(by_name[name])))
        for name, said in answers.items()
    ]


def _arm(measured: Measured, name: str, workflow: Any) -> Measure:
    stages = {
        "generate": StagePlan(settings={"prefix_cache": True}, why="its examples are the same each time")
    }

    async def measure(number: int) -> Mapping[str, Value]:
        if name not in measured.arms:
            measured.arms[name] = await arms.run(workflow, measured.asked, stages)
        return measured.figures(name, measured.arms[name].chose("quoted"))

    return measure


def _searched(measured: Measured) -> Measure:
    async def measure(number: int) -> Mapping[str, Value]:
        if ALONE not in measured.arms:
            asked = [each._replace(right=_as_text(each.right)) for each in measured.asked]
            measured.arms[ALONE] = await arms.run(measured.chat.searched, asked)
        return measured.figures(ALONE, [each.name for each in measured.asked])

    return measure


def _as_text(right: Any) -> Any:
    """Judge a candidate by its text."""
    return lambda found: right(Text(found.text))


def judge(measured: Measured, rows: Rows) -> Sequence[Check]:
    of = rows.get_figure
    calls = of(MODEL, "calls"), of(SEARCH, "calls")
    saved = 1 - calls[1] / calls[0] if calls[0] and calls[1] is not None else None
    walls = of(MODEL, "simple_p50_ms"), of(SEARCH, "simple_p50_ms")
    ratio = walls[1] / walls[0] if walls[0] and walls[1] is not None else None
    if saved is not None:
        rows[SEARCH].figures["saved"] = saved
    return [
        Check("share of model calls saved", saved, SAVED, "share", at_least=True),
        Check("time of simple questions, ours to the model's", ratio, FASTER, "share"),
        Check("right answers lost, at most with 95 %", loss(measured.arms), MARGIN, "share"),
        Check(
            "worse than explained, among those that the search answered",
            _share(of(SEARCH, "wrong"), of(SEARCH, "taken")),
            certified.EPSILON,
            "share",
        ),
    ]


def loss(found: Mapping[str, arms.Arm]) -> float | None:
    """The upper bound of the share of right answers that retrieval first loses; below 0 it wins some."""
    if not {MODEL, SEARCH} <= found.keys():
        return None
    return arms.verdict(found[MODEL], found[SEARCH], MARGIN).loss_high


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
