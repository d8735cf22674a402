"""Sizes the pieces in which a stream is made: small ones come sooner, large ones cost less."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.turned import turned


class Chunk:
    """What engines offer of it."""

    name: ClassVar[str] = "chunk"
    reason: ClassVar[str] = "after what makes a stream's work less: it only cuts it otherwise"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        return turned(self.name, seen)
