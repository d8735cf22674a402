"""In the order in which they are written: the first that is well."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand


class OrderRouter:
    """The first candidate that is well; with `falls_back` those after it follow one another where one fails.

    With `skips_late` one that is foreseen to be late is passed over, while another one after it would be in time.
    """

    name: ClassVar[str] = "order"
    option_keys: ClassVar[Mapping[str, type]] = {"skips_late": bool}
    judges: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._skips_late = bool(options.get("skips_late", False))

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        able = [each for each in candidates if each.healthy] or list(candidates)
        timely = [each for each in able if not _late(ask, each)] if self._skips_late else able
        ill = [each for each in candidates if each not in able]
        late = [each for each in able if each not in timely]
        ordered = [*timely, *late, *ill]
        passed = [each.name for each in candidates[: candidates.index(ordered[0])]]
        why = (
            f"{ordered[0].name} is first"
            if not passed
            else f"{ordered[0].name}: passed over {', '.join(passed)}"
        )
        return Route(tuple(each.name for each in ordered), why)

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        return Stand(True, "its answer is the answer")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        """The order was written; nothing changes it."""


def _late(ask: Ask, candidate: Candidate) -> bool:
    first_s = candidate.wait_s + candidate.first_s
    return first_s > ask.first_left_s or candidate.wait_s + candidate.total_s > ask.left_s
