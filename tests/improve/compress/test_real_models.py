"""Recipes on the real models: what was measured when they were chosen still holds."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image as Picture

from improve.kit_models import agreement, cosine, run
from tauten.describe.stages.classify import center
from tauten.improve.compress import recipe as recipes
from tauten.improve.compress.blocks import blocks
from tauten.models import Store
from tauten.plan.hardware import hardware

pytestmark = pytest.mark.models

PICTURES = Path(__file__).parents[3] / "src/tauten/examples/help_desk/pictures"


@pytest.fixture(scope="module")
def classifier() -> Path:
    return Store().files("efficientnet-lite0")["model.onnx"]


SUMS_HOLD = bool({"vnni", "amx"} & set(hardware().flags))  # others add up pairs of products in 16 bits


@pytest.fixture(scope="module")
def crops() -> Any:
    """36 squares out of four photographs, as the stage prepares them: the first half calibrates."""
    found = []
    for path in sorted(PICTURES.glob("*.jpg")):
        pixels = np.asarray(Picture.open(io.BytesIO(path.read_bytes())).convert("RGB"))
        height, width = pixels.shape[:2]
        side = min(height, width) // 2
        for top in np.linspace(0, height - side, 3, dtype=int):
            for left in np.linspace(0, width - side, 3, dtype=int):
                found.append(center(pixels[top : top + side, left : left + side]))
    return np.stack(found)


@pytest.fixture(scope="module")
def made(classifier: Path, crops: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    def make(scales: str) -> Path:
        chosen, folder = recipes.find("ort_static"), tmp_path_factory.mktemp(scales)
        items = [{"x": crop[None]} for crop in crops[::2]]
        settings = chosen.read_settings({"scales": scales, "reduce_range": not SUMS_HOLD})
        return chosen.make({"model.onnx": classifier}, folder, settings, items, lambda _: None)["model.onnx"]

    return make


def test_one_scale_a_tensor_flips_the_classifiers_answers(
    classifier: Path, crops: Any, made: Callable[[str], Path]
) -> None:
    """Same size, and, where it was timed, same speed: only the answers tell the two apart."""
    rest = {"x": crops[1::2]}
    wanted = run(classifier, rest)
    channel, tensor = made("channel"), made("tensor")
    assert tensor.stat().st_size == pytest.approx(channel.stat().st_size, rel=0.1)
    assert channel.stat().st_size < classifier.stat().st_size / 3
    found = run(channel, rest), run(tensor, rest)
    assert cosine(found[0], wanted) > cosine(found[1], wanted) + 0.02
    assert agreement(found[0], wanted) > 0.7
    assert agreement(found[1], wanted) < 0.6


def test_the_encoder_has_six_blocks_and_misses_any(tmp_path: Path) -> None:
    model = Store().files("minilm-l6-v2", "fp32")["model.onnx"]
    assert len(blocks(onnx.load(model))) == 6
    draw = np.random.default_rng(0)
    feed = {"input_ids": draw.integers(1000, 20000, (8, 12)), "attention_mask": np.ones((8, 12), np.int64)}
    chosen = recipes.find("drop_block")
    made = chosen.make({"model.onnx": model}, tmp_path, chosen.read_settings({}), (), lambda _: None)
    same = (run(made["model.onnx"], feed) * run(model, feed)).sum(axis=1)
    assert same.max() < 0.99
    assert same.min() > 0.3
