"""Where a short batch runs: what giving it to a thread costs, and what the event loop would take for it instead."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.run.deploy.job import Job
from tauten.run.deploy.scheduling import HAND_S, runs_inline

HERE = 0.6  # before it is known: a thread's run ends when it has the interpreter again
_MOST_S = 0.001  # of a hand-off that teaches: what takes longer met another's work
_MOST_HERE = 2.0  # times a thread's run: beyond that something else held up the loop
_GAIN = 1 / 8  # of the newest run, as in the estimator of round trips of TCP


class HandOff:
    """Learns, from batches that were one item, what a hand-off costs and how long their like take on the loop."""

    __slots__ = ("heaviest", "here", "seconds", "stall")

    def __init__(self) -> None:
        self.heaviest = 0.0  # of the batches that estimates stand on
        self.here = HERE  # times what a thread takes for a run is what the loop takes
        self.seconds = HAND_S  # that giving a thread one item and taking it back costs
        self.stall = 0.0  # times what a run takes of the processor is what it takes on the loop; 0: not known

    def seen(self, weight: float) -> None:
        """A batch of that weight is in the estimates."""
        self.heaviest = max(self.heaviest, weight)

    def spared(self, usual_s: float, items: int, weight: float, behind: int, rate: float) -> bool:
        """Whether a batch that usually takes so long should run on the loop, at so many arrivals a second. One that
        is heavier than any before may take longer by as much."""
        here_s = self.here * usual_s * max(1.0, weight / (self.heaviest or weight))
        return runs_inline(here_s, items, behind, self.seconds, rate)

    def learn(self, job: Job, usual_s: float, now: float) -> None:
        """Take what an item met that was a batch, and whose processor time was looked at.

        What held up the loop once says little of the next run; while none is on the loop it is forgotten, so that
        another is tried.
        """
        if job.reason == "inline":
            stall = min(job.ended - job.started, _MOST_HERE * usual_s) / job.busy_s
            self.stall += (stall - self.stall) * _GAIN if self.stall else stall
        else:
            self.stall += (1.0 - self.stall) * _GAIN if self.stall else 0.0
            hand_s = job.started - job.given + now - job.ended
            self.seconds += (min(hand_s, _MOST_S) - self.seconds) * _GAIN
        here = job.busy_s * max(self.stall, 1.0) / usual_s
        self.here += (min(here, _MOST_HERE) - self.here) * _GAIN
