"""What a call leaves in its request's trace: rows for its time, a line of words, and an entry a try in the books."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.run.remote.phases import Phases
from tauten.run.request import Request
from tauten.run.usage.call import Call


class Trail:
    """One step of one request. What ends after the request did (a mirrored call) comes to the same list."""

    def __init__(self, request: Request, step: str) -> None:
        self.request = request
        self.step = step
        self.clock = request.clock

    @property
    def left_s(self) -> float:
        """Seconds that the request has left."""
        return self.request.left()

    @property
    def headroom_s(self) -> float:
        """Seconds until it misses what it was admitted for, or its deadline."""
        return min(self.request.deadline, self.request.target) - self.clock()

    def row(self, cause: str, start: float, end: float) -> None:
        if end > start:
            self.request.trace.rows.append((self.step, cause, start, end))

    def note(self, label: str, why: str, phases: Phases, how: str) -> None:
        """Say of a try what its opening took, and how it ended where that was not well."""
        self.say(" ".join(filter(None, (f"{label}{f' ({why})' if why else ''}:", phases.said(), how))))

    def say(self, words: str) -> None:
        """Add to the step's note."""
        notes = self.request.trace.notes
        key = f"{self.step} remote"
        notes[key] = f"{notes[key]}; {words}" if key in notes else words

    def book(self, call: Call) -> None:
        self.request.trace.provider_calls.append(call)
