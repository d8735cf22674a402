"""Write the alphabet that an OCR recognition model carries in its ONNX metadata as a text file.

One character a line, in class order: line i is class i + 1 (class 0 is the CTC blank). The space, which
PP-OCR adds as the last class without naming it, is written out. Read it with `split("\\n")`: the
alphabet holds characters that `splitlines` would cut at.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tauten.errors import StoreError


def convert(inputs: Sequence[Path], output: Path) -> None:
    """Write `character` of the model's metadata, plus the space, to `output`."""
    import onnx

    model = onnx.load(str(inputs[0]))
    characters = {item.key: item.value for item in model.metadata_props}["character"].split("\n")
    classes = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    lines = [*characters, " "]
    if classes and classes != len(lines) + 1:
        raise StoreError(
            f"the model has {classes} classes and an alphabet of {len(lines)}; expected one class more",
            help="this recognition model needs another converter",
            code="E314",
        )
    output.write_text("\n".join(lines), encoding="utf-8", newline="")
