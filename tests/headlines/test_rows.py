"""Each row does what it says with models that answer by rule; figures are those that the rules give."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import dataclasses
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from headlines.kit_headlines import STAMP, TEXTS, how, line
from tauten.errors import BackendError, InputError, StoreError
from tauten.improve.headlines import measured as rows
from tauten.improve.headlines.alone import alone, few
from tauten.improve.headlines.decisions import agreement, nearest, words
from tauten.improve.headlines.row import Row
from tauten.improve.headlines.rows import l7, l8, l12, l17
from tauten.improve.load.samples import Sample, Samples
from tauten.improve.measuring.bench import Opened, Ran
from tauten.run.contracts import ModelSpec


def test_without_a_kv_cache_all_is_read_again_for_each_token() -> None:
    row = asyncio.run(l7.measure(how()))
    prompt = len(l7.PROMPT.split())
    for length in l7.LENGTHS:
        again, kept = (
            line(row, f"{length} tokens", "answer").cells[name].mid for name in (l7.AGAIN, l7.KEPT)
        )
        assert again == pytest.approx(sum(prompt + n + 10 for n in range(length)))
        assert kept == pytest.approx(prompt + 10 * length)
    ratios = [line(row, f"{length} tokens", "per token").to_naive for length in l7.LENGTHS]
    mids = [each.mid for each in ratios if each is not None]
    assert mids == sorted(mids, reverse=True)  # the longer the answer, the more it saves
    assert len(mids) == len(l7.LENGTHS)
    assert (row.ours, row.rounds) == (row.zero_effort, 7)
    assert row.conditions["model"].endswith("precision f32")


def test_the_prefix_cache_finds_the_prefix_from_the_second_question_on() -> None:
    log: list[Mapping[str, Any]] = []
    row = asyncio.run(l8.measure(how(log)))
    tokens = line(row, "shared prefix", "tokens computed")
    assert tokens.to_naive is not None
    assert 0.1 < tokens.to_naive.mid < 0.15  # the first of ten, and the questions
    first = line(row, "shared prefix", "first token, first question")
    assert first.cells[l8.ON].mid == pytest.approx(first.cells[l8.OFF].mid, abs=2)
    later = line(row, "shared prefix", "first token, later ones")
    assert later.cells[l8.ON].mid < later.cells[l8.OFF].mid / 5
    prefixes = {each["messages"][0]["content"] for each in log if "messages" in each}
    assert len(prefixes) == 7  # no round finds what an earlier one left


def test_the_compact_form_is_compared_on_both_engines() -> None:
    log: list[Mapping[str, Any]] = []
    row = asyncio.run(l12.measure(how(log)))
    out = line(row, l12.FORM, "tokens out")
    assert {name: cell.mid for name, cell in out.cells.items()} == {
        l12.VERBOSE: 12.0,
        l12.FREE: 12.0,
        l12.COMPACT: 4.0,
        l12.BOTH: 4.0,
    }
    half = line(row, l12.HALF, "tokens out")
    assert half.to_zero_effort is not None
    assert half.to_zero_effort.mid == 0.5
    asked = line(row, l12.INPUT, "tokens in").cells
    assert asked[l12.COMPACT].mid < asked[l12.VERBOSE].mid / 3
    questions = [each["messages"][1]["content"].split(".")[0] for each in log if "messages" in each]
    assert len(set(questions)) == 2 * 7 * 10 + 1  # each form of each question of each round, and the warm-up
    assert "the same category for 10 of 10" in row.quality[0]
    assert "agreement cannot accept" in row.quality[0]


def test_a_reading_of_a_round_with_refusals_has_no_latency() -> None:
    good = [Sample(0, at / 10, at / 10, None, at / 10 + 0.02, "ok") for at in range(10)]
    refused = [*good[:5], *(each._replace(outcome="refused") for each in good[5:])]
    rounds = [[[Samples(1.0, good), Samples(1.0, refused)]] * len(l17.BATCHES)]
    found = l17._readings((0.5,), 0.05, rounds)
    assert list(found) == list(l17.BATCHES)
    whole, broken = found[l17.SLACK]
    case = "10/s (0.5 of one client's)"
    assert whole[case, "p95"] == pytest.approx(20.0)
    assert whole[case, "answered"] == 10.0
    assert broken == {(case, "answered"): 5.0, (case, "answered in time"): 5.0}


class Engine:
    """A process that runs a batch in 1 ms an item; the third run fails where it is told to."""

    def __init__(self, error: str = "") -> None:
        self.error, self.asked, self.ended = error, list[Mapping[str, Any]](), False

    async def ask(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        self.asked.append(message)
        if "open" in message:
            return msgspec.to_builtins(Opened(0.2, 3_000_000, {"precision": "f32"}, False, ((0, 1.0),)))
        failed = self.error if len(self.asked) == 4 else ""
        return msgspec.to_builtins(Ran(0.001 * len(message["run"]), memory_bytes=5_000_000, error=failed))

    async def end(self) -> None:
        self.ended = True


def opened(engine: Engine, items: list[Any]) -> Any:
    async def start() -> Any:
        return engine

    return asyncio.run(alone(start, "onnx", ModelSpec("m"), items, batches=(1, 4), runs=3))


def test_a_model_alone_is_opened_warmed_up_and_run_by_batch() -> None:
    engine, item = Engine(), {"x": np.zeros((1, 8), np.float32)}
    found = opened(engine, [item] * 5)
    assert (found.load_ms, found.memory_mb, found.properties["precision"]) == (200.0, 5.0, "f32")
    assert found.run_ms == {1: pytest.approx(1.0), 4: pytest.approx(4.0)}
    assert [len(each["run"]) for each in engine.asked[1:]] == [1] * 5 + [4] * 5
    assert engine.ended


def test_a_run_that_fails_ends_the_process_and_says_why() -> None:
    engine = Engine("E325 no such input")
    with pytest.raises(BackendError, match="m on onnx: E325 no such input"):
        opened(engine, [{"x": np.zeros(3)}])
    assert engine.ended


def test_few_items_of_the_most_frequent_shape_go_to_the_process() -> None:
    small, large = {"x": np.zeros(10)}, {"x": np.zeros(100_000)}
    assert few([small, large, large, large]) == [large]
    assert len(few([small, small, large])) == 2


def test_agreement_rejects_and_never_accepts() -> None:
    many = list(range(1000))
    assert words("a", "class", agreement(many, many)).endswith("no loss above the margin was seen)")
    assert "reject" in words("a", "class", agreement(many, [each + 1 for each in many]))
    ends = [np.array([1.0, 0.0]), np.array([0.9, 0.1]), np.array([0.0, 1.0])]
    assert nearest([{"embedding": each} for each in ends]) == [1, 0, 1]


def test_rows_have_names_claims_and_an_order() -> None:
    assert rows.chosen("") == rows.names() == ["L1", "L5", "L7", "L8", "L12", "L17"]
    assert rows.chosen("l17, L1,") == ["L1", "L17"]
    assert all(rows.claim(name) for name in rows.names())
    with pytest.raises(InputError, match="no row 'L71'") as raised:
        rows.chosen("L1,L71")
    assert "L17" in raised.value.help or "L7" in raised.value.help


def test_a_row_that_cannot_be_measured_says_why_and_the_others_are_measured() -> None:
    class Empty:
        def find(self, model: str, variant: str | None = None) -> Any:
            raise StoreError("smollm2 is not in the store", help="pull it", code="E310")

    shop: Any = Empty()

    async def main() -> list[Row]:
        without = dataclasses.replace(how(quick=True), store=shop)
        return [row async for row in rows.measured(["L7", "L8"], without, STAMP)]

    found = asyncio.run(main())
    assert [row.missing for row in found] == ["E310 smollm2 is not in the store"] * 2
    assert all(row.quick and row.stamp == STAMP and row.claim for row in found)


def test_the_schema_and_the_pattern_hold_the_same_values() -> None:
    assert len(TEXTS) >= 10
    for name, values in l12.SORTS.items():
        assert l12.SCHEMA["properties"][name] == {"enum": list(values)}  # type: ignore[index]
        assert all(value in l12.PATTERN for value in values)


@pytest.mark.models
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is in the extra compress only")
def test_eager_torch_gives_what_the_compiled_graph_gives() -> None:
    import onnxruntime

    from tauten.improve.headlines.eager import Eager
    from tauten.models import Store

    path: Path = Store().files("efficientnet-lite0")["model.onnx"]
    feed = {"x": np.random.default_rng(0).normal(size=(2, 3, 224, 224)).astype(np.float32)}
    wanted = onnxruntime.InferenceSession(path).run(None, feed)[0]
    assert np.abs(Eager(path).run(feed) - wanted).max() < 1e-3
