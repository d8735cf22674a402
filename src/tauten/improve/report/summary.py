"""What there is to say of an optimisation, worked out once: the screen and the page print the same words and figures."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

from tauten.explain.calibration import Prediction
from tauten.explain.chart import SECONDS_MS, duration
from tauten.explain.figures import figure
from tauten.improve.optimizer.outcome import Candidate, Decision, GapRow, Optimized
from tauten.improve.optimizer.search import Figures
from tauten.statistics import Interval

NAIVE: Final = "naive"
ZERO_EFFORT: Final = "zero-effort"
AFTER: Final = "after "  # a strategy: the plan once it was through

NAMES: Final = {
    "p50_ms": "p50",
    "p95_ms": "p95",
    "p99_ms": "p99",
    "first_output_ms": "first output",
    "cost_cents": "cost",
    "memory_bytes": "memory",
}
ALWAYS: Final = ("p50_ms", "p95_ms", "first_output_ms")  # shown without a limit, too
UNKNOWN: Final = "not known"
FAILED: Final = "failed"
AS_FAST: Final = "as fast"
NO_WORSE: Final = 1.005  # a ratio below is no gain that anyone would measure again


class Baseline(NamedTuple):
    """How many times faster the chosen plan is, by figure, and how both sides are known."""

    name: str
    ratios: dict[str, float]
    how: str


class Row(NamedTuple):
    """One limit, or one figure without: the plans beside one another. `met` None where nothing was asked."""

    what: str
    name: str
    limit: float | None
    naive: str
    zero_effort: str
    chosen: str
    spread: str  # the interval of what was measured
    verdict: str
    met: bool | None


def candidate(found: Optimized, name: str) -> Candidate | None:
    return next((each for each in found.candidates if each.name == name), None)


def chosen(found: Optimized) -> Candidate | None:
    return candidate(found, found.chosen)


def value(each: Candidate | None, what: str) -> float | None:
    """Measured where it was, else simulated."""
    if each is None:
        return None
    for figures in (each.measured, each.simulated):
        if figures is not None and what in figures.values:
            return figures.values[what]
    return float(each.memory_bytes) if what == "memory_bytes" and each.memory_bytes is not None else None


def finite(amount: float | None) -> float | None:
    """None for what is not known and for what never ended."""
    return amount if amount is not None and math.isfinite(amount) else None


def is_measured(each: Candidate | None, what: str) -> bool:
    return each is not None and each.measured is not None and what in each.measured.values


def headline(found: Optimized) -> str:
    """The figure that a report turns on: the first that the SLO limits, else p95, else p50."""
    limits = found.slo.limits()
    for what in ("p95_ms", "p99_ms", "p50_ms", "first_output_ms", "cost_cents", "memory_bytes"):
        if what in limits:
            return what
    known = any("p95_ms" in each.simulated.values for each in found.candidates)
    return "p95_ms" if known else "p50_ms"


# -- words ---------------------------------------------------------------------------------------------------


def shown(what: str, amount: float | None) -> str:
    """A figure with its unit; what never ended is said to have failed.

    >>> shown("p95_ms", 742.4), shown("memory_bytes", 1.25e9), shown("cost_cents", 0.2), shown("p95_ms", math.inf)
    ('742 ms', '1.25 GB', '0.2 c', 'failed')
    """
    if amount is None or not math.isfinite(amount):
        return "-" if amount is None else FAILED
    if what.endswith("_ms"):
        return duration(amount)
    return points(amount) if what == "quality_loss" else f"{bare(what, amount)} {unit(what, amount)}"


def bare(what: str, amount: float) -> str:
    if what == "memory_bytes":
        return figure(amount / (1e9 if amount >= 1e9 else 1e6))
    return figure(amount)


def unit(what: str, amount: float = 0.0) -> str:
    if what == "memory_bytes":
        return "GB" if amount >= 1e9 else "MB"
    return "c"


def estimated(each: Candidate | None, what: str) -> str:
    """A figure of a plan; what was only simulated carries a ~."""
    amount = value(each, what)
    known = amount is None or not math.isfinite(amount) or is_measured(each, what) or what == "memory_bytes"
    mark = "" if known else "~"
    return mark + shown(what, amount)


def times(ratio: float) -> str:
    """How many times faster or slower.

    >>> times(2.6), times(0.5), times(1.001)
    ('2.6x faster', '2.0x slower', 'as fast')
    """
    if max(ratio, 1 / ratio) < NO_WORSE:
        return AS_FAST
    return f"{ratio:.1f}x faster" if ratio > 1 else f"{1 / ratio:.1f}x slower"


def against(each: Baseline, what: str) -> str:
    """What a baseline is to the chosen plan, in words."""
    word = times(each.ratios[what])
    return f"{word} as the {each.name} plan" if word == AS_FAST else f"{word} than the {each.name} plan"


def points(share: float) -> str:
    """Points of quality, of a hundred."""
    return f"{share * 100:.1f} pt"


def change(what: str, before: float | None, after: float | None) -> str:
    """A difference with its sign and unit."""
    if before is None or after is None or not math.isfinite(after - before):
        return "-"
    sign = "-" if after < before else "+"
    return f"{sign}{shown(what, abs(after - before))}"


# -- the result ----------------------------------------------------------------------------------------------

ANSWERS: Final = {
    "met": "The SLO holds",
    "missed": "The SLO is missed",
    "cannot conclude": "Whether the SLO holds cannot be concluded",
}


def rows(found: Optimized) -> list[Row]:
    """The SLO, and what is always worth knowing beside it."""
    limits = found.slo.limits()
    sides = [candidate(found, NAIVE), candidate(found, ZERO_EFFORT), chosen(found)]
    wanted = [what for what in NAMES if what in limits or what in ALWAYS]
    return [
        _row(found, what, limits.get(what), sides)
        for what in wanted
        if what in limits or finite(value(sides[2], what)) is not None
    ] + [_quality_row(found)]


def _row(found: Optimized, what: str, limit: float | None, sides: list[Candidate | None]) -> Row:
    now = value(sides[2], what)
    spread = sides[2].intervals.get(what) if sides[2] is not None else None
    verdict, met = _judged(what, limit, now)
    if met is not None and not is_measured(sides[2], what) and what != "memory_bytes":
        verdict += " (simulated)"
    naive, zero_effort, best = (estimated(each, what) for each in sides)
    return Row(what, NAMES[what], limit, naive, zero_effort, best, _spread(what, spread), verdict, met)


def _quality_row(found: Optimized) -> Row:
    """The quality that the SLO allows to be lost, beside what the verdict bounds."""
    allowed, judged = found.slo.quality_loss, found.verdict
    lossy = any(each.answers == "lossy" for each in taken(found))
    lost, verdict, met = ("none", "ok", True) if not lossy else (UNKNOWN, "not judged", None)
    if judged is not None:
        lost, verdict = f"< {points(judged.loss_high)}", judged.decision
        met = {"accept": True, "reject": False, "cannot conclude": None}[judged.decision]
    return Row("quality_loss", "quality lost", allowed, "-", "-", lost, "", verdict, met)


def _judged(what: str, limit: float | None, now: float | None) -> tuple[str, bool | None]:
    if limit is None:
        return "", None
    if now is None:
        return UNKNOWN, None
    if not math.isfinite(now):
        return "MISSED: requests failed", False
    return ("ok", True) if now <= limit else (f"MISSED by {shown(what, now - limit)}", False)


def _spread(what: str, interval: Interval | None) -> str:
    if interval is None:
        return ""
    if what.endswith("_ms") and interval.high >= SECONDS_MS:
        return f"{figure(interval.low / 1e3)}-{figure(interval.high / 1e3)} s"
    return f"{bare(what, interval.low)}-{bare(what, interval.high)}"


def baselines(found: Optimized) -> list[Baseline]:
    """The chosen plan against the naive and the best zero-effort one: at the stated rate, then a request at a time.

    Measured stands against measured; where one side was not, both are simulated.
    """
    best = chosen(found)
    others = [candidate(found, name) for name in (NAIVE, ZERO_EFFORT)]
    pairs = [(other, best) for other in others if other is not None and best is not None]
    rate = f"at {figure(found.rate_per_s)}/s"
    rated = [
        _against(old, old.measured, new.measured, f"measured {rate}")
        if old.measured is not None and new.measured is not None
        else _against(old, old.simulated, new.simulated, f"simulated {rate}")
        for old, new in pairs
    ]
    alone = [_against(old, old.alone, new.alone, "measured alone") for old, new in pairs]
    return [each for each in (*rated, *alone) if each.ratios]


def _against(other: Candidate, before: Figures | None, after: Figures | None, how: str) -> Baseline:
    old, new = (figures.values if figures is not None else {} for figures in (before, after))
    known = [what for what in ALWAYS if (finite(old.get(what)) or 0.0) > 0.0 < (finite(new.get(what)) or 0.0)]
    return Baseline(title(other.name), {what: old[what] / new[what] for what in known}, how)


ALONE: Final = "Alone: one request at a time, so that nothing waits for another."


def has_alone(found: Optimized) -> bool:
    return any(each.how == "measured alone" for each in baselines(found))


def title(name: str) -> str:
    """What a plan is called on screens."""
    return "best zero-effort" if name == ZERO_EFFORT else name


def failed(found: Optimized) -> float:
    best = chosen(found)
    figures = None if best is None else best.measured or best.simulated
    return 0.0 if figures is None else figures.failed


# -- decisions -----------------------------------------------------------------------------------------------


def taken(found: Optimized) -> list[Decision]:
    return [each for each in found.decisions if each.taken]


def refused(found: Optimized) -> list[Decision]:
    """Each once, as it was last seen, and only if it was not taken after all; the most telling first.

    What the quality gate refused tells most, then what promised a gain, then what strategies said themselves, then
    what would have done harm.
    """
    late = {(each.strategy, each.change): each for each in found.decisions}
    left = [
        each for key, each in late.items() if key not in {(one.strategy, one.change) for one in taken(found)}
    ]
    what = headline(found)
    return sorted(left, key=lambda each: _telling(each, what))


def _telling(each: Decision, what: str) -> tuple[int, float]:
    if each.verdict is not None:
        return (0, -each.verdict.loss)
    gained = gain(each, what)
    if gained is None:
        return (2, 0.0)
    return (
        (1, -gained) if gained > 0.01 else (3, gained)
    )  # below one in a hundred a simulation repeats no better


def gain(each: Decision, what: str) -> float | None:
    """What it would take off a figure, as a share of it, in simulation."""
    before, after = figures_of(each, what)
    before, after = finite(before), finite(after)
    return None if not before or after is None else 1.0 - after / before


def figures_of(each: Decision, what: str) -> tuple[float | None, float | None]:
    """Before and after, simulated."""
    before = each.before.values.get(what) if each.before is not None else None
    return before, each.simulated.values.get(what) if each.simulated is not None else None


def outcome(found: Optimized, each: Decision, what: str) -> float | None:
    """What was measured once the strategy was through; of one that was taken several times, at its last."""
    if not each.taken or [one for one in taken(found) if one.strategy == each.strategy][-1] != each:
        return None
    after = candidate(found, AFTER + each.strategy)
    return value(after, what) if is_measured(after, what) else None


# -- how far to believe it -----------------------------------------------------------------------------------


def predictions(found: Optimized) -> list[Prediction]:
    kinds = list(dict.fromkeys(each.what for each in found.forecasts))
    return [
        Prediction(
            f"{each.of}, {NAMES.get(each.what, each.what)}",
            each.predicted,
            each.low,
            each.high,
            each.measured,
            kinds.index(each.what),
        )
        for each in found.forecasts
        if math.isfinite(each.measured) and math.isfinite(each.predicted)
    ]


def quality(found: Optimized) -> str:
    """What is known of the answers, in one sentence."""
    best = chosen(found)
    if found.verdict is not None:
        bad, good = len(found.verdict.bad_flips), len(found.verdict.good_flips)
        return f"{found.verdict}; {counted(bad, 'answer')} worse, {good} better than those of the naive plan"
    if not any(each.answers == "lossy" for each in taken(found)):
        return "no change that may alter answers was taken, beyond what another engine rounds"
    bound = (
        f": at most {points(best.quality_loss)} are lost" if best is not None and best.quality_loss else ""
    )
    return f"changes that may alter answers were taken{bound}"


def labels(found: Optimized) -> str:
    """What the labels can prove, in one sentence."""
    known = found.labels
    if known is None:
        return "The recording has no labels."
    text = f"{counted(known.items, 'labelled item')} can prove a loss below {points(known.provable_loss)} at best."
    if known.needed > known.items:
        text += f" The SLO allows {points(known.wanted_loss)}, which takes {known.needed} items."
    return text


def counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def missing(found: Optimized) -> list[str]:
    """What it would take, in sentences; nothing where the limits hold."""
    lines = []
    for row in rows(found):
        now = value(chosen(found), row.what)
        if row.met is False and row.limit and finite(now) is None:
            lines.append(f"{row.name} has no end: too many requests failed")
        elif row.met is False and row.limit and now is not None:  # quality is told where answers are judged
            share = now / row.limit
            lines.append(
                f"{row.name} must come from {shown(row.what, now)} to {shown(row.what, row.limit)}: {figure(share)} times as fast"
                if row.what.endswith("_ms")
                else f"{row.name} must come from {shown(row.what, now)} to {shown(row.what, row.limit)}"
            )
            lines += (
                _alone(found, 1.0 - 1.0 / share) if row.what == (found.gap_what or headline(found)) else []
            )
    return lines


def _alone(found: Optimized, share: float) -> list[str]:
    """Which step could close the gap alone: steps of one path are not side by side, so their times add up."""
    needed = share * gap_ms(found)
    closing = [row for row in found.gap if row.ms > needed]
    if not closing:
        return ["no step could close that alone"] if found.gap else []
    row = max(closing, key=lambda one: one.ms)
    return [f"{row.step} alone would have to take {duration(row.ms - needed)} instead of {duration(row.ms)}"]


def gap_ms(found: Optimized) -> float:
    """The whole way of the request whose steps are told."""
    return math.fsum(row.ms for row in found.gap)


def gap_title(found: Optimized) -> str:
    """Which request the steps are of."""
    at = NAMES[found.gap_what] if found.gap_what in NAMES else NAMES[headline(found)]
    whole = shown("p50_ms", gap_ms(found))
    return f"What still takes time, step by step: one simulated request at {at}, {whole} in all"


def gap_why(row: GapRow) -> str:
    """How much of a step is waiting, and why it is not shorter."""
    waits = f"{shown('p50_ms', row.waits_ms)} of it waits for its turn" if row.waits_ms >= 1.0 else ""
    return "; ".join(filter(None, (waits, row.why)))


def front(found: Optimized) -> list[Candidate]:
    """The plans to choose from: those on the front, both baselines and the chosen one, by latency."""
    what = headline(found)
    wanted = [
        each for each in found.candidates if each.front or each.name in (NAIVE, ZERO_EFFORT, found.chosen)
    ]
    return sorted(wanted, key=lambda each: value(each, what) or math.inf)


def about(found: Optimized) -> list[str]:
    """Under what conditions: the recording, the rate, the machine, the seed, the time it took."""
    facts: Iterable[str] = (
        found.recording,
        f"from {found.began}" if found.began else "",
        f"{figure(found.rate_per_s)}/s, open loop",
        found.machine,
        f"seed {found.seed}",
        f"searched {minutes(found.searched_s)}" if found.searched_s else "",
        re.sub(r"T(\d\d:\d\d)\S*$", r" \1 UTC", found.made_at),
    )
    return [fact for fact in facts if fact]


def minutes(seconds: float) -> str:
    """Minutes and seconds.

    >>> minutes(75.4), minutes(3725)
    ('1:15', '62:05')
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
