"""Turns: settings of a stage or an engine that may be worth trying, told by whoever implements them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any, Literal

import msgspec

Answers = Literal["identical", "equivalent", "lossy"]
"""How far answers may differ: not by a byte; by what another order of the same arithmetic rounds; by what a
quality gate allows."""


class Turn(msgspec.Struct, frozen=True):
    """Settings to be tried together, by the strategy of that name. What decides is a measurement, never this."""

    strategy: str
    settings: dict[str, Any]
    answers: Answers
    why: str  # what it does, for people
