"""Room that this process holds of budgets beforehand, so that most calls are held without asking the database.

A lot is a hold like any other, of which calls take their parts in memory: escrow, as O'Neil describes it (The Escrow
Transactional Method, 1986). What is spent and held in the database is therefore never less than what is spent and held
in truth, also where the process dies. Near the end of a budget lots become too small for a call, and each call is a
transaction of its own again.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tauten.clock import Clock, real
from tauten.run.usage.database import Do
from tauten.run.usage.limits import Limit, Period

SHARE: Final = (
    100  # a lot is this part of what is left of its budget at most: who else is refused is so 1 % early
)
CALLS: Final = 64  # like the one that asked: some tens of milliseconds of a busy gateway
IDLE_S: Final = 1.0  # what nobody takes from for so long is given back
_PREFIX: Final = os.urandom(8).hex()
_count = itertools.count(1)

Account = tuple[str, str, str]
"""A budget's name, whose it is, and the period."""


class Claim(NamedTuple):
    """What one call asks of one budget."""

    name: str
    whose: str
    period: Period
    limit: Limit
    amount: int

    @property
    def account(self) -> Account:
        return self.name, self.whose, self.period.name


class Grant(NamedTuple):
    """So much more is held of an account, once its transaction has ended well."""

    account: Account
    id: str
    amount: int


class Written(NamedTuple):
    """So much of what was spent of a lot is in the database, once its transaction has ended well."""

    account: Account
    spent: int


class _Lot:
    __slots__ = ("changed", "claims", "id", "left", "out", "spent", "used")

    def __init__(self, id: str, used: float) -> None:
        self.id = id
        self.left = 0  # that calls may take
        self.out = 0  # that calls hold
        self.claims = 0  # of calls that are still to end: some of them hold nothing
        self.spent = 0  # that the database does not know of yet
        self.used = used
        self.changed = False  # against its row

    @property
    def held(self) -> int:
        """What its row has to hold until what was spent of it is written."""
        return self.left + self.out + self.spent


class Lots:
    """Those of one process. `take` and `settle` may be called in any thread; the others are for the database's."""

    def __init__(self, clock: Clock = real) -> None:
        self._clock = clock
        self._lots: dict[Account, _Lot] = {}
        # taken again in `settle`, by a stream that is let go wherever memory is tidied up: also while a lot is looked at
        self._lock = threading.RLock()

    # -- in memory ----------------------------------------------------------------------------------------

    def take(self, claims: Sequence[Claim]) -> bool:
        """Hold all claims, or nothing: then some lot has too little."""
        with self._lock:
            found = [self._lots.get(claim.account) for claim in claims]
            for lot, claim in zip(found, claims, strict=True):
                if lot is None or lot.left < claim.amount:
                    return False
            now = self._clock()
            for lot, claim in zip(found, claims, strict=True):
                assert lot is not None  # looked at above
                lot.left -= claim.amount
                lot.out += claim.amount
                lot.claims += 1
                lot.used = now
            return True

    def settle(self, claims: Sequence[Claim], amounts: Mapping[str, int]) -> list[str]:
        """Give back what calls did not take of their claims; the names of budgets of which they took more."""
        with self._lock:
            for claim in claims:
                lot, took = self._lots[claim.account], amounts[claim.name]
                lot.out -= claim.amount
                lot.claims -= 1
                lot.left = max(0, lot.left + claim.amount - took)
                lot.spent += took
                lot.changed = True
        return [claim.name for claim in claims if amounts[claim.name] > claim.amount]

    @property
    def due(self) -> bool:
        """Whether the database is to hear of anything."""
        idle = self._clock() - IDLE_S
        with self._lock:
            return any(lot.changed or (lot.left and lot.used < idle) for lot in self._lots.values())

    # -- in a transaction ---------------------------------------------------------------------------------

    def grant(self, do: Do, claim: Claim, room: int, now_ms: int) -> Grant | None:
        """Hold more for calls like this one, where so much room is left that others will not miss it."""
        with self._lock:
            lot = self._lots.get(claim.account)
            left, held = (lot.left, lot.held) if lot is not None else (0, 0)
        more = min(CALLS * claim.amount, room // SHARE) - left
        if more < max(claim.amount, 1):
            return None
        id = lot.id if lot is not None else f"{_PREFIX}{next(_count):x}"
        _hold(do, claim.account, id, held + more, now_ms)
        return Grant(claim.account, id, more)

    def write(self, do: Do, now_ms: int, *, all: bool = False) -> list[Written]:
        """Tell the database what was spent, and give back what nobody takes from; `all`: whatever is left."""
        idle = self._clock() - IDLE_S
        written = []
        with self._lock:
            for account, lot in self._lots.items():
                if lot.left and (all or lot.used < idle):
                    lot.left, lot.changed = 0, True
                if lot.changed:
                    written.append((account, lot.id, lot.held - lot.spent, lot.spent))
        for (name, whose, period), id, held, spent in written:
            _hold(do, (name, whose, period), id, held, now_ms)
            if spent:
                add_spent(do, name, whose, period, spent)
        return [Written(account, spent) for account, _, _, spent in written]

    # -- once it has ended well ---------------------------------------------------------------------------

    def granted(self, grants: Sequence[Grant]) -> None:
        with self._lock:
            for account, id, amount in grants:
                lot = self._lots.get(account)
                if lot is None:
                    lot = self._lots[account] = _Lot(id, self._clock())
                lot.left += amount

    def told(self, written: Sequence[Written]) -> None:
        """What was written needs no writing any more; lots that nobody needs go."""
        with self._lock:
            for account, spent in written:
                lot = self._lots[account]
                lot.spent -= spent
                lot.changed = bool(lot.spent)
                if not (lot.spent or lot.left or lot.claims):
                    del self._lots[account]


def add_spent(do: Do, name: str, whose: str, period: str, amount: int) -> None:
    """So much more of a budget is spent."""
    do(
        "INSERT INTO budget (name, whose, period, spent) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (name, whose, period) DO UPDATE SET spent = budget.spent + excluded.spent",
        (name, whose, period, amount),
    )


def _hold(do: Do, account: Account, id: str, amount: int, now_ms: int) -> None:
    """Let a lot's row say so; one that somebody took away stands there again."""
    name, whose, period = account
    if not amount:
        do("DELETE FROM hold WHERE id = ? AND name = ? AND whose = ?", (id, name, whose))
        return
    do(
        "INSERT INTO hold (id, name, whose, period, amount, at_ms) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id, name, whose) DO UPDATE SET amount = excluded.amount, at_ms = excluded.at_ms",
        (id, name, whose, period, amount, now_ms),
    )
