"""What load is put on: anything that answers one prepared request at a time, and says how it went."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

from tauten.describe.payload import Payload

Outcome = Literal["ok", "failed", "refused", "timed_out"]


class Response(msgspec.Struct, frozen=True, gc=False):
    """How one request ended. Times are on the clock that the target was given.

    `outputs` are the times of the increments of a stream, the first output among them; a whole answer
    has none, its first output is its end. `lost`: it was taken and then neither answered nor refused.
    `wrong`: the request itself is at fault, and so is every other like it. `unsent`: this machine could
    not send it (no port, no file left), so it says nothing of the target.
    """

    outcome: Outcome = "ok"
    outputs: tuple[float, ...] = ()
    error: str = ""
    lost: bool = False
    tokens: int = 0
    wrong: bool = False
    unsent: bool = False


class Target(Protocol):
    """Something to put load on. `shares_loop`: it computes on the generator's own event loop, so that the
    two cannot be told apart there."""

    name: str
    shares_loop: bool

    async def open(self) -> None:
        """Get ready; raises what a user can mend."""

    def prepare(self, inputs: Mapping[str, Payload]) -> Any:
        """Encode one request before the run, so that nothing is encoded during it."""

    async def send(self, prepared: Any, budget_s: float) -> Response:
        """Run one request to its end; `budget_s` is what is left of its deadline (infinity without one).

        Failures of the request are in the response. Cancelled when the generator gives up waiting.
        """

    def zombies(self) -> int | None:
        """Requests that still run though nobody waits for them; None where the target cannot tell."""

    async def close(self) -> None:
        """Give everything back; may be called twice."""
