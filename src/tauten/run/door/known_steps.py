"""The steps of a path as finished requests taught them: what came, in which order, how long, waiting where.

A drawing says its steps and their order; those of a program, and those that a stage calls itself, are learned.
Pure: all times come from the rows of traces, or are given.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tauten.run.request import Asked
from tauten.run.trace import BODY, VISIT, Row

GAIN = 1 / 8  # of a new observation, as round-trip estimators take it
ENOUGH = 16  # visits before a step that no drawing announced counts: the first ones may all be exceptions
MOST = 64  # steps that are learned: names may be made up at run time, and pairs of steps are compared
_SURE = 0.9  # of the requests come to a step: below that one more may well skip it
_SHARE_GAIN = 1 / 32  # with 1/8 a branch that half of the requests take would look sure once in a thousand


class Place(Protocol):
    """A deployment, or a crew of threads, as the path sees it."""

    coming: int  # requests that were admitted and have yet to come here
    coming_of: defaultdict[str, int]  # of those, the ones of each tenant that has a name

    @property
    def waiting(self) -> int: ...

    def came(self, request: Asked) -> None: ...  # or will never come

    def wait_s(
        self, priority: int, now: float, coming: int = 0, tenant: str | None = None
    ) -> float: ...  # of one more, behind all or, with a tenant, behind its fair part of them


Span = tuple[float, float]
Met = Callable[[str], Sequence[Sequence[Place]]]
"""Where a step waits that no drawing announced: the places of each of its bindings, a list that may grow."""


class Step:
    """What one step is known to take by itself, waiting for its turns left out.

    It has `turns` where a request comes back to it; members of a map come at once, and share one.
    """

    __slots__ = (
        "before",
        "bindings",
        "deviation_s",
        "enough",
        "mean_s",
        "never",
        "seen",
        "share",
        "sure",
        "sure_s",
        "sure_turns",
        "turns",
    )

    def __init__(self, bindings: Sequence[Sequence[Place]] = (), enough: int = 0) -> None:
        self.bindings = bindings  # it runs in one of them, in all places of that
        self.enough = enough
        self.before: set[str] = set()  # steps that had ended whenever it began
        self.never: set[str] = set()  # steps that had not, at least once
        self.mean_s = self.deviation_s = 0.0  # a turn
        self.sure_s = 0.0  # what it takes at the least; one that took less shows at once that it is less
        self.turns = self.sure_turns = 1.0
        self.seen = 0
        self.share = 0.0  # of the requests come here; others skip it
        self.sure = False  # that one more comes here, for all that is known

    def learn(self, seconds: float, turns: int = 1) -> None:
        self.seen += 1
        gain = max(GAIN, 1 / self.seen)
        self.turns += (turns - self.turns) * gain
        self.sure_turns = min(turns, self.sure_turns + (turns - self.sure_turns) * gain)
        turn_s = seconds / turns
        error = turn_s - self.mean_s
        self.mean_s += error * gain
        self.deviation_s += (abs(error) - self.deviation_s) * gain if self.seen > 1 else 0.0
        usual_s = max(0.0, self.mean_s - 1.5 * self.deviation_s)
        self.sure_s = min(turn_s, usual_s, self.sure_s + (usual_s - self.sure_s) * gain)

    @property
    def waits(self) -> bool:
        return bool(self.bindings) and all(self.bindings)

    @property
    def places(self) -> tuple[Place, ...]:
        """Where each that comes here must wait; with several bindings nobody knows which."""
        return tuple(self.bindings[0]) if len(self.bindings) == 1 else ()

    def wait_s(self, now: float, tenant: str) -> float:
        """Seconds a turn of a tenant's request waits, where it goes to the binding that is free first."""
        return min([_longest(places, now, tenant) for places in self.bindings], default=0.0)

    def door_s(self, priority: int, now: float, spare: int = 0, tenant: str | None = None) -> float:
        """As `wait_s`, behind those that were admitted before and are still on their way, and `spare` others of
        its own; without a tenant behind all of them."""
        least_s = math.inf if self.bindings else 0.0
        for places in self.bindings:
            longest_s = 0.0
            for place in places:
                longest_s = max(longest_s, place.wait_s(priority, now, place.coming + spare, tenant))
            least_s = min(least_s, longest_s)
        return least_s

    def usual_s(self, now: float, tenant: str) -> float:
        return self.share * self.turns * (self.mean_s + self.wait_s(now, tenant))

    def least_s(self, priority: int, now: float, spare: int = 0, tenant: str | None = None) -> float:
        """What it surely takes: inputs differ, and a request is not refused for those of others."""
        return (
            self.sure_turns * (self.sure_s + self.door_s(priority, now, spare, tenant)) if self.sure else 0.0
        )

    @property
    def alone_s(self) -> float:
        """As `least_s`, where nobody waits."""
        return self.sure_turns * self.sure_s if self.sure else 0.0


class Steps:
    """The steps of one path. `before` says for each that a drawing announced which steps end before it begins,
    `places` where it may have to wait, `met` where those may of which that does not say it."""

    def __init__(
        self, before: Mapping[str, Iterable[str]], places: Mapping[str, Iterable[Place]], met: Met | None
    ) -> None:
        self._met = met
        self.named: dict[str, Step] = {}
        for name, earlier in before.items():
            given = places.get(name)
            bindings = [tuple(given)] if given is not None else met(name) if met is not None else ()
            self.named[name] = Step(bindings)
            self.named[name].before.update(earlier)
        self._drawn = len(self.named)  # those come first
        self._learned = 0
        self._arrange()

    def learn(self, rows: Iterable[Row]) -> None:
        """Take what one finished request took, step by step."""
        self._learned += 1
        came = stays(rows)
        gain = max(_SHARE_GAIN, 1 / self._learned)
        met = self._meet(came)
        for name, step in self.named.items():
            stay = came.get(name)
            step.share += ((stay is not None) - step.share) * gain
            if stay is not None:
                step.learn(stay.own_s, len(stay.visits))
            step.sure = step.share >= _SURE and step.seen >= step.enough
        if len(self.named) > self._drawn and (self._compare(came) or met):
            self._arrange()

    def sure(self, visit: str) -> bool:
        """Whether every request comes to the step of a visit."""
        step = self.named.get(step_of(visit))
        return step is not None and step.sure

    def _meet(self, came: Iterable[str]) -> bool:
        """Add the steps that no request came to before; whether there are any."""
        known = len(self.named)
        if self._met is None:
            return False
        for name in came:
            if name not in self.named and len(self.named) < self._drawn + MOST:
                self.named[name] = Step(self._met(name), ENOUGH)
        return len(self.named) > known

    def _compare(self, came: Mapping[str, Stay]) -> bool:
        """Whether the order of steps changed by what was seen: first visits, in the order of their ends."""
        names = [name for name in came if name in self.named]
        drawn = set(list(self.named)[: self._drawn])
        changed = False
        for index, name in enumerate(names):
            begins = came[name].visits[0][0]
            for earlier in names[:index]:
                if not (name in drawn and earlier in drawn):
                    changed |= self._rule(name, earlier, after=came[earlier].ended(begins))
                    changed |= self._rule(earlier, name, after=False)
        return changed

    def _rule(self, name: str, other: str, *, after: bool) -> bool:
        """Note that a step came after another one, or did not; whether that is news."""
        step = self.named[name]
        if other in step.never or (after and other in step.before):
            return False
        (step.before if after else step.never).add(other)
        if not after:
            step.before.discard(other)
        return True

    def _arrange(self) -> None:
        """The steps in order, each with those right before it."""
        before = {
            name: {each for each in (*step.before, _parent(name)) if each in self.named and each != name}
            for name, step in self.named.items()
        }
        self._order = _ordered(before)
        at = {name: index for index, name in enumerate(self._order)}
        self.line: list[tuple[Step, tuple[int, ...]]] = []
        for name in self._order:
            earlier = {each for each in before[name] if at[each] < at[name]}
            implied = {far for each in earlier for far in before[each]}
            self.line.append((self.named[name], tuple(sorted(at[each] for each in earlier - implied))))

    def longest(self, takes: Iterable[float]) -> float:
        """Seconds along the longest way, where the steps in order take so long."""
        ends: list[float] = []
        for (_, before), takes_s in zip(self.line, takes, strict=True):
            begins = max([ends[each] for each in before]) if before else 0.0
            ends.append(begins + takes_s)
        return max(ends, default=0.0)

    def after(self, now: float, tenant: str) -> dict[str, float]:
        """For each step the seconds from its end to the end of a tenant's request, waiting included; from its last
        turn, where a request comes back to it."""
        after_s = [0.0] * len(self.line)
        for index in range(len(self.line) - 1, -1, -1):
            step, before = self.line[index]
            if not before:
                continue
            usual_s = step.usual_s(now, tenant)
            for earlier in before:
                rounds = max(1.0, min(step.turns, self.line[earlier][0].turns))
                after_s[earlier] = max(after_s[earlier], after_s[index] + usual_s / rounds)
        return dict(zip(self._order, after_s, strict=True))


# -- one request --------------------------------------------------------------------------------------------


class Stay(NamedTuple):
    """One request at one step: its visits, those at the same time as one, and what they took by themselves."""

    visits: list[Span]
    own_s: float

    def ended(self, at: float) -> bool:
        """Whether it had been there before an instant, and was not at it."""
        return self.visits[0][1] <= at and not any(begin <= at < end for begin, end in self.visits)


def stays(rows: Iterable[Row]) -> dict[str, Stay]:
    """What one request's rows say of each of its steps, in the order in which their first visits ended.

    What a visit waited for its turn is not its own, nor what stages took that it called. Members of a map wait
    for one another: only what the luckiest waited was others' doing.
    """
    visits: dict[str, list[tuple[float, float, str]]] = {}
    calls: dict[str, list[Span]] = {}
    waited: dict[str, float] = {}
    for name, cause, begin, end in rows:
        if cause == VISIT or name == BODY:
            visits.setdefault(step_of(name), []).append((begin, end, name))
            if name != BODY:
                calls.setdefault(_parent(step_of(name)), []).append((begin, end))
        elif cause in ("queue", "batch_wait"):
            waited[name] = waited.get(name, 0.0) + end - begin
    found = {}
    for name, each in visits.items():
        turns = _merged((begin, end) for begin, end, _ in each)
        working = _without(turns, _merged(calls[name])) if name in calls else turns
        working_s = sum(end - begin for begin, end in working)
        lucky_s = _lucky(each, turns, waited)
        found[name] = Stay(turns, max(0.0, working_s - lucky_s))
    return found


def _lucky(visits: list[tuple[float, float, str]], turns: list[Span], waited: Mapping[str, float]) -> float:
    """Seconds that the luckiest visit of each turn waited."""
    least = [math.inf] * len(turns)
    for begin, _, name in visits:
        index = bisect_right(turns, begin, key=lambda turn: turn[0]) - 1
        least[index] = min(least[index], waited.get(name, 0.0))
    return sum(least)


_AGAIN = re.compile(r"\[\d+\](\.\w+$)?")  # what is decoded for a member of a map belongs to that


def step_of(name: str) -> str:
    """The step of a visit."""
    return _AGAIN.sub("", name) if "[" in name else name


def _parent(name: str) -> str:
    """Who called a step: another one, or the program."""
    return name.rpartition("/")[0] or BODY


def _merged(spans: Iterable[Span]) -> list[Span]:
    """The time that spans cover; those that only touch stay two."""
    found: list[Span] = []
    for begin, end in sorted(spans):
        if found and (begin < found[-1][1] or begin == found[-1][0]):
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((begin, end))
    return found


def _without(spans: list[Span], cuts: list[Span]) -> list[Span]:
    """What is left of merged spans without merged others."""
    left, first = [], 0
    for begin, end in spans:
        while first < len(cuts) and cuts[first][1] <= begin:
            first += 1
        index = first
        while index < len(cuts) and cuts[index][0] < end:
            if cuts[index][0] > begin:
                left.append((begin, cuts[index][0]))
            begin = max(begin, cuts[index][1])
            index += 1
        if begin < end:
            left.append((begin, end))
    return left


def _longest(places: Iterable[Place], now: float, tenant: str) -> float:
    return max([place.wait_s(0, now, 0, tenant) for place in places], default=0.0)


def _ordered(before: Mapping[str, Iterable[str]]) -> list[str]:
    """The steps, each after those before it."""
    met: set[str] = set()
    found: list[str] = []

    def visit(name: str) -> None:
        if name in met:  # or on the way to itself: pairs seen apart may contradict one another
            return
        met.add(name)
        for earlier in sorted(before[name]):
            visit(earlier)
        found.append(name)

    for name in before:
        visit(name)
    return found
