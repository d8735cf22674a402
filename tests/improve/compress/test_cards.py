"""Cards: filled by whatever measures, judged by the gate, and honest where nothing was measured."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from improve.kit_models import questions, store_of, two_layers
from tauten.improve.compress.build import build
from tauten.improve.compress.cards import Figures, measured, with_figures, with_quality
from tauten.improve.compress.profiled import P95_NEEDS, figures_of, profiled
from tauten.improve.measuring.bench import Ran
from tauten.improve.measuring.profile import Opening, Profile, Row
from tauten.improve.quality import compare
from tauten.models import Store
from tauten.plan.card import Card, CardLatency
from tauten.plan.measurements import Key
from tauten.run.contracts import ModelSpec
from tauten.statistics import Interval, wilson

ITEMS = [{"x": row} for row in questions(12)]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "origin").mkdir()
    return store_of(tmp_path, two_layers(tmp_path / "origin"))


class Counting:
    """A measurement that says how often it was asked, and for what."""

    def __init__(self, fails: Sequence[str] = ()) -> None:
        self.asked: list[tuple[str, ModelSpec, int]] = []
        self.fails = fails

    async def __call__(self, backend: str, spec: ModelSpec, items: Sequence[Any]) -> Figures:
        self.asked.append((backend, spec, len(items)))
        if backend in self.fails:
            return Figures(notes=("it does not open",))
        row = CardLatency(1, 2.0 * len(self.asked), 1.5, 2.5, n=9)
        return Figures(load_ms=10.0 * len(self.asked), memory_bytes=1000, latency=(row,))


def test_a_card_is_filled_on_every_backend_that_reads_the_form(store: Store) -> None:
    card, measure = build(store, "tiny", "ort_dynamic"), Counting()
    filled, notes = asyncio.run(measured(store, card, ITEMS, {"unbatched": True}, measure))
    assert [(backend, count) for backend, _, count in measure.asked] == [("onnx", 12), ("openvino", 12)]
    spec = measure.asked[0][1]
    assert (spec.model, spec.variant, spec.options) == ("tiny", card.variant, {"unbatched": True})
    assert spec.files == store.files("tiny", card.variant)
    assert [(row.backend, row.mid_ms) for row in filled.latency] == [("onnx", 2.0), ("openvino", 4.0)]
    assert (filled.load_ms, filled.memory_bytes, notes) == (10.0, 1000, [])
    assert filled == store.variants.card("tiny", card.variant)
    assert filled.made_how == card.made_how
    assert filled.latency_at(1, backend="openvino") == filled.latency[1]
    assert filled.latency_at(1) == filled.latency[0]
    assert filled.latency_at(1, backend="llm") is None


def test_what_does_not_run_is_a_note_and_not_a_figure(store: Store) -> None:
    card = build(store, "tiny", "sparse")
    filled, notes = asyncio.run(measured(store, card, ITEMS, {}, Counting(fails=["onnx"])))
    assert [row.backend for row in filled.latency] == ["openvino"]
    assert filled.load_ms == 20.0
    assert notes == ["onnx: it does not open"]
    nothing, notes = asyncio.run(measured(store, card, ITEMS, {}, Counting(fails=["onnx", "openvino"])))
    assert nothing == card
    assert len(notes) == 2


def test_a_new_measurement_takes_the_place_of_the_one_before() -> None:
    card = Card("m", "v", "onnx")
    old = with_figures(card, {"onnx": Figures(5.0, 1, (CardLatency(1, 3.0, 2.0, 4.0, 9),))})
    new = with_figures(old, {"onnx": Figures(6.0, 2, (CardLatency(4, 9.0, 8.0, 10.0, 9),))})
    assert [(row.batch, row.backend) for row in new.latency] == [(4, "onnx")]
    assert (new.load_ms, new.memory_bytes) == (6.0, 2)
    assert with_figures(new, {"onnx": Figures(notes=("no",))}) == new


# --- the gate --------------------------------------------------------------------------------------


def judged(bad: int, n: int = 200, margin: float = 0.05) -> Any:
    before = {str(item): True for item in range(n)}
    after = {str(item): item >= bad for item in range(n)}
    return compare(before, after, margin)


@pytest.mark.parametrize(("bad", "word"), [(0, "accept"), (60, "reject"), (7, "cannot conclude")])
def test_the_verdict_and_its_score_are_written_on_the_card(bad: int, word: str) -> None:
    verdict = judged(bad)
    score = wilson(200 - bad, 200)
    card = with_quality(Card("m", "v", "onnx"), verdict, metric="right", score=score, against="fp32")
    assert card.verdict == word
    assert (card.needed is not None) == (word == "cannot conclude")
    [row] = card.quality
    assert (row.metric, row.value, row.n, row.against) == ("right", score.mid, 200, "fp32")
    assert row.low <= row.value <= row.high


def test_a_later_judgement_by_the_same_metric_takes_the_place_of_the_first() -> None:
    card = Card("m", "v", "onnx")
    for bad, metric in [(60, "right"), (0, "right"), (0, "spelling")]:
        score = Interval(0.1, 0.2, 0.3, 10)
        card = with_quality(card, judged(bad), metric=metric, score=score, against="fp32")
    assert [row.metric for row in card.quality] == ["right", "spelling"]
    assert card.verdict == "accept"
    other = with_quality(card, judged(60), metric="right", score=Interval(0, 0, 0, 1), against="int8")
    assert [row.against for row in other.quality] == ["fp32", "fp32", "int8"]
    assert other.verdict == "reject"


# --- the profile -----------------------------------------------------------------------------------


def profile(*cases: tuple[int, int, Sequence[float]], reason: str = "") -> Profile:
    rows = [
        Row(
            Key("", "m", "v", "onnx", "", 0, batch, shape),
            runs=[Ran(each) for each in seconds],
            memory_bytes=100 * batch,
            reason=reason,
        )
        for batch, shape, seconds in cases
    ]
    opening = Opening(0, load_s=0.25, memory_bytes=50)
    return Profile("onnx", ModelSpec("m"), rows, [opening])


def test_figures_are_medians_over_all_sizes_of_a_batch() -> None:
    found = figures_of(profile((1, 3, [0.001] * 9), (1, 7, [0.003] * 9), (4, 3, [0.004] * 9)))
    assert [(row.batch, row.n) for row in found.latency] == [(1, 18), (4, 9)]
    assert found.latency[0].low_ms == pytest.approx(1.0)
    assert found.latency[0].high_ms == pytest.approx(3.0)
    assert found.latency[1].mid_ms == pytest.approx(4.0)
    assert (found.load_ms, found.memory_bytes, found.notes) == (250.0, 400, ())


def test_a_percentile_needs_its_runs_and_an_interval_its_six() -> None:
    found = figures_of(profile((1, 3, [0.001] * P95_NEEDS), (4, 3, [0.001] * 5)))
    [row] = found.latency
    assert row.p95_ms == pytest.approx(1.0)
    assert found.notes == ("batch 4: 5 runs",)
    assert figures_of(profile((1, 3, [0.001] * (P95_NEEDS - 1)))).latency[0].p95_ms is None


def test_why_nothing_ran_is_told_once() -> None:
    found = figures_of(profile((1, 3, []), (4, 3, []), reason="E325 no such file"))
    assert (found.latency, found.notes) == ((), ("E325 no such file",))


def test_a_variant_is_measured_in_a_process_of_its_own(store: Store) -> None:
    card = build(store, "tiny", "ort_dynamic")
    files = store.files("tiny", card.variant)
    found = asyncio.run(profiled("onnx", ModelSpec("tiny", card.variant, files), ITEMS))
    assert found.notes == ()
    assert [row.batch for row in found.latency] == [1, 4, 8]
    assert all(0 < row.low_ms <= row.mid_ms <= row.high_ms and row.n >= 6 for row in found.latency)
    assert found.load_ms is not None
    assert found.load_ms > 0


def test_a_form_that_the_backend_does_not_read_is_a_note(store: Store) -> None:
    found = asyncio.run(profiled("onnx", ModelSpec("tiny", "", {}), ITEMS))
    assert found.latency == ()
    assert [note for note in found.notes if note.startswith("E325")]
