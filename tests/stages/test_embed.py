"""embed: padding and truncation; the real model's vectors."""
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest

from kit.direct import DirectContext, direct
from tauten.describe.payload import Tensor
from tauten.describe.stages.embed import embed
from tauten.describe.tokens import token_items
from tauten.errors import InputError


@pytest.mark.models
@pytest.mark.parametrize(("pad_to", "expected"), [(1, 5), (16, 16), (4, 8)])
def test_padding_is_masked_and_a_multiple(pad_to: int, expected: int) -> None:
    path = DirectContext(embed).files("model")["tokenizer.json"]
    [item] = token_items(path, ["open a file"], pad_to, 256)
    used = int(item["attention_mask"].sum())
    assert used == 5  # three words between two markers
    assert item["input_ids"].shape == item["attention_mask"].shape == (expected,)
    assert item["attention_mask"].sum() == 5
    assert not item["input_ids"][5:].any()
    assert {array.dtype for array in item.values()} == {np.dtype(np.int64)}


@pytest.mark.models
def test_long_text_is_cut_and_never_padded_beyond_the_limit() -> None:
    path = DirectContext(embed).files("model")["tokenizer.json"]
    [item] = token_items(path, ["word " * 1000], 16, 100)
    used = int(item["attention_mask"].sum())
    assert (used, len(item["input_ids"])) == (100, 100)


@pytest.mark.parametrize("setting", [{"max_tokens": 1}, {"max_tokens": 513}, {"pad_to": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, int]) -> None:
    with pytest.raises(InputError) as caught:
        direct(embed, "x", context=DirectContext(embed), **setting)
    assert caught.value.code == "E240"


@pytest.mark.models
@pytest.mark.parametrize(
    ("model", "backend"),
    [("minilm-l6-v2:fp32", "onnx"), ("minilm-l6-v2:fp32", "openvino"), ("minilm-l6-v2:int8", "onnx")],
)
def test_near_texts_are_near_in_every_form(model: str, backend: str) -> None:
    def vector(text: str, pad_to: int = 16) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        context = DirectContext(embed, models={"model": model}, backends={"model": backend}, precision="f32")
        out = direct(embed, text, pad_to=pad_to, context=context)
        assert isinstance(out, Tensor)
        assert context.spent["input_tokens"] > 2
        return out.array

    first, near, far = map(vector, ("open a file", "how to open files in Python", "a cat on a mat"))
    assert first.shape == (384,)
    assert first.dtype == np.float32
    assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
    assert first @ near > 0.6 > 0.3 > first @ far
    assert first @ vector("open a file", pad_to=1) > 0.9999
