"""Whether changes that may alter answers may stay: chosen on some labelled requests, confirmed on the others.

Confirmed are the changes in the order in which they were taken, each with those before it, until one cannot be. Tests in
an order that was fixed before need no correction for their number as long as each is only made after the one before it
has held (Maurer, Hothorn and Lehmacher, 1995): so the change that gains most is proven as if it were the only one.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from tauten.clock import Clock, real
from tauten.improve.labels.keeper import Told
from tauten.improve.optimizer.outcome import Labels
from tauten.improve.optimizer.testbed import ALIKE, Scored, Testbed
from tauten.improve.quality import Evidence, Halves, Verdict, compare, decide, scored, split
from tauten.improve.situation import Proposal
from tauten.plan.plan import Plan
from tauten.statistics import items_needed, smallest_provable_loss

CONFIDENCE: Final = 0.95
SELECTION: Final = 0.25  # of the labelled items: choosing takes few, a proof takes all that are left
FIRST: Final = 24  # items that a candidate is tried on first: what halves the answers shows at once
PART: Final = 24  # items of a confirmation before the first look at whether the rest can still prove it
LATER: Final = 96  # and at most between two later ones: models are loaded for each part, which takes seconds
LOOKS: Final = 60  # items of the selection that a candidate sees at most


class Proven(NamedTuple):
    """So many changes are confirmed, the evidence for all of them together, and why the next one is not."""

    changes: int
    evidence: Evidence | None
    why: str


class Gate:
    """The labelled items of a recording and what a change may lose (a share of right answers, 0 to 1). A proof of what
    was chosen may take `grace_s` seconds more than there are for anything else."""

    def __init__(
        self,
        testbed: Testbed,
        items: Sequence[str],
        allowed_loss: float,
        *,
        clusters: Mapping[str, str] | None = None,
        seed: int = 0,
        more: Callable[..., bool] = lambda needed_s=0.0: True,
        grace_s: float = 0.0,
        say: Callable[[str], None] = lambda text: None,
        clock: Clock = real,
    ) -> None:
        self.testbed = testbed
        self.items = list(items)
        self.clusters = {id: clusters[id] for id in items} if clusters is not None else None
        halves = split(items, seed, SELECTION, clusters=self.clusters)
        self.halves = Halves(*(sorted(half, key=lambda id: self._drawn(id, seed)) for half in halves))
        self.allowed_loss = allowed_loss
        self.seed = seed
        self.more = more
        self.grace_s = grace_s
        self.say = say
        self.clock = clock
        self._took: dict[bool, list[tuple[float, int]]] = {
            True: [],
            False: [],
        }  # (seconds, answers): before, after
        self._looked: list[tuple[float, int, int]] = []  # (seconds, items, of these alike under both plans)
        self._known: tuple[bytes, dict[str, Scored]] = b"", {}  # of the plan that all are judged against
        self._worse: dict[tuple[str, str], str] = {}  # why changes were refused: they lost answers
        self.before: Plan | None = None  # what lossy changes are judged against
        self.verdicts: dict[tuple[str, str], Verdict] = {}  # of the selection, by strategy and change
        self.told: tuple[Told, Told] = ({}, {})  # answers of what was proven last, where they are kept

    @property
    def labels(self) -> Labels:
        """What these labels can prove, before anything is searched."""
        ids = self.halves.confirmation
        sizes = Counter(map(self._topic, ids))  # items of a topic fall together
        provable = _provable(len(sizes), max(sizes.values(), default=1), len(ids))
        needed = 0
        if provable > self.allowed_loss > 0.0:
            weight = max(sizes.values(), default=1) * len(sizes) / max(1, len(ids))
            needed = items_needed(self.allowed_loss / max(1.0, weight), confidence=CONFIDENCE)
        return Labels(len(sizes), provable, self.allowed_loss, needed)

    def _drawn(self, id: str, seed: int) -> str:
        """An order by lot, in which the first few are a sample of all; items of a topic stay together."""
        return hashlib.sha256(f"{seed}\0order\0{self._topic(id)}".encode()).hexdigest()

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
        change = proposal.strategy, proposal.change
        if reason := self.hopeless() or self._worse.get(change, ""):
            return reason
        assert self.before is not None  # the optimizer says against what before it tries lossy ones
        verdict = self._looked_at(self.before, proposal.plan)
        if verdict is None:
            return "there was no time left to judge it"
        self.verdicts[change] = verdict
        if verdict.loss > self.allowed_loss or verdict.decision == "reject":
            worse = ", ".join(flip.item for flip in verdict.bad_flips[:3])
            self._worse[change] = (
                f"{len(verdict.bad_flips)} of {verdict.n} answers got worse, {len(verdict.good_flips)} better "
                f"(loss {verdict.loss * 100:.1f} points): {worse}"
            )
            return self._worse[change]
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

    def proven(self, before: Plan, afters: Sequence[Plan]) -> Proven:
        """How many of these plans, each of which goes on from the one before it, are confirmed one after another.

        By all items that are left, or where there is no time for these by as many as can be enough.
        """
        every, enough = self.halves.confirmation, self._enough()
        needed_s = self.confirmation_s(len(afters)) * len(every) / max(1, len(enough))
        ids = every if self._goes_on(needed_s) else enough
        proven = Proven(0, None, "there was no time left to confirm that no answer suffers")
        for count, after in enumerate(afters):
            if not self._goes_on():
                return proven
            found, told = self._confirmed(before, after, ids)
            if found.verdict.decision != "accept":
                late = "" if self._goes_on() else "; there was no time left to judge more"
                return proven._replace(why=f"{found.verdict}{late}")
            proven, self.told = proven._replace(changes=count + 1, evidence=found), told
        return proven

    def _goes_on(self, needed_s: float = 0.0) -> bool:
        """Whether there is time to prove what was chosen."""
        return self.more(needed_s - self.grace_s)

    def provable(self, changes: int) -> bool:
        """Whether there is time to confirm so many changes, as long as judging has taken so far."""
        return self._goes_on(self.confirmation_s(changes))

    def _enough(self) -> Sequence[str]:
        """The first items that prove the allowed loss if none of their answers suffers."""
        needed = items_needed(self.allowed_loss, confidence=CONFIDENCE) if self.allowed_loss else 0
        topics: Counter[str] = Counter()
        for place, id in enumerate(self.halves.confirmation, 1):
            topics[self._topic(id)] += 1
            if len(topics) < max(1, needed):
                continue
            if _provable(len(topics), max(topics.values()), place) <= self.allowed_loss:
                return self.halves.confirmation[:place]
        return self.halves.confirmation

    def _confirmed(self, before: Plan, after: Plan, ids: Sequence[str]) -> tuple[Evidence, tuple[Told, Told]]:
        """A look at items that nothing was chosen by; and what was answered, where answers are kept.

        It ends early where it can prove nothing any more, whatever is left, and when the time is over: that refuses
        some changes sooner and accepts none.
        """
        old: dict[str, Scored] = {}
        new: dict[str, Scored] = {}
        for part in _parts(ids):
            was, now = self._pair(before, after, part)
            old, new = old | was, new | now
            if self._in_vain(old, new, ids) or not self._goes_on():
                break
        then, since = _numbers(old), _numbers(new)
        told = {id: each.told for id, each in old.items()}, {id: each.told for id, each in new.items()}
        topics = self._topics(list(old))
        verdict = compare(then, since, self.allowed_loss, CONFIDENCE, clusters=topics, seed=self.seed)
        hashes = {id: (old[id].answer, new[id].answer) for id in old}
        alike = {id for id, each in old.items() if each is ALIKE}
        evidence = Evidence(
            metric="",
            confidence=CONFIDENCE,
            items=scored(then, since, hashes=hashes, clusters=topics, alike=alike),
            verdict=verdict,
            seed=self.seed,
            plan_before=before.id,
            plan_after=after.id,
        )
        return evidence, told

    def confirmation_s(self, changes: int) -> float:
        """How long the confirmation of so many changes takes at least, by what judging answers has taken so far."""
        before_s, after_s = (
            sum(s for s, _ in each) / max(1, sum(n for _, n in each)) for each in self._took.values()
        )
        looked_s = sum(seconds for seconds, _, _ in self._looked)
        items = max(1, sum(count for _, count, _ in self._looked))
        whole = 1.0 - sum(alike for _, _, alike in self._looked) / items
        each_s = changes * looked_s / items + whole * (before_s + changes * after_s)
        return len(self._enough()) * each_s

    def _in_vain(self, old: Mapping[str, Scored], new: Mapping[str, Scored], ids: Sequence[str]) -> bool:
        """Whether these flips would be too many even if every item that is left scored the same."""
        was, now = _numbers(old), _numbers(new)
        if was == now:
            return False
        rest = {id: True for id in ids if id not in was}
        topics = self._topics(ids)
        return (
            decide(was | rest, now | rest, self.allowed_loss, CONFIDENCE, clusters=topics, seed=self.seed)
            != "accept"
        )

    def scores(self, plan: Plan, ids: Sequence[str]) -> dict[str, Scored]:
        """What they score; those of the plan that all others are judged against are kept."""
        own = plan is self.before
        if own and self._known[0] != plan.content:
            self._known = plan.content, {}
        known = self._known[1] if own else {}
        if missing := [id for id in ids if id not in known]:
            self.say(f"judge {len(missing)} answers of {plan.id}")
            began = self.clock()
            known |= self.testbed.scores(plan, missing)
            self._took[own].append((self.clock() - began, len(missing)))
        return {id: known[id] for id in ids}

    def _pair(
        self, before: Plan, after: Plan, ids: Sequence[str]
    ) -> tuple[dict[str, Scored], dict[str, Scored]]:
        """What they score under both plans; those are not run whole to which all that differs gives the same."""
        began = self.clock()
        alike = self.testbed.alike(before, after, ids)
        self._looked.append((self.clock() - began, len(ids), sum(alike.values())))
        rest = [id for id in ids if not alike.get(id, False)]
        old, new = self.scores(before, rest), self.scores(after, rest)
        return {id: old.get(id, ALIKE) for id in ids}, {id: new.get(id, ALIKE) for id in ids}

    def _judged(self, before: Plan, after: Plan, ids: Sequence[str]) -> Verdict:
        old, new = self._pair(before, after, ids)
        return compare(
            _numbers(old),
            _numbers(new),
            self.allowed_loss,
            CONFIDENCE,
            clusters=self._topics(ids),
            seed=self.seed,
        )


def _provable(topics: int, largest: int, items: int) -> float:
    """The smallest loss that items can bound if none of them gets worse. Those of a topic fall together, so the bound
    is that of so many topics, times what the largest of them weighs among them.

    >>> round(_provable(60, 1, 60), 4), round(_provable(60, 5, 64), 4)
    (0.0487, 0.2283)
    """
    if not topics:
        return 1.0
    return min(1.0, smallest_provable_loss(topics, confidence=CONFIDENCE) * largest * topics / items)


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """A small one first, then twice as many each time: what harms shows early, what does not should take little."""
    place, size = 0, PART
    while place < len(ids):
        yield ids[place : place + size]
        place, size = place + size, min(LATER, 2 * size)


def _numbers(found: Mapping[str, Scored]) -> dict[str, bool | float]:
    """Right and wrong where the metric says only that, so that the exact test applies."""
    binary = all(each.score in (0.0, 1.0) for each in found.values())
    return {id: bool(each.score) if binary else each.score for id, each in found.items()}
