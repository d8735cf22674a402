"""Cards of variants: filled by a measurement that is handed in, and by the quality gate; nobody else writes them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from tauten.improve.quality import Verdict
from tauten.models.store import Store
from tauten.plan.card import Card, CardLatency, CardQuality
from tauten.plan.hardware import hardware
from tauten.run.contracts import ModelSpec
from tauten.statistics import Interval

READERS: Final[Mapping[str, tuple[str, ...]]] = {
    "onnx": ("onnx", "openvino"),
    "openvino": ("openvino",),
    "ct2": ("whisper",),
    "gguf": ("llm",),
}
"""The backends that read a format, the plain default first."""


class Figures(msgspec.Struct, frozen=True):
    """What one measurement gave of one form of a model on one backend; `notes` say what it could not, and why."""

    load_ms: float | None = None
    memory_bytes: int = 0
    latency: tuple[CardLatency, ...] = ()
    notes: tuple[str, ...] = ()


class Measure(Protocol):
    """Runs a model alone and says what it costs on this machine."""

    async def __call__(self, backend: str, spec: ModelSpec, items: Sequence[Any]) -> Figures:
        """`items` are as the backend takes them. What fails is a note; raises only for a mistaken request."""
        ...


async def measured(
    store: Store, card: Card, items: Sequence[Any], options: Mapping[str, Any], measure: Measure
) -> tuple[Card, list[str]]:
    """Measure a variant on each backend that reads it, and keep its card; the card, and what failed.

    `options` are those of the role that the items come from (`unbatched`).
    """
    files = store.files(card.model, card.variant)
    figures: dict[str, Figures] = {}
    notes: list[str] = []
    for backend in READERS.get(card.format, ()):
        spec = ModelSpec(card.model, card.variant, files, options=dict(options))
        figures[backend] = await measure(backend, spec, items)
        notes += [f"{backend}: {note}" for note in figures[backend].notes]
    filled = with_figures(card, figures)
    if any(each.latency for each in figures.values()):
        filled = msgspec.structs.replace(filled, made_on=str(hardware()))
    store.variants.write_card(filled)
    return filled, notes


def with_figures(card: Card, figures: Mapping[str, Figures]) -> Card:
    """The card with these measurements in the place of earlier ones; memory and load time are the first's that ran."""
    ran = {backend: each for backend, each in figures.items() if each.latency}
    if not ran:
        return card
    first = next(iter(ran.values()))
    rows = [
        msgspec.structs.replace(row, backend=backend) for backend, each in ran.items() for row in each.latency
    ]
    return msgspec.structs.replace(card, latency=rows, memory_bytes=first.memory_bytes, load_ms=first.load_ms)


def with_quality(card: Card, verdict: Verdict, *, metric: str, score: Interval, against: str) -> Card:
    """The card with the gate's verdict, and the score that it rests on.

    `score` is what `metric` gave on the labelled items, 0 to 1, with its 95 % interval; `against` names the
    variant that it was compared with. An earlier score by that metric against that variant gives way.
    """
    row = CardQuality(metric, score.mid, score.low, score.high, score.n, against)
    others = [each for each in card.quality if (each.metric, each.against) != (metric, against)]
    return msgspec.structs.replace(
        card, quality=[*others, row], verdict=verdict.decision, needed=verdict.needed
    )
