"""Runs codecs off the event loop: in dedicated threads, or in worker processes that may crash.

Threads are the default: the decoders release the interpreter lock, and a hand-off costs less than a
process's. Processes isolate hostile media: what kills one fails only its own job.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tauten import errors
from tauten.clock import Clock, real
from tauten.errors import BackendError, MachineError, MediaError, TautenError
from tauten.run.codecs import _worker
from tauten.run.contracts import Codec, find
from tauten.run.decode.arena import Arena
from tauten.run.deploy.queueing import QUEUE_BOUND
from tauten.run.request import Asked, Request
from tauten.run.workers import Hand, Job, Workers, in_thread

if TYPE_CHECKING:
    from tauten.describe.payload import Payload
    from tauten.describe.view import View

Mode = Literal["thread", "process"]
Decoded = tuple[Any, float, float]
"""(value, started, ended): monotonic seconds of the work itself, taken where it was done."""

JOB_LIMIT_S = 120.0  # a decode that takes longer hangs: ten minutes of 720p video take about 70 s
PATIENCE_S = 0.5  # with a decode that nobody waits for: about what it costs to start the next process


class _Decoding:
    """What is to be decoded, and as what: a thread calls it, a process is sent it."""

    __slots__ = ("codec", "payload", "view")

    def __init__(self, codec: Codec, payload: Payload, view: View) -> None:
        self.codec = codec
        self.payload = payload
        self.view = view

    @property
    def name(self) -> str:
        """The view's name: hash of the encoded bytes, and the view."""
        return f"{self.payload.hash}/{self.view.name}"

    def __call__(self) -> Any:
        payload = self.payload
        try:
            return self.codec.decode(payload.data, payload.type, self.view.params, self.name)
        except TautenError:
            raise
        except Exception as error:  # a codec's own bug fails its job, never the crew
            raise self.broken(error) from error

    @property
    def duration(self) -> Callable[[], float]:
        """Seconds of virtual time that a codec says it takes."""
        return partial(self.codec.duration, self.payload)  # type: ignore[attr-defined]

    def broken(self, error: Exception) -> BackendError:
        return BackendError(
            f"codec `{self.view.codec}` failed: {error!r}", help="report it to the codec's author"
        )


class _Crew(Workers):
    """Who decodes, in one of the two ways."""

    def closed_error(self) -> TautenError:
        return MachineError("the decoders are closed", help="decode before the engine closes", code="E332")


class _ProcessHand(Hand):
    """Decodes in a worker process, restarted when it dies; arrays come back through the arena."""

    patience_s = PATIENCE_S

    def __init__(self, arena: Arena, job_limit_s: float) -> None:
        self._arena = arena
        self._job_limit_s = job_limit_s
        self._process: subprocess.Popen[bytes] | None = None
        self._link: socket.socket | None = None
        self._closing = False
        self._killed = False
        self._guard = threading.Lock()  # stop() and interrupt() come from other threads

    @property
    def pid(self) -> int:
        """The worker's process id, 0 when none runs."""
        return self._process.pid if self._process else 0

    def work(self, job: Job) -> Any:
        decoding: Any = job.function
        try:
            value, job.started, job.ended = self._decoded(self._open(), decoding)
        except TautenError:
            raise
        except Exception as error:
            raise decoding.broken(error) from error
        return value

    def _decoded(self, link: socket.socket, decoding: _Decoding) -> Decoded:
        try:
            outcome = self._exchange(link, decoding)
        except (OSError, EOFError, msgspec.DecodeError) as error:
            raise self._died(error) from None
        except BaseException:
            self.close()  # the worker still waits for memory: its line is out of step
            raise
        if isinstance(outcome, TautenError):
            raise outcome
        return outcome

    def _exchange(self, link: socket.socket, decoding: _Decoding) -> Decoded | TautenError:
        import numpy as np

        data, view = decoding.payload, decoding.view
        _worker.send(link, _worker.Job(view.codec, data.data, data.type, dict(view.params), decoding.name))
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
            process = self._process
            if self._link is None or process is None or self._killed or process.poll() is not None:
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
        self._killed = False
        if link is not None:
            link.close()
        if process is None:
            return 0
        process.kill()
        return process.wait()

    def stop(self) -> None:
        with self._guard:
            self._kill()

    def interrupt(self) -> None:
        with self._guard:
            self._closing = True
            self._kill()

    def _kill(self) -> None:
        """End a decode under way; the worker is collected when the next one is wanted, or at the close."""
        if self._process is not None:
            self._killed = True
            self._process.kill()

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
        clock: Clock = real,
        queue: int = QUEUE_BOUND,
        arena: Arena | None = None,
        job_limit_s: float = JOB_LIMIT_S,
    ) -> None:
        self.arena = arena or Arena()
        self._owns_arena = arena is None
        self._process_hands: list[_ProcessHand] = []
        self._job_limit_s = job_limit_s
        self._clock = clock
        self._crews: dict[str, _Crew] = {
            "thread": _Crew(threads, "decode-thread", clock, bound=queue),
            "process": _Crew(processes, "decode-process", clock, bound=queue, make=self._make_process_hand),
        }

    def _make_process_hand(self) -> Hand:
        hand = _ProcessHand(self.arena, self._job_limit_s)
        self._process_hands.append(hand)
        return hand

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that run now."""
        return [hand.pid for hand in self._process_hands if hand.pid]

    def crew(self, mode: Mode) -> Workers:
        """Who decodes in that way: where it is waited."""
        if mode not in self._crews:
            raise errors.PlanError(
                f"decode = {mode!r}, expected thread or process",
                help=errors.suggest(mode, self._crews),
                code="E128",
            )
        return self._crews[mode]

    @property
    def crews(self) -> list[Workers]:
        """Who decodes, in each way."""
        return list(self._crews.values())

    async def decode(
        self,
        payload: Payload,
        view: View,
        *,
        mode: Mode = "thread",
        request: Asked | None = None,
        step: str = "",
    ) -> Decoded:
        """Decode, for a step of a request; returns (value, started, ended).

        Raises MediaError (input), PlanError (codec, parameter), Overloaded (too many wait, or the deadline
        could not be met), BackendError E405 (the worker process died or hung). A cancelled job that waits is
        dropped; one under way runs on, in a process for half a second at most, and its result is dropped.
        """
        crew = self.crew(mode)
        codec: Codec = find("codecs", view.codec)()
        if not codec.accepts(payload):
            raise MediaError(
                f"codec `{view.codec}` does not read {payload!r}",
                help="ask for a view that fits it",
                code="E219",
            )
        job = await crew.call(request or Request(self._clock), step, _Decoding(codec, payload, view))
        return job.outcome(), job.started, job.ended

    def zombies(self) -> int:
        """Decodes that still run for requests that ended more than 100 ms ago."""
        return sum(crew.zombies() for crew in self._crews.values())

    async def end(self) -> None:
        """Close without blocking the loop; at once where nothing was ever decoded."""
        if any(crew.started for crew in self._crews.values()):
            await in_thread(self.close)
        else:
            self.close()

    def close(self) -> None:
        """End all threads and processes; waiting jobs fail. Blocks until decodes in threads are done."""
        for crew in self._crews.values():
            crew.close(None)
        if self._owns_arena:
            self.arena.close()
