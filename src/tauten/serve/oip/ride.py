"""Rides: requests to one model that are alike, and came in one turn of the loop or while they could only wait,
travel as one item.

Under load dozens of requests are read in a turn. Those that the same tenant sends in the same shape differ in
nothing but their numbers: they pass the door together, wait as one entry and bring one array to the model.
Each has its own answer, its own id and its own departure.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from tauten.clock import real
from tauten.errors import BackendError, Overloaded, TautenError, Unavailable
from tauten.run.deadline import arm
from tauten.run.deploy.deployment import Deployment
from tauten.run.deploy.job import Job
from tauten.run.request import ANY_TIME
from tauten.run.single import Item, Single, Station
from tauten.run.usage.payer import Payer
from tauten.serve.door import client_left
from tauten.serve.oip import rest
from tauten.serve.oip.shut import Shut
from tauten.serve.tensor_model import Feed, TensorService, refusal, rows_of

if TYPE_CHECKING:
    from tauten.serve.app import Site
    from tauten.serve.http.cycle import Shared
    from tauten.serve.oip.express import Rider

_SHAPES = 256  # of a model's requests, whose items are known
_HEADS = 64  # of answers, by the length of their JSON
GATHER_S = 0.004  # at most: so much later a deadline may be noticed
_OF_BUDGET = 0.02  # at most: who came last is stopped so much too early, as the ride has one deadline
_LEAST_S = 0.001  # timers know no less


class Kind(NamedTuple):
    """What the requests of one layout to one model have in common."""

    signature: object  # the model's that they were found to fit
    weight: float
    group: Any  # None where each has its own
    rows: float


class Line:
    """Where the riders to one service gather: until the end of the turn in which they came, and on while all
    replicas are busy with long runs. A ride that waits in the queue costs as much as a request that came alone."""

    def __init__(self, site: Site, service: TensorService, route: str) -> None:
        self.site = site
        self.service = service
        self.route = route
        self.opened = 0.0  # when the newest ride was
        self._rides: list[Ride] = []  # that have not begun
        self._timer: asyncio.TimerHandle | None = None  # while they gather beyond their turn
        self._open: dict[tuple[rest.Layout, str, int], Ride] = {}  # that others may join
        self._items: dict[rest.Layout, Kind] = {}  # what the items of a layout have in common
        self._weighed: Deployment | None = None  # by whom
        self._heads: dict[int, bytes] = {}
        self._shut: dict[_Rank, Shut] = {}  # the latest refusals

    def board(self, rider: Rider, priority: int, *, alone: bool) -> None:
        """Take a rider along in this turn, or turn him away as those before him; raises where no plan is open."""
        if self._shut:
            if self.turns_away(rider, priority):
                return
            if alone and self._shut.pop(_rank(rider, priority), None) is not None:
                self._ask(rider, priority)  # here and now: those behind him may share what he is told
                return
        key = (rider.layout, rider.caller.tenant, priority)
        ride = None if alone else self._open.get(key)
        if ride is None or len(ride.riders) >= ride.most:
            ride = Ride(self, self.service.station(), rider, priority, rider.wire.hub)
            ride.most = 1 if alone else ride.station.most
            if not self._rides:
                asyncio.get_running_loop().call_soon(self._leave)
            self._rides.append(ride)
            if not alone:
                self._open[key] = ride
        rider.ride = ride
        ride.riders.append(rider)
        if self._timer is not None and len(ride.riders) == ride.most:
            asyncio.get_running_loop().call_soon(self._begin)
        if rider.lag_s > ride.lag_s:
            ride.hurry(rider.lag_s)

    def turns_away(self, rider: Rider, priority: int) -> bool:
        """Whether he was refused because one like him was, just now."""
        rank = _rank(rider, priority)
        shut = self._shut.get(rank)
        if shut is None or rider.wire.hub.draining:
            return False
        if not shut.takes(self.budget_s(rider) - rider.lag_s):
            return False
        shut.answer(rider)
        return True

    def _ask(self, rider: Rider, priority: int) -> None:
        """Let one ride alone, and at once."""
        ride = rider.ride = Ride(self, self.service.station(), rider, priority, rider.wire.hub)
        ride.riders.append(rider)
        ride.begin()

    def shut(self, ride: Ride, rider: Rider, error: Overloaded) -> None:
        """The door has refused a ride of one: those who are like him need not ask for some milliseconds."""
        if len(self._shut) >= _RANKS:
            self._shut.clear()
        self._shut[_rank(rider, ride.priority)] = Shut(ride, rider, error)

    def budget_s(self, rider: Rider) -> float:
        """What a rider has from his arrival."""
        call = rider.first
        return call.deadline_ms / 1e3 - rider.sent_s if call.timed else self.service.budget_s

    def _leave(self) -> None:
        """The end of the turn in which the first of them was opened."""
        if not self._rides or self._timer is not None:
            return  # they began as a replica became idle, and others gather since
        gather_s = self._gather_s()
        if gather_s < _LEAST_S:
            self._begin()
            return
        self._timer = asyncio.get_running_loop().call_later(gather_s, self._begin)
        self._rides[0].station.deployment.when_idle(self._begin)

    def _gather_s(self) -> float:
        """For how long they may wait for others, because they would only wait for the model."""
        rides = self._rides
        if any(len(ride.riders) == ride.most for ride in rides):
            return 0.0
        return min(
            rides[0].station.deployment.busy_s(), GATHER_S, *[_OF_BUDGET * ride.left() for ride in rides]
        )

    def _begin(self) -> None:
        rides, self._rides = self._rides, []
        self._open.clear()
        gathered = self._timer is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ride in rides:
            ride.gathered = gathered
            ride.begin(alone=len(rides) == 1)

    def item(self, riders: list[Rider], deployment: Deployment) -> Item:
        """The tensors of riders with one layout, as the model runs them; raises InputError where they do not fit."""
        count, layout = len(riders), riders[0].layout
        if deployment is not self._weighed:  # another plan's, whose weights and groups may be others
            self._items.clear()
            self._weighed = deployment
        known = self._items.get(layout)
        if known is None or known.signature is not self.service.signature:
            known = self._kind(riders[0], deployment)
        feed = layout.joined([(rider.data, rider.at) for rider in riders], Feed())
        group = deployment.kin(feed)[1] if known.group is None else known.group
        return Item(feed, known.weight * count, group, known.rows * count)

    def _kind(self, rider: Rider, deployment: Deployment) -> Kind:
        """What a layout was not seen to be before: one request of it shows it, and is told what does not fit."""
        layout, signature = rider.layout, self.service.signature
        feed = self.service.fitted(layout.tensors(rider.data, Feed(), rider.at))
        order = list(feed)  # the model's
        layout.parts.sort(key=lambda part: order.index(part[0]))
        weight, group = deployment.kin(feed)
        kind = Kind(signature, weight, group if signature.joins else None, rows_of(feed))
        if len(self._items) >= _SHAPES:
            self._items.clear()
        self._items[layout] = kind
        return kind

    def head(self, size: int) -> bytes:
        """The head of an answer whose JSON is so long, up to its request's id."""
        head = self._heads.get(size)
        if head is None:
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            text = (
                f"HTTP/1.1 200 OK\r\ncontent-type: {rest.RAW}\r\n{rest.HEAD_LENGTH}: {size}\r\nx-request-id: "
            )
            head = self._heads[size] = text.encode()
        return head


class Ride(Single):
    """Riders on their way. Their order is that of their rows."""

    input_s = output_s = 0.0  # that all their tensors took to be read and written
    gone = 0  # riders that left while it ran for the others
    most = 1

    def __init__(self, line: Line, station: Station, first: Rider, priority: int, hub: Shared) -> None:
        self.line = line
        self.hub = hub
        self.riders: list[Rider] = []
        call, service = first.first, line.service
        timed = call.timed
        Single.__init__(
            self,
            station,
            budget_s=line.budget_s(first),
            aim=ANY_TIME if timed else service.aim,
            priority=priority,
            tenant=first.caller.tenant,
            lag_s=first.lag_s,
        )
        station.opened.requests.add(self)  # its plan is in use from now on
        line.opened = first.came

    @property
    def plan(self) -> str:
        return self.station.opened.id

    def hurry(self, lag_s: float) -> None:
        """One came earlier: its deadline is that of the first."""
        earlier_s, self.lag_s = lag_s - self.lag_s, lag_s
        self.start -= earlier_s
        self.deadline -= earlier_s

    # -- its way ------------------------------------------------------------------------------------------

    def begin(self, *, alone: bool = False) -> None:
        """Let it in, or answer why not; those of one that is not let in as a whole come one by one.

        `alone`: no other began in this turn.
        """
        riders, requests = self.riders, self.station.opened.requests
        self.count = len(riders)
        if not riders or (self.count == 1 and self.line.turns_away(riders[0], self.priority)):
            requests.discard(self)
            self.riders = []
            return
        try:
            began = real()
            item = self.line.item(riders, self.station.deployment)
            self.input_s = real() - began
            self.enter(item, at_once=alone)
        except (Overloaded, Unavailable) as error:
            requests.discard(self)
            if self.count == 1 or self.failure is not None:
                if isinstance(error, Overloaded) and not self.inside and self.left() > 0.0:
                    self.line.shut(self, riders[0], error)
                self._fail(error)
                return
            self.riders = []
            for rider in riders:
                self._another([rider]).begin()
        except Exception as error:  # noqa: BLE001  # every request gets an answer
            requests.discard(self)
            self._fail(error)

    def _another(self, riders: list[Rider]) -> Ride:
        """A ride for some of its riders."""
        first = riders[0]
        ride = Ride(self.line, self.station, first, self.priority, self.hub)
        ride.start, ride.lag_s, ride.deadline = self.start, self.lag_s, self.deadline
        ride.riders = riders
        for rider in riders:
            rider.ride = ride
        return ride

    def split(self, count: int) -> Job:
        """Keep the first so many of riders that wait, and give the job of the others."""
        job = self.job
        assert job is not None  # it waits, or has failed
        part = count / self.count
        cut = round(self.rows * part)
        other = self._another(self.riders[count:])
        other.count, other.rows = self.count - count, self.rows - cut
        other.input_s = self.input_s * (1.0 - part)
        other.target, other.after, other.admitted = self.target, self.after, self.admitted
        other.predicted, other.began = self.predicted, self.began
        other.job = rest = job.split(count, _rows(job.item, 0, cut), _rows(job.item, cut, None))
        rest.waiter = other
        self.riders, self.count, self.rows = self.riders[:count], count, cut
        self.input_s *= part
        arm(other)
        self._look()
        other._look()
        return rest

    def _look(self) -> None:
        """End soon what is late just now, or has nobody left to wait for it."""
        self.gone = sum(rider.gone for rider in self.riders)
        error = self.failure or (client_left() if self.gone == len(self.riders) else None)
        if error is not None:
            asyncio.get_running_loop().call_soon(self.fail, error)

    def part(self, rider: Rider) -> None:
        """The client of a rider left."""
        riders, index = self.riders, self.riders.index(rider)
        if not self.inside:
            del riders[index]  # it has not left yet
        elif len(riders) - self.gone == 1:
            self.fail(client_left())  # which nobody is told but the observers
            return
        else:
            self._lessen(index)
        rider.fail(client_left())

    def _lessen(self, index: int) -> None:
        job, each = self.job, round(self.rows / self.count)
        assert job is not None  # it was begun
        feed = Feed()
        if not job.taken:
            for name, array in job.item.items():
                feed[name] = _without(array, index * each, each)
        if not self.station.deployment.lessen(job, feed):
            self.gone += 1
            return
        gone = self.riders.pop(index)
        self.station.door.part(self, Payer(gone.caller.name))
        self.count -= 1
        self.rows -= each

    # -- its end ------------------------------------------------------------------------------------------

    def payers(self) -> Iterable[tuple[Payer, int]]:
        riders = self.riders
        if self.count == 1 and riders:
            return ((Payer(riders[0].caller.name), 1),)
        keys = Counter([rider.caller.name for rider in riders])
        return [(Payer(key), count) for key, count in keys.items()]

    def fail(self, error: TautenError) -> None:
        """Stop it; one that has yet to begin was counted in nowhere, and is told so when it does."""
        if self.inside:
            super().fail(error)
        else:
            self.failure = error

    def unfit(self, value: Any) -> TautenError | None:
        """Why a result is not each rider's own: its first axis is no batch axis, whatever the file says."""
        rows = round(self.rows)
        for name, array in value.items():
            if array.shape[:1] != (rows,):
                return BackendError(
                    f"output {name!r} has shape {array.shape}, expected {rows} rows",
                    help="this model's first axis is no batch axis: set `batch = { max = 1 }` in its plan",
                    code="E407",
                )
        return None

    def answer(self, value: Any) -> None:
        began = real()
        line, layout = self.line, self.riders[0].layout
        try:
            parted = rest.parted(line.service.name, layout.raw or (), value, self.count)
        except Exception as problem:  # noqa: BLE001  # every request gets an answer
            self._fail(problem)
            return
        if parted is None:  # an output is no plain tensor
            self._answer_each(value)
            return
        text, bodies = parted
        self.output_s = real() - began
        head = line.head(len(text))
        usual = self.hub.usual()
        size = len(text) + sum([len(part) for part in bodies[0]])
        tail = b"%bcontent-length: %d\r\n\r\n%b" % (usual, size, text)
        for rider, body in zip(self.riders, bodies, strict=True):
            if not rider.gone:
                try:
                    rider.answer(head, tail, text, body)
                except Exception as problem:  # noqa: BLE001  # the others are to be answered, too
                    rider.fail(problem)

    def _answer_each(self, value: Any) -> None:
        each = round(self.rows / self.count)
        name, layout = self.line.service.name, self.riders[0].layout
        for index, rider in enumerate(self.riders):
            if not rider.gone:
                own = value if self.count == 1 else _rows(value, index * each, (index + 1) * each)
                try:
                    rider.reply(rest.written(name, layout.head, own))
                except Exception as problem:  # noqa: BLE001  # the others are to be answered, too
                    rider.fail(problem)

    def settle(self) -> None:
        super().settle()
        riders, self.riders = self.riders, []  # who know their ride: no circle stays
        riders = [rider for rider in riders if rider.seconds]
        if riders:
            self.line.site.answered(riders)

    def refuse(self, error: TautenError) -> None:
        self._fail(refusal(error))

    def _fail(self, error: Exception) -> None:
        riders, self.riders = self.riders, []
        for rider in riders:
            if not rider.answered:
                rider.fail(error)


_Rank = tuple[str, str, int, bool]
"""Caller, tenant, priority, and whether a deadline was named."""
_RANKS = 256  # of those who were refused of late: some milliseconds of them


def _rank(rider: Rider, priority: int) -> _Rank:
    caller = rider.caller
    return caller.name, caller.tenant, priority, rider.first.timed


def _rows(feed: Any, begin: int, end: int | None) -> Feed:
    """Some rows of each array, as views."""
    return Feed({name: array[begin:end] for name, array in feed.items()})


def _without(array: Any, begin: int, count: int) -> Any:
    """An array but for some of its rows."""
    import numpy as np

    return np.concatenate([array[:begin], array[begin + count :]])
