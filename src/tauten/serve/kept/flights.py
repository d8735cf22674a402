"""Single-flight: identical pure requests that run at the same time share one computation.

The computation has a task and a deadline of its own, the latest of its members': each member leaves at its
own deadline or when its client goes, and the last one to leave stops the work. What failed because of the
input fails for everybody; any other failure is the first member's alone, and the others try once more.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Mapping
from contextlib import aclosing
from typing import Any

from tauten.describe.payload import Payload, Text
from tauten.describe.workflow import Workflow
from tauten.errors import Cancelled, InputError
from tauten.run.deadline import arm, disarm, stoppable
from tauten.run.opened import Answer
from tauten.run.request import Request
from tauten.run.trace import LIKENED, Trace, as_shared
from tauten.serve.kept.alike import fingerprint, same
from tauten.serve.kept.chance import chance_of
from tauten.serve.kept.news import News

Whole = Callable[[Request], Awaitable[Answer]]
Streaming = Callable[[Request], AsyncGenerator[Any, None]]

HEADER = "x-tauten-shared"
WORTH_S = 0.002  # sharing costs some 20 µs, which a shorter computation would notice
LOOKED_AT = 8  # flights of one fingerprint that are compared: hardly any but crafted inputs have more
AHEAD = 64  # increments that a stream may run ahead of its fastest reader, as a streamed edge's default
HELD_BYTES = 1024 * 1024  # of a stream kept for those who join late; an answer of text is a hundredth
ITEM_BYTES = 128  # what an increment costs beside its content
TRIES = 2  # flights that may fail under a follower before it believes their error
_MEAN_SHARE = 0.2  # of the newest duration in the running mean: five requests tell a change


class Flight:
    """One computation and those who wait for it."""

    def __init__(self, inputs: Mapping[str, Any], mine: Request) -> None:
        self.inputs = inputs
        self.leader = mine.id
        self.members = 0
        self.joinable = True
        self.over: Callable[[], None] = lambda: None
        self.request = Request(
            mine.clock, deadline=mine.deadline, id=mine.id, tenant=mine.tenant, aim=mine.aim
        )
        self.request.trace = mine.trace  # the leader's: it had no computation of its own
        self.request.start, self.request.came = mine.start, mine.came
        self.request.priority, self.request.plan, self.request.payer = mine.priority, mine.plan, mine.payer
        self.task: asyncio.Task[Any] | None = None

    def join(self, mine: Request) -> None:
        """One more waits: the work may take as long and is as urgent as the most demanding asks."""
        self.members += 1
        self.request.deadline = max(self.request.deadline, mine.deadline)  # its timer looks again
        self.request.priority = max(self.request.priority, mine.priority)
        if mine.id != self.leader or mine.trace is not self.request.trace:
            mine.trace.notes["flight"] = self.leader

    def leave(self, mine: Request) -> None:
        """One less waits; nobody left: the work stops."""
        self.members -= 1
        if self.task is None or self.task.done():
            return
        if not self.members:
            self._stop(self.task)
        elif mine.trace is self.request.trace:
            mine.trace = _until_now(mine)

    def _stop(self, task: asyncio.Task[Any]) -> None:
        """Cancel once, and only once: a second cancel would break into the clean-up of the first."""
        self.joinable = False
        inside = self.request.task is task
        if self.request.failure is None:
            self.request.fail(_stopped())
            if not inside:
                task.cancel()

    def _begin(self, work: Any) -> None:
        self.task = asyncio.get_running_loop().create_task(work)
        self.task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self.joinable = False
        self.over()
        if not task.cancelled():
            task.exception()  # seen: a member that left does not ask


class Flights:
    """The computations that run now, by what they compute."""

    def __init__(self, *, worth_s: float = WORTH_S) -> None:
        self.worth_s = worth_s
        self.joined = 0  # requests that shared another's computation
        self._open: dict[Hashable, list[Any]] = {}
        self._mean_s: dict[str, float] = {}

    def __len__(self) -> int:
        return sum(len(flights) for flights in self._open.values())

    def part(self) -> None:
        """Let those who come from now on share nothing that runs: it may have seen the world as it was before.

        What was short because it was kept may be long now.
        """
        self._mean_s.clear()
        for flights in self._open.values():
            for flight in flights:
                flight.joinable = False

    def worth(self, service: str) -> bool:
        """Whether requests of a service take so long that sharing pays; unknown ones may."""
        return self._mean_s.get(service, self.worth_s) >= self.worth_s

    def learn(self, service: str, trace: Trace) -> None:
        """Take note of how long a request of a service took."""
        took_s = trace.end - trace.start
        known = self._mean_s.get(service, took_s)
        self._mean_s[service] = known + _MEAN_SHARE * (took_s - known)

    async def answer(self, key: Hashable, inputs: Mapping[str, Any], mine: Request, run: Whole) -> Answer:
        """The answer of the computation for these inputs, begun now or found running."""
        for turn in range(TRIES):
            flight, leads = self._board(("whole", key), inputs, mine, _WholeFlight)
            if leads:
                flight.start(run)
            try:
                answer: Answer = await _waiting(mine, flight.outcome())
            except Exception as error:
                if leads or _final(error, mine) or turn == TRIES - 1:
                    raise
                del mine.trace.notes["flight"]  # it does not share that one
                continue
            finally:
                flight.leave(mine)
            mine.plan = answer.plan  # not the one it was drawn for, where a swap came between
            if leads:
                return answer
            mine.trace.first_output = mine.trace.end
            _book_shared(mine, flight.request.trace)
            return Answer(answer.value, mine.trace, answer.plan, mine.id)
        raise AssertionError("unreachable: the last turn returns or raises")

    async def stream(
        self, key: Hashable, inputs: Mapping[str, Any], mine: Request, run: Streaming
    ) -> AsyncGenerator[Any, None]:
        """The increments of the computation for these inputs: at once what there is, then as they come."""
        for turn in range(TRIES):
            flight, leads = self._board(("stream", key), inputs, mine, _StreamFlight)
            if leads:
                flight.start(run)
            given = 0
            try:
                async with aclosing(flight.read(mine)) as values:
                    async for value in values:
                        given += 1
                        yield value
                return
            except Exception as error:
                if leads or given or _final(error, mine) or turn == TRIES - 1:
                    raise
                del mine.trace.notes["flight"]  # it does not share that one
            finally:
                flight.leave(mine)

    def _board(self, key: Hashable, inputs: Mapping[str, Any], mine: Request, kind: Any) -> tuple[Any, bool]:
        """A flight for these inputs, and whether this request leads it."""
        full = (key, fingerprint(inputs))
        there = self._open.setdefault(full, [])
        joinable = (flight for flight in there if flight.joinable)
        for flight in itertools.islice(joinable, LOOKED_AT):
            if same(flight.inputs, inputs):
                self.joined += 1
                flight.join(mine)
                return flight, False
        flight = kind(inputs, mine)
        there.append(flight)
        flight.over = lambda: self._close(full, flight)
        flight.join(mine)
        return flight, True

    def _close(self, full: Hashable, flight: Flight) -> None:
        there = self._open.get(full, [])
        if flight in there:
            there.remove(flight)
        if not there:
            self._open.pop(full, None)


class _WholeFlight(Flight):
    """A computation with one answer."""

    def start(self, run: Whole) -> None:
        self._begin(run(self.request))

    async def outcome(self) -> Answer:
        assert self.task is not None  # started by its leader, before anybody waits
        await asyncio.wait([self.task])  # a member that is stopped does not stop the others
        if self.task.cancelled():
            raise _stopped()
        answer: Answer = self.task.result()
        return answer


class _StreamFlight(Flight):
    """A computation whose increments are kept for those who join while it runs."""

    def __init__(self, inputs: Mapping[str, Any], mine: Request) -> None:
        super().__init__(inputs, mine)
        self.values: list[Any] = []
        self.first = 0  # the number of the first increment that is still held
        self.size_bytes = 0
        self.error: BaseException | None = None
        self.ended = False
        self.places: dict[int, int] = {}  # reader -> the number of its next increment
        self._news = News()
        self._room: asyncio.Future[None] | None = None

    def start(self, run: Streaming) -> None:
        self._begin(self._pump(run))

    async def _pump(self, run: Streaming) -> None:
        async with aclosing(run(self.request)) as values:
            async for value in values:
                self.values.append(value)
                self.size_bytes += ITEM_BYTES + size_of(value)
                self._news.tell()
                await self._wait_for_room()

    def _done(self, task: asyncio.Task[Any]) -> None:
        super()._done(task)
        self.ended = True
        self.error = _stopped() if task.cancelled() else task.exception()
        self._news.tell()

    async def _wait_for_room(self) -> None:
        """Run no further ahead than the fastest reader allows; what is too much to hold is freed, and then
        the slowest reader sets the pace."""
        while self.places and not self.ended:
            if self.size_bytes > HELD_BYTES:
                self.joinable = False
                self._free(min(self.places.values()))
            ahead = self.first + len(self.values) - max(self.places.values())
            if ahead < AHEAD and self.size_bytes <= HELD_BYTES:
                return
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _free(self, upto: int) -> None:
        gone = self.values[: upto - self.first]
        del self.values[: upto - self.first]
        self.first = upto
        self.size_bytes -= sum(ITEM_BYTES + size_of(value) for value in gone)

    async def read(self, mine: Request) -> AsyncGenerator[Any, None]:
        """All increments from the first; each reader at its own pace."""
        me = id(mine)
        self.places[me] = self.first
        arm(mine)
        try:
            while True:
                if self.places[me] == self.first + len(self.values) and not self.ended:
                    await _waiting(mine, self._news.wait(), armed=True)
                elif mine.failure is not None:
                    raise mine.failure
                if self.places[me] < self.first + len(self.values):
                    value = self.values[self.places[me] - self.first]
                    self.places[me] += 1
                    self._moved()
                    if mine.trace is not self.request.trace and mine.trace.first_output is None:
                        mine.trace.first_output = mine.clock()
                    yield value
                elif self.ended:
                    if self.error is not None:
                        raise self.error
                    _book_shared(mine, self.request.trace)
                    return
        finally:
            disarm(mine)
            if mine.trace is not self.request.trace:
                mine.trace.end = mine.clock()
            del self.places[me]
            self._moved()

    def _moved(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


# -- what may be shared ---------------------------------------------------------------------------------------


def shareable(workflow: Workflow[..., Any]) -> bool:
    """Whether running it once may serve several requests: every stage is pure, and not all draw by lot.

    The stages of an `async def` workflow are only known when they run, so it never is.
    """
    if workflow.graph is None or workflow.session or any(port.stream for port in workflow.inputs.values()):
        return False
    pure = all(stage.kind.pure for stage in workflow.graph.stages.values())
    return pure and not chance_of(workflow).certain


def size_of(value: Any) -> int:
    """About how many bytes an increment holds."""
    if isinstance(value, Text):
        return len(value.text)
    if isinstance(value, str | bytes):
        return len(value)
    return value.size_bytes if isinstance(value, Payload) else ITEM_BYTES


def shared_with(request: Request | None) -> list[tuple[str, str]]:
    """A reply's header that names the request whose computation gave the answer, where it was another."""
    leader = request.trace.notes.get("flight") if request is not None else None
    if request is None or leader is None or leader == request.id:  # texts of one request may share, too
        return []
    return [(HEADER, leader)]


def _book_shared(mine: Request, theirs: Trace) -> None:
    """Book what the answer holds with a member that computed nothing: tokens under a unit of their own.

    So tokens that were computed add up over requests, and a client still hears how long its answer is.
    """
    if mine.trace is theirs:
        return
    for step, unit, amount in theirs.spent:
        if booked := as_shared(unit):
            mine.trace.spent.append((step, booked, amount))
    for step, words in theirs.notes.items():
        if step.endswith(LIKENED):
            mine.trace.notes[step] = words


# -- failing --------------------------------------------------------------------------------------------------


def _final(error: BaseException, mine: Request) -> bool:
    """Whether another try cannot help: this member was stopped itself, or the input is to blame."""
    return mine.failure is not None or isinstance(error, InputError)


def _stopped() -> Cancelled:
    return Cancelled("the computation was stopped: nobody waited for it", help="send the request again")


async def _waiting(mine: Request, work: Any, *, armed: bool = False) -> Any:
    """Await what others compute, under this member's own deadline; books the wait."""
    began = mine.clock()
    if not armed:
        arm(mine)
    try:
        return await stoppable(mine, work)
    finally:
        if not armed:
            disarm(mine)
        if "flight" in mine.trace.notes:
            mine.trace.end = mine.clock()
            mine.trace.rows.append(("", "queue", began, mine.trace.end))


def _until_now(mine: Request) -> Trace:
    """What a leader that leaves early may show: its books closed now, while the work goes on."""
    shared, own = mine.trace, Trace(mine.trace.start)
    now = own.end = mine.clock()
    own.rows = [row for row in shared.rows if row[3] <= now] or [("", "queue", own.start, now)]
    own.edges, own.order, own.outputs = shared.edges, shared.order, shared.outputs
    own.first_output, own.notes, own.spent = shared.first_output, dict(shared.notes), list(shared.spent)
    return own
