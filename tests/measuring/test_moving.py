"""For how much of a run a model moves bytes: counted in a graph, taken from the size of other files."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from serve.kit_onnx import linear
from tauten.improve.measuring import graphs
from tauten.improve.measuring.cost import memory_share
from tauten.improve.measuring.moving import moving_of
from tauten.improve.simulate.costs import STILL
from tauten.plan.hardware import Hardware
from tauten.plan.peaks import Bandwidth, MatrixRate, Peaks
from tauten.plan.plan import ModelChoice
from tauten.plan.roofline import Point

CHOICE = ModelChoice(model="product", backend="onnx", threads=1, options={"unbatched": True})


def peaks(flops_s: float, bytes_s: float) -> Peaks:
    return Peaks(Hardware(2), (MatrixRate("onnx", "f32", 1, flops_s),), (Bandwidth("memory", 1, bytes_s),))


def test_of_a_graph_it_is_what_the_roofline_says(tmp_path: Path) -> None:
    path, item = graphs.product(tmp_path, 64), {"x": np.ones((64, 64), np.float32)}
    moved = 64 * 64 * 4 + 2 * 64 * 64 * 4
    here = peaks(2.0 * 64**3, moved * 4.0)  # a second of arithmetic, a quarter of one of copying
    found = moving_of(CHOICE, {"model.onnx": path}, [item], here)
    assert (found.weight, found.seconds) == (64 * 64, pytest.approx(0.25))
    share = memory_share(path, [item], here, Point(threads=1, engine="onnx"), unbatched=True)
    assert found.share_of(1.0) == pytest.approx(share)
    assert found.share_of(0.5) == pytest.approx(0.5), "measured runs count, not those of the formula"
    assert found.share_of(0.1) == 1.0


def test_shorter_weights_move_fewer_bytes(tmp_path: Path) -> None:
    path, item = graphs.product(tmp_path, 64), {"x": np.ones((64, 64), np.float32)}
    here = peaks(1e12, 1e6)
    full = moving_of(CHOICE, {"model.onnx": path}, [item], here, precision="f32")
    half = moving_of(CHOICE, {"model.onnx": path}, [item], here, precision="bf16")
    assert full.seconds - half.seconds == pytest.approx(64 * 64 * 2 / 1e6)


def test_the_item_of_median_size_stands_for_all(tmp_path: Path) -> None:
    items = [{"x": np.ones(4, np.float32)}] * 2 + [{"x": np.ones(5, np.float32)}]  # the file takes four
    choice = ModelChoice(model="linear", backend="onnx", threads=1)
    assert moving_of(choice, {"model.onnx": linear(tmp_path)}, items, peaks(1e3, 1e3)).weight == 4.0


def test_other_files_are_read_once_at_least(tmp_path: Path) -> None:
    weights = tmp_path / "model.gguf"
    weights.write_bytes(bytes(50_000))
    (tmp_path / "tokenizer.json").write_bytes(bytes(100))
    files = {path.name: path for path in tmp_path.iterdir()}
    choice = ModelChoice(model="talker", backend="llm", threads=1)
    assert moving_of(choice, files, [{"prompt": "why?"}], peaks(1e9, 1e6)).seconds == pytest.approx(0.05)


def test_without_a_bandwidth_or_a_file_nothing_is_said(tmp_path: Path) -> None:
    choice, item = ModelChoice(model="m", backend="onnx"), {"x": np.ones((64, 64), np.float32)}
    assert moving_of(choice, {}, [item], peaks(1e9, 1e6)) == STILL
    path = graphs.product(tmp_path, 64)
    assert moving_of(CHOICE, {"model.onnx": path}, [item], Peaks(Hardware(2))) == STILL
    assert moving_of(choice, {"a.bin": tmp_path / "gone.bin"}, [item], peaks(1e9, 1e6)) == STILL
