"""Refusing at the door what would be too late: predictions along a request's path.

A request is admitted while its predicted finish lies before its deadline and what it waits keeps it within its
aim; one that is refused is told when the queue will have drained far enough. The event loop is a station of
the path as well: what a request waited to be read counts from its budget, and its answer is taken to wait as
long on the way out.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tauten.clock import Clock, in_ms
from tauten.errors import Cancelled, DeadlineExceeded, Overloaded, TautenError, Unavailable
from tauten.plan.lower import Lowered
from tauten.plan.lower import Step as Planned
from tauten.run.deploy.scheduling import retry_after
from tauten.run.door.feedback import AdaptiveLimit, Margin
from tauten.run.door.known_steps import GAIN, Met, Place, Step, Steps
from tauten.run.request import ANY_TIME, Aim, Asked
from tauten.run.trace import Row
from tauten.run.usage.payer import NOBODY, Payer

if TYPE_CHECKING:
    from tauten.run.opened import Opened
    from tauten.run.request import Request
    from tauten.run.single import Single
    from tauten.run.usage.book import Book

SPARE = 32  # requests that one look at the queues serves, where there is time for as many more: a full batch
REFRESH_S = 0.01  # how old a prediction of the path may be: queues move by a batch or two meanwhile
LEARN_S = 0.005  # between those that teach: who has more requests than that has no need of more teachers
LEARN_ALL, LEARN_EACH = 16, 8  # requests: the first ones teach, then one in eight; the rest is free
TRY_S = 0.1  # between requests that are let in to see whether what was learned still holds
SLOW = 1.25  # times its own work, waiting included, is what one gets whose work alone is longer than its aim


class Roughly(NamedTuple):
    """What requests of a priority and above take at most, until an instant or a crowd in the queues."""

    until: float
    crowd: int
    priority: int
    seconds: float


class Terms(NamedTuple):
    """What one request asks of admission; all in seconds from now but the aim, which counts from its arrival."""

    left_s: float  # of its deadline
    aim: Aim = ANY_TIME
    spent_s: float = 0.0  # since its arrival
    lag_s: float = 0.0  # of that it waited for the event loop, as its answer will
    idle: bool = False  # nobody else is in the engine


class Path:
    """The steps of one plan, and what they will take for one more request.

    `before` says for each step which steps end before it begins; `places` where it may have to wait, and `met`
    where others may, such as those that only finished requests show: all those of a program.
    """

    def __init__(
        self,
        before: Mapping[str, Iterable[str]],
        places: Mapping[str, Iterable[Place]],
        met: Met | None = None,
    ) -> None:
        self._steps = Steps(before, places, met)
        self._after: dict[str, dict[str, float]] = {}  # by tenant
        self._until = -math.inf
        self._seen = 0
        # by priority: a low one that is late says nothing of those that go before it
        self._margins: defaultdict[int, Margin] = defaultdict(Margin)
        self._try_at = math.nan  # when one more is let in to see, where all are refused
        self._alone_s = 0.0  # what one surely takes where nobody waits
        self._first = Step()  # what one takes by itself to its first output
        self._taught = -math.inf  # when one taught last
        self._tail_s = 0.0  # from there to the end, in the mean
        self._sure: tuple[Place, ...] = ()  # where almost every request comes
        self._roughly = Roughly(-math.inf, 0, 0, 0.0)
        self.learned = 0
        self.knows = False  # enough to predict by
        self.whole = False  # and there is no place where only some requests come

    def wants(self, now: float) -> bool:
        """Whether the request that ends now is one to learn from."""
        self._seen += 1
        if self._seen > LEARN_ALL and (self._seen % LEARN_EACH or now - self._taught < LEARN_S):
            return False
        self._taught = now
        return True

    def learn(self, rows: Sequence[Row], start: float = 0.0, first: float = 0.0, end: float = 0.0) -> None:
        """Take what one finished request took, step by step, and to its first output."""
        self.learned += 1
        self._steps.learn(rows)
        if end:
            self._first.learn(max(0.0, first - start - waited_s(rows, start, first)))
            self._tail_s += (max(0.0, end - first) - self._tail_s) * max(GAIN, 1 / self.learned)
        waiting = [step.sure for step in self._steps.named.values() if step.waits]
        if not self.knows:
            self._until = -math.inf
        self.knows, self.whole = any(waiting), all(waiting)

    def ended(self, request: Asked, now: float, *, late: bool) -> None:
        """Widen predictions for a priority until hardly any of it that was admitted is late."""
        margin = self._margins[request.priority]
        if late:
            margin.late(now, request.count)
        else:
            margin.in_time(request.count)

    def after(self, now: float, tenant: str = "") -> dict[str, float]:
        """For each step the predicted seconds from its end to the end of a tenant's request, queues included."""
        if now >= self._until:
            self._refresh(now)
        after = self._after.get(tenant)
        if after is None:
            after = self._after[tenant] = self._steps.after(now, tenant)
        return after

    def usual_s(self, step: str, now: float, tenant: str = "") -> float | None:
        """Seconds that a tenant's request will spend in a step, its wait there included; None where none was seen."""
        known = self._steps.named.get(step)
        return known.usual_s(now, tenant) if known is not None and known.seen else None

    def least_s(self, priority: int, now: float, spare: int = 0, tenant: str | None = None) -> float:
        """Seconds that one more request of that priority takes at the least; 0.0 before anything is known.

        Behind all that wait; with a tenant behind its own and its fair part of the others. With `spare` as if so
        many more of its own were to come before it.
        """
        if not self.knows:
            return 0.0
        if now >= self._until:
            self._refresh(now)
        line = self._steps.line
        return self._steps.longest([step.least_s(priority, now, spare, tenant) for step, _ in line])

    def _refresh(self, now: float) -> None:
        self._until = now + REFRESH_S
        steps = self._steps
        self._alone_s = steps.longest([step.alone_s for step, _ in steps.line])
        sure = [place for step, _ in steps.line if step.sure for place in step.places]
        self._sure = tuple(dict.fromkeys(sure))
        self._after = {}

    def _wanted(self, aim: Aim, margin: float) -> tuple[tuple[float, float], ...]:
        """To the end and to the first output: (what one takes by itself, what it may take with waiting).

        A request is refused for what waiting adds: one whose own work is longer than its aim gets the time
        of that work, and a little to wait.
        """
        alone_s, first_s = self._alone_s, self._first.sure_s
        return (
            (alone_s, aim.end_s if alone_s <= aim.end_s else SLOW * margin * alone_s),
            (first_s, aim.first_s if first_s <= aim.first_s else SLOW * margin * first_s),
        )

    def _may_try(self, left_s: float, now: float) -> bool:
        """Whether one may be let in against the prediction: where no queue is to blame, what was learned in
        a bad hour would refuse everybody, and nobody would teach otherwise."""
        if self._alone_s <= left_s:
            return False
        if math.isnan(self._try_at):
            self._try_at = now + max(TRY_S, self._alone_s)
        return now >= self._try_at

    def check(self, priority: int, terms: Terms, now: float, count: int = 1, tenant: str = "") -> bool:
        """Raise Overloaded for a request that would be too late. False for one that may come in to see.

        Of several that ask together (`count`) the last one decides.
        """
        left_s, lag_s = terms.left_s, terms.lag_s
        if not left_s > 0.0:
            return True  # it is late already, which its own timer says
        if not self.knows:
            return True
        margin = self._margins[priority].at(now)
        if self._missed(self._most_s(priority, now, count), terms, margin) is None:
            return True  # with room to spare: not worth a closer look
        least_s = self.least_s(priority, now, count - 1, tenant)
        if least_s * margin + lag_s > left_s and self._may_try(left_s, now):
            return False
        missed = self._missed(least_s, terms, margin)
        if missed is not None:
            raise too_late("the request", *missed, retry_after(*missed))
        return True

    def _missed(self, least_s: float, terms: Terms, margin: float) -> tuple[float, float] | None:
        """(seconds it needs, seconds it has) where it would be too late, if it takes so long at the least."""
        left_s, lag_s = terms.left_s, terms.lag_s
        needs_s = least_s * margin + lag_s
        if needs_s > left_s:
            return needs_s, left_s
        if terms.aim is not ANY_TIME:
            waits_s = max(0.0, least_s - self._alone_s)
            margin = 1.0 if terms.idle else margin  # it stands for what others add
            for own_s, want_s in self._wanted(terms.aim, margin):
                needs_s, left_s = (own_s + waits_s) * margin + lag_s, want_s - terms.spent_s
                if needs_s > left_s:
                    return needs_s, left_s
        return None

    def _most_s(self, priority: int, now: float, count: int) -> float:
        """What it takes behind all that wait, whoever they are, and as many more as are worth one look: who is in
        time by this is in time."""
        crowd = count - 1
        for place in self._sure:
            crowd += place.waiting + place.coming
        known = self._roughly
        if now < known.until and crowd <= known.crowd and priority >= known.priority:
            return known.seconds
        self._roughly = known = Roughly(
            now + REFRESH_S / 2, crowd + SPARE, priority, self.least_s(priority, now, SPARE + count - 1)
        )
        return known.seconds

    def admit(self, request: Asked, now: float, *, idle: bool = False) -> bool:
        """Raise Overloaded when the request would be too late; else hand its predictions down to it, and say
        whether there are any. Where they are not for all places that it may come to, those may refuse it."""
        if not self.knows or request.deadline == math.inf:
            return False
        start, aim = request.start, request.aim
        terms = Terms(request.deadline - now, aim, now - start, request.lag_s, idle)
        count, tenant = request.count, request.tenant
        if not self.check(request.priority, terms, now, count, tenant):
            self._try_at = now + max(TRY_S, self._alone_s)
            self._seen = 0  # the next ones teach
            return False
        if not terms.left_s > 0.0:
            return False
        if aim is not ANY_TIME:
            (_, end_s), (_, first_s) = self._wanted(aim, self._margins[request.priority].value)
            request.target = start + min(end_s, first_s + self._tail_s)
        request.after = self.after(now, tenant)
        request.coming = set(self._sure)
        for place in self._sure:
            place.coming += count
            if tenant:
                place.coming_of[tenant] += count
        request.admitted = self.whole
        return True

    def foresaw(self, rows: Iterable[Row]) -> bool:
        """Whether one waited only where it was known to come."""
        return self.whole or all(self._steps.sure(row[0]) for row in rows if row[1] == "queue")


def waited_s(rows: Iterable[Row], since: float, until: float) -> float:
    """Seconds between two instants in which some part of a request waited for its turn."""
    total, seen = 0.0, since
    for begin, end in sorted((row[2], row[3]) for row in rows if row[1] in _WAITS):
        total += max(0.0, min(end, until) - max(begin, seen))
        seen = max(seen, end)
    return total


def late_by_waiting(request: Asked, now: float) -> bool:
    """Whether one that came to its end missed its aim, and would not have without its waiting."""
    aim = request.aim
    if now - request.start < min(aim):
        return False
    trace = request.trace
    first = now if trace.first_output is None else trace.first_output
    for at, want_s in ((now, aim.end_s), (first, aim.first_s)):
        took_s = at - request.start
        if took_s >= want_s > took_s - waited_s(trace.rows, request.start, at):
            return True
    return False


_WAITS = frozenset({"queue", "batch_wait", "loop", "admission"})  # others are to blame for these


def too_late(label: str, needs_s: float, left_s: float, retry_after_s: float) -> Overloaded:
    """The refusal of what cannot be in time."""
    return Overloaded(
        f"{label} would take {in_ms(needs_s)} ms, {in_ms(max(left_s, 0.0))} ms are left",
        help="retry later, allow more time, or add replicas",
        retry_after_s=retry_after_s,
    )


def path_of(lowered: Lowered | None, places: Met) -> Path | None:
    """The path of a plan: drawn steps are known, those of a program are met as its requests end.

    None where no step of a drawing can wait for anything.
    """
    if lowered is None:
        return Path({}, {}, places)
    names = [step.name for step in lowered.steps]
    before = {name: (*lowered.edges.get(name, ()), *lowered.order.get(name, ())) for name in names}
    waiting = any(_may_wait(step) or any(places(step.name)) for step in lowered.steps)
    return Path(before, {}, places) if waiting else None


def _may_wait(step: Planned) -> bool:
    """Whether it decodes, or may give work to threads: where, is seen when the first request comes to it."""
    kind = step.kind
    return step.view is not None or (kind is not None and (bool(kind.context_param) or kind.streams))


class Door:
    """Where requests enter an engine: refused while it drains, when they would be late, or by a limit.

    The limit bounds the memory of all, and adapts to those whose capacity is unknown: requests of plans of
    which too few have ended.
    """

    def __init__(self, clock: Clock, book: Book | None = None) -> None:
        self.clock = clock
        self.book = book  # where it is booked what requests took; None: nowhere
        self.draining = False
        self.limit = AdaptiveLimit()
        self.refused = 0

    def knock(
        self,
        path: Path | None,
        priority: int,
        budget_s: float,
        lag_s: float,
        aim: Aim = ANY_TIME,
        tenant: str = "",
    ) -> None:
        """Refuse as `through` would, before anything is spent on the request; counts nobody in."""
        try:
            self._check_open(budget_s - lag_s, lag_s)
            if path is not None and budget_s != math.inf:
                idle = not self.limit.running
                terms = Terms(budget_s - lag_s, aim, lag_s, lag_s, idle)
                path.check(priority, terms, self.clock(), tenant=tenant)
        except TautenError:
            self.refused += 1
            raise

    def through(self, path: Path | None, request: Request, opened: Opened | None = None) -> Passage:
        """The request's whole stay, as a context; entering it raises Overloaded or Unavailable.

        With the plan that it runs, it is booked what it took.
        """
        return Passage(self, path, request, opened)

    def enter(self, path: Path | None, request: Asked) -> bool:
        """Let a request in or refuse it; says whether it was predicted when it will end."""
        try:
            if request.lag_s or self.draining:
                self._check_open(request.deadline - self.clock(), request.lag_s)
            predicted = path is not None and path.knows and request.deadline != math.inf
            self.limit.check(request.priority, predicted=predicted, count=request.count)
            if predicted and path is not None:
                predicted = path.admit(request, self.clock(), idle=not self.limit.running)
        except TautenError:
            if request.count == 1:  # of several each comes again, and is counted then
                self.refused += 1
            raise
        self.limit.count(request.count)
        return predicted

    def leave(
        self, path: Path | None, request: Asked, *, predicted: bool, whole: bool, late: bool = False
    ) -> None:
        """Let a request out: `whole` where it came to its end and may teach; `predicted` as `enter` said."""
        while request.coming:
            next(iter(request.coming)).came(request)
        now, began, deadline = self.clock(), request.start, request.deadline
        if path is not None:
            if whole and path.wants(now):
                trace = request.trace
                first = now if trace.first_output is None else trace.first_output
                path.learn(trace.rows, request.came, first, now)
            if predicted:
                late = late or now >= deadline
                if not late and request.aim is not ANY_TIME:
                    late = late_by_waiting(request, now)
                # who left early, or failed, was not in time: it says nothing
                if path.foresaw(request.trace.rows) if late else whole:
                    path.ended(request, now, late=late)
        budget_s = deadline - began
        if whole or now < deadline:  # else it was late in any case
            budget_s = min(budget_s, request.aim.end_s)
        self.limit.leave(began, now, budget_s, whole=whole, count=request.count)

    def part(self, request: Single, payer: Payer = NOBODY) -> None:
        """Let one out of several that came together, before they came to their end."""
        self.limit.leave(request.start, self.clock(), whole=False)
        if self.book is not None:
            self.book.ended_together(request, payer, 1, error=_LEFT)

    def _check_open(self, left_s: float, lag_s: float) -> None:
        """Refuse who was in time when he came, and has waited for the event loop since."""
        if left_s <= 0.0 < left_s + lag_s:
            raise too_late("the request", lag_s, left_s, lag_s)
        if self.draining:
            raise Unavailable(
                "the engine is draining", help="send the request to another one", retry_after_s=1.0
            )


_LEFT = Cancelled("one of several left", help="send the request again")


class Passage:
    """One request's stay behind the door. `whole` says that it came to its end, and may teach."""

    __slots__ = ("_door", "_opened", "_path", "_predicted", "_request", "whole")

    def __init__(self, door: Door, path: Path | None, request: Request, opened: Opened | None) -> None:
        self._door = door
        self._path = path
        self._request = request
        self._opened = opened
        self._predicted = False  # when it would end
        self.whole = False

    def enter(self) -> None:
        try:
            self._predicted = self._door.enter(self._path, self._request)
        except TautenError as error:
            self.book(error)
            raise
        if self._door.book is not None and self._opened is not None:
            self._request.purse = self._door.book.purse(self._opened, self._request)

    def leave(self, late: bool = False) -> None:
        self._door.leave(self._path, self._request, predicted=self._predicted, whole=self.whole, late=late)

    def book(self, error: object = None) -> None:
        """Have it booked what the request took, once all its work has ended."""
        if self._door.book is not None and self._opened is not None:
            self._door.book.ended(self._opened, self._request, whole=self.whole, error=error)

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.whole = kind is None
        self.leave(isinstance(error, DeadlineExceeded))
        self.book(error)
