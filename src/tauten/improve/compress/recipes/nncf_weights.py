"""Compressed weights in OpenVINO's form, activations quantised by the engine as they come. Needs no items.

NNCF's weight compression. INT8 with a scale a channel is for encoders on processors with VNNI or AMX: on one with
AMX it won in time, size and fidelity. INT4 works in groups, and is for models that exceed the cache.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tauten.improve.compress.onnx_file import MODEL
from tauten.improve.compress.openvino_file import nncf_without_reports, read, write
from tauten.improve.compress.recipe import Feed, Recipe, Setting, Settings, Tell

_GROUPED = "int4"


def make(
    files: Mapping[str, Path], folder: Path, settings: Settings, items: Sequence[Feed], tell: Tell
) -> dict[str, Path]:
    """Write model.xml and model.bin with compressed weights."""
    model = read(files[MODEL])
    tell("compress the weights")
    with nncf_without_reports() as nncf:
        mode = nncf.CompressWeightsMode(str(settings["mode"]))
        made = nncf.compress_weights(model, mode=mode, **_grouping(settings))
    return write(made, folder)


def _grouping(settings: Settings) -> dict[str, Any]:
    """INT8 has one scale a channel, and the tool refuses to hear of groups."""
    if not str(settings["mode"]).startswith(_GROUPED):
        return {}
    return {
        "group_size": int(settings["group_size"]),
        "ratio": float(settings["ratio"]),
        "all_layers": bool(settings["all_layers"]),
    }


RECIPE = Recipe(
    name="nncf_weights",
    summary="int8 or int4 weights for OpenVINO, activations quantised at each run",
    reads="onnx",
    writes="openvino",
    replaces=(MODEL,),
    tools=("nncf", "openvino"),
    make=make,
    settings={
        "mode": Setting(
            "int8_sym",
            "the fastest and truest of those measured on an encoder",
            ("int8_sym", "int8_asym", "int4_sym", "int4_asym"),
        ),
        "group_size": Setting(64, "int4: weights that share a scale; 128 is smaller, 32 truer", low=1),
        "ratio": Setting(1.0, "int4: the share of layers in int4, the others int8", low=0.0, high=1.0),
        "all_layers": Setting(False, "int4: tables and the last layer stay int8, where errors cost most"),
    },
    extra="compress",
)
