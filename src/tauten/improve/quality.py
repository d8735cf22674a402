"""The quality gate: metrics, outcomes of labelled items, and verdicts on paired evidence.

A change may stay only when the items prove that it loses less than the margin. Too few items is its own
answer, with the number that would do; it is never "ok".
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Literal, overload

import msgspec

from tauten.errors import InputError
from tauten.statistics import (
    Interval,
    clopper_pearson,
    items_needed,
    loss_interval,
    loss_p_value,
    paired_bootstrap,
    wilson,
)

Decision = Literal["accept", "reject", "cannot conclude"]

EXIT_CODES: Final[dict[Decision, int]] = {"accept": 0, "reject": 1, "cannot conclude": 4}

MANY: Final = 100_000  # beyond this many items the advice is to change the margin, not to label more
BOOTSTRAP_MIN: Final = 10  # changed items (or clusters); below, resampling sees too few of them to be trusted


class Metric:
    """What good means: a function of an answer and its label, to a score in 0..1 (True is 1)."""

    def __init__(self, function: Callable[..., Any], name: str = "") -> None:
        self.function = function
        self.name = name or getattr(function, "__name__", "metric")
        self.description = (inspect.getdoc(function) or "").partition("\n")[0]

    def __call__(self, answer: Any, label: Any) -> float:
        """The score of one answer; raises InputError when the function gives anything but 0..1."""
        score = self.function(answer, label)
        if not isinstance(score, (bool, int, float)) or not 0.0 <= score <= 1.0:
            raise InputError(
                f"metric `{self.name}` gave {score!r}, expected True, False or a number in 0..1",
                help="return 1 for a perfect answer and 0 for a useless one",
                code="E253",
            )
        return float(score)

    def __repr__(self) -> str:
        return f"<metric {self.name}>"


@overload
def metric(function: Callable[..., Any], /) -> Metric: ...
@overload
def metric(*, name: str = "") -> Callable[[Callable[..., Any]], Metric]: ...
def metric(function: Callable[..., Any] | None = None, /, *, name: str = "") -> Any:
    """Make a metric of ``def good(answer, label) -> bool | float``."""
    return Metric(function, name) if function is not None else lambda body: Metric(body, name)


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
        percent = f"{self.confidence:.0%}"
        if self.decision == "accept":
            return f"accept: loss below {_points(self.loss_high)} ({percent}, n = {self.n})"
        if self.decision == "reject":
            return f"reject: loss above {_points(self.loss_low)} ({percent}, n = {self.n})"
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
    items = _same_items(before, after)
    if not 0.0 < margin < 1.0:
        raise InputError(
            f"a margin of {margin} cannot be proved", help="allow a loss such as 0.01", code="E252"
        )
    flips = [Flip(item, float(before[item]), float(after[item])) for item in items]
    changed = [flip for flip in flips if flip.before != flip.after]
    binary = all(score in (0.0, 1.0) for flip in flips for score in (flip.before, flip.after))
    if binary and clusters is None:
        return _exact(len(items), changed, margin, confidence)
    names = [clusters[item] for item in items] if clusters is not None else items
    return _resampled(flips, changed, names, margin, confidence, seed)


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
    p_value = loss_p_value(n, bad, good, margin)
    bounds = loss_interval(n, bad, good, confidence)
    error = 1.0 - confidence + 1e-12
    decision: Decision = "cannot conclude"
    if p_value <= error:
        decision = "accept"
    elif loss_p_value(n, good, bad, -margin) <= error:
        decision = "reject"
    needed = _needed(n, margin, len(changed) / n, bounds.mid, confidence) if decision[0] == "c" else None
    return _verdict(decision, margin, confidence, bounds, "exact paired test", p_value, needed, changed)


def _resampled(
    flips: list[Flip], changed: list[Flip], names: list[str], margin: float, confidence: float, seed: int
) -> Verdict:
    loss = paired_bootstrap(  # before minus after: the loss
        [flip.after for flip in flips],
        [flip.before for flip in flips],
        confidence=confidence,
        sides=1,
        clusters=names,
        seed=seed,
    )
    place = {flip.item: name for flip, name in zip(flips, names, strict=True)}
    bounds = _guarded(
        loss, names, {place[f.item] for f in changed}, {place[f.item] for f in changed if f.bad}, confidence
    )
    decision: Decision = "cannot conclude"
    if bounds.high < margin:
        decision = "accept"
    elif bounds.low > margin:
        decision = "reject"
    variance = sum((flip.before - flip.after) ** 2 for flip in changed) / len(flips)
    needed = _needed(len(flips), margin, variance, loss.mid, confidence) if decision[0] == "c" else None
    return _verdict(decision, margin, confidence, bounds, "BCa bootstrap", None, needed, changed)


def _guarded(
    loss: Interval, names: list[str], changed: set[str], worse: set[str], confidence: float
) -> Interval:
    """Few changed clusters: no narrower than the exact bounds of the share that got worse.

    A cluster loses at most the whole of its weight; so the bound is scaled by the largest cluster.
    """
    if len(changed) >= BOOTSTRAP_MIN:
        return loss
    count = len(set(names))
    largest = max(names.count(name) for name in set(names)) * count / len(names)
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


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one labelled request got. `correct` is the metric's word: for an item that has no answer
    in the index, refusing is correct. `rank` is where the first accepted document came (1 is first)."""

    item: str
    correct: bool
    answerable: bool = True
    refused: bool = False
    rank: int | None = None


class Rate(msgspec.Struct, frozen=True):
    """`right` of `n` with a Wilson 95 % interval; n = 0 means there was nothing to count."""

    right: int
    n: int
    low: float
    high: float

    @property
    def value(self) -> float | None:
        return self.right / self.n if self.n else None

    def __str__(self) -> str:
        return f"{self.right} of {self.n} ({self.low:.2f}-{self.high:.2f})" if self.n else "none"


class Summary(msgspec.Struct, frozen=True):
    """Rates of a set of outcomes: hits and answers over answerable items, refusals over the others."""

    n: int
    hit_at_1: Rate
    hit_at_3: Rate
    correct: Rate  # over all items
    answered_right: Rate  # over answerable items
    refused_right: Rate  # over items that have no answer


def summarize(outcomes: Iterable[Outcome], confidence: float = 0.95) -> Summary:
    """Count hits, correct answers and correct refusals, each with its interval."""
    every = list(outcomes)
    answerable = [outcome for outcome in every if outcome.answerable]
    others = [outcome for outcome in every if not outcome.answerable]

    def rate(flags: list[bool]) -> Rate:
        if not flags:
            return Rate(0, 0, 0.0, 1.0)
        found = wilson(sum(flags), len(flags), confidence)
        return Rate(sum(flags), len(flags), found.low, found.high)

    return Summary(
        n=len(every),
        hit_at_1=rate([outcome.rank is not None and outcome.rank <= 1 for outcome in answerable]),
        hit_at_3=rate([outcome.rank is not None and outcome.rank <= 3 for outcome in answerable]),
        correct=rate([outcome.correct for outcome in every]),
        answered_right=rate([outcome.correct for outcome in answerable]),
        refused_right=rate([outcome.refused for outcome in others]),
    )
