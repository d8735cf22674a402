"""INT8 weights and activations with ranges from calibration items, in OpenVINO's form: NNCF's quantisation.

It corrects biases on the items; for transformers it first moves the spread of activations into the weights
(SmoothQuant, Xiao et al. 2023, arXiv 2211.10438).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tauten.improve.compress.onnx_file import MODEL
from tauten.improve.compress.openvino_file import nncf_without_reports, read, write
from tauten.improve.compress.recipe import Feed, Recipe, Setting, Settings, Tell


def make(
    files: Mapping[str, Path], folder: Path, settings: Settings, items: Sequence[Feed], tell: Tell
) -> dict[str, Path]:
    """Write model.xml and model.bin with quantised weights and activations."""
    model = read(files[MODEL])
    tell(f"calibrate on {len(items)} items")
    with nncf_without_reports() as nncf:
        made = nncf.quantize(
            model,
            nncf.Dataset(items),
            preset=nncf.QuantizationPreset(str(settings["preset"])),
            model_type=nncf.ModelType.TRANSFORMER if settings["transformer"] else None,
            subset_size=len(items),
        )
    return write(made, folder)


RECIPE = Recipe(
    name="nncf_static",
    summary="int8 weights and activations for OpenVINO, ranges from calibration items",
    reads="onnx",
    writes="openvino",
    replaces=(MODEL,),
    tools=("nncf", "openvino"),
    make=make,
    settings={
        "preset": Setting(
            "mixed", "asymmetric activations: most come out of ReLU or GELU", ("mixed", "performance")
        ),
        "transformer": Setting(False, "true for encoders: attention keeps its precision where it needs it"),
    },
    needs_calibration=True,
    extra="compress",
)
