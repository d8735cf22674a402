"""Runs codecs off the event loop: in dedicated threads, or in worker processes that may crash.

Threads are the default: the decoders release the interpreter lock, and a hand-off costs less than a
process's. Processes isolate hostile media: what kills one fails only its own job.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tauten import errors
from tauten.errors import BackendError, MachineError, MediaError, Overloaded, TautenError
from tauten.run.codecs import _worker
from tauten.run.contracts import find
from tauten.run.decode.arena import Arena
from tauten.run.workers import in_thread

if TYPE_CHECKING:
    from tauten.describe.payload import Payload
    from tauten.describe.view import View

Mode = Literal["thread", "process"]
Decoded = tuple[Any, float, float]
"""(value, started, ended): monotonic seconds of the work itself, taken where it was done."""

QUEUE_JOBS = 64  # waiting jobs: some seconds of 1080p pictures on two cores; more would only grow old
JOB_LIMIT_S = 120.0  # a decode that takes longer hangs: ten minutes of 720p video take about 70 s


class _Job:
    """One decode on its way: what to do, and the future that waits for it."""

    __slots__ = ("future", "loop", "payload", "view")

    def __init__(self, payload: Payload, view: View) -> None:
        self.payload = payload
        self.view = view
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Decoded] = self.loop.create_future()

    @property
    def name(self) -> str:
        """The view's name: hash of the encoded bytes, and the view."""
        return f"{self.payload.hash}/{self.view.name}"

    def finish(self, outcome: Decoded | BaseException) -> None:
        """Hand the outcome to the waiting task; called from a worker's thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, outcome)
        except RuntimeError:
            pass  # the loop is closed: nobody waits any more

    def _settle(self, outcome: Decoded | BaseException) -> None:
        if self.future.done():
            return  # cancelled meanwhile
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class _Crew:
    """Threads that take jobs from one bounded queue, started with the first job."""

    def __init__(self, size: int, limit: int, make: Callable[[], _Hand], label: str) -> None:
        self._hands = [make() for _ in range(size)]
        self._limit = limit
        self._label = label
        self._jobs: deque[_Job] = deque()
        self._ready = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def add(self, job: _Job) -> None:
        with self._ready:
            if self._closed:
                raise MachineError(
                    "the decoders are closed", help="decode before the engine closes", code="E332"
                )
            while self._jobs and self._jobs[0].future.cancelled():
                self._jobs.popleft()  # its caller left: it holds no place
            if len(self._jobs) >= self._limit:
                raise Overloaded(
                    f"{len(self._jobs)} decodes are waiting, the limit of the {self._label} queue",
                    help="send less at once, or give the plan more decoders",
                )
            self._jobs.append(job)
            if not self._threads:
                self._start()
            self._ready.notify()

    def _start(self) -> None:
        for number, hand in enumerate(self._hands):
            thread = threading.Thread(
                target=self._serve, args=(hand,), name=f"tauten-decode-{self._label}-{number}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def _serve(self, hand: _Hand) -> None:
        while (job := self._take()) is not None:
            if not job.future.cancelled():
                job.finish(_outcome(hand, job))
            del job  # or an idle thread would keep the last picture alive
        hand.close()

    def _take(self) -> _Job | None:
        with self._ready:
            while not self._jobs and not self._closed:
                self._ready.wait()
            return self._jobs.popleft() if self._jobs else None

    @property
    def started(self) -> bool:
        return bool(self._threads)

    def close(self) -> None:
        with self._ready:
            self._closed = True
            jobs, self._jobs = self._jobs, deque()
            self._ready.notify_all()
        for job in jobs:
            job.finish(MachineError("the decoders were closed", help="ask again", code="E332"))
        for hand in self._hands:
            hand.interrupt()
        for thread in self._threads:
            thread.join()


def _outcome(hand: _Hand, job: _Job) -> Decoded | BaseException:
    try:
        return hand.decode(job)
    except TautenError as error:
        return error
    except Exception as error:  # noqa: BLE001  # a codec's own bug fails its job, never the crew
        failure = BackendError(
            f"codec `{job.view.codec}` failed: {error!r}", help="report it to the codec's author"
        )
        failure.__cause__ = error
        return failure


class _Hand:
    """Decodes in the crew's own thread."""

    def decode(self, job: _Job) -> Decoded:
        codec = find("codecs", job.view.codec)()
        started = monotonic()
        value = codec.decode(job.payload.data, job.payload.type, job.view.params, job.name)
        return value, started, monotonic()

    def interrupt(self) -> None:
        """Stop what can be stopped; a thread's decode cannot."""

    def close(self) -> None:
        """Free what the hand holds."""


class _ProcessHand(_Hand):
    """Decodes in a worker process, restarted when it dies; arrays come back through the arena."""

    def __init__(self, arena: Arena, job_limit_s: float) -> None:
        self._arena = arena
        self._job_limit_s = job_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._closing = False
        self._guard = threading.Lock()  # interrupt() comes from another thread

    @property
    def pid(self) -> int:
        """The worker's process id, 0 when none runs."""
        return self._process.pid if self._process else 0

    def decode(self, job: _Job) -> Decoded:
        link = self._open()
        try:
            outcome = self._exchange(link, job)
        except (OSError, EOFError, msgspec.DecodeError) as error:
            raise self._died(error) from None
        except BaseException:
            self.close()  # the worker still waits for memory: its line is out of step
            raise
        if isinstance(outcome, TautenError):
            raise outcome
        return outcome

    def _exchange(self, link: socket.socket, job: _Job) -> Decoded | TautenError:
        import numpy as np

        data, view = job.payload, job.view
        _worker.send(link, _worker.Job(view.codec, data.data, data.type, dict(view.params), job.name))
        result = msgspec.msgpack.decode(self._answer(link), type=_worker.Result)
        if result.error:
            return _rebuilt(result)
        if not result.arrays:
            return _worker.unpack(result, np.empty(0, "u1")), result.started, result.ended
        lease = self._arena.lease((result.size_bytes,), "u1", f"decode {view.name}")
        with contextlib.ExitStack() as undo:
            undo.callback(lease.release)
            socket.send_fds(link, [b"\0"], [lease.fd])
            done = msgspec.msgpack.decode(self._answer(link), type=_worker.Done)
            undo.pop_all()
        return _worker.unpack(result, lease.bind()), result.started, done.ended

    def _answer(self, link: socket.socket) -> bytes:
        body = _worker.receive(link)
        if body is None:
            raise EOFError
        return body

    def _died(self, error: Exception) -> TautenError:
        hung = isinstance(error, TimeoutError)
        status = self._stop()
        if hung:
            seen = f"took longer than {self._job_limit_s:g} s and was killed"
        else:
            seen = f"died (signal {-status})" if status < 0 else f"ended with status {status}"
        return BackendError(
            f"the decode process {seen}", help="the medium may be hostile; other requests go on", code="E405"
        )

    def _open(self) -> socket.socket:
        with self._guard:
            if self._closing:
                raise MachineError("the decoders were closed", help="ask again", code="E332")
            if self._link is None or self._process is None or self._process.poll() is not None:
                self._stop()
                self._start()
            assert self._link is not None
            return self._link

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # -P: a file of the user's folder must not stand in for a module of ours.
            command = [sys.executable, "-P", "-m", _worker.__name__, str(theirs.fileno())]
            try:
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
                )
            except OSError as error:
                ours.close()
                raise MachineError(
                    f"no decode process can be started: {error}", help="free memory or processes", code="E303"
                ) from error
        ours.settimeout(self._job_limit_s)
        self._link = ours

    def _stop(self) -> int:
        """Kill the worker, if any, and return its exit status."""
        link, self._link = self._link, None
        process, self._process = self._process, None
        if link is not None:
            link.close()
        if process is None:
            return 0
        process.kill()
        return process.wait()

    def interrupt(self) -> None:
        with self._guard:
            self._closing = True
            process = self._process
            if process is not None:
                process.kill()  # ends a decode under way; close() collects it

    def close(self) -> None:
        with self._guard:
            self._stop()


def _rebuilt(result: _worker.Result) -> TautenError:
    kind = getattr(errors, result.error, None)
    if not (isinstance(kind, type) and issubclass(kind, TautenError)):
        kind = BackendError
    return kind(result.message, help=result.help, code=result.code)


class Decoders:
    """Decodes payloads in `threads` threads and `processes` worker processes, each started on first use.

    Results of a process lie in shared memory, which goes back to the arena when the last array over it
    is collected.
    """

    def __init__(
        self,
        threads: int = 2,
        processes: int = 1,
        *,
        queue: int = QUEUE_JOBS,
        arena: Arena | None = None,
        job_limit_s: float = JOB_LIMIT_S,
    ) -> None:
        self.arena = arena or Arena()
        self._owns_arena = arena is None
        self._process_hands: list[_ProcessHand] = []
        self._job_limit_s = job_limit_s
        self._crews: dict[str, _Crew] = {
            "thread": _Crew(threads, queue, _Hand, "thread"),
            "process": _Crew(processes, queue, self._make_process_hand, "process"),
        }

    def _make_process_hand(self) -> _Hand:
        hand = _ProcessHand(self.arena, self._job_limit_s)
        self._process_hands.append(hand)
        return hand

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [hand.pid for hand in self._process_hands if hand.pid]

    async def decode(self, payload: Payload, view: View, *, mode: Mode = "thread") -> Decoded:
        """Decode; returns (value, started, ended).

        Raises MediaError (input), PlanError (codec, parameter), Overloaded (queue full), BackendError
        E405 (the worker process died or hung). A cancelled job that waits is dropped; one under way runs
        on, and its result is dropped.
        """
        if mode not in self._crews:
            raise errors.PlanError(
                f"decode = {mode!r}, expected thread or process",
                help=errors.suggest(mode, self._crews),
                code="E128",
            )
        if not find("codecs", view.codec)().accepts(payload):
            raise MediaError(
                f"codec `{view.codec}` does not read {payload!r}",
                help="ask for a view that fits it",
                code="E219",
            )
        job = _Job(payload, view)
        self._crews[mode].add(job)
        return await job.future

    async def end(self) -> None:
        """Close without blocking the loop; at once where nothing was ever decoded."""
        if any(crew.started for crew in self._crews.values()):
            await in_thread(self.close)
        else:
            self.close()

    def close(self) -> None:
        """End all threads and processes; waiting jobs fail. Blocks until decodes in threads are done."""
        for crew in self._crews.values():
            crew.close()
        if self._owns_arena:
            self.arena.close()
