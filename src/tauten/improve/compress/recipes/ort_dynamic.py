"""INT8 weights, activations quantised as they come: ONNX Runtime's dynamic quantisation. Needs no items.

Every matrix of MatMul and Gemm becomes int8; each run finds the range of its activations itself (Jacob et al.
2018, arXiv 1712.05877, is the integer arithmetic). For encoders; convolutions run slower so, and are left alone.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tauten.improve.compress.onnx_file import MODEL, prepared, quiet, read, require_weights
from tauten.improve.compress.recipe import Feed, Recipe, Setting, Settings, Tell


def make(
    files: Mapping[str, Path], folder: Path, settings: Settings, items: Sequence[Feed], tell: Tell
) -> dict[str, Path]:
    """Write model.onnx with int8 matrices."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    require_weights(read(files[MODEL]), "ort_dynamic")
    made = folder / MODEL
    with prepared(files[MODEL], folder, tell) as source, quiet():
        tell("quantise the weights")
        quantize_dynamic(
            str(source),
            str(made),
            op_types_to_quantize=_operators(settings),
            per_channel=settings["scales"] == "channel",
            reduce_range=bool(settings["reduce_range"]),
            weight_type=QuantType.QInt8,
            extra_options=_OPTIONS,
        )
    return {MODEL: made}


_OPTIONS: dict[str, Any] = {
    "MatMulConstBOnly": True,  # products of two activations gain nothing, and attention is sensitive
}


def _operators(settings: Settings) -> list[str]:
    return ["MatMul", "Gemm", *(["Gather"] if settings["embeddings"] else [])]


RECIPE = Recipe(
    name="ort_dynamic",
    summary="int8 weights for MatMul and Gemm, activations quantised at each run",
    reads="onnx",
    writes="onnx",
    replaces=(MODEL,),
    tools=("onnx", "onnxruntime"),
    make=make,
    settings={
        "scales": Setting(
            "channel", "one scale for a whole matrix loses its small columns", ("channel", "tensor")
        ),
        "reduce_range": Setting(False, "7 bits are for processors without VNNI, whose int16 sums overflow"),
        "embeddings": Setting(False, "the table shrinks the file, and was slower from 128 tokens on"),
    },
)
