"""The book of usage: every request that ended, whatever way, as lines in a database, written behind its back.

`ended` costs a request a few microseconds and never waits. A thread makes lines of what came, prices them and writes
them in batches. While the database is locked, full or away they are kept and tried again; beyond a bound, and at the
end of the process, they are put in files beside the book, which are taken in when it can be written again.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tauten.clock import Clock, real
from tauten.errors import Cancelled, DeadlineExceeded, MachineError, Overloaded, Unavailable
from tauten.plan import files
from tauten.run.usage import writing
from tauten.run.usage.budgets import Budgets, Purse
from tauten.run.usage.call import Call
from tauten.run.usage.database import Database, DatabaseBusy, open_database
from tauten.run.usage.energy import Meter
from tauten.run.usage.entry import Entry, Lines, Models, late_call, no_models
from tauten.run.usage.payer import Payer
from tauten.run.usage.prices import Prices
from tauten.run.usage.row import UsageRow
from tauten.run.usage.together import Together
from tauten.run.usage.totals import Totals

if TYPE_CHECKING:
    from tauten.run.opened import Opened
    from tauten.run.request import Request
    from tauten.run.single import Single

ENTRIES: Final = (
    20_000  # requests that wait to become lines: some seconds of the fastest server, some megabytes
)
LINES: Final = 200_000  # lines that wait for the database: an hour of a busy gateway, some 200 MB
AT_ONCE: Final = (
    500  # lines in one transaction: a few milliseconds, so that readers and other servers have turns
)
EVERY_S: Final = 0.2  # how much a killed process may lose
PAUSE_S: Final = 5.0  # at most, between tries of a database that cannot take anything
END_S: Final = 5.0  # what is still to be written when the process ends gets this long
LEFT: Final = "unwritten-*.jsonl"
ASIDE: Final = 16  # such files at most, of all processes: some 2 GB, and days of a busy gateway
BACK_S: Final = 1.0  # that a wall clock goes back at once: time servers correct less than that by slowing it


class Book:
    """Books of one process; several engines may share it. `place` is a file or a postgresql:// address.

    `spare` is the folder for what could not be written; None: it is lost then, and said. `say` is told, in
    any thread, when something goes wrong and when it goes right again.
    """

    def __init__(
        self,
        place: str,
        prices: Prices | None = None,
        *,
        spare: Path | None = None,
        budgets: Budgets | None = None,
        say: Callable[[str], None] = lambda _: None,
        wall: Clock = time.time,
        clock: Clock = real,
        database: Callable[[], Database] | None = None,
        entries: int = ENTRIES,
        lines: int = LINES,
    ) -> None:
        self.place = place
        self.budgets = budgets
        self.totals = Totals()
        self.written = 0  # lines in the database
        self.dropped = 0  # requests, late calls and lines that nobody has
        self.failures = 0  # tries that the database did not take
        self.aside = 0  # lines that were put in files
        self.set_back = 0  # times that the machine's clock was
        self.problem = ""  # why the last one was not taken
        self._aside_problem = ""  # why lines could not be put in a file
        self._drop_said = False
        self._say, self._wall, self._clock = say, wall, clock
        self._most_entries, self._most_lines = entries, lines
        self._spare = spare
        self._meter = Meter()
        self._lines = Lines(prices or Prices(), self._meter, _cores())
        self._make = database or (lambda: open_database(place))
        self._entries: deque[Entry] = deque()
        self._together = Together()
        self._unwritten: deque[UsageRow] = deque()
        self._wake = threading.Event()
        self._ending = False
        self._until = 0.0
        self._adopted = False  # what lies in files
        self._instant: tuple[float, float] | None = None  # wall and steady clock, when looked at last
        self._thread: threading.Thread | None = None

    @property
    def prices(self) -> Prices:
        """What its lines are priced by."""
        return self._lines.prices

    # -- where requests end -------------------------------------------------------------------------------

    def ended(self, opened: Opened, request: Request, *, whole: bool, error: object = None) -> None:
        """A request is over; what its calls add to its trace from now on is booked as it comes."""
        self._follow(request, self._of(opened, request, whole=whole, error=error))

    def behind(self, opened: Opened, request: Request, error: object = None) -> None:
        """Work is over that a request caused and did not wait for: on its account, and no request of its own."""
        entry = self._of(opened, request, whole=error is None, error=error)
        self._follow(request, entry._replace(asked=0, kind=request.kind))

    def _of(self, opened: Opened, request: Request, *, whole: bool, error: object) -> Entry:
        models = no_models if opened.steps is None else opened.steps.models_of
        return self._entry(opened.workflow.name, request, models, whole=whole, error=error)

    def _follow(self, request: Request, entry: Entry) -> None:
        """Book it, and from now on each of its calls that is still to end."""
        trace = request.trace
        trace.provider_calls = Afterwards(self, entry, trace.provider_calls)
        self._take(entry)

    def shared(self, workflow: str, request: Request, *, whole: bool) -> None:
        """A request is over that had what another computed: it took nothing, but to wait."""
        self._take(self._entry(workflow, request, no_models, whole=whole)._replace(why="shared"))

    def turned_away(self, request: str, tenant: str, payer: Payer, workflow: str) -> None:
        """A request was refused before there was anything of it but its head."""
        about = (self._wall(), "refused", request, tenant, payer, workflow, "")
        self._take(Entry(*about, (), (), (), no_models))

    def _entry(
        self, workflow: str, request: Request, models: Models, *, whole: bool, error: object = None
    ) -> Entry:
        trace = request.trace
        ended = "ok" if whole else outcome_of(request, error)
        about = (self._wall(), ended, request.id, request.tenant, request.payer, workflow, request.plan)
        lists = trace.provider_calls, trace.spent, trace.calls
        return Entry(*about, *lists, models, kinds=trace.kinds)

    def purse(self, opened: Opened, request: Request) -> Purse | None:
        """A request's way to the budgets; None where there are none."""
        if self.budgets is None:
            return None
        return Purse(self.budgets, request.tenant, request.payer, opened.workflow.name)

    def ended_together(
        self,
        single: Single,
        payer: Payer,
        count: int,
        *,
        error: object = None,
        calls: Sequence[Call] = (),
    ) -> None:
        """Requests of one payer that were one item of one model are over: one line for them and for all others of the
        moment that are like them, and one for each call that was made elsewhere."""
        opened, job = single.station.opened, single.job
        seconds = job.seconds * count / single.count if job is not None else 0.0
        models = no_models if opened.steps is None else opened.steps.models_of
        ended = "ok" if error is None else outcome_of(single, error)
        names, step = (opened.workflow.name, opened.id), single.station.step
        if calls:
            spent = ((step, "replica_seconds", seconds),) if seconds else ()
            about = (self._wall(), ended, "", single.tenant, payer, *names)
            self._take(Entry(*about, calls, spent, (), models, asked=count))
        elif self._ending or len(self._together) >= self._most_entries:
            self._drop(count, "requests come faster than they can be booked")
        else:
            alike = (ended, single.tenant, payer, *names, step)
            self._together.add(alike, models, count, seconds, self._wall())

    def late(self, entry: Entry, call: Call) -> None:
        """A call of a request that is booked already: a mirrored one, or one that was given up slowly."""
        self._take(late_call(entry, call)._replace(at=self._wall()))

    def _take(self, entry: Entry) -> None:
        if len(self._entries) >= self._most_entries or self._ending:
            self._drop(1, "requests come faster than they can be booked")
            return
        self._entries.append(entry)
        if len(self._entries) % AT_ONCE == 0:
            self._wake.set()

    def _drop(self, count: int, why: str) -> None:
        self.dropped += count
        if not self._drop_said:
            self._drop_said = True
            self._say(f"usage: {why}; what is lost is counted in tauten_usage_dropped_total")

    def _give_up(self, bad: Sequence[object]) -> None:
        """What can be written at no time is counted, and the first of it is said."""
        if bad:
            self.dropped += len(bad)
            self._say(f"usage: {len(bad)} lines that nothing takes are lost and counted as dropped: {bad[0]}")

    @property
    def waiting(self) -> int:
        """What is yet to be written: requests and lines."""
        return len(self._entries) + len(self._together) + len(self._unwritten)

    # -- its life -----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Write from now on, in a thread."""
        self._thread = threading.Thread(target=self._run, name="tauten-usage", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Write what waits, for at most END_S; what remains goes to the spare folder. May be called twice."""
        await asyncio.to_thread(self.end)

    def end(self) -> None:
        """As `close`, for those without a loop; engines must have ended."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._until = self._clock() + END_S
        self._ending = True
        self._wake.set()
        thread.join()
        if self.budgets is not None:
            self.budgets.close()

    # -- in the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        database: Database | None = None
        pause_s = EVERY_S
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            try:
                self.note()
                if database is None and (self._unwritten or not self._adopted):
                    database = self._make()
                if database is not None and not self._adopted:
                    self._adopt(database)
                if database is not None:
                    self.write(database)
                if self.budgets is not None:
                    self.budgets.look()
                pause_s = EVERY_S
            except Exception as error:  # noqa: BLE001  # whatever it is, what was taken must not be lost with the thread
                self._failed(str(error) if isinstance(error, DatabaseBusy | MachineError) else repr(error))
                pause_s = min(pause_s * 2, PAUSE_S)
            if self._ending and self._may_end(pause_s):
                break
        self._leave()
        if database is not None:
            database.close()

    def _may_end(self, pause_s: float) -> bool:
        """All is written, or there is no time for another try."""
        return not self.waiting or self._clock() + pause_s >= self._until

    def note(self) -> None:
        """Make lines of what has ended."""
        self._meter.look()
        self._look_at_clock()
        self._entries.extend(self._together.take())
        room, bad = True, list[str]()
        while self._entries:
            entry = self._entries.popleft()
            rows = self._made(entry, bad)
            if len(self._unwritten) + len(rows) > self._most_lines:
                room = room and self._put_aside()  # a disk that is full is asked once a turn
                if not room:
                    self._drop(1, f"the book cannot be written ({self._problems})")
                    continue
            for row in rows:
                self.totals.add(row)
            self._unwritten.extend(rows)
        self._give_up(bad)

    def _made(self, entry: Entry, bad: list[str]) -> list[UsageRow]:
        """Its lines; none where they cannot be made."""
        try:
            return self._lines.of(entry)
        except Exception as error:  # noqa: BLE001  # whatever is in it, those behind it are booked
            bad.append(f"request {entry.request!r}: {error!r}")
            return []

    def _look_at_clock(self) -> None:
        """A wall clock that was set back is said and counted: lines have the earlier time from then on, and no sum changes."""
        wall, steady = self._wall(), self._clock()
        before, self._instant = self._instant, (wall, steady)
        if before is None:
            return
        back_s = (before[0] + steady - before[1]) - wall
        if back_s > BACK_S:
            self.set_back += 1
            self._say(f"usage: the clock was set back by {back_s:,.0f} s; lines from now on have that time")

    def write(self, database: Database) -> None:
        """Write all lines, some at a time; raises DatabaseBusy with those that are left kept."""
        while self._unwritten:
            some = list(islice(self._unwritten, AT_ONCE))
            bad = writing.write(database, some)
            for _ in some:
                self._unwritten.popleft()
            self._wrote(some, bad)
        if self.problem:
            self.problem = ""
            self._say("usage: the book is written again")

    def _wrote(self, rows: Sequence[UsageRow], bad: Sequence[writing.Bad]) -> None:
        """These lines are in the database, but for the bad ones among them."""
        self.written += len(rows) - len(bad)
        self._give_up(bad)

    def _failed(self, why: str) -> None:
        self.failures += 1
        if not self.problem:
            self._say(f"usage: not written, kept and tried again: {why}")
        self.problem = why

    # -- what could not be written ------------------------------------------------------------------------

    def _leave(self) -> None:
        """The process ends: what is not written is put aside, or lost and said."""
        self.note()
        if self._unwritten and not self._put_aside():
            count = len(self._unwritten)
            self._drop(count, f"the process ends and the book cannot be written ({self._problems})")

    def _put_aside(self) -> bool:
        """Put all lines that wait into a file, until the book can be written; says whether that worked."""
        rows = list(self._unwritten)
        if not rows or self._spare is None or len(self._left()) >= ASIDE:
            return False
        path = self._spare / LEFT.replace("*", rows[0].id)
        lines, bad = writing.encoded(rows)
        try:
            files.replace(path, b"".join(lines))
        except MachineError as error:
            self._aside_problem = f"neither can {path.name}: {error}"
            return False
        self._unwritten.clear()
        self.aside += len(lines)
        self._adopted = False
        self._give_up(bad)
        self._say(f"usage: {len(lines)} lines lie in {path} until the book can be written ({self.problem})")
        return True

    @property
    def _problems(self) -> str:
        return "; ".join(each for each in (self.problem, self._aside_problem) if each)

    def _left(self) -> list[Path]:
        """What this and other processes put aside, the oldest first."""
        return sorted(self._spare.glob(LEFT)) if self._spare is not None else []

    def _adopt(self, database: Database) -> None:
        """Take in what was put aside: lines have ids, so twice is once."""
        for path in self._left():
            try:
                rows = _read(path.read_bytes().splitlines())
            except FileNotFoundError:
                continue  # another process has taken it in
            except (OSError, msgspec.MsgspecError) as error:
                self._say(f"usage: {path} cannot be read: {error}")
                continue
            bad = list[writing.Bad]()
            for start in range(0, len(rows), AT_ONCE):
                bad += writing.write(database, rows[start : start + AT_ONCE])
            path.unlink(missing_ok=True)
            self._wrote(rows, bad)
            self._say(f"usage: {len(rows) - len(bad)} lines that lay in {path.name} were taken in")
        self._adopted = True


class Afterwards(list[Call]):
    """The calls of a request that was booked: those that are still to end are booked one by one."""

    def __init__(self, book: Book, entry: Entry, calls: Iterable[Call]) -> None:
        super().__init__(calls)
        self._book = book
        self._entry = entry

    def append(self, call: Call, /) -> None:
        super().append(call)
        self._book.late(self._entry, call)


def outcome_of(request: Request | Single, error: object = None) -> str:
    """How a request ended that did not end well: cancelled, late, refused or failed."""
    failure = request.failure if request.failure is not None else error
    if isinstance(failure, DeadlineExceeded):
        return "late"
    if isinstance(failure, Overloaded | Unavailable):
        return "refused"
    left = isinstance(failure, Cancelled | asyncio.CancelledError | GeneratorExit)
    return "cancelled" if left or getattr(request, "cancelled", False) else "failed"


def _read(lines: Sequence[bytes]) -> list[UsageRow]:
    return [msgspec.json.decode(line, type=UsageRow) for line in lines if line]


def _cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def new_book(place: str, prices: Prices | None = None, **options: Any) -> Book:
    """A book at a place, with the folder of the store for what could not be written."""
    return Book(place, prices, spare=home(), **options)


def home() -> Path:
    """The folder of the store where books lie."""
    from tauten.models.store import default_root

    return default_root() / "usage"


def default_place() -> str:
    """`$TAUTEN_USAGE`, else a file in the store."""
    return os.environ.get("TAUTEN_USAGE", "") or str(home() / "book.db")
