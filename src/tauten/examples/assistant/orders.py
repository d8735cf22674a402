"""The orders of a shop, and how long it takes to look one up: the slow place of this example.

`Orders` is the data itself, in this process; `service.py` puts HTTP before it. What it gives is what stood there when
it began to look: of all that a slow service may do that is the worst, and a cache has to be right all the same.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable
from importlib import resources
from typing import Final, Literal, Protocol, get_args

import msgspec

from tauten.errors import BackendError, InputError, suggest

State = Literal["received", "packed", "on its way", "delivered", "sent back"]
STATES: Final[tuple[State, ...]] = get_args(State)
WAIT_S = 0.4  # of one lookup: the published case that this example stands for has 400 ms
LOOKUP_CENTS = 0.05  # what a lookup costs: address and parcel services ask for 0.02 to 1 cent; an assumption


class Order(msgspec.Struct, frozen=True):
    """One order, as the service tells it."""

    number: str
    thing: str
    state: State
    carrier: str
    day: str  # of its last step or, on its way, of its arrival


class Source(Protocol):
    """Who knows about orders."""

    async def find(self, number: str) -> Order | None:
        """The order of that number, or None where there is none; raises BackendError where nobody can say."""
        ...


class Orders:
    """The orders of the shop, in memory. Each look takes `wait_s`."""

    def __init__(self, orders: Iterable[Order] = (), *, wait_s: float = WAIT_S) -> None:
        self.wait_s = wait_s
        self.down = False
        self.looked = 0  # how often somebody asked
        self._orders = {order.number: order for order in orders or bundled()}

    async def find(self, number: str) -> Order | None:
        self.looked += 1
        if self.down:
            raise away("it is down")
        found = self._orders.get(number)
        await asyncio.sleep(self.wait_s)
        return found

    def now(self, number: str) -> Order | None:
        """What a look that begins now would give."""
        return self._orders.get(number)

    def change(self, number: str, state: str) -> Order:
        """Let an order go on; one that was not there is there from now on. Raises InputError for another state."""
        if state not in STATES:
            raise InputError(f"an order is never {state!r}", help=suggest(state, STATES))
        before = self._orders.get(number) or Order(number, "tea tin", "received", "Red Van", "1 June")
        after = self._orders[number] = msgspec.structs.replace(before, state=state)
        return after


def away(why: str) -> BackendError:
    """The error of a service that does not answer: nobody may take it for an order that is not there."""
    return BackendError(f"orders cannot be looked up: {why}", help="ask again in a moment")


class Bundled(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: rows of orders, and numbers that no order has."""

    orders: list[tuple[str, str, State, str, str]]
    unknown: list[str]


@functools.cache
def read() -> Bundled:
    """What lies beside this file."""
    return msgspec.toml.decode(
        resources.files(__package__).joinpath("orders.toml").read_bytes(), type=Bundled
    )


def bundled() -> list[Order]:
    """The orders that ship with the example."""
    return [Order(*row) for row in read().orders]
