"""A queue ordered by urgency, shared fairly: classes by priority, tenants within a class, deadlines within.

A class has sixteen times the share of the one below it, so that none starves; tenants of a class have
equal shares of the predicted cost (virtual time), and those that are about even are ordered by urgency.
Where there is no room left, places are shared too: a lower class gives up its own first, and within a class
whoever holds most of them makes room for a tenant that has less than its part.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import math
from bisect import insort
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush
from typing import Any, Generic, Protocol, TypeVar

SHARE = 16.0  # of one priority against the next lower: nearly strict, and 6 % keep the lower one alive
LOOK = 8  # tenants, the furthest behind first, among whom the most urgent item is sought
KEPT = 1024  # tenants whose account is remembered while they are away
_SWEEP = 64  # items that left and lie in a heap are not worth a sweep
NONE: Mapping[str, int] = {}  # never written to
RECENT = 64  # requests, or twice as many, tell a tenant's part of what goes: some batches, and soon outdated
FIRST = 4  # of a tenant's own, before much is made of what others took
_BY_CLASS, _BY_LANE = 1, 2  # who was charged for an item


class Waiter(Protocol):
    """Who is told that a piece of work is over: a future, or what needs no task to wait for it."""

    def done(self) -> bool: ...
    def set_result(self, result: None, /) -> None: ...


class Waiting(Protocol):
    """What waits. One whose waiter is done left by itself, and is only to be dropped."""

    __slots__ = ()
    due: float
    cost: float
    count: int  # requests that it stands for
    priority: int
    tenant: str
    waiter: Waiter
    lane: Any  # where it was put, or where it was taken from and who was charged for it; the queue's own


T = TypeVar("T", bound=Waiting)


class _Lane(Generic[T]):
    """What one tenant has waiting in a class."""

    __slots__ = ("count", "heap", "live", "since", "taken", "tenant", "time")

    def __init__(self, tenant: str, since: float) -> None:
        self.time = 0.0  # virtual, when it was left empty
        self.tenant = tenant
        self.count = 0  # requests, those that left and were not met included
        self.live = 0  # requests that have not left
        self.heap: list[tuple[float, int, T]] = []
        self.taken = 0.0  # requests that went while others waited as well
        self.since = since  # as many of all had gone when that began to be counted

    def took(self, count: int, taken: float) -> None:
        """So many of its own went, and by now so many of all; what was long ago counts half."""
        self.taken += count
        if taken - self.since > 2 * RECENT:
            self.taken /= 2
            self.since = (self.since + taken) / 2

    def others(self, taken: float) -> float:
        """How many of others went for each of its own of late, when so many of all have gone."""
        return (taken - self.since - self.taken) / (self.taken + FIRST)


class _Class(Generic[T]):
    """One priority: its lanes by virtual time, the one furthest behind first."""

    __slots__ = ("lanes", "order", "past", "priority", "taken", "tenants", "time")

    def __init__(self, priority: int) -> None:
        self.priority = priority
        self.time = 0.0  # virtual, of this class among classes
        self.tenants: dict[str, _Lane[T]] = {}  # with something in the queue
        self.lanes: list[tuple[float, int, _Lane[T]]] = []
        self.past: dict[str, float] = {}  # virtual times of tenants that were ahead when they went
        self.order = itertools.count()
        self.taken = 0.0  # requests that went while several tenants waited

    def enter(self, tenant: str) -> _Lane[T]:
        lane = self.tenants[tenant] = _Lane(tenant, self.taken)
        if not self.lanes:
            self.past.clear()  # nobody to be fair to
        now = self.lanes[0][0] if self.lanes else 0.0
        insort(self.lanes, (max(self.past.pop(tenant, 0.0), now), next(self.order), lane))
        return lane

    def leave(self, index: int, cost: float) -> None:
        """A lane is empty: its account is kept while it is ahead of the others."""
        time, _, lane = self.lanes.pop(index)
        del self.tenants[lane.tenant]
        lane.time = self.past[lane.tenant] = time + cost
        if len(self.past) > KEPT and self.lanes:
            now = self.lanes[0][0]
            self.past = {name: at for name, at in self.past.items() if at > now}

    def reopen(self, lane: _Lane[T]) -> None:
        """A lane that was left empty a moment ago goes on where it was."""
        self.past.pop(lane.tenant, None)
        self.tenants[lane.tenant] = lane
        insort(self.lanes, (lane.time, next(self.order), lane))

    def place(self, lane: _Lane[T]) -> int:
        """Where a lane stands among the others."""
        return next(index for index, (_, _, each) in enumerate(self.lanes) if each is lane)

    def refund(self, lane: _Lane[T], item: T) -> None:
        """Give back what a lane was charged for an item that was put back."""
        time, order, _ = self.lanes.pop(self.place(lane))
        insort(self.lanes, (time - item.cost, order, lane))
        self.taken -= item.count
        lane.taken = max(0.0, lane.taken - item.count)

    def pick(self, quantum: float) -> int:
        """The lane whose turn it is: of those about even the one with the most urgent item."""
        lanes = self.lanes
        best = 0
        limit = lanes[0][0] + quantum
        for index in range(1, min(len(lanes), LOOK)):
            time, _, lane = lanes[index]
            if time > limit:
                break
            if lane.heap[0] < lanes[best][2].heap[0]:
                best = index
        return best


class FairQueue(Generic[T]):
    """Items by `due` within a tenant within a priority. Those that left are dropped when they are met."""

    __slots__ = ("_classes", "_lane", "_order", "_past", "_priority", "_size", "_sole", "live", "quantum")

    def __init__(self) -> None:
        self.quantum = 1.0  # cost by which one tenant may be ahead of another and still count as even
        self.live = 0  # requests that have not left
        self._size = 0  # items in the heaps, those that left included
        self._classes: list[_Class[T]] = []  # with something in them, the highest priority first
        self._past: dict[int, _Class[T]] = {}  # that are away, by priority: they keep their virtual times
        self._order = itertools.count()
        self._lane: _Lane[T] | None = None  # where the last item went
        self._priority = 0  # of that
        self._sole: _Lane[T] | None = None  # the only lane there is

    def push(self, item: T) -> None:
        lane = self._lane
        if lane is None or item.tenant != lane.tenant or item.priority != self._priority:
            lane = self._lane = self._enter(item.priority, item.tenant)
            self._priority = item.priority
            self._look()
        heappush(lane.heap, (item.due, next(self._order), item))
        self._size += 1
        item.lane = lane
        lane.count += item.count
        lane.live += item.count
        self.live += item.count

    def _enter(self, priority: int, tenant: str) -> _Lane[T]:
        if not self._size:
            self._classes.clear()  # the last lane was kept for the next of its kind
            self._past.clear()
        for each in self._classes:
            if each.priority == priority:
                return each.tenants.get(tenant) or each.enter(tenant)
        new: _Class[T] = self._past.pop(priority) if priority in self._past else _Class(priority)
        new.time = max(new.time, min((each.time for each in self._classes), default=0.0))
        insort(self._classes, new, key=_rank)
        return new.enter(tenant)

    def _look(self) -> None:
        """Whether there is one lane only: then there is nothing to choose."""
        classes = self._classes
        alone = len(classes) == 1 and len(classes[0].lanes) == 1
        self._sole = classes[0].lanes[0][2] if alone else None

    def head(self) -> T | None:
        """The item whose turn it is."""
        while self._size:
            cls, index = self._turn()
            item = cls.lanes[index][2].heap[0][2]
            if not item.waiter.done():
                return item
            self._take(cls, index, charge=False)
        return None

    def pop(self) -> T | None:
        """Take the item whose turn it is."""
        sole = self._sole
        if sole is not None:
            while sole.heap:
                item = heappop(sole.heap)[2]
                self._size -= 1
                sole.count -= item.count
                if not item.waiter.done():
                    sole.live -= item.count
                    self.live -= item.count
                    item.lane = (sole, self._classes[0], 0)
                    return item
            return None
        while self._size:
            cls, index = self._turn()
            item = self._take(cls, index, charge=True)
            if not item.waiter.done():
                return item
        return None

    def _turn(self) -> tuple[_Class[T], int]:
        classes = self._classes
        cls = classes[0]
        if len(classes) > 1:
            cls = min(classes, key=_class_time)
        return cls, (cls.pick(self.quantum) if len(cls.lanes) > 1 else 0)

    def _take(self, cls: _Class[T], index: int, *, charge: bool) -> T:
        """Pop a lane's first item; whoever is alone pays nothing."""
        time, order, lane = cls.lanes[index]
        item = heappop(lane.heap)[2]
        self._size -= 1
        lane.count -= item.count
        cost, paid = 0.0, 0
        if charge and not item.waiter.done():
            self._uncount(item, item.count)
            if len(self._classes) > 1:
                paid |= _BY_CLASS
                cls.time += item.cost / _share(cls.priority)
            if len(cls.lanes) > 1:
                paid |= _BY_LANE
                cost = item.cost
                cls.taken += item.count
                lane.took(item.count, cls.taken)
            item.lane = (lane, cls, paid)
        if not lane.heap and self._size:
            self._close(cls, index, cost)
        elif cost:
            del cls.lanes[index]
            insort(cls.lanes, (time + cost, order, lane))
        return item

    def _close(self, cls: _Class[T], index: int, cost: float) -> None:
        self._lane = None
        cls.leave(index, cost)
        if not cls.lanes:
            self._classes.remove(cls)
            self._past[cls.priority] = cls
        self._look()

    def restore(self, item: T) -> None:
        """Put back what was taken but did not leave, as if it had stayed: who was charged for it has that back.

        Where everything was taken its lane and its class are opened anew, as they were: a queue that is empty
        until all are put back begins no new account.
        """
        last = self._classes[0] if self._classes and not self._size else None
        kept = last.lanes[0][2] if last is not None else None  # empty, until it is known who comes next
        if item.lane.__class__ is not tuple or not self._reopened(*item.lane[:2]):
            self.push(item)
            return
        lane, cls, paid = item.lane
        self._lane, self._priority = lane, item.priority
        self.push(item)
        if paid & _BY_CLASS:
            cls.time -= item.cost / _share(cls.priority)
        if paid & _BY_LANE:
            cls.refund(lane, item)
        if last is not None and kept is not None and not kept.heap:
            self._close(last, last.place(kept), 0.0)
        self._look()

    def _reopened(self, lane: _Lane[T], cls: _Class[T]) -> bool:
        """Whether a lane is in the queue, be it anew; not where its class is no more, or another took its place."""
        if self._past.get(cls.priority) is cls:
            del self._past[cls.priority]
            insort(self._classes, cls, key=_rank)
        elif cls not in self._classes:
            return False
        there = cls.tenants.get(lane.tenant)
        if there is None:
            cls.reopen(lane)
        return there is None or there is lane

    def lessen(self, item: T) -> None:
        """One of the requests that a waiting item stands for has left."""
        item.count -= 1
        item.lane.count -= 1
        self._uncount(item, 1)

    def parted(self, item: T, rest: T) -> None:
        """A waiting item has given some of its requests to `rest`, which lies in no heap and has yet to leave."""
        rest.lane = item.lane
        rest.lane.count -= rest.count

    def left(self, item: T) -> None:
        """An item left by itself; the heaps are swept once such outnumber the others."""
        self._uncount(item, item.count)
        if self._size > 2 * (self.live + _SWEEP):
            self._sweep()

    def _uncount(self, item: T, count: int) -> None:
        item.lane.live -= count
        self.live -= count

    def _sweep(self) -> None:
        for cls in list(self._classes):
            for index in range(len(cls.lanes) - 1, -1, -1):
                lane = cls.lanes[index][2]
                heap = lane.heap
                heap[:] = [entry for entry in heap if not entry[2].waiter.done()]
                lane.count = sum(item.count for _, _, item in heap)
                heapify(heap)
                if not heap:
                    self._close(cls, index, 0.0)
        self._size = sum(len(lane.heap) for cls in self._classes for _, _, lane in cls.lanes)

    def __iter__(self) -> Iterator[T]:
        """All items that have not left, in no order."""
        for cls in self._classes:
            for _, _, lane in cls.lanes:
                for _, _, item in lane.heap:
                    if not item.waiter.done():
                        yield item

    def __len__(self) -> int:
        return self._size

    def at_least(self, priority: int) -> int:
        """How many requests of this priority and above wait; those that left and were not met count."""
        if len(self._classes) <= 1:
            one = self._classes[0].priority if self._classes else priority
            return self.live if one >= priority else 0
        return sum(
            lane.count for cls in self._classes if cls.priority >= priority for _, _, lane in cls.lanes
        )

    def ahead(self, priority: int, tenant: str, coming: Mapping[str, int] = NONE) -> int:
        """How many requests go before a new one: those of higher priorities, and of its own its fair part; those
        counted that are still `coming`, by tenant.

        Tenants take turns: before the n-th item of one, each other has had n at most. Who of them has fewer waiting
        than that may have more by then: as many as went of late for each of its own.
        """
        sole = self._sole
        if (
            not coming
            and sole is not None
            and sole.tenant == tenant
            and self._classes[0].priority == priority
        ):
            return self.live
        higher, rate, held = 0, 0.0, dict(coming)
        for cls in self._classes:
            if cls.priority > priority:
                higher += sum([lane.live for _, _, lane in cls.lanes])
            elif cls.priority == priority:
                for _, _, lane in cls.lanes:
                    held[lane.tenant] = held.get(lane.tenant, 0) + lane.live
                    if lane.tenant == tenant:
                        rate = lane.others(cls.taken)
        mine = held.pop(tenant, 0)
        others = [count for count in held.values() if count]
        now = sum([min(count, mine + 1) for count in others])
        then = min(math.ceil(mine * rate), len(others) * (mine + 1))
        return higher + mine + max(now, then)

    def displaced(self, priority: int, tenant: str) -> T | None:
        """Who gives its place to one more request: of the lowest priority the least urgent of the tenant that
        holds most; of the request's own priority only where its tenant has less than its fair share."""
        for cls in reversed(self._classes):
            held = {lane.tenant: lane.live for _, _, lane in cls.lanes if lane.live}
            if cls.priority > priority or (cls.priority == priority and not _has_less(tenant, held)):
                return None
            if held:
                heap = cls.tenants[max(held, key=held.__getitem__)].heap
                waiting = [item for _, _, item in heap if not item.waiter.done()]
                if waiting:
                    return max(waiting, key=_due)
        return None


def _share(priority: int) -> float:
    return float(SHARE**priority)


def _rank(cls: _Class[Any]) -> int:
    return -cls.priority


def _class_time(cls: _Class[T]) -> float:
    """When a class will have had its next item, in virtual time: a low one lets the others go first."""
    return cls.time + cls.lanes[0][2].heap[0][2].cost / _share(cls.priority)


def _has_less(tenant: str, held: dict[str, int]) -> bool:
    """Whether a tenant would have no more than its fair share of the places that are held, with one more."""
    mine = held.get(tenant, 0)
    return (mine + 1) * (len(held) + (not mine)) <= sum(held.values())


def _due(item: Waiting) -> float:
    return item.due
