"""One instance of a batch backend and the thread it lives in: runs, bisects, is opened anew when it dies."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from tauten.clock import Clock, VirtualLoop
from tauten.errors import BackendError, TautenError
from tauten.run.contracts import BatchBackend
from tauten.run.deploy.job import LEFT, Job
from tauten.run.deploy.scheduling import halves
from tauten.run.deploy.virtual_thread import VirtualThread
from tauten.run.workers import wake

REOPEN_S = (0.0, 0.1, 0.5, 2.0, 5.0)  # pauses before a dead backend is opened again; the last one goes on
LOOK_ALL = 64  # of the first runs all are timed by the processor's clock
LOOK = 16  # later runs of which one is timed by the processor's clock, whose reading is a call to the kernel


class Owner(Protocol):
    """The deployment, as its replicas see it."""

    label: str
    clock: Clock
    pure: bool
    make: Callable[[], BatchBackend]

    def finished(self, replica: Replica, batch: list[Job]) -> None: ...

    def opened(self, replica: Replica, error: BaseException | None) -> None: ...


class Ahead(NamedTuple):
    """What was prepared while another batch ran, and for whom."""

    members: list[Job]
    value: Any
    by: Any  # the backend: no other can read it


class Replica:
    """Runs one batch at a time, and may hold one more whose inputs are being prepared."""

    def __init__(self, owner: Owner, index: int, cpus: frozenset[int] = frozenset()) -> None:
        self.owner = owner
        self.cpus = cpus
        self.backend: BatchBackend = owner.make()
        self.prepares = hasattr(self.backend, "prepare") and hasattr(self.backend, "run_prepared")
        self.stops = hasattr(self.backend, "stop")
        self.accounts = hasattr(self.backend, "account")
        # one bound to processors runs there only
        self.inline = getattr(self.backend, "inline", False) and not cpus
        self.loop = asyncio.get_running_loop()
        self.batches: SimpleQueue[tuple[list[Job], Ahead | None] | None] = SimpleQueue()
        self.ahead: SimpleQueue[list[Job] | None] = SimpleQueue()
        self.held: list[list[Job]] = []  # batches given to it, the running one first
        self.until = 0.0  # when it is predicted to have done them
        self.bisected = 0
        self.kept = False  # back: its deployment gives it nothing
        self.dead = self.closed = False
        retry_s = REOPEN_S[-1]
        self.virtual = (
            VirtualThread(self, owner.clock, self.loop, retry_s)
            if isinstance(self.loop, VirtualLoop)
            else None
        )
        name = f"tauten-{owner.label}-{index}"
        self.threads = [threading.Thread(target=self._serve, name=name, daemon=True)]
        self._stop = threading.Event()
        self._turn = threading.Lock()
        self._runs = 0
        self._running: list[Job] = []  # what the backend works at; changed under the lock
        self._waiting: list[list[Job]] = []  # batches that have not begun; changed under the lock

    def open(self) -> None:
        """Begin to load; the owner is told when it is done."""
        if self.virtual is not None:
            try:
                self.backend.open()
            except BaseException as error:  # noqa: BLE001  # handed to the task that opens the plan
                self.owner.opened(self, error)
                return
            self.owner.opened(self, None)
        else:
            self.threads[0].start()

    def start(self, batch: list[Job]) -> None:
        """Give it a batch; a second one is prepared while the first one runs."""
        self.held.append(batch)
        with self._turn:
            self._waiting.append(batch)
        if self.virtual is not None:
            self.virtual.put(batch)
        elif len(self.held) > 1:
            if len(self.threads) == 1:
                feeder = threading.Thread(target=self._feed, name=f"{self.threads[0].name}-feed", daemon=True)
                self.threads.append(feeder)
                feeder.start()
            self.ahead.put(batch)
        else:
            self.batches.put((batch, None))

    def run_here(self, batch: list[Job]) -> None:
        """Run a batch at once, on the loop: it is over before a thread would have begun."""
        self.held.append(batch)
        dead = self._timed(batch, None)
        if dead:
            self.batches.put(_REOPEN)
        self.finished(batch, dead)

    # -- the thread -------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        if self.cpus:
            os.sched_setaffinity(0, self.cpus)  # before it loads: the engine's own threads inherit it
        if not self._open():
            return
        while (work := self.batches.get()) is not None:
            died = work is _REOPEN or self._serve_batch(*work)
            del work  # an idle thread keeps no request's data alive
            if died and not self._reopen():
                break
        self.backend.close()

    def _serve_batch(self, batch: list[Job], ahead: Ahead | None) -> bool:
        if not self.begins(batch):
            return False
        died = self._timed(batch, ahead)
        wake(self.loop, lambda: self.finished(batch, died))
        return died

    def _timed(self, batch: list[Job], ahead: Ahead | None) -> bool:
        """As `run`. What one item takes of the processor is what it would take on the loop, where a thread's run
        looks longer: it ends when that has the interpreter again."""
        self._runs += 1
        passed = self._runs > LOOK_ALL and self._runs % LOOK
        if not self.inline or len(batch) > 1 or passed:
            return self.run(batch, ahead)
        began = time.thread_time()
        died = self.run(batch, ahead)
        batch[0].busy_s = time.thread_time() - began
        return died

    def _open(self) -> bool:
        try:
            self.backend.open()
        except BaseException as error:  # noqa: BLE001  # handed to the task that opens the plan
            failure = error
            wake(self.loop, lambda: self.owner.opened(self, failure))
            return False
        wake(self.loop, lambda: self.owner.opened(self, None))
        return True

    def _feed(self) -> None:
        """Prepare the next batch while the present one runs."""
        if self.cpus:
            os.sched_setaffinity(0, self.cpus)
        while (batch := self.ahead.get()) is not None:
            self.batches.put((batch, self._prepared(batch)))
            del batch
        self.batches.put(None)

    def _prepared(self, batch: list[Job]) -> Ahead | None:
        members, backend = [job for job in batch if not job.left], self.backend
        try:
            return Ahead(members, backend.prepare([job.item for job in members]), backend)  # type: ignore[attr-defined]
        except BaseException:  # noqa: BLE001  # it runs unprepared then, and fails as it must
            return None

    def run(self, batch: list[Job], ahead: Ahead | None = None) -> bool:
        """Run a batch, in halves where it fails as a whole; says whether the backend died of it."""
        clock = self.owner.clock
        parts = [batch]
        while parts:
            started = clock()
            part, results = self._computed(parts.pop(), ahead)
            ahead = None
            if not part:
                continue
            if self.judged(part, results, started, clock(), parts):
                return True
        return False

    def judged(
        self, part: list[Job], results: Any, started: float, ended: float, parts: list[list[Job]]
    ) -> bool:
        """Keep what a part gave, or put its halves back among the parts to run; says whether the backend died of it:
        then the other parts have failed, too."""
        results, death = self._verdict(results)
        parts += self._take(part, results, started, ended, death is not None)
        if death is None:
            return False
        for rest in parts:
            self._fill(rest, [death] * len(rest), started, ended)
        return True

    def _computed(self, part: list[Job], ahead: Ahead | None) -> tuple[list[Job], Any]:
        """Those of a part that somebody waits for as it begins, and what the backend gives for them, or the
        exception that it raises."""
        backend: Any = self.backend
        members = part
        try:
            with self._turn:  # whoever leaves later leaves a run
                members = self._running = self.staying(part)
                if members and self.stops:
                    backend.begin()
            if not members:
                return members, []
            if ahead is not None and ahead.members == members and ahead.by is backend:
                return members, backend.run_prepared(ahead.value)
            return members, backend.run([job.item for job in members])
        except BaseException as error:  # noqa: BLE001  # each member's task raises it
            return members, error
        finally:
            if self.accounts:
                for job, calls in zip(members, backend.account(), strict=False):  # none, if it did not begin
                    job.calls += calls
            with self._turn:
                self._running = []

    @staticmethod
    def staying(part: list[Job]) -> list[Job]:
        """Those of a part that somebody waits for; of the others nothing is computed."""
        staying: list[Job] = []
        for job in part:
            if job.left:
                job.error = LEFT
            else:
                staying.append(job)
        return staying

    def look(self) -> None:
        """On the loop, when a request left: a run that nobody waits for ends, where its engine can be stopped."""
        if not self.stops:
            return
        with self._turn:  # so that it cannot hit the next run
            if self._running and _left(self._running):
                try:
                    self.backend.stop()  # type: ignore[attr-defined]
                except Exception as mistake:  # noqa: BLE001  # who left is to be told all the same
                    told = {"message": f"stop() of {self.owner.label} raised", "exception": mistake}
                    self.loop.call_exception_handler(told)

    def _verdict(self, results: Any) -> tuple[Any, BaseException | None]:
        """The results, and of which failure the backend died, if it did: one that says so by `dead`; where the
        backend itself says so by `alive`, each that the run gave."""
        several = isinstance(results, list | tuple)
        each: Sequence[Any] = results if several else [results]
        failed = [one for one in each if isinstance(one, BaseException)]
        if not failed:
            return results, None
        if not self._lives():
            each = [self._lethal(one) if isinstance(one, BaseException) else one for one in each]
            results = each if several else each[0]
            failed = [one for one in each if isinstance(one, BaseException)]
        return results, next((one for one in failed if getattr(one, "dead", False)), None)

    def _lives(self) -> bool:
        alive = getattr(self.backend, "alive", None)
        try:
            return alive is None or bool(alive())
        except Exception:  # noqa: BLE001  # what cannot even tell is opened anew; why, the run's own failure says
            return False

    def _lethal(self, error: BaseException) -> BackendError:
        """A failure of a backend that died of it."""
        if not isinstance(error, BackendError):
            seen = error.message if isinstance(error, TautenError) else f"{type(error).__name__}: {error}"
            ours = BackendError(
                f"{self.owner.label}: {seen}", help="send the request again: the engine is opened anew"
            )
            ours.__cause__, error = error, ours
        error.dead = True
        return error

    def _take(
        self, part: list[Job], results: Any, started: float, ended: float, dead: bool
    ) -> list[list[Job]]:
        """Keep the results of a part, or give its halves back when it failed as a whole."""
        if isinstance(results, BaseException):
            failure: BaseException | None = results
        elif not isinstance(results, list | tuple) or len(results) != len(part):
            seen = f"{len(results)} results" if isinstance(results, list | tuple) else type(results).__name__
            failure = BackendError(
                f"{self.owner.label}: a batch of {len(part)} gave {seen}", help="one result per item"
            )
        else:
            failure = _common(results)
        if failure is None:
            self._fill(part, results, started, ended)
            return []
        self._fill(part, [failure] * len(part), started, ended)
        whole = len(part) == 1 or dead or not self.owner.pure or _left(part)
        if whole or not isinstance(failure, Exception):
            return []
        self.bisected += 1
        first = halves(len(part))[0]
        return [part[first:], part[:first]]

    @staticmethod
    def _fill(part: list[Job], results: Sequence[Any], started: float, ended: float) -> None:
        """Give each member its result and its share of the run's time."""
        total = sum([job.weight for job in part])  # of each more than 0
        each_s = (ended - started) / total
        for job, result in zip(part, results, strict=True):
            if not job.seconds:
                job.started = started
            job.ended = ended
            job.seconds += each_s * job.weight
            if isinstance(result, BaseException):
                job.error = result
            else:
                job.error = None
                job.result = result

    # -- the end of a batch, and of a backend -----------------------------------------------------------------

    def begins(self, batch: list[Job]) -> bool:
        """Whether it is still here to be run; from now on nobody takes it back."""
        with self._turn:
            there = batch in self._waiting
            if there:
                self._waiting.remove(batch)
            return there

    def take_back(self) -> list[Job]:
        """On the loop, where the backend died: what it has not begun need not wait until it is opened anew."""
        with self._turn:
            waiting, self._waiting = self._waiting, []
        self.held = [batch for batch in self.held if batch not in waiting]
        return [job for batch in waiting for job in batch]

    def finished(self, batch: list[Job], dead: bool) -> None:
        """On the loop."""
        self.held.remove(batch)
        self.dead = self.dead or dead
        self.owner.finished(self, batch)

    def _reopen(self) -> bool:
        """In the thread: make and open a new backend until it opens; False when the deployment closed."""
        attempt = 0
        while not self.closed:
            if attempt and self._stop.wait(REOPEN_S[min(attempt, len(REOPEN_S) - 1)]):
                break
            attempt += 1
            if self._replaced(lambda error: wake(self.loop, lambda: self.owner.opened(self, error))):
                return True
        return False

    def reopened(self) -> bool:
        return self._replaced(lambda error: self.owner.opened(self, error))

    def _replaced(self, tell: Callable[[BaseException | None], None]) -> bool:
        try:
            self.backend.close()
        except Exception as error:  # noqa: BLE001  # it is dead: what its end says is told, the new one counts
            tell(error)
        try:
            backend = self.owner.make()
            backend.open()
        except Exception as error:  # noqa: BLE001  # told, and tried again
            tell(error)
            return False
        self.backend = backend
        tell(None)
        return True

    def close(self) -> None:
        """Stop after what it holds."""
        self.closed = True
        self._stop.set()
        if self.virtual is not None:
            self.backend.close()
        elif len(self.threads) > 1:
            self.ahead.put(None)  # which hands it on, behind what it still prepares
        else:
            self.batches.put(None)

    @property
    def alive(self) -> bool:
        return any(thread.is_alive() for thread in self.threads)


_REOPEN: tuple[list[Job], None] = ([], None)  # tells the thread that the backend died on the loop


def _left(part: Sequence[Job]) -> bool:
    """Whether nobody waits for these any more."""
    return all(job.left for job in part)


def _common(results: Sequence[Any]) -> BaseException | None:
    """The one exception that all members of a batch share: it failed as a whole."""
    first = results[0] if results else None
    if isinstance(first, BaseException) and all(each is first for each in results):
        return first
    return None
