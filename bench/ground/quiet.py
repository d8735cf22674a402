"""Measuring again what the machine disturbed: other programs, and a hypervisor that takes the cores away."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

DISTURBED_SHARE = 0.05  # of the cores; what is below it is left to the medians of the rounds
TRIES = 3  # a host that is busy for longer is busy for the next row as well


def disturbed_share(record: Mapping[str, Any]) -> float:
    """Share of the cores that others used or took while a figure was taken."""
    return float(record.get("foreign_share") or 0.0) + float(record.get("steal_share") or 0.0)


def quietest(measure: Callable[[], dict[str, Any]], tries: int = TRIES) -> dict[str, Any]:
    """The first record that nothing disturbed, else the least disturbed one; `tries` says how many were taken.

    It is chosen by the disturbance alone, never by what it says.
    """
    taken: list[dict[str, Any]] = []
    while len(taken) < tries and not _quiet(taken):
        taken.append(measure())
    return _least(taken)


async def quietest_async(
    measure: Callable[[], Awaitable[dict[str, Any]]], tries: int = TRIES
) -> dict[str, Any]:
    """The same for a measurement on a loop."""
    taken: list[dict[str, Any]] = []
    while len(taken) < tries and not _quiet(taken):
        taken.append(await measure())
    return _least(taken)


def _quiet(taken: Sequence[Mapping[str, Any]]) -> bool:
    return bool(taken) and disturbed_share(taken[-1]) <= DISTURBED_SHARE


def _least(taken: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {**min(taken, key=disturbed_share), "tries": len(taken)}
