"""A model as a judge of pairs: asked in both orders, and believed only as far as people's labels bear it out.

The judge looks at every pair, people at some. The loss is what the judge sees, plus by how much people see
more of it on the pairs that both looked at: prediction-powered inference. A judge that errs makes the bound
wide, never wrong. Angelopoulos, Bates, Fannjiang, Jordan and Zrnic, Science 382 (2023) 669-674.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from tauten.errors import InputError
from tauten.improve.labels.answers import Answer
from tauten.improve.labels.judgements import CHOICES, Choice
from tauten.improve.labels.pairs import Comparison
from tauten.improve.quality import Decision, Flip, Verdict
from tauten.improve.recording import Inputs, Recording
from tauten.statistics import Interval, clopper_pearson, mean, predicted_interval

Judge = Callable[[Inputs, Answer, Answer], Choice]
"""Any function of the question and the answers on the left and on the right, to a choice."""

_OPINIONS: dict[Choice, int] = {"left": 1, "right": -1}  # where the answer before stands on the left


def ask(judge: Judge, question: Inputs, before: Answer, after: Answer) -> int | None:
    """The judge's opinion: 1 for the answer before, -1 for the one after, 0 for neither.

    It is asked in both orders; None when it contradicts itself, which is how a liking for one side shows.
    Raises InputError when it gives something else than a choice.
    """
    first, second = judge(question, before, after), judge(question, after, before)
    for choice in (first, second):
        if choice not in CHOICES:
            raise InputError(
                f"the judge said {choice!r}", help=f"expected one of {', '.join(CHOICES)}", code="E259"
            )
    opinion = _OPINIONS.get(first, 0)
    return opinion if opinion == -_OPINIONS.get(second, 0) else None


def ask_all(judge: Judge, recording: Recording, comparison: Comparison) -> dict[str, int | None]:
    """Its opinion of every pair that differs, by item."""
    items = {item.id: item for item in recording}
    return {item: ask(judge, items[item].inputs, *comparison.answers[item]) for item in comparison.differing}


class Calibration(msgspec.Struct, frozen=True):
    """How far a judge may be believed on this recording, and the loss that follows.

    `agreement` is the share of the n labelled pairs on which judge and people hold the same (Clopper and
    Pearson, 95 % on both sides); `contradicted` of all judged pairs those on which it contradicted itself.
    `effective` is how many labels of people alone would leave the loss as uncertain. `loss` has one-sided
    bounds. `reason` says why the judge is not used; empty when it may be.
    """

    n: int
    agreement: Interval
    contradicted: int
    judged: int
    effective: float
    loss: Interval
    confidence: float
    reason: str = ""

    @property
    def usable(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        low, mid, high, n = self.agreement
        said = f"agrees with people on {mid:.0%} of {n} pairs ({low:.0%}-{high:.0%})"
        worth = f"worth {self.effective:.0f} labels" if self.usable else f"not used: {self.reason}"
        return f"{said}, {worth}"


def calibrate(
    comparison: Comparison,
    opinions: Mapping[str, int | None],
    margin: float,
    confidence: float = 0.95,
) -> Calibration:
    """Hold a judge's opinions of all differing pairs (see `ask`) against what people said of some.

    The labelled pairs must be a random sample of the differing ones, as `tauten label` draws them. Where the
    judge contradicts itself its opinion counts as 0. Raises InputError when it left a pair out or when
    nobody has labelled any.
    """
    people = comparison.settled()
    missing = [item for item in comparison.differing if item not in opinions]
    if missing or not people:
        raise InputError(
            f"the judge left out {len(missing)} pairs" if missing else "no pair was labelled by a person",
            help="ask it about every differing pair, and label some of them with `tauten label`",
            code="E259",
        )
    seen = {item: float(opinions[item] or 0) for item in comparison.differing}
    corrections = [said - seen[item] for item, said in people.items()]
    agreed = sum(opinions[item] == said for item, said in people.items())
    predicted = list(seen.values())
    found = Calibration(
        n=len(people),
        agreement=clopper_pearson(agreed, len(people)),
        contradicted=sum(opinions[item] is None for item in seen),
        judged=len(seen),
        effective=_effective(list(people.values()), corrections, predicted),
        loss=predicted_interval(len(comparison.answers), predicted, corrections, confidence),
        confidence=confidence,
    )
    return msgspec.structs.replace(found, reason=_objection(comparison, found, margin))


def _effective(people: Sequence[float], corrections: Sequence[float], seen: Sequence[float]) -> float:
    """Labels that alone would give the variance that labels and judge give together."""
    together = _variance(corrections) / len(corrections) + _variance(seen) / len(seen)
    return _variance(people) / together if together > 0 else float(len(people))


def _variance(values: Sequence[float]) -> float:
    centre = mean(values)
    return mean([(value - centre) ** 2 for value in values])


def _objection(comparison: Comparison, found: Calibration, margin: float) -> str:
    """Why the judge may not be used; empty when it may."""
    items, differing = len(comparison.answers), len(comparison.differing)
    needed = _labels_needed(items, differing, margin, found.confidence)
    if needed > found.n:
        enough = f"n >= {needed}" if needed <= differing else f"nor with all {differing}; take more items"
        return (
            f"{found.n} labels of people are too few: had it agreed on all of them, "
            f"a loss of {margin * 100:g} points could still not be ruled out; {enough}"
        )
    guessing = _guessing(comparison)
    if found.agreement.low <= guessing:
        return f"it may do no better than always saying the same, which is right on {guessing:.0%}"
    if found.effective < found.n:
        return f"it is worth {found.effective:.0f} labels where people gave {found.n}: use theirs alone"
    return ""


def _labels_needed(items: int, differing: int, margin: float, confidence: float) -> int:
    """How few labels could do: with a judge that sees no loss and is never corrected.

    One more than there are pairs where even labels of all would not.
    """
    few, many = 1, differing + 1
    while few < many:
        n = (few + many) // 2
        if predicted_interval(items, [0.0] * differing, [0.0] * n, confidence).high < margin:
            many = n
        else:
            few = n + 1
    return many


def _guessing(comparison: Comparison) -> float:
    """How often the commonest opinion of people comes."""
    said = list(comparison.settled().values())
    return max(said.count(each) for each in (-1, 0, 1)) / len(said)


def judged_verdict(
    comparison: Comparison, opinions: Mapping[str, int | None], margin: float, confidence: float = 0.95
) -> Verdict:
    """The verdict that people's labels and a calibrated judge support together.

    Raises InputError with the reason when the judge may not be used. `flips` are the pairs on which people,
    or where they said nothing the judge, preferred one side.
    """
    found = calibrate(comparison, opinions, margin, confidence)
    if not found.usable:
        raise InputError(
            f"the judge is not used: {found.reason}",
            help="label more pairs, or use labels alone",
            code="E259",
        )
    decision: Decision = "cannot conclude"
    if found.loss.high < margin:
        decision = "accept"
    elif found.loss.low > margin:
        decision = "reject"
    held = {item: opinions[item] or 0 for item in comparison.differing} | comparison.settled()
    return Verdict(
        decision=decision,
        margin=margin,
        confidence=confidence,
        n=found.loss.n,
        loss=found.loss.mid,
        loss_low=found.loss.low,
        loss_high=found.loss.high,
        method=f"prediction-powered, {found.n} labels of people",
        flips=[Flip(item, float(each > 0), float(each < 0)) for item, each in held.items() if each],
    )
