"""Stand-ins for sections: vectors by words, peers that answer by rule, rows made by hand, a section run to its end."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import importlib
import sys
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # bench/ is no part of the installed package
rounds = importlib.import_module("bench.shortcuts.rounds")
form = importlib.import_module("bench.shortcuts.section")

SIZE = 64  # of vectors: words fall on the same number rarely enough


def section(name: str) -> Any:
    return importlib.import_module(f"bench.shortcuts.sections.{name}")


def vector(text: str) -> NDArray[np.float32]:
    """Of length one: texts with the same words are alike, whatever they mean."""
    found = np.zeros(SIZE, np.float32)
    for word in text.lower().split():
        found[zlib.crc32(word.encode()) % SIZE] += 1.0
    length = float(np.linalg.norm(found))
    return found / length if length else found + np.float32(SIZE**-0.5)


async def embed(text: str) -> NDArray[np.float32]:
    return vector(text)


async def embed_all(texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    return {text: vector(text) for text in texts}


@asynccontextmanager
async def embedding() -> AsyncIterator[tuple[Any, str]]:
    yield embed, "words"


def measured(name: str, parts: Any, *, count: int = 1) -> Any:
    """A section with these parts, quick, run to its end."""

    async def run() -> Any:
        settings = form.Settings(quick=True, rounds=count)
        async with section(name).opened(settings, parts) as found:
            return await rounds.measured(found, settings)

    return asyncio.run(run())


def rows(**figures: dict[str, float]) -> Any:
    """Rows by name, with medians as they are given."""
    return form.Rows(
        {
            name: form.Row(
                name,
                figures={
                    key: {"median": each, "low": each, "high": each, "rounds": 1}
                    for key, each in values.items()
                },
            )
            for name, values in figures.items()
        }
    )


def verdicts(checks: Sequence[Any]) -> dict[str, bool | None]:
    return {each.name: each.met for each in checks}


class Peer:
    """A cache that others made: it has what was put there, by equality."""

    def __init__(self, wrong: int = 0) -> None:
        self.versions = {"pretended": "1"}
        self.wrong = wrong
        self.asked: list[str] = []

    async def ask(self, do: str, **words: Any) -> dict[str, Any]:
        self.asked.append(do)
        if do == "open_exact":
            return {"wrong": self.wrong}
        if do == "hit":
            return {"us": [5.0] * words["count"]}
        if do == "open_similar":
            self.kept = words["kept"]
            return {}
        found = [each if each in self.kept else None for each in words["questions"]]
        return {"found": found, "us": [7.0] * len(found)}
