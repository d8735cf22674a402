"""One line a finished request: JSON or text, on standard error, sampled and bounded, without content.

Answers that went well are sampled; everything else is written, up to a rate. A line says what the server did
(workflow, plan, status, times, tokens, who asked, why it refused), never what was asked or answered. Lines are
written by a thread, so that a terminal or pipe that is slow never holds a request.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
import random
import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

import msgspec

from tauten.clock import Clock, real
from tauten.errors import TautenError
from tauten.run.trace import Trace
from tauten.serve.door import Call
from tauten.serve.exchange import Exchange
from tauten.serve.observe.outcome import error_of, outcome_of, reason_of, status_of, went_well
from tauten.serve.safety.limits import Bucket

if TYPE_CHECKING:
    from tauten.serve.oip.express import Rider

Form = Literal["json", "text"]

SAMPLE = 0.1  # of what went well: the metrics count all, the log shows what they look like
LINES_PER_S = 100.0  # a second; a collector that bills by line, or a disk, survives a storm of errors
BURST = 1000
WAITING = 10_000  # lines that wait for a slow terminal or pipe; then they are dropped and counted
FLUSH_S = 0.05
_FRAMES = 12  # of a failure: the innermost ones


class Logs:
    """An observer of the site, and the server's own words."""

    def __init__(
        self,
        form: Form = "json",
        *,
        sample: float = SAMPLE,
        content: bool = False,
        out: TextIO | None = None,
        clock: Clock = real,
        seed: int | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.form = form
        self.sample = sample
        self.content = content  # may show what errors say: they may quote what was asked
        self.dropped = 0
        self._out = out or sys.stderr
        self._clock = clock
        self._random = random.Random(seed)
        self._now = now
        self._pass = 0  # of requests that ran together, before the next one of the sample
        self._bucket = Bucket(LINES_PER_S, BURST, clock())
        self._lines: deque[bytes | str] = deque()
        self._wake = threading.Event()
        self._ended = False
        self._thread: threading.Thread | None = None

    # -- requests -----------------------------------------------------------------------------------------

    def finished(
        self, exchange: Exchange, call: Call | None, error: BaseException | None, seconds: float
    ) -> None:
        """Write the line of an exchange that is over, if it is to be written."""
        probe = call is not None and call.route.open
        if went_well(exchange, call, error) and (
            probe or (self.sample < 1.0 and self._random.random() >= self.sample)
        ):
            return
        ended = error_of(exchange, call, error)
        status = status_of(exchange, ended)
        outcome = (
            "not_ready" if probe and status == 503 else outcome_of(status, ended)
        )  # its answer, no refusal
        if self._bucket.take(self._clock()):
            self.dropped += 1
            return
        self._write(self._line(exchange, call, ended, status, outcome, seconds))

    def answered(self, riders: list[Rider]) -> None:
        """As `finished`, of some that ran in no task and went well."""
        for rider in self._chosen(riders):
            if self._bucket.take(self._clock()):
                self.dropped += 1
                continue
            call = rider.call()
            self._write(self._line(call.exchange, call, None, 200, "ok", rider.seconds))

    def turned_away(self, riders: list[Rider], error: TautenError) -> None:
        """As `finished`, of some that were refused for one reason."""
        outcome = outcome_of(error.http_status, error)
        for rider in riders:
            if self._bucket.take(self._clock()):
                self.dropped += 1
                continue
            call = rider.refused(error)
            self._write(self._line(call.exchange, call, error, call.exchange.status, outcome, rider.seconds))

    def _chosen(self, riders: list[Rider]) -> list[Rider]:
        """A sample, by how many are passed over until the next one: one draw a line, not one a request."""
        if not 0.0 < self.sample < 1.0:
            return riders if self.sample else []
        chosen = []
        while self._pass < len(riders):
            chosen.append(riders[self._pass])
            self._pass += 1 + int(math.log(1.0 - self._random.random()) / math.log(1.0 - self.sample))
        self._pass -= len(riders)
        return chosen

    def _line(
        self,
        exchange: Exchange,
        call: Call | None,
        error: BaseException | None,
        status: int,
        outcome: str,
        seconds: float,
    ) -> dict[str, Any]:
        line: dict[str, Any] = {"at": self._stamp(), "event": "request"}
        line["id"] = call.id if call is not None else dict(exchange.extra).get("x-request-id", "")
        line["route"] = "none" if call is None else call.route.name
        line |= {"status": status, "outcome": outcome, "ms": round(seconds * 1e3, 3)}
        if call is not None:
            line |= _of_call(call)
        if error is not None:
            line |= self._of_error(error)
        if self.dropped:
            line["lines_dropped"], self.dropped = self.dropped, 0
        return line

    def _of_error(self, error: BaseException) -> dict[str, Any]:
        told: dict[str, Any] = {"reason": reason_of(error)}
        if isinstance(error, TautenError):
            told["code"] = error.code
        if self.content:
            told["message"] = str(error)
        cause = error.__cause__ or error
        if not isinstance(error, TautenError) or error.http_status == 500:
            told["raised"] = type(cause).__name__
            told["stack"] = _stack(cause)
        return told

    # -- the server's own words ---------------------------------------------------------------------------

    def say(self, event: str, **facts: Any) -> None:
        """One line about the server itself."""
        self._write({"at": self._stamp(), "event": event, **facts})

    # -- writing ------------------------------------------------------------------------------------------

    def _stamp(self) -> str:
        return self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def _write(self, line: dict[str, Any]) -> None:
        if len(self._lines) >= WAITING:
            self.dropped += 1
            return
        self._lines.append(as_json(line) if self.form == "json" else as_text(line))
        if self._thread is None:
            self._flush()
        else:
            self._wake.set()

    def start(self) -> None:
        """Write from a thread from now on; without it every line is written at once."""
        self._thread = threading.Thread(target=self._run, name="tauten-log", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            self._flush()
            if not self._ended:
                threading.Event().wait(FLUSH_S)  # what comes meanwhile leaves in one write
        self._flush()

    def _flush(self) -> None:
        lines = []
        while self._lines:
            line = self._lines.popleft()
            lines.append(line.decode() if isinstance(line, bytes) else line)
        if not lines:
            return
        try:
            self._out.write("\n".join(lines) + "\n")
            self._out.flush()
        except (OSError, ValueError):  # nobody reads the log any more: serving goes on
            self.dropped += len(lines)

    async def close(self) -> None:
        """Write what waits, for at most a second."""
        self._ended = True
        self._wake.set()
        thread, self._thread = self._thread, None
        for _ in range(100):
            if thread is None or not thread.is_alive():
                break
            await asyncio.sleep(0.01)


def _of_call(call: Call) -> dict[str, Any]:
    told: dict[str, Any] = {}
    if call.caller.name:
        told["key"] = call.caller.name
    if call.caller.tenant:
        told["tenant"] = call.caller.tenant
    if call.service is not None:
        told["workflow"] = call.service.name
    request = call.request
    if request is None:
        return told
    told["plan"] = request.plan
    trace = request.trace
    if trace.first_output is not None:
        told["first_ms"] = round((trace.first_output - trace.start) * 1e3, 3)
    return told | tokens(trace)


def tokens(trace: Trace) -> dict[str, int]:
    """Tokens that a request took, by kind."""
    found: dict[str, int] = {}
    for _, unit, amount in trace.spent:
        if unit.endswith("_tokens"):
            found[unit] = found.get(unit, 0) + int(amount)
    return found


def _stack(error: BaseException) -> list[str]:
    """Files, lines and functions of a failure; neither its message nor source text, which may quote content."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]


def as_json(line: dict[str, Any]) -> bytes:
    return msgspec.json.encode(line, enc_hook=str)


def as_text(line: dict[str, Any]) -> str:
    """A line for people: the time, the event, then names and values; what could break a line is escaped."""
    shown = [f"{key}={_plain(value)}" for key, value in line.items() if key not in ("at", "event")]
    return " ".join([line["at"], line["event"], *shown])


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value, enc_hook=str).decode()
    return text if text.isprintable() and " " not in text else msgspec.json.encode(text).decode()
