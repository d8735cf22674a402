"""A recording on disk and the answers of two plans to it, for the tests of labels."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tauten.describe.payload import Text
from tauten.improve.labels.answers import Answer, Answers, keep_answers
from tauten.improve.labels.pairs import Comparison, Pair
from tauten.improve.labels.session import Session
from tauten.improve.recording import Item, Recording


def recorded(folder: Path, items: int) -> Path:
    """A recording of so many questions, q0 and on."""
    questions = [
        Item(id=f"q{i}", render=lambda i=i: {"question": Text(f"question {i}?")})  # type: ignore[misc]
        for i in range(items)
    ]
    return Recording("asked", questions).save(folder)


def served(id: str, *values: Any, error: Exception | None = None) -> Any:
    """What a replay gives for one request, as far as answers need it."""
    return SimpleNamespace(id=id, values=list(values), error=error)


def answered(path: Path, items: int, differing: int, *, after: bool) -> Path:
    """Answers to that recording; the last `differing` ones differ between the plans."""
    words = [("new" if after and i >= items - differing else "old") for i in range(items)]
    keep_answers(
        path,
        [served(f"q{i}", Text(f"{word} answer {i}")) for i, word in enumerate(words)],
        plan="tuned" if after else "naive",
    )
    return path


def plans(folder: Path, items: int, differing: int) -> tuple[Path, Path, Path]:
    """A recording and the files of answers before and after."""
    folder.mkdir(parents=True, exist_ok=True)
    return (
        recorded(folder / "asked.rec", items),
        answered(folder / "before.jsonl", items, differing, after=False),
        answered(folder / "after.jsonl", items, differing, after=True),
    )


def session(
    folder: Path, items: int = 30, differing: int = 10, labeller: str = "ada", **more: Any
) -> Session:
    """A session over such files, made where they are not there yet; its clock gains 2 s with each look."""
    made = (folder / "asked.rec", folder / "before.jsonl", folder / "after.jsonl")
    recording, before, after = made if made[0].exists() else plans(folder, items, differing)
    ticks = itertools.count(0.0, 2.0)
    given = {"margin": 0.1, "clock": lambda: next(ticks), "date": lambda: "2026-01-01T00:00:00+00:00", **more}
    return Session(recording, Answers.load(before), Answers.load(after), labeller=labeller, **given)


def side_of(pair: Pair, word: str) -> str:
    """Where the answer with that word stands."""
    return "left" if word in pair.left.text else "right"


def compared(items: int, differing: int) -> Comparison:
    """A comparison without any label; the first `differing` items differ."""
    return Comparison(
        {
            f"q{i}": (Answer(f"q{i}", "old"), Answer(f"q{i}", "new" if i < differing else "old"))
            for i in range(items)
        },
        [],
    )
