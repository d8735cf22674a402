"""Where calls of one plan's model may go: endpoints in their order, and what retries, hedges and mirrors may cost."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Final

from tauten.errors import TautenError
from tauten.run.remote.attempt import Attempt
from tauten.run.remote.endpoint import Endpoint
from tauten.run.remote.failure import Failure
from tauten.run.remote.hedging import Hedging
from tauten.run.remote.mirror import Mirror
from tauten.run.remote.question import Question
from tauten.run.remote.retrying import Retrying
from tauten.run.remote.trail import Trail

PATIENCE_S = 30.0  # without a byte: models that think send nothing for that long, dead connections for ever
MIRRORED: Final = 64  # calls to the mirror under way at most: as many as a plan's own streams


class Route:
    """`continues`: a cut answer is gone on with elsewhere. `hedges`: a second endpoint may be asked beside the first."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        continues: bool = False,
        hedges: bool = False,
        patience_s: float = PATIENCE_S,
        mirror: tuple[Endpoint, float] | None = None,
        retrying: Retrying | None = None,
    ) -> None:
        self.endpoints = list(endpoints)
        self.continues = continues
        self.hedges = hedges
        self.patience_s = patience_s
        self.retrying = retrying or Retrying()
        self.hedging = Hedging()
        self._mirror = Mirror(mirror[1]) if mirror else None
        self._mirrored = mirror[0] if mirror else None
        self._beside: set[asyncio.Task[None]] = set()

    @property
    def mirrored(self) -> Endpoint | None:
        return self._mirrored

    def came(self, question: Question, trail: Trail) -> None:
        """A call begins: it earns what extra ones may cost, and may be sent elsewhere, too."""
        self.retrying.came()
        self.hedging.came(question.tokens)
        if self._mirrored is not None and self._mirror is not None and self._mirror.takes():
            if len(self._beside) >= MIRRORED:
                trail.say(f"{self._mirrored.label} (mirror): left out, {MIRRORED} are under way")
                return
            task = asyncio.get_running_loop().create_task(self._run(self._mirrored, question, trail))
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)

    async def _run(self, mirrored: Endpoint, question: Question, trail: Trail) -> None:
        """A mirrored call to its end; its answer and its failure are in the books, and nowhere else.

        It has no deadline, so it does not wait in line either: those who mean the endpoint would wait behind it.
        """
        attempt = Attempt(mirrored, question, trail, why="mirror")
        if mirrored.wait_s(attempt.question.tokens):  # nobody comes between this look and its turn
            trail.say(f"{mirrored.label} (mirror): left out, it would have to wait")
            return
        try:
            delta = await attempt.begin(self.patience_s)
            while not delta.finish:
                delta = await attempt.more(self.patience_s)
        except (Failure, TautenError):
            pass  # booked by the attempt, or no budget pays for it
        finally:
            await attempt.leave()

    def order(self, tokens: float, left_s: float) -> list[Endpoint]:
        """Endpoints that may be asked now: those without a wait as they stand, then by how long they would let wait."""
        waits = {each.named: each.wait_s(tokens) for each in self.endpoints}
        fit = [each for each in self.endpoints if each.circuit.lets and waits[each.named] < left_s]
        return sorted(fit, key=lambda each: waits[each.named])

    def soon_s(self, tokens: float) -> float:
        """Seconds until any of them may be asked."""
        return min(
            (max(each.circuit.opens_in_s, each.wait_s(tokens)) for each in self.endpoints), default=math.inf
        )

    async def settle(self) -> None:
        """Wait for what runs beside; tests and shutdowns with time do."""
        if self._beside:
            await asyncio.wait(self._beside)

    async def close(self) -> None:
        """End what runs beside."""
        for task in self._beside:
            task.cancel()
        await self.settle()
