"""The real models: pulled, converted, and giving the numbers they gave when the converters were written."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tauten.models import Store

pytestmark = pytest.mark.models

LOGITS = [0.26599932, 0.59058154, 1.7197427, 1.3839428, 1.8400242]
EMBEDDING = [-0.04792365, 0.02396281, -0.00445476, -0.00933482, -0.05183118, -0.05893205]


@pytest.fixture(scope="module")
def store() -> Store:
    return Store()


def session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def test_efficientnet_gives_its_golden_logits(store: Store) -> None:
    picture = np.linspace(-1, 1, 3 * 224 * 224, dtype=np.float32).reshape(1, 3, 224, 224)
    (logits,) = session(store.files("efficientnet-lite0")["model.onnx"]).run(None, {"x": picture})
    assert logits.shape == (1, 1000)
    assert logits[0, :5] == pytest.approx(LOGITS, abs=1e-3)
    assert int(logits.argmax()) == 701


def embed(store: Store, variant: str, texts: list[str]) -> Any:
    from tokenizers import Tokenizer

    files = store.files("minilm-l6-v2", variant)
    tokenizer = Tokenizer.from_file(str(files["tokenizer.json"]))
    tokenizer.enable_truncation(256)
    tokenizer.enable_padding()
    rows = tokenizer.encode_batch(texts)
    feed = {
        "input_ids": np.array([r.ids for r in rows]),
        "attention_mask": np.array([r.attention_mask for r in rows]),
    }
    (vectors,) = session(files["model.onnx"]).run(["embedding"], feed)
    return vectors


def test_minilm_gives_its_golden_embedding_padded_or_not(store: Store) -> None:
    question, longer = "How do I fix a KeyError?", "A mapping key was not found in the set of existing keys."
    alone, padded = embed(store, "fp32", [question])[0], embed(store, "fp32", [question, longer])[0]
    assert alone[:6] == pytest.approx(EMBEDDING, abs=1e-3)
    assert padded == pytest.approx(alone, abs=1e-5)
    assert np.linalg.norm(alone) == pytest.approx(1, abs=1e-5)


def test_the_int8_variant_can_be_exchanged_for_fp32(store: Store) -> None:
    texts = ["How do I fix a KeyError?", "A context manager closes the file."]
    fp32, int8 = embed(store, "fp32", texts), embed(store, "int8", texts)
    assert ((fp32 * int8).sum(axis=1) > 0.995).all()


def test_the_alphabet_has_a_line_for_every_class(store: Store) -> None:
    files = store.files("pp-ocrv6-small-rec")
    lines = files["characters.txt"].read_text(encoding="utf-8").split("\n")
    assert len(lines) == session(files["model.onnx"]).get_outputs()[0].shape[-1] - 1
    assert lines[-1] == " "


def test_a_small_model_comes_from_its_package(tmp_path: Path) -> None:
    files = Store(tmp_path, offline=False).files("silero-vad")
    assert files["model.onnx"].stat().st_size == 2327524
