"""Calibration items: what a model is really given when the inputs of a recording go through its stage.

The stage that ships for a model decodes and prepares each input, as in a request, and what it hands to the
model is kept. So ranges are those of real inputs, prepared in the one place that knows how.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from tauten.describe.payload import Payload
from tauten.describe.stage import StageKind
from tauten.errors import InputError
from tauten.improve.compress.recipe import Feed
from tauten.shelf import Shelf

if TYPE_CHECKING:
    from tauten.improve.recording import Recording
    from tauten.run.deploy.deployments import Models

MOST = 300  # more widen no range by much; the usual number of the tools and of the papers
_STAGES = Shelf("tauten.describe.stages", "tauten.stages")


class Calibration(NamedTuple):
    """Items of one model, as its stage hands them to a backend: arrays, mostly without the batch axis.

    `options` are those of the stage's role: `unbatched` says that the arrays are whole.
    """

    items: list[Mapping[str, Any]]
    options: Mapping[str, Any]

    @property
    def feeds(self) -> list[Feed]:
        """The items as the model's file takes them: each alone in its batch."""
        whole = bool(self.options.get("unbatched", False))
        return [
            {name: array if whole else array[None] for name, array in item.items()} for item in self.items
        ]


def stage_of(model: str) -> tuple[StageKind[..., Any], str]:
    """The shipped stage that runs a model on one input, and the role that the model has there.

    Raises InputError E278 for a model that none uses so.
    """
    for name in _STAGES.names():
        for kind in vars(_STAGES.own(name)).values():
            if isinstance(kind, StageKind) and kind.sole and not kind.streams:
                for role, wanted in kind.roles.items():
                    if wanted.model == model:
                        return kind, role
    raise InputError(
        f"no stage of Tauten prepares inputs for {model}",
        help="build from Python with items of your own; see docs/variants.md",
        code="E278",
    )


async def calibrate(
    recording: Recording, model: str, *, store: Models | None = None, most: int = MOST
) -> Calibration:
    """What the model gets from the recording's inputs, in order; at most `most` items.

    Runs the stage that ships for the model on its default backend. Raises InputError E278 where no stage
    does, or no input of the recording is of its kind; and what the stage raises.
    """
    from tauten.improve.measuring.overheard import Ear, OverhearingEngine

    kind, role = stage_of(model)
    payloads = list(_fitting(recording, kind))
    if not payloads:
        raise InputError(
            f"recording {recording.name} has no {kind.inputs[kind.sole]}, which {model} sees",
            help="give one with inputs of that kind",
            code="E278",
        )
    ear = Ear(most)
    async with OverhearingEngine(store, ear=ear) as engine:
        for payload in payloads:
            await engine.run_stage(kind, (payload,), {})
            if len(ear.heard(kind.name, role)) >= most:
                break
    return Calibration(ear.heard(kind.name, role), kind.roles[role].options)


def digest(feeds: Iterable[Feed]) -> str:
    """A SHA-256 over names, types, shapes and numbers of calibration items; "" for none."""
    import numpy as np

    found, some = hashlib.sha256(), False
    for feed in feeds:
        some = True
        for name, given in sorted(feed.items()):
            array = np.ascontiguousarray(given)
            found.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
            found.update(array.tobytes())
        found.update(b"\n")
    return found.hexdigest() if some else ""


def _fitting(recording: Recording, kind: StageKind[..., Any]) -> Iterator[Payload]:
    kinds = kind.inputs[kind.sole].kinds
    for item in recording:
        yield from (payload for payload in item.inputs.values() if isinstance(payload, kinds))
