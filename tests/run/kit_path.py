"""Places and rows for the tests of paths: what a path sees of deployments and of finished requests."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections import defaultdict

from tauten.run.request import Asked
from tauten.run.trace import VISIT, Row


class Busy:
    """A place with a wait."""

    def __init__(self, wait_s: float = 0.0) -> None:
        self.wait = wait_s
        self.coming = 0
        self.coming_of: defaultdict[str, int] = defaultdict(int)

    @property
    def waiting(self) -> int:
        return round(self.wait * 1e6)  # who waits longer waits behind more

    def came(self, request: Asked) -> None:
        request.coming.remove(self)
        self.coming -= request.count

    def wait_s(self, priority: int, now: float, coming: int = 0, tenant: str | None = None) -> float:
        return self.wait


def visit(step: str, start: float, end: float, waited: float = 0.0) -> list[Row]:
    """The rows of one visit: its wait, and its whole stay."""
    return [(step, "queue", start, start + waited), (step, VISIT, start, end)]
