"""What a policy decided for one request, and what came of it: enough to ask another policy the same."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import msgspec

from tauten.run.contracts import Ask, Candidate, Outcome


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One choice. `outcomes` hold what is known: of the candidates that were asked, and of no other."""

    step: str
    policy: str
    ask: Ask
    candidates: tuple[Candidate, ...]
    order: tuple[str, ...]
    why: str
    chosen: str  # whose value was given; empty where none was
    outcomes: dict[str, Outcome]
