"""classify: crops, probabilities, the screen signal; drawn pictures on the real model."""
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra import numpy as arrays
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from kit.direct import DirectContext, direct
from tauten.describe.payload import Image
from tauten.describe.stages import classify as module
from tauten.describe.stages.classify import SCREEN_CLASSES, Label, Labels, classify
from tauten.errors import InputError

NAMES = ("tench", "website", "menu", "sunscreen")


def gradient(width: int, height: int) -> np.ndarray[Any, Any]:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([x, y, (x + y) / 2], -1).astype(np.uint8)


@pytest.mark.parametrize("size", [(640, 480), (300, 900), (256, 256), (100, 50)])
def test_center_is_resize_to_256_then_the_middle_224(size: tuple[int, int]) -> None:
    picture = gradient(*size)
    scale = 256 / min(size)
    wide, high = (round(side * scale) for side in size)
    resized = Pillow.fromarray(picture).resize((wide, high), Pillow.Resampling.BICUBIC)
    left, top = (wide - 224) // 2, (high - 224) // 2
    two_steps = np.asarray(resized.crop((left, top, left + 224, top + 224)), np.float32)
    ours = module.center(picture).transpose(1, 2, 0) * 128 + 127
    assert ours.shape == (224, 224, 3)
    assert np.abs(ours - two_steps).mean() < 1.0  # of 255: half a pixel of phase where a size does not divide


@pytest.mark.parametrize("size", [(640, 160), (10, 500), (224, 224)])
def test_whole_letterboxes_in_grey(size: tuple[int, int]) -> None:
    tensor = module.whole(np.full((size[1], size[0], 3), 255, np.uint8))
    assert tensor.shape == (3, 224, 224)
    white = (tensor[0] == 1.0).mean()
    assert white == pytest.approx(min(size) / max(size), abs=0.01)
    assert set(np.unique(tensor)) <= {0.0, 1.0}


@given(arrays.arrays(np.float32, 4, elements=some.floats(-60, 60, width=32)))
def test_probabilities_sum_to_one_and_labels_are_sorted(logits: np.ndarray[Any, Any]) -> None:
    labels = module.labels_of([logits], NAMES, 4)
    assert sum(label.score for label in labels.labels) == pytest.approx(1, abs=1e-5)
    scores = [label.score for label in labels.labels]
    assert scores == sorted(scores, reverse=True)
    assert labels.screen == pytest.approx(labels.share(SCREEN_CLASSES), abs=1e-6)


def test_screen_is_the_larger_crop_and_labels_their_mean() -> None:
    photo, screen = np.log(np.array([[0.9, 0.05, 0.04, 0.01], [0.1, 0.5, 0.3, 0.1]], np.float32))
    labels = module.labels_of([photo, screen], NAMES, 2)
    assert labels.screen == pytest.approx(0.8, abs=1e-5)
    assert labels.labels[0] == Label("tench", pytest.approx(0.5, abs=1e-5))
    assert labels.best.name == labels.text == "tench"


def test_crops_cost_one_inference_each_and_bad_settings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_bytes(msgspec.json.encode(NAMES))
    context = DirectContext(
        classify,
        fakes={"model": lambda item: {"logits": np.arange(4, dtype=np.float32)}},
        files={"model": {"labels.json": tmp_path / "labels.json"}},
    )
    picture = Image.from_array(gradient(64, 32))
    both = direct(classify, picture, crops="center+whole", top=1, context=context)
    assert both == Labels([Label("sunscreen", pytest.approx(0.6439, abs=1e-4))], both.screen)
    assert len(context.items["model"]) == 2
    for wrong in ({"crops": "left"}, {"top": 0}):
        with pytest.raises(InputError) as caught:
            direct(classify, picture, context=context, **wrong)
        assert caught.value.code == "E240"


@pytest.mark.models
def test_every_screen_class_is_a_label_of_the_model() -> None:
    names = module._names(DirectContext(classify).files("model")["labels.json"])
    assert len(names) == 1000
    assert set(names) >= SCREEN_CLASSES


@pytest.mark.models
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
def test_a_drawn_terminal_is_a_screen_and_a_gradient_is_not(backend: str) -> None:
    terminal = Pillow.new("RGB", (960, 540), "#1e1e1e")
    draw, font = ImageDraw.Draw(terminal), ImageFont.load_default(18)
    for row in range(18):
        draw.text(
            (20, 20 + 28 * row), f"  File 'app.py', line {row}, in compute  value = items[{row}]", font=font
        )
    screen = direct(classify, Image.from_pil(terminal), crops="center+whole", context=_on(backend))
    plain = direct(classify, Image.from_array(gradient(960, 540)), crops="center+whole", context=_on(backend))
    assert screen.screen > 0.2 > plain.screen
    assert len(screen.labels) == 5


def _on(backend: str) -> DirectContext:
    return DirectContext(classify, backends={"model": backend}, precision="f32")
