"""Tiny ONNX models that recipes are tried on, and stores that hold them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from serve.kit_onnx import write
from tauten.models import Store
from tauten.models.catalog import Catalog

Array = NDArray[Any]


def tensors(**arrays: Any) -> list[Any]:
    """Initializers by name, as float32."""
    return [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in arrays.items()]


def node(kind: str, inputs: str, output: str, **attributes: Any) -> Any:
    """``node("Add", "a b", "c")``."""
    return helper.make_node(kind, inputs.split(), [output], name=f"{kind}_{output}", **attributes)


def two_layers(folder: Path, spread: float = 1.0) -> Path:
    """x [n, 32] to y [n, 16]. Four of the 64 hidden columns weigh `spread` times the others; a clip to 0..6 bounds
    what they give, as in networks for phones."""
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(32, 64)) * 0.3, draw.normal(size=(64, 16))
    first[:, :4] *= spread
    nodes = [
        node("MatMul", "x first", "h"),
        node("Clip", "h low high", "bounded"),
        node("MatMul", "bounded second", "y"),
    ]
    sides: tuple[dict[str, Any], dict[str, Any]] = (
        {"x": ("float32", ["n", 32])},
        {"y": ("float32", ["n", 16])},
    )
    return write(folder / "model.onnx", nodes, *sides, tensors(first=first, second=second, low=0, high=6))


def questions(count: int = 64) -> Array:
    """Inputs of `two_layers`."""
    return np.random.default_rng(1).normal(size=(count, 32)).astype(np.float32)


def classifier(folder: Path, classes: int = 1000) -> Path:
    """x [n, 3, 224, 224] to logits [n, classes]: the mean of each colour, and one matrix."""
    weights = np.random.default_rng(2).normal(size=(3, classes))
    nodes = [
        node("GlobalAveragePool", "x", "means"),
        node("Flatten", "means", "flat"),
        node("MatMul", "flat weights", "logits"),
    ]
    given = {"x": ("float32", ["n", 3, 224, 224])}
    return write(
        folder / "model.onnx", nodes, given, {"logits": ("float32", ["n", classes])}, tensors(weights=weights)
    )


def encoder(folder: Path, blocks: int = 3, width: int = 8) -> Path:
    """A transformer encoder with a mask, normalised after each sum: x [n, t, width], mask [n, 1, t] to y."""
    draw = np.random.default_rng(3)
    weights: dict[str, Any] = {"scale": width**-0.5, "one": np.ones(width), "zero": np.zeros(width)}
    nodes = [node("LayerNormalization", "x one zero", "block0")]
    for block in range(blocks):
        weights |= {f"{name}{block}": draw.normal(size=(width, width)) * 0.4 for name in "qkvo"}
        weights |= {
            f"up{block}": draw.normal(size=(width, 16)),
            f"down{block}": draw.normal(size=(16, width)),
        }
        nodes += _block(block)
    nodes.append(node("Identity", f"block{blocks}", "y"))
    given = {"x": ("float32", ["n", "t", width]), "mask": ("float32", ["n", 1, "t"])}
    return write(
        folder / "model.onnx", nodes, given, {"y": ("float32", ["n", "t", width])}, tensors(**weights)
    )


def _block(b: int) -> list[Any]:
    return [
        *(node("MatMul", f"block{b} {name}{b}", f"{name}_{b}") for name in "qkv"),
        node("Transpose", f"k_{b}", f"kt_{b}", perm=[0, 2, 1]),
        node("MatMul", f"q_{b} kt_{b}", f"raw_{b}"),
        node("Mul", f"raw_{b} scale", f"scaled_{b}"),
        node("Add", f"scaled_{b} mask", f"masked_{b}"),
        node("Softmax", f"masked_{b}", f"shares_{b}", axis=-1),
        node("MatMul", f"shares_{b} v_{b}", f"mixed_{b}"),
        node("MatMul", f"mixed_{b} o{b}", f"out_{b}"),
        node("Add", f"out_{b} block{b}", f"sum_{b}"),
        node("LayerNormalization", f"sum_{b} one zero", f"normal_{b}"),
        node("MatMul", f"normal_{b} up{b}", f"wide_{b}"),
        node("Relu", f"wide_{b}", f"bent_{b}"),
        node("MatMul", f"bent_{b} down{b}", f"narrow_{b}"),
        node("Add", f"narrow_{b} normal_{b}", f"whole_{b}"),
        node("LayerNormalization", f"whole_{b} one zero", f"block{b + 1}"),
    ]


def run(path: Path, feed: Mapping[str, Array]) -> Array:
    """The first output of a model on one thread of ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, dict(feed))[0]
    return output


def cosine(a: Array, b: Array) -> float:
    """How alike two outputs are: 1 for the same up to a factor."""
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


def agreement(a: Array, b: Array) -> float:
    """The share of rows whose largest number is in the same place."""
    return float((a.argmax(axis=-1) == b.argmax(axis=-1)).mean())


def store_of(folder: Path, model: Path, name: str = "tiny", variant: str = "fp32") -> Store:
    """A store whose catalog has one model: this file, and labels beside it. Offline but for files."""
    labels = folder / "labels.json"
    labels.write_text(json.dumps([f"class {number}" for number in range(1000)]))
    lines = [
        'schema = "tauten.catalog/1"',
        f"[models.{name}]",
        'task = "classify"\nlicence = "MIT"\nprovenance = "made here"\ndefault = true',
        f"[models.{name}.variants.{variant}]",
        f'files = {{ "{model.name}" = "{model.name}", "labels.json" = "labels.json" }}',
    ]
    for path in (model, labels):
        lines += [
            f'[models.{name}.fetched."{path.name}"]',
            f'sha256 = "{hashlib.sha256(path.read_bytes()).hexdigest()}"',
            f"size_bytes = {path.stat().st_size}",
            f'sources = ["file:{path}"]',
        ]
    return Store(folder / "store", catalog=Catalog.parse("\n".join(lines)))
