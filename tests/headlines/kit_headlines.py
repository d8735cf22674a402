"""Doubles for rows: a model that answers by rule, processes whose times are told, and a machine without others."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tauten.improve.headlines.how import How, Inputs
from tauten.improve.headlines.row import Cell, Column, Headlines, Line, Row, Stamp
from tauten.improve.headlines.speaker import Said
from tauten.run.contracts import ModelSpec

STAMP = Stamp(machine="2 cores, 4 GiB, no gpu", measured_at="2026-01-02", commit="abc1234", tauten="0")
MANUAL = "A list can be sorted in place. " * 200
TEXTS = [f"Question number {n}?" for n in range(12)]


class Rules:
    """Reads a word in 1 ms and writes one in 10 ms; with the prefix cache it keeps what it read."""

    def __init__(self, spec: ModelSpec, log: list[Mapping[str, Any]]) -> None:
        self.spec = spec
        self.log = log
        self.kept: list[list[str]] = []

    def properties(self) -> Mapping[str, str]:
        return {"precision": "f32", "threads": "2"}

    async def ask(self, item: Mapping[str, Any]) -> Said:
        self.log.append(item)
        text = item.get("prompt") or " ".join(each["content"] for each in item["messages"])
        words = text.split()
        cached = max((_shared(words, each) for each in self.kept), default=0)
        if self.spec.options.get("prefix_cache"):
            self.kept.append(words)
        wrote = 12 if "json_schema" in item else 4 if "regex" in item else item["max_tokens"]
        first = (len(words) - cached) / 1e3 + 0.01
        said = (
            "language"
            if "regex" in item
            else '{"question_category": "language"}'
            if "json_schema" in item
            else " x"
        )
        return Said(said, first, first + 0.01 * (wrote - 1), len(words), cached, wrote, "length")


def _shared(a: list[str], b: list[str]) -> int:
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class Shop:
    """A store that has every model, as files nobody opens."""

    def find(self, model: str, variant: str | None = None) -> tuple[str, str]:
        return model, "only"

    def files(self, model: str, variant: str | None = None) -> dict[str, Any]:
        return {}


def how(log: list[Mapping[str, Any]] | None = None, *, quick: bool = False) -> How:
    asked: list[Mapping[str, Any]] = [] if log is None else log

    @asynccontextmanager
    async def speak(spec: ModelSpec) -> AsyncIterator[Rules]:
        yield Rules(spec, asked)

    shop: Any = Shop()
    return How(Inputs([], TEXTS, MANUAL), shop, quick=quick, speak=speak, share=lambda: 0.0)


def line(row: Row, case: str, what: str) -> Line:
    return next(each for each in row.lines if (each.case, each.what) == (case, what))


def some() -> Headlines:
    """One row that was measured and one that was not."""
    cells = {"off": Cell(100.0, 7, 90.0, 110.0), "on": Cell(25.0, 7, 24.0, 26.0)}
    measured = Row(
        id="L8",
        claim="prefix cache: cost −90 %",
        naive="off",
        zero_effort="best",
        ours="on",
        conditions={"prompts": "five"},
        columns=[
            Column("off", "without"),
            Column("best", "without, well set", "E325 not here"),
            Column("on", "with"),
        ],
        lines=[
            Line(
                case="1000 tokens",
                what="first",
                unit="ms",
                cells=cells,
                to_naive=Cell(0.25, 7, 0.2, 0.3),
                headline=True,
            ),
            Line(case="1000 tokens", what="tokens", unit="", cells={"on": Cell(3.0, 2)}),
        ],
        quality=["the same numbers"],
        notes=["one thing"],
        rounds=7,
        others=0.02,
        worst=0.04,
        stamp=STAMP,
    )
    return Headlines(rows=[measured, Row(id="L17", claim="batching", missing="E310 no model", stamp=STAMP)])
