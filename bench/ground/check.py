"""One number against its bound, and the lines of a plot: what every part of a comparison hands to its page."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One number against its bound; `met` is None where there is no number."""

    name: str
    seen: float | None
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.seen is None:
            return None
        return self.seen >= self.bound if self.at_least else self.seen <= self.bound


@dataclass(frozen=True)
class Line:
    """Points of a curve, each (across, up), with the units of both; "share" is shown in percent."""

    name: str
    points: Sequence[tuple[float, float]]
    across: str = "/s"
    up: str = "ms"
    ours: bool = False  # drawn in our colour
