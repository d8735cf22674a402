"""How far a search is: one line that changes on a terminal, now and then a plain line elsewhere."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import shutil
from typing import Final, TextIO

from tauten import clock
from tauten.clock import Clock
from tauten.explain.lines import clip
from tauten.improve.report import summary

PLAIN_S: Final = 10.0  # between two lines in a log: often enough to see that it lives
HINT: Final = "Ctrl-C loses nothing"
NARROW: Final = 80  # columns where nobody knows better


class Progress:
    """Tells what is being tried, the best so far, and how much of the budget is used. Single-threaded."""

    def __init__(self, budget_s: float, stream: TextIO, now: Clock = clock.real) -> None:
        self.budget_s = budget_s
        self.stream = stream
        self.terminal = stream.isatty()
        self._now = now
        self._start = now()
        self._said: float | None = None  # when the last plain line was written
        self._trying = self._detail = self._best = ""

    def tell(self, text: str) -> None:
        """What is being tried now."""
        self._trying, self._detail = text, ""
        self._told()

    def detail(self, text: str) -> None:
        """How far that is; what is being tried stays before it."""
        self._detail = text
        self._told()

    def _told(self) -> None:
        if self.terminal:
            self._draw()
        elif self._said is None or self._now() - self._said >= PLAIN_S:
            self._say()

    def best(self, text: str) -> None:
        """The best that was found so far; worth a line of its own in a log."""
        changed, self._best = text != self._best, text
        if self.terminal:
            self._draw()
        elif changed:
            self._say()

    def close(self) -> None:
        """Clear the line: what was found is printed by somebody else."""
        if self.terminal:
            self._write("\r\x1b[K")

    def line(self) -> str:
        """The whole line.

        >>> import io
        >>> progress = Progress(1800, io.StringIO(), now=lambda: 0.0)
        >>> progress.tell("transcribe on int8")
        >>> progress.detail("run 3 of 36")
        >>> progress.best("p95 790 ms (SLO 800)")
        >>> progress.line()
        '[0:00 of 30:00] transcribe on int8 · run 3 of 36 · best p95 790 ms (SLO 800) · Ctrl-C loses nothing'
        """
        used = summary.minutes(self._now() - self._start)
        best = f"best {self._best}" if self._best else ""
        parts = [f"[{used} of {summary.minutes(self.budget_s)}] {self._trying}", self._detail, best, HINT]
        return " · ".join(part for part in parts if part)

    def _draw(self) -> None:
        """What does not fit is cut off; the hint goes first, then the end of the best."""
        columns = shutil.get_terminal_size((NARROW, 24)).columns - 1  # a full line would wrap
        whole = self.line()
        fitting = whole if len(whole) <= columns else whole.removesuffix(f" · {HINT}")
        self._write(f"\r\x1b[K{clip(fitting, columns)}")

    def _say(self) -> None:
        self._said = self._now()
        self._write(f"{clip(self.line(), 4 * NARROW)}\n")

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
