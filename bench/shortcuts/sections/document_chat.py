"""L6: document question answering without a cache, with an exact one, and with a semantic one behind that."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from bench.ground import figures
from bench.ground.check import Check
from bench.shortcuts.front import BOTH, EXACT, LAYERS, NONE, Embed, Full, front
from bench.shortcuts.section import Column, Measure, Rows, Section, Settings, Subject, Value

import tauten as tt
from tauten.improve.labelled import TOPIC
from tauten.improve.recording import Item

REQUESTS = 120  # of the held-out half, in their order: about a third asks what was asked
QUICK_REQUESTS, QUICK_TOPICS = 9, 3
SEMANTIC_RATIO, EXACT_RATIO = 3.4, 123.0  # that are published
QUALITY_LOSS = 0.02  # of right answers, that the workflow itself allows
COLUMNS = [
    Column("mean_ms", "all requests, mean", "ms"),
    Column("computed_p50_ms", "computed, p50", "ms"),
    Column("memory_p50_ms", "exact hit, p50", "ms"),
    Column("semantic_p50_ms", "semantic hit, p50", "ms"),
    Column("memory", "exact hits"),
    Column("semantic", "semantic hits"),
    Column("other_topic", "hits about another topic"),
    Column("right", "right answers", "share"),
]


@dataclass(frozen=True)
class Chat:
    """The full path, and what embeds questions for the semantic tier."""

    full: Full
    embed: Embed
    revision: str


@contextlib.asynccontextmanager
async def _chat() -> AsyncIterator[Chat]:
    """The workflow under its default plan; the tier's embeddings come from the same engine."""
    from tauten.examples.document_chat.chat import document_chat
    from tauten.run.caching.semantic.embedding import Embedding
    from tauten.run.engine import Engine

    async with Engine() as engine:
        plan = await engine.open(document_chat)
        embed = Embedding(engine.deployments, engine.clock)

        async def full(question: str) -> str:
            answer = await engine.run({"question": tt.Text(question)}, plan=plan)
            return str(answer.value)

        try:
            yield Chat(full, embed, embed.revision)
        finally:
            await embed.close()


def _recorded() -> Sequence[Item]:
    from tauten.examples.document_chat.recording import recording

    return list(recording(split="held_out"))


def _metric(answer: tt.Text, item: Item) -> float:
    from tauten.examples.document_chat.chat import metric

    return metric(answer, item.label)


@dataclass(frozen=True)
class Parts:
    """What the section is made of; tests hand in their own."""

    chat: Callable[[], contextlib.AbstractAsyncContextManager[Chat]] = _chat
    items: Callable[[], Sequence[Item]] = _recorded
    metric: Callable[[tt.Text, Item], float] = _metric


@contextlib.asynccontextmanager
async def opened(settings: Settings, parts: Parts = Parts()) -> AsyncIterator[Section]:
    items = list(parts.items())
    items = _again(items)[:QUICK_REQUESTS] if settings.quick else items[:REQUESTS]
    async with parts.chat() as chat:
        await chat.full(_question(items[0]))  # models are open and warm: not counted
        await chat.embed(_question(items[0]))
        yield Section(
            name="document_chat",
            title="Document chat behind caches",
            claim=f"L6: a semantic cache makes document question answering {SEMANTIC_RATIO:g} times as fast, an exact match up to "
            f"{EXACT_RATIO:g} times.",
            how="The held-out recording of the document chat, request after request, before it an empty cache each round: none, an exact one, "
            "an exact one and a semantic one. The full path is the retrieval, the quotation and the language model of this machine.",
            columns=COLUMNS,
            subjects=[
                Subject(name, _replayed(name, chat, items, parts), ours=name != NONE) for name in LAYERS
            ],
            judge=judged,
            conditions={
                "requests": len(items),
                "asked word for word before": sum("repeated" in each.tags for each in items),
                "asked before in other words": sum("reworded" in each.tags for each in items),
                "embedding": chat.revision,
            },
            notes=[
                "The cache is before the whole workflow. The semantic tier has its checks and no gate here: what its hits are worth is counted "
                "by the labels of the recording, and proved in the section on paraphrases. No hit is verified behind.",
            ],
        )


def _again(items: Sequence[Item]) -> list[Item]:
    """Those about the first topics that are asked about more than once."""
    topics = Counter(_topic(each) for each in items)
    chosen = [topic for topic, count in topics.items() if count > 1][:QUICK_TOPICS]
    return [each for each in items if _topic(each) in chosen]


def _question(item: Item) -> str:
    return str(item.inputs["question"].text)  # type: ignore[attr-defined]


def _topic(item: Item) -> str:
    return next(tag for tag in item.tags if tag.startswith(TOPIC))


def _replayed(name: str, chat: Chat, items: Sequence[Item], parts: Parts) -> Measure:
    topics = {_question(each): _topic(each) for each in items}

    async def measure(_: int) -> Mapping[str, Value]:
        async with front(name, chat.full, chat.embed, chat.revision) as before:
            right = 0.0
            for item in items:
                given = await before.answer(_question(item))
                right += parts.metric(tt.Text(given.text), item)
                if before.place is not None:
                    await before.place.behind.settled()  # the far tier has it before the next one asks
            crossed = sum(topics[each.asked] != topics[each.made_for] for each in before.given)
            return {"right": right / len(items), "other_topic": crossed, **before.figures()}

    return measure


def judged(rows: Rows) -> list[Check]:
    full = rows.get_figure(NONE, "computed_p50_ms")
    without, both = rows.get_figure(NONE, "right"), rows.get_figure(BOTH, "right")
    exact, semantic = rows.get_figure(EXACT, "memory_p50_ms"), rows.get_figure(BOTH, "semantic_p50_ms")
    return [
        Check(
            "the full path over a semantic hit, p50", figures.ratio(full, semantic), SEMANTIC_RATIO, "×", True
        ),
        Check("the full path over an exact hit, p50", figures.ratio(full, exact), EXACT_RATIO, "×", True),
        Check(
            "all requests with both caches, of those without, mean",
            figures.ratio(rows.get_figure(BOTH, "mean_ms"), rows.get_figure(NONE, "mean_ms")),
            1.0,
            "×",
        ),
        Check("right answers lost to both caches", figures.difference(without, both), QUALITY_LOSS, "share"),
        Check("hits about another topic", rows.get_most(BOTH, "other_topic"), 0),
    ]
