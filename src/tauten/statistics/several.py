"""Several hypotheses at once: how small an error each may have so that all of them together keep theirs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable

from tauten.errors import InputError


def holm(count: int, passes: Callable[[int, float], bool], error: float = 0.05) -> list[float]:
    """The error level at which each of `count` hypotheses was tested last, by stepping down.

    `passes(which, level)` says whether hypothesis `which` is rejected at that level (the change is accepted);
    it must not turn false as the level grows. All are tested at error / count; those that pass are set
    aside and the others tried at error / (how many are left), until none passes. The chance that any
    true hypothesis passes is at most `error`, however they depend on one another.
    Holm, Scand. J. Statist. 6 (1979) 65-70.
    """
    if count < 0 or not 0.0 < error < 1.0:
        raise InputError(f"{count} hypotheses at error {error}", help="write 0.05 for 5 %", code="E252")
    levels = [error / max(1, count)] * count
    left = list(range(count))
    while left:
        level = error / len(left)
        passed = [which for which in left if passes(which, level)]
        for which in left:
            levels[which] = level
        if not passed:
            break
        left = [which for which in left if which not in passed]
    return levels
