"""A cascade (L13): a small local model answers where the gate lets it, a large one that costs money answers the rest."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.ground.check import Check
from bench.shortcuts import books
from bench.shortcuts.provider.running import Provider, standin
from bench.shortcuts.routed import arms, certified
from bench.shortcuts.section import Column, Measure, Rows, Section, Settings, Subject, Value

from tauten.describe.payload import Text
from tauten.plan.plan import StagePlan
from tauten.run.gating.gate import Labelled
from tauten.run.routing.scores import evidence_of
from tauten.run.usage.book import Book
from tauten.run.usage.prices import Prices
from tauten.run.usage.row import UsageRow

LARGE, CASCADE, SMALL = "large alone", "cascade", "small alone"
CHEAPER = 0.6  # published: 40 to 80 % cheaper at equal quality (L13)
MARGIN: Final = 0.05  # of right answers that may be lost
THOUSAND = 1000
PRICES = """
tauten = "prices/1"
[alias]
standin = "openai"
[[machine]]
core_hour = "0.04"
"""

COLUMNS = (
    Column("dollars", "a thousand messages", "$"),
    Column("local", "of it local", "$"),
    Column("asked_large", "asked of the large one", "share"),
    Column("right", "right answers", "share"),
    Column("p50_ms", "p50", "ms"),
    Column("taken", "answered by the small one"),
    Column("wrong", "wrong among those"),
    Column("bound", "at most, with 95 %", "share"),
    Column("gap_tokens", "tokens that the book differs by"),
)


class Measured:
    """What all arms share: messages, the provider, prices; and the arms that were run, each once."""

    def __init__(self, provider: Provider, asked: Sequence[arms.Asked], folder: Path, sorting: Any) -> None:
        self.provider, self.asked, self.folder, self.sorting = provider, asked, folder, sorting
        self.arms: dict[str, arms.Arm] = {}
        self.figures: dict[str, dict[str, Value]] = {}

    async def run(self, name: str, workflow: Any) -> dict[str, Value]:
        """One arm with a book of its own, held against the provider's count."""
        (self.folder / "prices.toml").write_text(PRICES)
        place = str(self.folder / f"{name.replace(' ', '-')}.db")
        book = Book(place, Prices([self.folder / "prices.toml"]))
        book.start()
        before = await self.provider.quiet()
        try:
            arm = self.arms[name] = await arms.run(
                workflow, self.asked, plan_of(workflow, self.sorting), book
            )
        finally:
            await book.close()
        counted = (await self.provider.quiet()).since(before)
        rows = await asyncio.to_thread(books.read, place)
        return {**self._figures(name, arm, rows), "gap_tokens": books.gap(rows, ["standin"], [counted])}

    def _figures(self, name: str, arm: arms.Arm, rows: Sequence[UsageRow]) -> dict[str, Value]:
        taken = arm.chose("small") if name == CASCADE else []
        wrong, bound = arms.wrong_bound(arm, taken)
        theirs = [row for row in rows if row.provider == "standin"]
        ours = [row for row in rows if row.provider == "local"]
        local = books.dollars(ours)
        paid = books.dollars(theirs)
        count = max(1, len(arm.served))
        return {
            "dollars": None if local is None or paid is None else (local + paid) * THOUSAND / count,
            "local": None if local is None else local * THOUSAND / count,
            "asked_large": len(theirs) / count,
            "right": arm.share,
            "p50_ms": arm.p50_ms(),
            "taken": len(taken),
            "wrong": wrong,
            "bound": bound,
        }


@contextlib.asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Section]:
    """The gate is certified on the development half; the held-out half is measured."""
    from bench.shortcuts.routed import sorting

    dev, held_out = (sorting.messages(half, settings.seed) for half in ("dev", "held_out"))
    held_out = held_out[: settings.pick(len(held_out), 12)]
    with tempfile.TemporaryDirectory(prefix="tb-") as name:
        async with standin() as provider:
            await provider.answers({each.text: each.queue for each in held_out})
            labelled = await labels(dev[: settings.pick(len(dev), 24)], sorting)
            asked = [_asked(number, each) for number, each in enumerate(held_out)]
            measured = Measured(provider, asked, Path(name), sorting)
            with _known(provider, Path(name)), certified.certified(sorting.GATE, labelled) as verdict:
                subjects = [
                    Subject(
                        LARGE,
                        _arm(measured, LARGE, sorting.large_alone),
                        note="a priced stand-in that knows the labels",
                    ),
                    Subject(
                        CASCADE,
                        _arm(measured, CASCADE, sorting.cascade),
                        True,
                        "the small one first, behind the gate",
                    ),
                    Subject(SMALL, _arm(measured, SMALL, sorting.small_alone), note="no gate, no money"),
                ]
                yield Section(
                    "cascade",
                    "A cascade (L13)",
                    "A small model first, the large one where it is not sure enough: 40 % cheaper, and right answers as before, with the bound "
                    "on what the shortcut gets wrong stated.",
                    "Support messages, templated, each with the queue that it was made for. The small model runs here; the large one is a stand-in "
                    f"that always names the right queue, so that every wrong answer of the cascade is the small model's. It is priced as {sorting.LARGE} "
                    "by the vendored price list, by the stand-in's count of tokens; the small one by measured core-seconds.",
                    COLUMNS,
                    subjects,
                    partial(judge, measured),
                    conditions={
                        "gate": verdict.why,
                        "epsilon": certified.EPSILON,
                        "labelled for the gate": len(labelled),
                        "held-out messages": len(held_out),
                        "small": "smollm2-135m-instruct, prefix cache on",
                        "large": f"stand-in, priced as {sorting.LARGE}",
                        "a core-hour, $": 0.04,
                    },
                    notes=[
                        "The model store has one language model; a second local one would make this a cascade of two."
                    ],
                )


def _asked(number: int, message: Any) -> arms.Asked:
    return arms.Asked(
        f"{number:04d}",
        {"message": Text(message.text)},
        lambda answer: isinstance(answer, Text) and answer.text == message.queue,
    )


async def labels(dev: Sequence[Any], sorting: Any) -> list[Labelled]:
    """What the small model said to each, how sure it was, and whether that was right."""
    asked = [_asked(number, each) for number, each in enumerate(dev)]
    found = await arms.run(sorting.small_said, asked, plan_of(sorting.small_said, sorting))
    by_name = {each.name: message for each, message in zip(asked, dev, strict=True)}
    return [
        Labelled(
            evidence_of("small", each.values).score,
            sorting.queue_of(arms.answer(each)) == by_name[each.id].queue,
        )
        for each in found.served
        if each.error is None and each.values
    ]


def plan_of(workflow: Any, sorting: Any) -> dict[str, StagePlan]:
    """Where each model runs, of those that a workflow asks."""
    stages = {
        "small": StagePlan(settings={"prefix_cache": True}, why="its examples are the same each time"),
        "large": StagePlan(model=sorting.LARGE, backend="remote", settings={"provider": "standin"}),
    }
    return {name: stage for name, stage in stages.items() if name in workflow.graph.stages}


@contextlib.contextmanager
def _known(provider: Provider, folder: Path) -> Iterator[None]:
    """The provider is known to engines of this process for the length of the block."""
    file, before = folder / "providers.toml", os.environ.get("TAUTEN_PROVIDERS")
    file.write_text(f'[standin]\nurl = "{provider.url}"\n')
    os.environ["TAUTEN_PROVIDERS"] = str(file)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TAUTEN_PROVIDERS"]
        else:
            os.environ["TAUTEN_PROVIDERS"] = before


def _arm(measured: Measured, name: str, workflow: Any) -> Measure:
    async def measure(number: int) -> Mapping[str, Value]:
        if name not in measured.figures:
            measured.figures[name] = await measured.run(name, workflow)
        return measured.figures[name]

    return measure


def judge(measured: Measured, rows: Rows) -> Sequence[Check]:
    of = rows.get_figure
    dollars = of(LARGE, "dollars"), of(CASCADE, "dollars")
    ratio = dollars[1] / dollars[0] if dollars[0] and dollars[1] is not None else None
    gaps = [of(name, "gap_tokens") for name in (LARGE, CASCADE)]
    return [
        Check("cost of the cascade, of the large one's", ratio, CHEAPER, "share"),
        Check("right answers lost, at most with 95 %", loss(measured.arms), MARGIN, "share"),
        Check("wrong among those that the small one answered", wrong_share(rows), certified.EPSILON, "share"),
        Check("tokens that the books differ by", None if None in gaps else sum(filter(None, gaps)), 0),
    ]


def loss(found: Mapping[str, arms.Arm]) -> float | None:
    """The upper bound of the share of right answers that the cascade loses."""
    if not {LARGE, CASCADE} <= found.keys():
        return None
    return arms.verdict(found[LARGE], found[CASCADE], MARGIN).loss_high


def wrong_share(rows: Rows) -> float | None:
    """Of what the small model answered in the cascade; None where it answered nothing."""
    wrong, taken = (rows.get_figure(CASCADE, key) for key in ("wrong", "taken"))
    return wrong / taken if taken and wrong is not None else None
