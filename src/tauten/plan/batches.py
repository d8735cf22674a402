"""How many items share a run of a model where a plan says nothing: by what its stage takes.

A plan that says `max` has said how much a run holds: its batches have no other bound unless it gives one.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from msgspec.structs import replace

from tauten.describe.payload import Payload
from tauten.describe.stage import StageKind
from tauten.plan.plan import Batch

ALONE: Final = Batch(max=1)

DEFAULTS: Final[Mapping[str, Batch]] = {
    # convolutions fill a processor with a few; memory grows by pixels: 8 pictures of 640 by 640, 3 colours
    "image": Batch(max=8, weight=8.0 * 640 * 640 * 3),
    # the weights are read once for all short rows; 32 of 128 tokens, each counted in ids, mask and types
    "text": Batch(max=32, weight=32.0 * 128 * 3),
    "audio": Batch(max=4, weight=60.0),  # the longest pads the others; two windows of 30 s, as whisper counts
    "video": ALONE,  # frames of one video are a batch already
    "tensor": Batch(max=16),  # of one shape, which says nothing of its cost
}


def modality(kind: StageKind[..., Any]) -> str:
    """What a stage takes: its first input that is media, text or a tensor; "" where there is none."""
    for port in kind.inputs.values():
        for each in port.kinds:
            if each is str:
                return "text"
            if isinstance(each, type) and issubclass(each, Payload) and each.__name__.lower() in DEFAULTS:
                return each.__name__.lower()
    return ""


def in_force(said: Batch, kind: StageKind[..., Any], options: Mapping[str, Any]) -> Batch:
    """The limits of a model's batches: what the plan says, else the default of its stage's modality."""
    default = ALONE if options.get("unbatched") else DEFAULTS.get(modality(kind), ALONE)
    if said.max:
        return said
    return replace(said, max=default.max, weight=said.weight or default.weight)
