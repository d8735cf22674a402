"""Whether changes that may alter answers may stay: chosen on some labelled requests, confirmed once on the others."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from tauten.clock import Clock, real
from tauten.improve.labels.keeper import Told
from tauten.improve.optimizer.outcome import Labels
from tauten.improve.optimizer.testbed import Scored, Testbed
from tauten.improve.quality import Evidence, Verdict, compare, decide, scored, split
from tauten.improve.situation import Proposal
from tauten.plan.plan import Plan
from tauten.statistics import items_needed, smallest_provable_loss

CONFIDENCE: Final = 0.95
SELECTION: Final = 0.25  # of the labelled items: choosing takes few, a proof takes all that are left
FIRST: Final = 24  # items that a candidate is tried on first: what halves the answers shows at once
PART: Final = 24  # items of a confirmation between two looks at whether the rest can still prove it
LOOKS: Final = 60  # items of the selection that a candidate sees at most


class Gate:
    """The labelled items of a recording and what a change may lose (a share of right answers, 0 to 1)."""

    def __init__(
        self,
        testbed: Testbed,
        items: Sequence[str],
        allowed_loss: float,
        *,
        clusters: Mapping[str, str] | None = None,
        seed: int = 0,
        more: Callable[[], bool] = lambda: True,
        say: Callable[[str], None] = lambda text: None,
        clock: Clock = real,
    ) -> None:
        self.testbed = testbed
        self.items = list(items)
        self.clusters = {id: clusters[id] for id in items} if clusters is not None else None
        self.halves = split(items, seed, SELECTION, clusters=self.clusters)
        self.allowed_loss = allowed_loss
        self.seed = seed
        self.more = more
        self.say = say
        self.clock = clock
        self._took: dict[bool, list[tuple[float, int]]] = {
            True: [],
            False: [],
        }  # (seconds, answers): before, after
        self.before: Plan | None = None  # what lossy changes are judged against
        self.verdicts: dict[tuple[str, str], Verdict] = {}  # of the selection, by strategy and change
        self.told: tuple[Told, Told] = ({}, {})  # answers of the last confirmation, where they are kept

    @property
    def labels(self) -> Labels:
        """What these labels can prove, before anything is searched."""
        n = len({self._topic(id) for id in self.halves.confirmation})  # items of a topic fall together
        provable = smallest_provable_loss(n, confidence=CONFIDENCE) if n else 1.0
        enough = provable <= self.allowed_loss
        needed = (
            0 if enough or not self.allowed_loss else items_needed(self.allowed_loss, confidence=CONFIDENCE)
        )
        return Labels(n, provable, self.allowed_loss, needed)

    def _topic(self, id: str) -> str:
        return self.clusters[id] if self.clusters is not None else id

    def _topics(self, ids: Sequence[str]) -> dict[str, str] | None:
        """The clusters of some items; None where each stands alone, so that the exact test applies."""
        found = {id: self._topic(id) for id in ids}
        return found if len(set(found.values())) < len(found) else None

    # -- choosing ---------------------------------------------------------------------------------------------

    def allowed(self, proposal: Proposal) -> str:
        """Why a proposal may not be taken; empty where it may. Identical and equivalent ones always may."""
        if proposal.answers != "lossy":
            return ""
        if reason := self.hopeless():
            return reason
        assert self.before is not None  # the optimizer says against what before it tries lossy ones
        verdict = self._looked_at(self.before, proposal.plan)
        if verdict is None:
            return "there was no time left to judge it"
        self.verdicts[proposal.strategy, proposal.change] = verdict
        if verdict.loss > self.allowed_loss or verdict.decision == "reject":
            worse = ", ".join(flip.item for flip in verdict.bad_flips[:3])
            return (
                f"{len(verdict.bad_flips)} of {verdict.n} answers got worse, {len(verdict.good_flips)} better "
                f"(loss {verdict.loss * 100:.1f} points): {worse}"
            )
        return ""

    def hopeless(self) -> str:
        """Why no change that may alter answers could ever be proven harmless; empty where one could."""
        if not self.allowed_loss:
            return "the SLO allows no loss of quality"
        labels = self.labels
        if labels.needed:
            return (
                f"cannot conclude: {labels.items} labelled requests bound a loss by "
                f"{labels.provable_loss * 100:.1f} points at best, n >= {labels.needed}"
            )
        return ""

    def _looked_at(self, before: Plan, after: Plan) -> Verdict | None:
        """A verdict on the selection: on a few items first, on the others only where those leave hope."""
        verdict = None
        for count in dict.fromkeys((FIRST, LOOKS)):
            ids = self.halves.selection[:count]
            if not ids or not self.more():
                return verdict
            verdict = self._judged(before, after, ids)
            if verdict.loss > 2 * self.allowed_loss or len(ids) < count:
                return verdict
        return verdict

    # -- confirming -------------------------------------------------------------------------------------------

    def confirmed(self, before: Plan, after: Plan, candidates: int) -> Evidence:
        """A look at the items that nothing was chosen by; corrected for how many candidates may take one.

        It ends early where it can prove nothing any more, whatever is left, and when the time is over: that refuses
        some changes sooner and accepts none.
        """
        level = 1.0 - (1.0 - CONFIDENCE) / max(1, candidates)  # Bonferroni: one of them is taken
        old: dict[str, Scored] = {}
        new: dict[str, Scored] = {}
        for part in _parts(self.halves.confirmation, PART):
            old |= self.scores(before, part)
            new |= self.scores(after, part)
            if self._in_vain(old, new, level) or not self.more():
                break
        was, now = _numbers(old), _numbers(new)
        self.told = {id: each.told for id, each in old.items()}, {id: each.told for id, each in new.items()}
        topics = self._topics(list(old))
        verdict = compare(was, now, self.allowed_loss, level, clusters=topics, seed=self.seed)
        hashes = {id: (old[id].answer, new[id].answer) for id in old}
        return Evidence(
            metric="",
            confidence=CONFIDENCE,
            items=scored(was, now, hashes=hashes, clusters=topics),
            verdict=verdict,
            candidates=candidates,
            seed=self.seed,
            plan_before=before.id,
            plan_after=after.id,
        )

    @property
    def confirmation_s(self) -> float:
        """How long a confirmation will take, by what judging answers has taken so far."""
        spans = [(sum(s for s, _ in each), sum(n for _, n in each)) for each in self._took.values()]
        return len(self.halves.confirmation) * sum(seconds / n for seconds, n in spans if n)

    def _in_vain(self, old: Mapping[str, Scored], new: Mapping[str, Scored], level: float) -> bool:
        """Whether these flips would be too many even if every item that is left scored the same."""
        was, now = _numbers(old), _numbers(new)
        if was == now:
            return False
        ids = self.halves.confirmation
        rest = {id: True for id in ids if id not in was}
        topics = self._topics(ids)
        return (
            decide(was | rest, now | rest, self.allowed_loss, level, clusters=topics, seed=self.seed)
            != "accept"
        )

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        self.say(f"judge {len(ids)} answers of {plan.id}")
        began = self.clock()
        found = self.testbed.scores(plan, ids)
        self._took[plan is self.before].append((self.clock() - began, len(ids)))
        return found

    def _judged(self, before: Plan, after: Plan, ids: Sequence[str]) -> Verdict:
        return compare(
            _numbers(self.scores(before, ids)),
            _numbers(self.scores(after, ids)),
            self.allowed_loss,
            CONFIDENCE,
            clusters=self._topics(ids),
            seed=self.seed,
        )


def _parts(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (ids[place : place + size] for place in range(0, len(ids), size))


def _numbers(found: Mapping[str, Scored]) -> dict[str, bool | float]:
    """Right and wrong where the metric says only that, so that the exact test applies."""
    binary = all(each.score in (0.0, 1.0) for each in found.values())
    return {id: bool(each.score) if binary else each.score for id, each in found.items()}
