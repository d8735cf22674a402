"""One block of an encoder left out, without training: to be judged by the gate, which rejected it here.

On the encoder measured here any of its six blocks is missed (Spearman of the similarities 0.70 to 0.90). It pays
only where the model was trained for it (LayerDrop, Fan et al. 2019, arXiv 1909.11556) or is trained afterwards.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tauten.errors import InputError
from tauten.improve.compress.blocks import blocks, without
from tauten.improve.compress.onnx_file import MODEL, read, write
from tauten.improve.compress.recipe import Feed, Recipe, Setting, Settings, Tell


def make(
    files: Mapping[str, Path], folder: Path, settings: Settings, items: Sequence[Feed], tell: Tell
) -> dict[str, Path]:
    """Write model.onnx without the block of that number."""
    model = read(files[MODEL])
    row, number = blocks(model), int(settings["block"])
    if not row:
        raise InputError(
            "drop_block: no two blocks of this graph are alike, so none can be left out",
            help="choose another recipe; see docs/variants.md",
            code="E277",
        )
    if not -len(row) <= number < len(row):
        raise InputError(
            f"setting block = {number}, and there are {len(row)} blocks",
            help=f"it is a whole number from {-len(row)} to {len(row) - 1}",
            code="E276",
        )
    tell(f"leave out block {number % len(row) + 1} of {len(row)}")
    return {MODEL: write(without(model, row[number]), folder)}


RECIPE = Recipe(
    name="drop_block",
    summary="one of an encoder's equal blocks left out, untrained",
    reads="onnx",
    writes="onnx",
    replaces=(MODEL,),
    tools=("onnx",),
    make=make,
    settings={
        "block": Setting(
            -3, "from 0, or from the end: the third last was missed least of the three measured"
        ),
    },
    doubt="an encoder that was not trained for it misses any of its blocks",
)
