"""On whose account the calls go that a batch backend makes elsewhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from tauten.run.request import Asked
from tauten.run.usage.call import Call, together

if TYPE_CHECKING:
    from tauten.run.usage.budgets import Hold


class Account:
    """A request, its step, and what is held of its budgets (`hold`) until no more calls are made for it."""

    __slots__ = ("_made", "_request", "_step", "hold")

    def __init__(self, request: Asked, step: str) -> None:
        self._request = request
        self._step = step
        self.hold: Hold | None = None
        self._made: tuple[Call, ...] = ()

    def took(self, calls: Sequence[Call]) -> None:
        """Calls are over; their request may have left by then."""
        self._made += tuple(calls)
        for call in calls:
            self._request.took(replace(call, step=self._step))

    def settle(self) -> None:
        """No more calls come: the budgets get back what they did not take."""
        if self.hold is not None:
            self.hold.settle(together(self._made) if self._made else None)
