"""A cache by likeness without a model: letters counted for vectors, gates that were certified on made-up labels."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tauten.plan.plan import SemanticPlan
from tauten.run.caching.semantic import opening
from tauten.run.caching.semantic.gate import ASKING
from tauten.run.gating import gates
from tauten.run.gating.gate import Labelled
from tauten.run.gating.gates import KeptGate

ASKED = "How do I reset my password?"
ALIKE = "How can I reset my password?"
THIRD = "What do I do to reset my password?"
OTHER = "How do I reset my router?"  # a trap


async def letters(text: str) -> NDArray[Any]:
    """Letters counted: texts that look alike lie close, traps too."""
    counted = np.zeros(128, np.float32)
    for letter in text.lower():
        counted[ord(letter) % 128] += 1.0
    length: NDArray[Any] = counted / np.linalg.norm(counted)
    return length


class Letters:
    """In place of a model that embeds: `texts` are those it was asked."""

    revision = "letters/1"
    texts: list[str]
    opened = 0

    def __init__(self, deployments: Any, clock: Any, choice: Any, keys: list[str] | None = None) -> None:
        """As `Embedding`; it opens nothing."""

    async def open(self) -> str:
        Letters.opened += 1
        return self.revision

    async def __call__(self, text: str) -> NDArray[Any]:
        Letters.texts.append(text)
        ask = ASKING.get()
        if ask is not None:
            now = ask.request.clock()
            ask.request.trace.rows.append((ask.name, "embed", now, now))
            ask.request.trace.spent.append((ask.name, "replica_seconds", 0.01))
        return await letters(text)

    async def close(self) -> None:
        """It holds nothing."""


@contextmanager
def without_model(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Iterator[type[Letters]]:
    """Plans that ask for a cache by likeness get letters, and gates of a store of their own."""
    monkeypatch.setenv("TAUTEN_STORE", str(folder / "store"))
    monkeypatch.setenv("TAUTEN_RESULTS", str(folder / "results"))
    monkeypatch.setattr(opening, "Embedding", Letters)
    Letters.texts, Letters.opened = [], 0
    yield Letters
    forget_gates(folder)


def forget_gates(folder: Path) -> None:
    """As a process that ends: what is to be written is, and nothing is remembered."""
    for path in [each for each in gates._open if folder in each.parents]:
        gates._open.pop(path).flush()


def proved(
    workflow: str, step: str, rules: SemanticPlan, *cells: tuple[str, str], least: float = 0.5
) -> KeptGate:
    """The gate of a step, certified for these tenants and categories; for nobody's, without any."""
    gate = opening.gate_of(workflow, step, rules)
    items = [Labelled(0.99, True, *cell) for cell in cells or [("", "")] for _ in range(400)]
    gate.certify(items, thresholds=[0.98, least])
    gate.flush()
    return gate
