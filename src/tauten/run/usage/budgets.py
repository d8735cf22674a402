"""Who may spend how much: what a call may take at most is held before it is made, and settled by what it took.

A call is held of a lot that this process holds already (see `lots.py`), or in one transaction of the database, which those
of other tasks and processes wait for. So the sum of what is spent and held is never more than the budget, however many ask
at once, as long as no call takes more than was held for it. A hold whose process died stays held, and is taken as spent
after a day.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from tauten.clock import Clock
from tauten.errors import Overloaded, Unavailable
from tauten.run.usage.call import Call, mistaken
from tauten.run.usage.cost import fits
from tauten.run.usage.database import BadValue, Database, DatabaseBusy, Do
from tauten.run.usage.limits import Limit, period_at
from tauten.run.usage.lots import Claim, Grant, Lots, add_spent
from tauten.run.usage.payer import Payer
from tauten.run.usage.prices import Prices

log = logging.getLogger("tauten.run.usage")
STALE_S: Final = 86_400.0  # a hold this old is of a process that died: no call takes a day
_PREFIX: Final = os.urandom(8).hex()
_count = itertools.count(1)


class Exhausted(Overloaded):
    """A budget has no room for the call; says when it renews."""

    code = "E451"


Full = tuple[Claim, int, int]
"""What has no room, what is spent of its budget, and what is held."""


class State(NamedTuple):
    """One account of a budget in its present period."""

    name: str
    whose: str
    period: str
    limit: Limit
    spent: int
    held: int
    renews: datetime | None


class Hold:
    """What is held for one call, until it is settled. Settling costs nothing and waits for nothing.

    Without an `id` it is a part of lots.
    """

    __slots__ = ("_at", "_budgets", "_settled", "claims", "id")

    def __init__(self, budgets: Budgets, id: str, claims: Sequence[Claim], at: datetime) -> None:
        self._budgets = budgets
        self.id = id
        self.claims = claims
        self._at = at
        self._settled = False

    def settle(self, call: Call | None) -> None:
        """Give back what the call did not take. None: it was not made. Only the first time counts."""
        if self._settled:
            return
        self._settled = True
        amounts = {claim.name: self._took(claim, call) for claim in self.claims}
        if amounts:
            self._budgets.settle(self, amounts)

    def _took(self, claim: Claim, call: Call | None) -> int:
        """Where nobody knows what it took, all that was held."""
        if call is None or call.outcome == "refused":
            return 0
        if mistaken(call.units):
            return claim.amount
        if claim.limit.unit == "calls":
            return round(call.units.get("requests", 1.0))  # several may share one
        if call.counted == "none" or not call.units:
            return claim.amount
        return self._budgets.amount(
            claim.limit, call.provider, call.model, call.units, self._at, claim.amount
        )


class Purse(NamedTuple):
    """A request's way to its budgets; whoever calls a provider for it asks here first."""

    budgets: Budgets
    tenant: str
    payer: Payer
    workflow: str

    async def reserve(self, provider: str, model: str, units: Mapping[str, float]) -> Hold:
        """Hold what a call takes at most, by units; settle it in a `finally`.

        Raises Exhausted E451, and Unavailable: E452 where money is bounded and the price unknown, E453 where the
        budgets cannot be read. A call that raises here must not be made.
        """
        return await self.budgets.reserve(self, provider, model, units)

    def reserve_now(self, provider: str, model: str, units: Mapping[str, float]) -> Hold:
        """As `reserve`, for who calls by blocking: it blocks as well."""
        return self.budgets.reserve_now(self, provider, model, units)


class Budgets:
    """The budgets of a file. `database` is opened and used in one thread of its own."""

    def __init__(
        self,
        limits: Mapping[str, Limit],
        prices: Prices,
        database: Callable[[], Database],
        *,
        wall: Clock = time.time,
    ) -> None:
        self.limits = limits
        self.refused: Counter[str] = Counter()  # calls, by budget
        self.over: Counter[str] = Counter()  # calls that took more than was held for them, by budget
        self._prices = prices
        self._make = database
        self._wall = wall
        self._latest = 0.0  # the latest instant that was seen
        self._database: Database | None = None
        self._swept = False
        self._unsettled: deque[tuple[str, Mapping[str, int]]] = deque()
        self._lots = Lots()
        self._closed = False
        self._thread = ThreadPoolExecutor(1, "tauten-budgets")

    # -- on the loop --------------------------------------------------------------------------------------

    async def reserve(self, purse: Purse, provider: str, model: str, units: Mapping[str, float]) -> Hold:
        """See `Purse.reserve`."""
        at = self._now()
        claims = self._claims(purse, provider, model, units, at)
        if not claims or self._lots.take(claims):
            return Hold(self, "", claims, at)
        held = self._thread.submit(self._reserve, claims, at)
        try:
            return await asyncio.shield(asyncio.wrap_future(held))
        except asyncio.CancelledError:
            held.add_done_callback(_give_back)  # who asked is gone
            raise

    def reserve_now(self, purse: Purse, provider: str, model: str, units: Mapping[str, float]) -> Hold:
        """See `Purse.reserve_now`."""
        at = self._now()
        claims = self._claims(purse, provider, model, units, at)
        if not claims or self._lots.take(claims):
            return Hold(self, "", claims, at)
        return self._thread.submit(self._reserve, claims, at).result()

    def _claims(
        self, purse: Purse, provider: str, model: str, units: Mapping[str, float], at: datetime
    ) -> list[Claim]:
        """What a call asks of the budgets that it goes on; raises Unavailable E452."""
        return [
            Claim(
                name,
                whose,
                period_at(limit.period, at),
                limit,
                self.amount(limit, provider, model, units, at, None),
            )
            for name, limit in self.limits.items()
            for whose in limit.whose(purse.tenant, purse.payer, purse.workflow)
        ]

    def _now(self) -> datetime:
        """Never earlier than before: a clock that is set back opens no period that is over."""
        self._latest = max(self._latest, self._wall())
        return datetime.fromtimestamp(self._latest, UTC)

    def settle(self, hold: Hold, amounts: Mapping[str, int]) -> None:
        """In memory where it is of lots, else in the thread; what cannot be written now is tried again with the next."""
        if not hold.id:
            self.over.update(self._lots.settle(hold.claims, amounts))
            return
        self._unsettled.append((hold.id, amounts))
        if not self._closed:  # else it stays held, and is taken as spent after a day
            self._thread.submit(self._settle).add_done_callback(_told)

    def look(self) -> None:
        """Have the database told what it does not know yet, if anything; whoever keeps budgets asks for it now and then."""
        if (self._unsettled or self._lots.due) and not self._closed:
            self._thread.submit(self._catch_up).add_done_callback(_told)

    def amount(
        self,
        limit: Limit,
        provider: str,
        model: str,
        units: Mapping[str, float],
        at: datetime,
        held: int | None,
    ) -> int:
        """What a call with these units asks of a limit; `held` is taken where its price is not known, or none."""
        if limit.unit == "calls":
            return 1
        if limit.unit == "tokens":
            return round(units.get("input_tokens", 0) + units.get("output_tokens", 0))
        nano = self._prices.call(provider, model, units, at).nano
        if held is not None and (nano is None or not fits(nano)):
            return held
        if nano is not None:
            return nano
        raise Unavailable(
            f"nobody knows what {model!r} of {provider!r} costs, and a budget of money is on it",
            help="give its price: tauten serve --prices FILE (docs/usage.md)",
            code="E452",
        )

    def close(self) -> None:
        """Settle what is left; what the database does not take stays held."""
        if self._closed:
            return
        self._closed = True
        self._thread.submit(self._catch_up, all=True).add_done_callback(_told)
        self._thread.submit(self._shut)
        self._thread.shutdown(wait=True)

    # -- in the thread ------------------------------------------------------------------------------------

    def _reserve(self, claims: Sequence[Claim], at: datetime) -> Hold:
        if self._lots.take(claims):  # which came while it waited
            return Hold(self, "", claims, at)
        id = f"{_PREFIX}{next(_count):x}"
        try:
            full, grants = self._claim_all(id, claims, at)
        except (DatabaseBusy, BadValue) as busy:
            raise Unavailable(
                f"the budgets cannot be read: {busy}",
                help="send it again; see `tauten usage budgets`",
                code="E453",
                retry_after_s=1.0,
            ) from busy
        if full is not None:
            self.refused[full[0].name] += 1
            raise _exhausted(*full, at)
        self._lots.granted(grants)
        return Hold(self, id, claims, at)

    def _claim_all(self, id: str, claims: Sequence[Claim], at: datetime) -> tuple[Full | None, list[Grant]]:
        """In one transaction; what lots of ours hold is given back before anybody is refused."""
        now_ms = int(at.timestamp() * 1000)
        full, grants = self._opened().alone(lambda do: self._claim(do, id, claims, now_ms))
        if full is not None and self._write_lots(all=True):
            return self._opened().alone(lambda do: self._claim(do, id, claims, now_ms))
        return full, grants

    def _claim(
        self, do: Do, id: str, claims: Sequence[Claim], now_ms: int
    ) -> tuple[Full | None, list[Grant]]:
        """Hold all, and more where there is plenty; or nothing: then the first that has no room, what is spent of it,
        and what is held."""
        self._sweep(do, now_ms)
        rooms = []
        for claim in claims:
            spent, held = _used(do, *claim.account)
            rooms.append(claim.limit.most - spent - held - claim.amount)
            if rooms[-1] < 0:
                return (claim, spent, held), []
        for claim in claims:
            do(
                "INSERT INTO hold (id, name, whose, period, amount, at_ms) VALUES (?, ?, ?, ?, ?, ?)",
                (id, *claim.account, claim.amount, now_ms),
            )
        found = [self._lots.grant(do, claim, room, now_ms) for claim, room in zip(claims, rooms, strict=True)]
        return None, [grant for grant in found if grant is not None]

    def _sweep(self, do: Do, now_ms: int) -> None:
        """Once a process: holds of those that died are taken as spent."""
        if self._swept:
            return
        self._swept = True
        before = now_ms - int(STALE_S * 1000)
        for id, name, amount in do("SELECT id, name, amount FROM hold WHERE at_ms < ?", (before,)):
            _spend(do, id, name, int(amount))

    def _settle(self) -> None:
        while self._unsettled:
            try:
                self.over.update(self._write(*self._unsettled[0]))
            except DatabaseBusy:
                return  # it stays held, which is on the safe side, and is tried again
            except BadValue as error:  # at no time, and others wait behind it
                _warn(error)
            self._unsettled.popleft()

    def _write(self, id: str, amounts: Mapping[str, int]) -> list[str]:
        """Settle one hold; gives the budgets of which it took more than was held."""
        return self._opened().alone(
            lambda do: [name for name, amount in amounts.items() if _spend(do, id, name, amount)]
        )

    def _catch_up(self, *, all: bool = False) -> None:
        """Tell the database what it does not know yet."""
        self._settle()
        self._write_lots(all=all)

    def _write_lots(self, *, all: bool = False) -> bool:
        """Say what was spent of lots, and give back those that nobody uses (`all`: each); whether there were any."""
        now_ms = int(self._now().timestamp() * 1000)
        try:
            written = self._opened().alone(lambda do: self._lots.write(do, now_ms, all=all))
        except DatabaseBusy:
            return False  # what they hold stays held, which is on the safe side, and is tried again
        self._lots.told(written)
        return bool(written)

    def _opened(self) -> Database:
        if self._database is None:
            self._database = self._make()
        return self._database

    def _shut(self) -> None:
        if self._database is not None:
            self._database.close()

    def states(self) -> list[State]:
        """All accounts of the present periods that anything went on; blocks. Raises DatabaseBusy."""
        return self._thread.submit(self._states).result()

    def _states(self) -> list[State]:
        self._write_lots(all=True)
        at = self._now()
        found = []
        for name, limit in self.limits.items():
            period = period_at(limit.period, at)
            database = self._opened()
            rows = database.fetch(
                "SELECT whose FROM budget WHERE name = ? AND period = ? "
                "UNION SELECT whose FROM hold WHERE name = ? AND period = ? ORDER BY 1",
                (name, period.name, name, period.name),
            )
            for (whose,) in rows or [("",)]:
                spent, held = _used(database.fetch, name, whose, period.name)
                found.append(State(name, whose, period.name, limit, spent, held, period.ends))
        return found


def _give_back(reserved: Future[Hold]) -> None:
    """Of a hold that nobody waits for any more."""
    if not reserved.cancelled() and reserved.exception() is None:
        reserved.result().settle(None)


def _told(settling: Future[Any]) -> None:
    """What no second try will cure is said: those holds stay, and count as spent after a day."""
    error = settling.exception()
    if error is not None:
        _warn(error)


def _warn(error: BaseException) -> None:
    log.warning("budgets: what calls took could not be settled, and stays held: %r", error)


def _used(do: Do, name: str, whose: str, period: str) -> tuple[int, int]:
    """What is spent of a budget, and what is held."""
    of = (name, whose, period)
    where = "name = ? AND whose = ? AND period = ?"
    [(spent,)] = do(f"SELECT COALESCE(SUM(spent), 0) FROM budget WHERE {where}", of)
    [(held,)] = do(f"SELECT COALESCE(SUM(amount), 0) FROM hold WHERE {where}", of)
    return int(spent), int(held)


def _spend(do: Do, id: str, name: str, amount: int) -> bool:
    """Turn a hold into what was spent; says whether that was more. One that is gone was settled already."""
    over = False
    for whose, period, held in do(
        "SELECT whose, period, amount FROM hold WHERE id = ? AND name = ?", (id, name)
    ):
        do("DELETE FROM hold WHERE id = ? AND name = ? AND whose = ?", (id, name, whose))
        add_spent(do, name, whose, period, amount)
        over = over or amount > int(held)
    return over


def _exhausted(claim: Claim, spent: int, held: int, at: datetime) -> Exhausted:
    limit, ends = claim.limit, claim.period.ends
    whose = f" of {claim.whose}" if claim.whose else ""
    renews = f"it renews at {ends:%Y-%m-%d %H:%M} UTC" if ends is not None else "it does not renew"
    return Exhausted(
        f"budget '{claim.name}'{whose} is used up: {limit.shown(spent)} spent and {limit.shown(held)} held "
        f"of {limit.shown(limit.most)}, and this call may take {limit.shown(claim.amount)}",
        help=f"{renews}; whoever runs the server can raise it in the file of budgets",
        retry_after_s=(ends - at).total_seconds() if ends is not None else 0.0,
    )
