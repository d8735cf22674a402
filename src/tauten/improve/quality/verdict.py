"""May a change stay? Verdicts on paired evidence.

A change may stay only when the items prove that it loses less than the margin. Too few items is its own
answer, with the number that would do; it is never "ok".
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from tauten.errors import InputError
from tauten.statistics import (
    Interval,
    clopper_pearson,
    items_needed,
    loss_interval,
    loss_p_value,
    paired_bootstrap,
)
from tauten.statistics.rounding import percent

Decision = Literal["accept", "reject", "cannot conclude"]

EXIT_CODES: Final[dict[Decision, int]] = {"accept": 0, "reject": 1, "cannot conclude": 4}

MANY: Final = 100_000  # beyond this many items the advice is to change the margin, not to label more
BOOTSTRAP_MIN: Final = 10  # changed items (or clusters); below, resampling sees too few of them to be trusted
RESAMPLES: Final = 2000  # Efron and Tibshirani ask for at least 1000 for BCa ends
TAIL_RESAMPLES: Final = 100  # beyond the end that is read; fewer leave the end itself to chance


class Flip(msgspec.Struct, frozen=True):
    """An item that was scored differently by the two sides."""

    item: str
    before: float
    after: float

    @property
    def bad(self) -> bool:
        return self.after < self.before


class Verdict(msgspec.Struct, frozen=True):
    """May the change stay? Losses are shares of the score, before minus after; bounds are one-sided.

    `needed` is the number of items that would probably conclude: only for "cannot conclude", and None
    there when no reasonable number would. `p_value` belongs to "the loss is at least the margin".
    """

    decision: Decision
    margin: float
    confidence: float
    n: int
    loss: float
    loss_low: float
    loss_high: float
    method: str
    p_value: float | None = None
    needed: int | None = None
    flips: list[Flip] = []

    @property
    def exit_code(self) -> int:
        """0 accept, 1 reject, 4 cannot conclude."""
        return EXIT_CODES[self.decision]

    @property
    def bad_flips(self) -> list[Flip]:
        return [flip for flip in self.flips if flip.bad]

    @property
    def good_flips(self) -> list[Flip]:
        return [flip for flip in self.flips if not flip.bad]

    def __str__(self) -> str:
        held = percent(self.confidence)
        if self.decision == "accept":
            return f"accept: loss below {_points(self.loss_high)} ({held}, n = {self.n})"
        if self.decision == "reject":
            return f"reject: loss above {_points(self.loss_low)} ({held}, n = {self.n})"
        if self.needed is None:
            return f"cannot conclude with n = {self.n}: the loss is too close to {_points(self.margin)}"
        return f"cannot conclude, n >= {self.needed} (now {self.n})"


def _points(share: float) -> str:
    return f"{share * 100:.1f} points"


def compare(
    before: Mapping[str, bool | float],
    after: Mapping[str, bool | float],
    margin: float,
    confidence: float = 0.95,
    *,
    clusters: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Verdict:
    """Judge `after` against `before`, both scores by item name, on the loss of the mean score.

    Accept: the loss is below `margin` with the confidence. Reject: it is above. Otherwise: cannot
    conclude. Right and wrong without `clusters` use the exact paired test (false accepts at most
    1 - confidence for independent items); other scores, and items that come in clusters (templates,
    speakers), a BCa bootstrap over items or clusters. Raises InputError for items without a partner.
    """
    flips = _pairs(before, after, margin)
    changed = [flip for flip in flips if flip.before != flip.after]
    if clusters is None and _binary(flips):
        return _exact(len(flips), changed, margin, confidence)
    names = [flip.item if clusters is None else clusters[flip.item] for flip in flips]
    return _resampled(flips, changed, names, margin, confidence, seed)


def decide(
    before: Mapping[str, bool | float],
    after: Mapping[str, bool | float],
    margin: float,
    confidence: float = 0.95,
    *,
    clusters: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Decision:
    """What `compare` decides, without its bounds: a tenth of the work where the exact test applies."""
    flips = _pairs(before, after, margin)
    if clusters is not None or not _binary(flips):
        return compare(before, after, margin, confidence, clusters=clusters, seed=seed).decision
    bad = sum(flip.after < flip.before for flip in flips)
    good = sum(flip.after > flip.before for flip in flips)
    return exact_decision(len(flips), bad, good, margin, confidence)[0]


def _pairs(
    before: Mapping[str, bool | float], after: Mapping[str, bool | float], margin: float
) -> list[Flip]:
    items = _same_items(before, after)
    check_margin(margin)
    return [Flip(item, float(before[item]), float(after[item])) for item in items]


def check_margin(margin: float) -> None:
    """Raise InputError for a margin that no number of items can prove."""
    if not 0.0 < margin < 1.0:
        raise InputError(
            f"a margin of {margin} cannot be proved", help="allow a loss such as 0.01", code="E252"
        )


def _binary(flips: list[Flip]) -> bool:
    return all(score in (0.0, 1.0) for flip in flips for score in (flip.before, flip.after))


def _same_items(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    lonely = sorted(set(before) ^ set(after))
    if lonely or not before:
        raise InputError(
            f"{len(lonely)} items lack a partner: {', '.join(lonely[:5])}"
            if lonely
            else "no items to compare",
            help="score the same items on both sides; count a failed request as wrong, do not drop it",
            code="E254",
        )
    return list(before)


def _exact(n: int, changed: list[Flip], margin: float, confidence: float) -> Verdict:
    bad = sum(flip.bad for flip in changed)
    good = len(changed) - bad
    decision, p_value = exact_decision(n, bad, good, margin, confidence)
    bounds = loss_interval(n, bad, good, confidence)
    needed = _needed(n, margin, len(changed) / n, bounds.mid, confidence) if decision[0] == "c" else None
    return _verdict(decision, margin, confidence, bounds, "exact paired test", p_value, needed, changed)


@functools.lru_cache(maxsize=1024)  # labels come one by one, and few of them change the counts
def exact_decision(
    n: int, bad: int, good: int, margin: float, confidence: float = 0.95
) -> tuple[Decision, float]:
    """What n items of which so many flipped decide, and the p-value of "the loss is at least the margin"."""
    error = 1.0 - confidence + 1e-12
    p_value = loss_p_value(n, bad, good, margin)
    if p_value <= error:
        return "accept", p_value
    if bad - good > n * margin and loss_p_value(n, good, bad, -margin) <= error:
        return "reject", p_value
    return "cannot conclude", p_value


def _resampled(
    flips: list[Flip], changed: list[Flip], names: list[str], margin: float, confidence: float, seed: int
) -> Verdict:
    loss = paired_bootstrap(  # before minus after: the loss
        [flip.after for flip in flips],
        [flip.before for flip in flips],
        confidence=confidence,
        sides=1,
        clusters=names,
        resamples=max(RESAMPLES, math.ceil(TAIL_RESAMPLES / (1.0 - confidence) - 1e-9)),
        seed=seed,
    )
    place = {flip.item: name for flip, name in zip(flips, names, strict=True)}
    moved, worse = {place[f.item] for f in changed}, {place[f.item] for f in changed if f.bad}
    sizes = Counter(names)
    bounds = _guarded(loss, sizes, moved, worse, confidence)
    decision: Decision = "cannot conclude"
    if bounds.high < margin:
        decision = "accept"
    elif bounds.low > margin:
        decision = "reject"
    needed = None
    if decision == "cannot conclude":
        losses = [(place[flip.item], flip.before - flip.after) for flip in changed]
        needed = _needed_in_clusters(losses, sizes, moved, worse, margin, confidence)
    return _verdict(decision, margin, confidence, bounds, "BCa bootstrap", None, needed, changed)


def _needed_in_clusters(
    losses: list[tuple[str, float]],
    sizes: Counter[str],
    moved: set[str],
    worse: set[str],
    margin: float,
    confidence: float,
) -> int | None:
    """Items that would conclude, as many to a cluster as now: it is clusters that are independent, not their items.

    Below `BOOTSTRAP_MIN` the exact bounds hold it open, to which a cluster that changed is one that flipped.
    """
    count = len(sizes)
    each = sizes.total() / count
    if len(moved) < BOOTSTRAP_MIN:
        goal, spread = margin * each / max(sizes.values()), len(moved) / count
        loss = (len(worse) - len(moved - worse)) / count
    else:
        lost: defaultdict[str, float] = defaultdict(float)
        for name, value in losses:
            lost[name] += value
        goal, loss = margin, math.fsum(lost.values()) / sizes.total()
        spread = math.fsum((value / each) ** 2 for value in lost.values()) / count
    found = _needed(count, goal, spread, loss, confidence)
    items = MANY + 1 if found is None else math.ceil(found * each - 1e-9)
    return items if items <= MANY else None


def _guarded(
    loss: Interval, sizes: Counter[str], changed: set[str], worse: set[str], confidence: float
) -> Interval:
    """Few changed clusters: no narrower than the exact bounds of the share that got worse.

    A cluster loses at most the whole of its weight; so the bound is scaled by the largest cluster.
    """
    if len(changed) >= BOOTSTRAP_MIN:
        return loss
    count = len(sizes)
    largest = max(sizes.values()) * count / sizes.total()
    high = clopper_pearson(len(worse), count, confidence, sides=1).high * largest
    low = -clopper_pearson(len(changed - worse), count, confidence, sides=1).high * largest
    return Interval(max(-1.0, min(loss.low, low)), loss.mid, min(1.0, max(loss.high, high)), loss.n)


def _needed(n: int, margin: float, discordance: float, loss: float, confidence: float) -> int | None:
    """Items that would conclude if the change were harmless; if we have those, if it is as it looks."""
    count = items_needed(margin, discordance=discordance, confidence=confidence)
    if count <= n:
        if abs(margin - loss) < 1e-9:
            return None
        count = items_needed(margin, discordance=discordance, loss=loss, confidence=confidence)
    count = max(count, n + 1)
    return count if count <= MANY else None


def _verdict(
    decision: Decision,
    margin: float,
    confidence: float,
    bounds: Interval,
    method: str,
    p_value: float | None,
    needed: int | None,
    flips: list[Flip],
) -> Verdict:
    low, mid, high, n = bounds
    return Verdict(decision, margin, confidence, n, mid, low, high, method, p_value, needed, flips)
