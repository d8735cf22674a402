"""One claim of a gate: at most so many of the shortcuts that these tenants and categories take are wrong."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math

import msgspec

from tauten.statistics.monitor import Watch
from tauten.statistics.selective import Selected

POOL = "*"  # the scope of all cells that have too few labelled items to stand alone


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate says of one scope: whether shortcuts are taken there, and why or why not.

    `n` labelled items at or above the threshold, `wrong` of them, and the upper bound of P(wrong | taken) that they
    prove; `needed` would do where none is wrong. `verified` and `verified_wrong` came since, by lot; `rate` is what
    they say of all shortcuts; `evidence` against the claim closes the gate at 1 / alpha.
    """

    scope: str
    open: bool
    why: str
    threshold: float | None
    n: int
    wrong: int
    needed: int
    bound: float
    epsilon: float
    eta: float
    verified: int
    verified_wrong: int
    rate: float | None
    evidence: float


class Scope(msgspec.Struct, kw_only=True):
    """One claim, and what was seen of it; kept as plain data. `cells` are ``tenant/category``."""

    name: str
    cells: list[str]
    epsilon: float
    eta: float  # its part of the gate's
    threshold: float | None
    near: float | None = None  # below it shortcuts are closest to the threshold; None: all are
    n: int = 0
    wrong: int = 0
    needed: int = 0
    bound: float = 1.0
    watch: Watch
    watches: dict[str, Watch] = {}  # of the cells of a pool
    closed: dict[str, str] = {}  # cells that were closed, and why

    def least(self, cell: str) -> float:
        """The score from which a cell takes the shortcut; infinity where it takes none."""
        shut = self.threshold is None or cell in self.closed
        return math.inf if shut or self.threshold is None else self.threshold

    def observe(self, cell: str, wrong: bool, chance: float) -> bool:
        """Count a verified shortcut; whether it closed something."""
        shut = len(self.closed)
        if self.watch.observe(wrong, chance):
            for each in self.cells:
                self.closed.setdefault(each, _refuted(self.watch, "shortcuts"))
        own = self.watches.get(cell)
        if own is not None and own.observe(wrong, chance):
            self.closed.setdefault(cell, _refuted(own, f"shortcuts of {cell}"))
        return len(self.closed) > shut

    def verdict(self) -> Verdict:
        why = self._why()
        return Verdict(
            scope=self.name,
            open=self.threshold is not None and len(self.closed) < len(self.cells),
            why=why,
            threshold=self.threshold,
            n=self.n,
            wrong=self.wrong,
            needed=self.needed,
            bound=self.bound,
            epsilon=self.epsilon,
            eta=self.eta,
            verified=self.watch.n,
            verified_wrong=self.watch.wrong,
            rate=self.watch.rate,
            evidence=self.watch.evidence,
        )

    def _why(self) -> str:
        if self.threshold is None:
            return (
                f"closed: {self.wrong} wrong of {self.n} at the strictest threshold prove at most {self.bound:.1%}, "
                f"{self.epsilon:.1%} is wanted; {self.needed} without an error would do"
            )
        if self.closed:
            return "; ".join(dict.fromkeys(self.closed.values()))
        return (
            f"open from {self.threshold:.3g}: {self.wrong} wrong of {self.n}, "
            f"at most {self.bound:.1%} with {1 - self.eta:.1%} confidence"
        )


def scope_of(
    name: str,
    cells: list[str],
    found: Selected,
    near: float | None,
    watch: Watch,
    eta: float,
    *,
    pooled: bool,
) -> Scope:
    """A claim as it was proved, or not; each cell of a pool has a watch of its own, too."""
    return Scope(
        name=name,
        cells=cells,
        epsilon=watch.epsilon,
        eta=eta,
        threshold=found.threshold,
        near=near,
        n=found.n,
        wrong=found.wrong,
        needed=found.needed,
        bound=found.bound,
        watch=watch,
        watches={cell: Watch(watch.epsilon, watch.alpha, watch.floor) for cell in cells} if pooled else {},
    )


def _refuted(watch: Watch, what: str) -> str:
    rate = f"{watch.rate:.1%}" if watch.rate is not None else "unknown"
    return (
        f"closed by itself: {watch.wrong} of {watch.n} verified {what} were wrong (about {rate}), which is "
        f"evidence {watch.peak:.3g} against at most {watch.epsilon:.1%}; it closes at {1 / watch.alpha:.3g}"
    )
