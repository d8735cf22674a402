"""Computes once what prompts begin with: the keys and values of their first tokens are kept."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.turned import turned


class Prefix:
    """What engines offer of it."""

    name: ClassVar[str] = "prefix"
    reason: ClassVar[str] = (
        "before anything that makes prompts shorter: a beginning that is kept costs nothing"
    )

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        return turned(self.name, seen)
