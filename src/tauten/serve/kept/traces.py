"""The last requests that finished, so that a client can ask where the time of one of its own went.

Only traces are kept: stages, causes and times. Inputs and outputs are not, and neither is what the user's
code said when it failed.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from tauten.clock import Clock, real
from tauten.errors import NotFound, TautenError
from tauten.explain.account import Account, Header, account
from tauten.explain.exports import perfetto
from tauten.run.attribution import attribute
from tauten.run.trace import SOURCES, Trace
from tauten.serve.kept.kept import Kept

if TYPE_CHECKING:
    from tauten.serve.door import Call
    from tauten.serve.exchange import Exchange
    from tauten.serve.oip.express import Rider

MOST = 1000  # some minutes of a busy server; a trace takes a few kilobytes
MOST_ROWS = 20_000  # a trace that is longer (hours of tokens) is not kept: it would outweigh all others


def trace_of(kept: Trace | Rider) -> Trace:
    """The trace of what was kept in place of it."""
    return kept if isinstance(kept, Trace) else kept.trace


class Finished(NamedTuple):
    """One request that is over: answered, refused or stopped."""

    id: str
    tenant: str
    workflow: str
    plan: str
    kept: Trace | Rider

    @property
    def trace(self) -> Trace:
        return trace_of(self.kept)

    def account(self) -> Account:
        """Where its time went."""
        header = Header(workflow=self.workflow, plan=self.plan, request=self.id)
        return account(_discreet(self.trace), header=header)

    def perfetto(self) -> str:
        """The trace as JSON that ui.perfetto.dev opens."""
        return perfetto.export({self.id: _discreet(self.trace)}, workflow=self.workflow)


def _of(rider: Rider, tenant: str) -> Finished:
    return Finished(rider.id, tenant, rider.way.line.service.name, rider.plan, rider)


class Traces:
    """A ring of finished requests; an observer of the site."""

    def __init__(self, most: int = MOST, *, clock: Clock = real) -> None:
        self._kept: Kept[Finished] = Kept(most, clock=clock)
        # by tenant, in the order of their ends: under load most go unasked for, and cost nothing
        self._new: dict[str, deque[Rider | Finished]] = {}

    def __len__(self) -> int:
        self._index()
        return len(self._kept)

    def finished(
        self, exchange: Exchange, call: Call | None, error: BaseException | None, seconds: float
    ) -> None:
        """Keep the trace of an exchange that ran something."""
        if call is not None:
            self.keep(call)

    def keep(self, call: Call) -> None:
        """Keep the trace of what ran for a call, if anything did."""
        request, service = call.request, call.service
        if request is None or service is None or len(request.trace.rows) > MOST_ROWS:
            return
        plan = request.plan or service.plan_id
        tenant = call.caller.tenant
        finished = Finished(call.id, tenant, service.name, plan, request.trace)
        if (new := self._new.get(tenant)) is not None:
            new.append(finished)  # behind those that ended before it: one of them may have its id
        else:
            self._kept.put(tenant, call.id, finished)

    def answered(self, riders: list[Rider]) -> None:
        """As `finished`, of some of one tenant that ran in no task and went well."""
        tenant = riders[0].caller.tenant
        new = self._new.get(tenant)
        if new is None:
            self._index()  # so that many tenants cannot keep many riders
            new = self._new[tenant] = deque(maxlen=self._kept.most)
        new.extend(riders)

    def turned_away(self, riders: list[Rider], error: TautenError) -> None:
        """Of what ran nothing there is no trace."""

    def _index(self) -> None:
        """Make what was put aside findable."""
        riders, self._new = self._new, {}
        for tenant, each in riders.items():
            for one in each:
                done = one if isinstance(one, Finished) else _of(one, tenant)
                self._kept.put(tenant, done.id, done)

    def find(self, tenant: str, id: str) -> Finished:
        """A tenant's request; of another's nothing is told, not even that it was there."""
        self._index()
        done = self._kept.get(tenant, id)
        if done is None:
            raise NotFound(
                f"no finished request {id!r} is kept",
                help=f"the last {self._kept.most} are kept; ask with the key that sent it",
                code="E282",
            )
        return done


def timing_ms(trace: Trace, *, sources: bool = False) -> dict[str, float]:
    """Total and first output in ms; with `sources` also the five sources, what lies outside them and the
    rest that nobody claims, which add up to the total."""
    found: dict[str, float] = {"total": _ms(trace.end - trace.start)}
    if trace.first_output is not None:
        found["first_output"] = _ms(trace.first_output - trace.start)
    return {**found, **_by_source(trace)} if sources else found


def server_timing(trace: Trace) -> str:
    """The same as the value of a `Server-Timing` header."""
    parts = [f"{name};dur={ms:g}" for name, ms in _by_source(trace).items() if ms or name in _FIVE]
    return ", ".join([*parts, f"total;dur={_ms(trace.end - trace.start):g}"])


_PLACES = 9  # of an amount: nanoseconds are below every clock's noise, more digits are a sum's


def usage(trace: Trace) -> dict[str, float]:
    """What a request spent, by unit: input_tokens, output_tokens, core_seconds, cents ..."""
    spent: dict[str, float] = {}
    for _, unit, amount in trace.spent:
        spent[unit] = spent.get(unit, 0) + amount
    return {
        unit: int(amount) if amount == int(amount) else round(amount, _PLACES)
        for unit, amount in spent.items()
    }


_FIVE = ("model", "preparation", "network", "contention", "io")


def _by_source(trace: Trace) -> dict[str, float]:
    sums = dict.fromkeys((*_FIVE, "outside", "unattributed"), 0.0)
    for start, end, _, cause in attribute(trace).segments:
        sums[SOURCES.get(cause, "outside")] += end - start
    return {name: _ms(seconds) for name, seconds in sums.items()}


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)


def _discreet(trace: Trace) -> Trace:
    """The trace without the words of errors: they may quote what the client sent."""
    if not any(note.startswith(_FAILED) for note in trace.notes.values()):
        return trace
    shown = copy.copy(trace)
    shown.notes = {step: "failed" if note.startswith(_FAILED) else note for step, note in trace.notes.items()}
    return shown


_FAILED = "failed: "


def as_document(done: Finished) -> dict[str, Any]:
    """The account as plain values: schema `tauten.explain/1`."""
    from tauten.explain.document import to_document

    return to_document(done.account())
