"""L18: what caches save at each share of requests that resemble an earlier one, from none to half."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bench.ground import figures
from bench.ground.check import Check, Line
from bench.shortcuts.front import BOTH, COMPUTED, EXACT, LAYERS, NONE, Embed, Front, front
from bench.shortcuts.repeats import Asked, requests
from bench.shortcuts.section import Column, Measure, Rows, Section, Settings, Subject, Value

from tauten.examples.paraphrases import Pair, pairs
from tauten.run.usage.prices import Prices

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
REQUESTS, QUICK_REQUESTS = 200, 24
CLIENTS = 8  # at a time: a service has several, and a repeat may come before what it repeats is kept
BACKEND_S = 0.4  # what a model far away takes
PROVIDER, MODEL = "openai", "gpt-4o-mini"  # whose price a call of the stand-in has: small, and widely used
INPUT_TOKENS, OUTPUT_TOKENS = 1000, 100  # of a call: a prompt with its passages, and a short answer
AT_NONE, AT_HALF = 0.0, 0.5
DEARER = 1.05  # times as long on the mean where nothing repeats: what looking may cost
SAVED = 0.8  # of the whole, at most, at half: a quarter repeats word for word, and some of it comes too early
COLUMNS = [
    Column("mean_ms", "all requests, mean", "ms"),
    Column("cents", "a thousand requests", "cents"),
    Column("computed", "computed"),
    Column("memory", "exact hits"),
    Column("semantic", "semantic hits"),
    Column("wrong", "wrong answers"),
    Column("repeated", "asked word for word before"),
    Column("reworded", "asked before in other words"),
]


@contextlib.asynccontextmanager
async def _embedding() -> AsyncIterator[tuple[Embed, str]]:
    from bench.shortcuts.vectors import embedding

    async with embedding() as embed:
        yield embed, embed.revision


@dataclass(frozen=True)
class Parts:
    """What the section is made of; tests hand in their own."""

    embedding: Callable[[], contextlib.AbstractAsyncContextManager[tuple[Embed, str]]] = _embedding
    pairs: Callable[[], Sequence[Pair]] = pairs
    backend_s: float = BACKEND_S


@contextlib.asynccontextmanager
async def opened(settings: Settings, parts: Parts = Parts()) -> AsyncIterator[Section]:
    cents, by = call_cents()
    known = list(parts.pairs())
    count = settings.pick(REQUESTS, QUICK_REQUESTS)
    async with parts.embedding() as (embed, revision):
        await embed(known[0].kept)  # the model is open and warm: not counted

        def measure(layers: str, rate: float) -> Measure:
            async def once(number: int) -> Mapping[str, Value]:
                sequence = requests(known, rate, count, f"{settings.seed}/{number}")
                found = await _asked(sequence, layers, embed, revision, parts.backend_s)
                return {**found, "cents": figures_cents(found, count, cents)}

            return once

        subjects = [
            Subject(row_name(layers, rate), measure(layers, rate), ours=layers != NONE)
            for rate in RATES
            for layers in LAYERS
        ]
        yield Section(
            name="repeat_rate",
            title="Caches at each share of repeats",
            claim="L18: 30 to 40 % of the requests to language models resemble earlier ones. What that is worth, from none to half of them.",
            how=f"{count} requests a point from {CLIENTS} clients in a closed loop to a stand-in that takes {parts.backend_s * 1e3:g} ms; of those that "
            "resemble an earlier one half repeat its words and half are its paraphrases. What is new has the traps among it. Caches begin empty.",
            columns=COLUMNS,
            subjects=subjects,
            judge=judged,
            curves=curves,
            conditions={
                "price of a call": f"{INPUT_TOKENS} tokens in, {OUTPUT_TOKENS} out, at {PROVIDER} {MODEL}, {by}",
                "cents of a call": cents,
                "questions": f"seeds {settings.seed}/ROUND/RATE",
                "embedding": revision,
            },
            notes=[
                "A repeat that comes while the first is under way is computed again by our caches: the served API shares such requests besides.",
                "The semantic tier has its checks and no gate here. An answer is wrong where it was made for a question of another meaning.",
                "The embedding runs on the cores of this machine, which the stand-in leaves free.",
            ],
        )


def row_name(layers: str, rate: float) -> str:
    return f"{rate:.0%}, {layers}"


def call_cents() -> tuple[float | None, str]:
    """What one call of the stand-in would cost, and by which list; None where no list knows."""
    units = {"input_tokens": float(INPUT_TOKENS), "output_tokens": float(OUTPUT_TOKENS)}
    price = Prices().call(PROVIDER, MODEL, units, datetime.now(UTC))
    return (None, "no price is known") if price.nano is None else (price.nano / 1e7, price.by)


def figures_cents(found: Mapping[str, Any], count: int, cents: float | None) -> float | None:
    """Of a thousand such requests."""
    return None if cents is None else 1000 * cents * float(found[COMPUTED]) / count


async def _asked(
    sequence: Sequence[Asked], layers: str, embed: Embed, revision: str, backend_s: float
) -> dict[str, Value]:
    async def full(question: str) -> str:
        await asyncio.sleep(backend_s)
        return f"What is to be said of: {question}"

    async with front(layers, full, embed, revision) as before:
        waiting = iter(sequence)
        await asyncio.gather(*(_client(before, waiting) for _ in range(CLIENTS)))
        return {
            **before.figures(),
            "wrong": _wrong(before, sequence),
            "repeated": sum(each.came == "repeated" for each in sequence),
            "reworded": sum(each.came == "reworded" for each in sequence),
        }


async def _client(before: Front, waiting: Any) -> None:
    """Asks whatever comes next as soon as it has its answer."""
    for each in waiting:
        await before.answer(each.question)


def _wrong(before: Front, sequence: Sequence[Asked]) -> int:
    """Answers that were made for a question of another meaning."""
    meaning = {each.question: each.meaning for each in sequence}
    return sum(meaning[each.asked] != meaning[each.made_for] for each in before.given)


def judged(rows: Rows) -> list[Check]:
    def beside(rate: float, layers: str, key: str) -> float | None:
        one, base = (rows.get_figure(row_name(each, rate), key) for each in (layers, NONE))
        return figures.ratio(one, base)

    wrong = [rows.get_most(row_name(BOTH, rate), "wrong") for rate in RATES]  # each round asks others
    known = [each for each in wrong if each is not None]
    return [
        Check(
            "no repeats: mean with both caches, of that without",
            beside(AT_NONE, BOTH, "mean_ms"),
            DEARER,
            "×",
        ),
        Check(
            "half repeats: cents with an exact cache, of those without",
            beside(AT_HALF, EXACT, "cents"),
            0.8,
            "×",
        ),
        Check(
            "half repeats: cents with both, of those with an exact one", _of_exact(rows, "cents"), 1.0, "×"
        ),
        Check(
            "half repeats: mean with both caches, of that without",
            beside(AT_HALF, BOTH, "mean_ms"),
            SAVED,
            "×",
        ),
        Check("wrong answers of both caches at all shares", sum(known) if known else None, 0),
    ]


def _of_exact(rows: Rows, key: str) -> float | None:
    one, base = (rows.get_figure(row_name(each, AT_HALF), key) for each in (BOTH, EXACT))
    return figures.ratio(one, base)


def curves(rows: Rows) -> dict[str, list[Line]]:
    def lines(key: str, unit: str) -> list[Line]:
        found = []
        for layers in LAYERS:
            values = [(rate, rows.get_figure(row_name(layers, rate), key)) for rate in RATES]
            found.append(
                Line(layers, [(rate, each) for rate, each in values if each], "share", unit, layers == BOTH)
            )
        return found

    return {
        "mean latency over the share of repeats": lines("mean_ms", "ms"),
        "cents a thousand requests over the share of repeats": lines("cents", "cents"),
    }
