"""Zeros for the smallest weights: unstructured magnitude pruning, so that it can be shown to gain nothing here.

Han et al. 2015 (arXiv 1506.02626) remove weights by magnitude; a dense kernel multiplies zeros like any number,
so neither time nor memory falls on the engines here. Files shrink only when they are packed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tauten.improve.compress.onnx_file import MODEL, read, require_weights, write
from tauten.improve.compress.recipe import Feed, Recipe, Setting, Settings, Tell


def make(
    files: Mapping[str, Path], folder: Path, settings: Settings, items: Sequence[Feed], tell: Tell
) -> dict[str, Path]:
    """Write model.onnx with that share of the weights at zero, counted over all heavy operators together."""
    import numpy as np
    from onnx import numpy_helper

    model = read(files[MODEL])
    tensors = require_weights(model, "sparse")
    arrays = {name: numpy_helper.to_array(tensor).copy() for name, tensor in tensors.items()}
    sizes = np.concatenate([np.abs(array).ravel() for array in arrays.values()])
    count = round(float(settings["share"]) * sizes.size)
    tell(f"zero {count} of {sizes.size} weights")
    bound = np.partition(sizes, count - 1)[count - 1] if count else -1.0
    for name, array in arrays.items():
        array[np.abs(array) <= bound] = 0
        tensors[name].CopyFrom(numpy_helper.from_array(array, name))
    return {MODEL: write(model, folder)}


RECIPE = Recipe(
    name="sparse",
    summary="zeros for the smallest weights; no gain on dense engines",
    reads="onnx",
    writes="onnx",
    replaces=(MODEL,),
    tools=("onnx", "numpy"),
    make=make,
    settings={
        "share": Setting(0.9, "the share that publications quote", low=0.0, high=1.0),
    },
    doubt="dense engines multiply zeros like any number: no gain on this engine in time or memory",
)
