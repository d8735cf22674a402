"""Runs a model in shorter numbers: a precision of its engine, or a variant whose weights are stored in them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.improve.situation import Proposal, Refusal, Situation, label, with_choice
from tauten.improve.turned import turned
from tauten.run.contracts import find


class Quantize:
    """Each precision that a model's engine offers; where the arithmetic is not in this machine's units, refused."""

    name: ClassVar[str] = "quantize"
    reason: ClassVar[str] = (
        "first of those that may change answers: it gains most where a model is what takes long"
    )

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        for step, role, choice in seen.models():
            what = label(step, role)
            offered = getattr(find("backends", choice.backend), "precisions", ())
            if not offered:
                yield Refusal(
                    self.name, f"{what} in shorter numbers", f"{choice.backend} runs the file as it is"
                )
            for precision in offered:
                if precision == choice.precision:
                    continue
                if precision == "bf16" and "amx" not in seen.hardware.flags:
                    why = "this machine has no unit for bf16: the engine would convert back and forth"
                    yield Refusal(self.name, f"{what} in {precision}", why)
                    continue
                plan = with_choice(seen.plan, step, role, precision=precision)
                yield Proposal(self.name, f"{what} in {precision}", plan, "lossy")
        yield from (each for each in turned(self.name, seen) if isinstance(each, Proposal))
