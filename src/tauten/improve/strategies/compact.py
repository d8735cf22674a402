"""Makes models write less: a bound on an answer, a shorter form of it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from tauten.improve.situation import Proposal, Refusal, Situation
from tauten.improve.turned import turned


class Compact:
    """What stages offer of it."""

    name: ClassVar[str] = "compact"
    reason: ClassVar[str] = "last: it changes what people read"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        return turned(self.name, seen)
