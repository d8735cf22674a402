"""What a trial of two templates shows: tokens, time, cost and quality, each difference paired by request."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from tauten.improve.prompts.trial import Took
from tauten.improve.quality import Verdict, compare
from tauten.statistics import mean, percentile
from tauten.statistics.percentiles import percentile_ranks
from tauten.statistics.trend import mean_interval

SCHEMA: Final = "tauten.prompts.bench/1"
FAILED: Final = 5  # an exit code: requests failed, and no verdict counts them


class Quantile(msgspec.Struct, frozen=True, kw_only=True):
    """A percentile of an arm's times; the interval is None where there are too few requests for one."""

    q: float
    ms: float
    low_ms: float | None = None
    high_ms: float | None = None


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A mean over requests under each arm; the difference is b minus a of each request, with its 95 % interval."""

    what: str
    unit: str
    a: float
    b: float
    n: int
    diff: float
    low: float | None = None
    high: float | None = None
    foretold: float | None = None  # of the difference, counted before anything was run


class ArmResult(msgspec.Struct, frozen=True, kw_only=True):
    """One arm."""

    name: str
    version: str
    requests: int
    failed: int
    cut: int
    times: list[Quantile]
    score: float | None
    errors: list[str]


class Comparison(msgspec.Struct, kw_only=True):
    """The whole of it. `verdict` is None without labels; `notes` say what is missing, and why."""

    schema: str = SCHEMA
    workflow: str
    stage: str
    recording: str
    machine: str
    rounds: int
    seed: int
    arms: list[ArmResult]
    figures: list[Figure]
    verdict: Verdict | None
    notes: list[str] = []

    @property
    def exit_code(self) -> int:
        """That of the verdict; without one 5 where the second arm failed more often, else 0."""
        if self.verdict is not None:
            return self.verdict.exit_code
        before, after = self.arms
        return FAILED if after.failed > before.failed else 0


Value = Callable[[Took], float | None]

_FIGURES: Final[tuple[tuple[str, str, Value], ...]] = (
    ("tokens in", "tokens", lambda took: took.tokens_in),
    ("of these cached", "tokens", lambda took: took.tokens_cached),
    ("tokens out", "tokens", lambda took: took.tokens_out),
    ("first output", "ms", lambda took: took.first_ms),
    ("answer complete", "ms", lambda took: took.ms),
    ("cost", "cents", lambda took: took.cents),
)


def figures(a: Sequence[Took], b: Sequence[Took], foretold_in: float | None = None) -> list[Figure]:
    """Each figure over the requests that ended well under both arms; one that nobody knows is left out. What was
    foretold is of a request that comes to the step, and counts for the share of those that do."""
    sides = [_by_item(a), _by_item(b)]
    good = [item for item in sides[0] if item in sides[1] and not _failed(sides[0][item] + sides[1][item])]
    share = mean([float(sides[0][item][0].asked) for item in good]) if good else 0.0
    found = []
    for what, unit, value in _FIGURES:
        pairs = [(_mean(sides[0][item], value), _mean(sides[1][item], value)) for item in good]
        known = [(one, other) for one, other in pairs if one is not None and other is not None]
        if known and (unit != "cents" or len(known) == len(pairs)):
            told = foretold_in * share if foretold_in is not None and what == "tokens in" else None
            found.append(_figure(what, unit, known, told))
    return found


def _figure(what: str, unit: str, pairs: Sequence[tuple[float, float]], foretold: float | None) -> Figure:
    differences = [other - one for one, other in pairs]
    interval = mean_interval(differences)
    return Figure(
        what=what,
        unit=unit,
        a=mean([one for one, _ in pairs]),
        b=mean([other for _, other in pairs]),
        n=len(pairs),
        diff=mean(differences),
        low=interval.low if interval is not None else None,
        high=interval.high if interval is not None else None,
        foretold=foretold,
    )


def _by_item(took: Sequence[Took]) -> dict[str, list[Took]]:
    """The rounds of each item: they are one observation, for the next round asks the same."""
    found: dict[str, list[Took]] = {}
    for each in took:
        found.setdefault(each.item, []).append(each)
    return found


def _failed(rounds: Sequence[Took]) -> bool:
    return any(each.error for each in rounds)


def _mean(rounds: Sequence[Took], value: Value) -> float | None:
    known = [found for each in rounds if (found := value(each)) is not None]
    return mean(known) if len(known) == len(rounds) else None


def arm(name: str, version: str, took: Sequence[Took]) -> ArmResult:
    """One arm by itself: its percentiles over requests that ended well, its failures and its score."""
    good = [each.ms for each in took if not each.error]
    items = len({each.item for each in took if not each.error})
    scored = [each.score for each in took if each.score is not None]
    return ArmResult(
        name=name,
        version=version,
        requests=len(took),
        failed=len(took) - len(good),
        cut=round(sum(each.cut for each in took)),
        times=[_quantile(good, q, items) for q in (0.5, 0.95)] if good else [],
        score=mean(scored) if scored else None,
        errors=list(dict.fromkeys(each.error for each in took if each.error))[:3],
    )


def _quantile(values: Sequence[float], q: float, items: int) -> Quantile:
    """A percentile of all rounds; its interval counts items, whose rounds are one observation."""
    mid, ranks = percentile(values, q), percentile_ranks(items, q)
    if ranks is None:
        return Quantile(q=q, ms=mid)
    ordered, rounds = sorted(values), len(values) / items
    low = ordered[math.floor((ranks[0] - 1) * rounds + 1e-9)]
    high = ordered[math.ceil(ranks[1] * rounds - 1e-9) - 1]
    return Quantile(q=q, ms=mid, low_ms=low, high_ms=high)


def verdict(
    a: Sequence[Took],
    b: Sequence[Took],
    margin: float,
    clusters: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Verdict | None:
    """Whether the second arm answers no worse, by more than the margin; None where nothing is labelled."""
    scores = [
        {item: found for item, each in _by_item(side).items() if (found := _mean(each, _score)) is not None}
        for side in (a, b)
    ]
    if not scores[0]:
        return None
    related = {item: clusters[item] for item in scores[0]} if clusters is not None else None
    alone = related is None or len(set(related.values())) == len(related)
    return compare(scores[0], scores[1], margin, clusters=None if alone else related, seed=seed)


def _score(took: Took) -> float | None:
    return took.score


def document(found: Comparison) -> dict[str, Any]:
    """For programs."""
    content: dict[str, Any] = msgspec.to_builtins(found)
    return {**content, "exit_code": found.exit_code}
