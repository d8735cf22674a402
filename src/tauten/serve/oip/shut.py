"""A refusal that others share. Who is asked for three times what he can do says no twice as often as yes: a no has to
cost a fraction of a yes, else the refused take the time of those that were let in."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from tauten.clock import real
from tauten.errors import Overloaded
from tauten.run.usage.payer import Payer
from tauten.serve.door import refusal_headers
from tauten.serve.http.wire import Head
from tauten.serve.safety.discreet import told

if TYPE_CHECKING:
    from tauten.serve.oip.express import Rider
    from tauten.serve.oip.ride import Ride

SHARED_S: Final = 0.005  # at most: queues move by a batch meanwhile
_OF_BUDGET: Final = 0.05  # at most: by so little of it the queue that is too long for it can have shrunk


class Shut:
    """Why the door refused a ride of one, for those who come in the milliseconds after it, have less time than it would
    have needed, and are of the same caller and rank."""

    def __init__(self, ride: Ride, rider: Rider, error: Overloaded) -> None:
        left_s = ride.left()
        self.needs_s = left_s + error.retry_after_s  # so much later it would have been in time
        self.until = real() + min(SHARED_S, _OF_BUDGET * left_s)
        self._ride, self._error = ride, error
        call = rider.call()
        reply = call.route.failed(told(error, call))
        lines = [("content-type", reply.media_type), *refusal_headers(error)]
        head = Head(reply.status, [(name.encode(), value.encode("latin-1")) for name, value in lines])
        text = reply.whole()
        self._head = head.text + b"x-request-id: "
        self._tail = b"content-length: %d\r\n\r\n%b" % (len(text), text)
        self._told: list[Rider] = []

    def takes(self, left_s: float) -> bool:
        """Whether it is the answer for one who comes now and has so much time left."""
        return left_s < self.needs_s and real() < self.until

    def answer(self, rider: Rider) -> None:
        """Turn a rider away; whoever counts is told at the end of this turn of the loop."""
        if not self._told:
            asyncio.get_running_loop().call_soon(self._tell)
        self._told.append(rider)
        rider.turn_away(b"%b%b\r\n%b%b" % (self._head, rider.id.encode(), rider.wire.hub.usual(), self._tail))

    def _tell(self) -> None:
        """The door, the books and the observers, of all of this turn at once."""
        riders, self._told = self._told, []
        ride, line = self._ride, self._ride.line
        door = ride.station.door
        door.refused += len(riders)
        if door.book is not None:
            counts: defaultdict[str, int] = defaultdict(int)
            for rider in riders:
                counts[rider.caller.name] += 1
            for name, count in counts.items():
                door.book.ended_together(ride, Payer(name), count, error=self._error)
        line.site.turned_away(riders, self._error)
