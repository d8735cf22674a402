"""Gives a model less of an input: a smaller picture, fewer frames, a shorter window."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.turned import turned


class Reduce:
    """What stages offer of it, each by itself."""

    name: ClassVar[str] = "reduce"
    reason: ClassVar[str] = "after shorter numbers, which lose less for what they gain"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        return turned(self.name, seen)
