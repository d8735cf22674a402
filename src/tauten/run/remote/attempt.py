"""One try at one endpoint: it waits for its turn, is sent, gives its pieces, and is booked once, however it ends."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from typing import Literal

from tauten.clock import in_ms
from tauten.run.remote.circuit import Pass, late, slow
from tauten.run.remote.endpoint import Endpoint
from tauten.run.remote.failure import Failure, of_status
from tauten.run.remote.line import Reply
from tauten.run.remote.phases import Phases
from tauten.run.remote.question import MOST_ERROR_BYTES, NOTHING, Delta, Question, Said, whole
from tauten.run.remote.room import Entry
from tauten.run.remote.trail import Trail
from tauten.run.remote.units import MESSAGE_TOKENS, MOST_MESSAGE_TOKENS, text_tokens, tokens_of
from tauten.run.usage.budgets import Hold
from tauten.run.usage.call import Call, Outcome, mistaken


class Attempt:
    """`begin` gives the first piece, `more` each further one; `leave` ends it early and may always be called."""

    def __init__(
        self, endpoint: Endpoint, question: Question, trail: Trail, *, why: str = "", said: Said = NOTHING
    ) -> None:
        self.endpoint = endpoint
        self.question = question.spoken_to(endpoint.provider)
        self.why = why
        self.first_s = 0.0  # from when it was sent to its first piece
        self.started = trail.clock()
        self.units: Mapping[str, float] = {}  # once it has ended
        self._trail = trail
        self._said = said
        self._phases = Phases(trail.clock)
        self._pass: Pass | None = None
        self._entry: Entry | None = None
        self._hold: Hold | None = None  # in the budgets of who pays
        self._reserved = 0.0
        self._reply: Reply | None = None
        self._deltas: AsyncGenerator[Delta, None] | None = None
        self._counted: Mapping[str, float] = {}  # by the provider
        self._final: Mapping[str, float] = {}  # its last word on an answer that failed
        self._pieces = 0
        self._characters = 0
        self._began = False  # its first piece came
        self._sent = False
        self._slow = False
        self._over = False
        self._last = trail.clock()  # until when its time is in the trace

    # -- its way -----------------------------------------------------------------------------------------------

    async def begin(self, patience_s: float) -> Delta:
        """Its first piece, within `patience_s` of its turn; raises Failure."""
        try:
            await self._turn()
            return await self._next(patience_s)
        except BaseException as error:
            self._fail(error)
            raise

    async def more(self, patience_s: float) -> Delta:
        """The next piece, which ends the attempt where it has `finish`; raises Failure where it was cut."""
        try:
            return await self._next(patience_s)
        except BaseException as error:
            self._fail(error)
            raise

    async def leave(self) -> None:
        """Nobody wants more of it: where it has not ended its connection is closed at once, and what came is booked."""
        self._end("cancelled", fault=None)
        if self._deltas is not None:
            await self._deltas.aclose()

    async def _turn(self) -> None:
        """Wait for the provider's limits and for room; both are `limit` in the trace."""
        asked = self._trail.clock()
        self._pass = self.endpoint.circuit.enter()
        if self._pass is None:
            raise Failure(
                "fault", "left alone after failures", retry_after_s=self.endpoint.circuit.opens_in_s
            )
        self._reserved = self.question.tokens
        wait_s = self.endpoint.allowance.take(self._reserved)
        try:
            if wait_s:
                await asyncio.sleep(wait_s)
            self._entry = await self.endpoint.room.enter(self._reserved)
            self._hold = await self._held()
        except BaseException:
            if self._entry is not None:
                self.endpoint.room.leave(self._entry)
                self._entry = None
            self.endpoint.allowance.give_back(self._reserved)
            self._reserved = 0.0
            raise
        finally:
            self._last = self._trail.clock()
            self._trail.row("limit", asked, self._last)
        self.started = self._last

    async def _held(self) -> Hold | None:
        """Its way into the budgets, where there are any; raises what they say, and then it is not made."""
        purse, named = self._trail.request.purse, self.endpoint.named
        if purse is None:
            return None
        most = with_said(
            self.question.most_units, MOST_MESSAGE_TOKENS + len(self._said.text.encode()), self._said
        )
        return await purse.reserve(named.provider, named.model, most)

    async def _next(self, patience_s: float) -> Delta:
        if self._deltas is None:
            return await self._first(patience_s)
        try:
            async with asyncio.timeout(None if patience_s == math.inf else max(patience_s, 0.0)):
                delta = await anext(self._deltas)
        except TimeoutError as error:
            raise Failure("fault", f"silent for {in_ms(patience_s)} ms", given_up=True) from error
        except StopAsyncIteration as error:
            raise Failure("fault", "an answer without an end") from error
        self._took(delta)
        return delta

    async def _first(self, patience_s: float) -> Delta:
        budget_s = self._trail.left_s
        try:
            async with asyncio.timeout(None if patience_s == math.inf else max(patience_s, 0.0)):
                self._deltas = self.question.deltas(await self._answered())
                delta = await anext(self._deltas)
        except TimeoutError as error:
            raise Failure("fault", f"no first output in {in_ms(patience_s)} ms", given_up=True) from error
        except StopAsyncIteration as error:
            raise Failure("fault", "an answer without anything in it") from error
        self.first_s = self._trail.clock() - self.started
        self._began = True
        self._slow = slow(self.first_s, budget_s) and late(self.first_s, self.endpoint.room.usual_s)
        self._took(delta)
        return delta

    async def _answered(self) -> Reply:
        """Send it; the reply whose status is good."""
        endpoint = self.endpoint
        content = self.question.content(endpoint.provider, endpoint.named.model, self._said)
        reply = self._reply = await endpoint.line.send(self.question.path, content, self._phases)
        if reply.status != 200:
            raise of_status(reply.status, reply.headers, await whole(reply, MOST_ERROR_BYTES))
        endpoint.allowance.answered(reply.headers)
        return reply

    def _took(self, delta: Delta) -> None:
        now = self._trail.clock()
        self._trail.row("remote", self._last, now)
        self._last = now
        self._counted = delta.units or self._counted
        self._pieces += delta.tokens
        self._characters += len(delta.text)
        if delta.finish:
            self._end("ok", fault=self._slow)

    # -- its end -----------------------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """What it ended in: theirs, a limit of ours, the caller's, or that nobody waits."""
        self._final = error.units if isinstance(error, Failure) else {}
        if not isinstance(error, Failure):
            self._end("cancelled", fault=None)
        elif self._pass is None:
            self._over = True  # it was never let in: nothing was sent, and nothing is booked
        elif error.given_up:
            blamed = late(self._trail.clock() - self._last, self.endpoint.room.usual_s)
            self._end("cancelled", fault=True if blamed else None, how=error.what)
        elif self._began:
            self._end("cut", fault=True, how=error.what)
        elif error.kind == "limit":
            error.retry_after_s = self.endpoint.allowance.refused(error.retry_after_s)
            self._end("refused", fault=None, how=error.what)
        elif error.kind == "fault":
            self._end("failed", fault=True, how=error.what)
        else:  # somebody answered, which is all that a probe asks
            self._end("failed", fault=False if self._pass.probe else None, how=error.what)

    def _end(self, outcome: Outcome, *, fault: bool | None, how: str = "") -> None:
        """Give back what it held, and book it; the first end counts."""
        if self._over:
            return
        self._over = True
        now = self._trail.clock()
        self._trail.row("remote", self._last, now)
        self._drop(outcome == "ok")
        self._give_back(outcome, fault)
        if self._entry is None:
            return  # it ended while it waited for its turn: nothing was sent
        self.units, counted = self._sum(outcome)
        self._trail.note(
            self.endpoint.label, self.why, self._phases, how or ("" if outcome == "ok" else outcome)
        )
        call = self._call(now, outcome, counted)
        self._trail.book(call)
        if self._hold is not None:
            self._hold.settle(call)

    def _drop(self, whole: bool) -> None:
        if self._reply is not None:
            if whole:
                self._reply.release()
            else:
                self._reply.close()

    def _give_back(self, outcome: Outcome, fault: bool | None) -> None:
        endpoint = self.endpoint
        if self._pass is not None:
            endpoint.circuit.ended(self._pass, fault)
        if self._entry is not None:
            first_s = self.first_s if self._began else None
            endpoint.room.leave(self._entry, first_s=first_s, refused=outcome == "refused")

    def _sum(self, outcome: Outcome) -> tuple[dict[str, float], Literal["provider", "estimate", "none"]]:
        """What it took, and who says so."""
        took, counted = self._took_units(outcome)
        used = took.get("input_tokens", 0.0) + took.get("output_tokens", 0.0)
        if self._reserved and outcome != "refused" and not mistaken(took):
            self.endpoint.allowance.settle(self._reserved, used)
        return {**took, "requests": 1.0}, counted

    def _took_units(
        self, outcome: Outcome
    ) -> tuple[dict[str, float], Literal["provider", "estimate", "none"]]:
        if outcome != "refused" and (not self._reached or self._turned_down):
            return {"input_tokens": 0.0, "output_tokens": 0.0}, "estimate"  # else its price were unknown
        if self._final:
            return dict(self._final), "provider"
        if outcome in ("failed", "refused"):
            return {}, "none"
        if outcome == "ok" and self._counted:
            return dict(self._counted), "provider"
        return self._estimate(), "estimate"

    @property
    def _turned_down(self) -> bool:
        """Whether the provider answered with an error, which nobody bills."""
        return self._reply is not None and self._reply.status != 200

    @property
    def _reached(self) -> bool:
        """Whether the provider may have begun to work on it."""
        return self._reply is not None or self._phases.sent is not None

    def _estimate(self) -> dict[str, float]:
        """The tokens so far: as counted while it ran, as pieces came, or as long as they are; whichever is most."""
        so_far = self._counted.get("output_tokens", 0.0)
        made = max(so_far, float(self._pieces), tokens_of(self._characters))
        read = with_said(self.question.input_units, MESSAGE_TOKENS + text_tokens(self._said.text), self._said)
        return {**read, **self._counted, **({"output_tokens": made} if made else {})}

    def _call(self, now: float, outcome: Outcome, counted: Literal["provider", "estimate", "none"]) -> Call:
        named, reply = self.endpoint.named, self._reply
        return Call(
            step=self._trail.step,
            provider=named.provider,
            model=named.model,
            region=named.region,
            key=named.key,
            started=self.started,
            ended=max(now, self.started),  # a clock may be set back
            outcome=outcome,
            units=self.units,
            counted=counted,
            request_id=reply.headers.get("x-request-id", "") if reply is not None else "",
            why=self.why,
        )


def with_said(units: Mapping[str, float], tokens: float, said: Said) -> dict[str, float]:
    """Units of a prompt that has so many more tokens where it goes on with what was said."""
    if not said.text:
        return dict(units)
    return {**units, "input_tokens": units.get("input_tokens", 0.0) + tokens}
