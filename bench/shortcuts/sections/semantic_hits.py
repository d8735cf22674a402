"""The semantic cache on paraphrases and traps that nobody who wrote a check has seen: what it answers, and how often wrong."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from bench.ground import figures
from bench.ground.check import Check, Line
from bench.shortcuts import peers
from bench.shortcuts.front import Passing
from bench.shortcuts.judging import EPSILON, ETA, Judge
from bench.shortcuts.section import Column, Measure, Rows, Section, Settings, Subject, Value
from bench.shortcuts.vectors import Vectors
from bench.shortcuts.vectors import vectors as embedded
from numpy.typing import NDArray

import tauten as tt
from tauten.examples.paraphrases import Pair, pairs
from tauten.run.caching.naming import content_name
from tauten.run.caching.semantic.likeness import Semantic
from tauten.run.contracts import Kept, Sought
from tauten.run.gating.gate import Gate, Labelled, Terms
from tauten.statistics import needed_items

OURS = "tauten: all checks"
GATED = (0.02, 0.05)  # of the gates that are certified on the other half
THRESHOLDS = (0.70, 0.80, 0.85, 0.90, 0.95, 0.98)  # from what packages take to what blogs advise
TUNED = "cosine, threshold tuned on the other half"
SIZE_BYTES = 64_000_000
SAVED_S = 1.0  # of every kept answer: whether looking pays is not asked here
COLUMNS = [
    Column("hit_rate", "paraphrases answered", "share"),
    Column("hits", "hits"),
    Column("wrong", "of them wrong"),
    Column("error", "error among hits", "share"),
    Column("bound", "at most, with 95 % confidence", "share"),
    Column("needed", "hits that would prove 2 %"),
    Column("p50_us", "a look, p50", "µs"),
    Column("wrong_ones", "wrong hits"),
]


@dataclass(frozen=True)
class Parts:
    """What the section is made of; tests hand in their own."""

    held_out: Callable[[], Sequence[Pair]] = lambda: pairs("held_out")
    dev: Callable[[], Sequence[Pair]] = lambda: pairs("dev")
    embed: Callable[[Sequence[str]], Awaitable[Vectors]] = embedded
    peer: Callable[[str], contextlib.AbstractAsyncContextManager[Any]] = peers.started
    peers: tuple[str, ...] = ("gptcache", "redisvl")


@contextlib.asynccontextmanager
async def opened(settings: Settings, parts: Parts = Parts()) -> AsyncIterator[Section]:
    held_out, dev = Judge(parts.held_out()), Judge(parts.dev())
    texts = [*held_out.kept, *held_out.asked, *dev.kept, *dev.asked]
    began = time.perf_counter()
    vectors = await parts.embed(list(dict.fromkeys(texts)))
    embedding_ms = 1e3 * (time.perf_counter() - began) / len(vectors)
    async with AsyncExitStack() as stack:
        made, versions = await _made_by_others(stack, held_out, vectors, parts)
        yield Section(
            name="semantic_hits",
            title="A semantic cache on paraphrases and traps",
            claim=f"What is answered of paraphrases, where at most {EPSILON:.0%} of the hits are wrong with {1 - ETA:.0%} confidence. That needs "
            f"{needed_items(EPSILON, ETA)} hits without an error, {needed_items(EPSILON, ETA, 1)} with one: hits are counted, not pairs.",
            how="All kept questions of the held-out half lie in one cache; each asked one is asked once. A hit is right where the pair is a "
            "paraphrase; what no pair speaks of is wrong. All rows see the same vectors.",
            columns=COLUMNS,
            subjects=[*await _ours(settings, held_out, dev, vectors), *_plain(held_out, dev, vectors), *made],
            judge=judged,
            curves=curves,
            conditions={
                "kept questions": len(held_out.kept),
                "asked questions": len(held_out.asked),
                "paraphrases among them": len(held_out.paraphrases),
                "embedding_ms": embedding_ms,
                "peers": versions,
            },
            notes=[
                "A look is without the embedding, which is handed to every row alike; conditions tell what one took.",
                "GPTCache's and redisvl's own default models and GPTCache's model that compares two questions come from a hub, which is not "
                "reached here: their defaults are those of their thresholds.",
                "Paraphrases of one question resemble one another: the confidence is that of independent hits.",
                "The gates are certified on hits of the development half alone. Where those are too few for what is promised, a gate stays "
                "closed, which is what it is for.",
            ],
        )


# -- ours -------------------------------------------------------------------------------------------------


async def _ours(settings: Settings, held_out: Judge, dev: Judge, vectors: Vectors) -> list[Subject]:
    evidence = await labelled(dev, vectors, settings.seed)
    found = [Subject(OURS, _asked_of(held_out, vectors, Passing()), ours=True)]
    for epsilon in GATED:
        gate = Gate(Terms(epsilon=epsilon, eta=ETA))
        if evidence:
            gate.certify(evidence)
        name = f"tauten: all checks, and a gate at {epsilon:.0%}"
        note = f"{len(evidence)} labelled hits of the other half; {gate.why() or 'open'}"
        found.append(Subject(name, _asked_of(held_out, vectors, gate), ours=True, note=note))
    return found


async def labelled(judge: Judge, vectors: Vectors, seed: int) -> list[Labelled]:
    """The hits of one half with their scores, as the first traffic of a service would label them, in a random order."""
    gate, found = Passing(), []
    tier = await _filled(judge, vectors, gate)
    for asked in judge.asked:
        kept = await tier.get(_sought(asked))
        if kept is not None:
            found.append(Labelled(gate.score, judge.right(kept.value, asked)))
    random.Random(seed).shuffle(found)
    return found


async def _filled(judge: Judge, vectors: Vectors, gate: Any) -> Semantic:
    """The tier as it serves, with every kept question in it."""

    async def embed(text: str) -> NDArray[Any]:
        return vectors[text]

    async def same(given: Any, computed: Any) -> bool:
        return judge.right(given, computed)

    tier = Semantic(SIZE_BYTES, embed=embed, revision="given", gate=gate, same=same, draw=lambda: 1.0)
    for question in judge.kept:
        await tier.put(_sought(question), Kept(question, len(question), SAVED_S))
    return tier


def _sought(question: str) -> Sought:
    return Sought(content_name(question), b"space", {"question": tt.Text(question)})


def _asked_of(judge: Judge, vectors: Vectors, gate: Any) -> Measure:
    async def measure(_: int) -> Mapping[str, Value]:
        tier = await _filled(judge, vectors, gate)
        found, us = [], []
        for asked in judge.asked:
            began = time.perf_counter_ns()
            kept = await tier.get(_sought(asked))
            us.append((time.perf_counter_ns() - began) / 1e3)
            found.append(None if kept is None else str(kept.value))
        return _figures(judge, found, us)

    return measure


def _figures(judge: Judge, found: Sequence[str | None], us: Sequence[float]) -> dict[str, Value]:
    return {**judge.figures(found), "p50_us": figures.percentile(sorted(us), 50)}


# -- plain thresholds -------------------------------------------------------------------------------------


class Cosine:
    """The nearest kept question, where it is near enough: what a semantic cache is in most packages."""

    def __init__(self, judge: Judge, vectors: Vectors) -> None:
        self._kept, self._vectors = judge.kept, vectors
        self._rows = np.stack([vectors[each] for each in judge.kept]).astype(np.float32)

    def nearest(self, asked: str) -> tuple[float, str]:
        scores = self._rows @ self._vectors[asked]
        place = int(np.argmax(scores))
        return float(scores[place]), self._kept[place]


def tuned(judge: Judge, vectors: Vectors) -> float | None:
    """The least threshold above which at most 2 % of this half's hits are wrong; None where there is none."""
    cache = Cosine(judge, vectors)
    scored = sorted(((*cache.nearest(asked), asked) for asked in judge.asked), reverse=True)
    wrong, found = 0, None
    for count, (score, kept, asked) in enumerate(scored, 1):
        wrong += not judge.right(kept, asked)
        if wrong <= EPSILON * count:
            found = score
    return found


def _plain(held_out: Judge, dev: Judge, vectors: Vectors) -> list[Subject]:
    found = [Subject(cosine_name(threshold), _near(held_out, vectors, threshold)) for threshold in THRESHOLDS]
    chosen = tuned(dev, vectors)
    if chosen is None:
        return [*found, Subject(TUNED, reason="no threshold leaves at most 2 % wrong on the other half")]
    return [*found, Subject(TUNED, _near(held_out, vectors, chosen), note=f"{chosen:.3f}")]


def cosine_name(threshold: float) -> str:
    return f"cosine ≥ {threshold:.2f}"


def _near(judge: Judge, vectors: Vectors, threshold: float) -> Measure:
    cache = Cosine(judge, vectors)

    async def measure(_: int) -> Mapping[str, Value]:
        found: list[str | None] = []
        us = []
        for asked in judge.asked:
            began = time.perf_counter_ns()
            score, kept = cache.nearest(asked)
            us.append((time.perf_counter_ns() - began) / 1e3)
            found.append(kept if score >= threshold else None)
        return _figures(judge, found, us)

    return measure


# -- made by others ---------------------------------------------------------------------------------------


async def _made_by_others(
    stack: AsyncExitStack, judge: Judge, vectors: Vectors, parts: Parts
) -> tuple[list[Subject], dict[str, Any]]:
    rows, versions = [], {}
    known = {text: vectors[text].tolist() for text in (*judge.kept, *judge.asked)}
    for name in parts.peers:
        row = f"{name}, its default threshold"
        try:
            peer = await stack.enter_async_context(parts.peer(name))
            await peer.ask("open_similar", kept=judge.kept, known=known)
        except peers.CANNOT as error:
            rows.append(Subject(row, reason=str(error)))
            continue
        versions[name] = dict(peer.versions)
        rows.append(Subject(row, _called(peer, judge)))
    return rows, versions


def _called(peer: Any, judge: Judge) -> Measure:
    async def measure(_: int) -> Mapping[str, Value]:
        found = await peer.ask("ask", questions=judge.asked)
        return _figures(judge, found["found"], found["us"])

    return measure


# -- what was promised ------------------------------------------------------------------------------------


def judged(rows: Rows) -> list[Check]:
    hits, wrong = rows.get_figure(OURS, "hits"), rows.get_figure(OURS, "wrong")
    needed = needed_items(EPSILON, ETA, int(wrong or 0))
    return [
        Check("our hits on the held-out half, against those that prove 2 %", hits, needed, at_least=True),
        Check(
            "error among our hits, at most with 95 % confidence",
            rows.get_figure(OURS, "bound"),
            EPSILON,
            "share",
        ),
    ]


def curves(rows: Rows) -> dict[str, list[Line]]:
    """Error over what is answered: a plain threshold as a line, ours as points."""
    plain = [_point(rows, cosine_name(threshold)) for threshold in THRESHOLDS]
    lines = [Line("cosine, by threshold", [each for each in plain if each], "share", "share")]
    for name in rows:
        point = _point(rows, name)
        if point and not name.startswith("cosine ≥"):
            lines.append(Line(name, [point], "share", "share"))
    return {"error among hits over paraphrases answered": lines}


def _point(rows: Rows, name: str) -> tuple[float, float] | None:
    answered, error = rows.get_figure(name, "hit_rate"), rows.get_figure(name, "error")
    return None if answered is None or error is None else (answered, error)
