"""One call on its way to an answer: endpoints in turn, retried within a budget, hedged, continued; one layer of it.

Before the first piece of an answer a failure costs the caller nothing but time. After it, the words are with him: a cut
answer is gone on with by another endpoint where the plan allows it, or ends in an error, and never as if it were whole.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any, Final

import numpy as np

from tauten.clock import in_ms
from tauten.errors import BackendError, DeadlineExceeded, InputError, Overloaded, TautenError
from tauten.run.contracts import Chunk
from tauten.run.remote.attempt import Attempt
from tauten.run.remote.endpoint import Endpoint, Named
from tauten.run.remote.failure import Failure
from tauten.run.remote.question import NOTHING, Delta, Question, Said
from tauten.run.remote.route import Route
from tauten.run.remote.trail import Trail

_TOLD: Final = ("input_tokens", "cached_tokens", "output_tokens")  # to the step; the books have the rest
_PARTS: Final = ("cache_write_tokens", "reasoning_tokens")  # told where there are any
_EARLY_S: Final = 0.002  # timers fire so much early: uvloop's are whole milliseconds
_SHARE: Final = 0.5  # of the time left, for a first output, where others may still be asked after it
Begun = tuple[Attempt, Delta]


class Errand:
    """A question, the route it may take, and the trail it leaves."""

    def __init__(self, question: Question, route: Route, trail: Trail) -> None:
        self._question = question
        self._route = route
        self._trail = trail
        self._said = NOTHING
        self._failures: list[tuple[str, Failure]] = []
        self._units: dict[str, float] = {}  # of the tries that the answer is made of
        self._asked: set[Named] = set()  # endpoints, in this round
        self._shut: set[Named] = (
            set()
        )  # that this call asks no more: a key that is refused, an answer that was cut

    async def chunks(self) -> AsyncGenerator[Chunk, None]:
        """An empty chunk when the first piece is there, the pieces, and one that is done."""
        self._route.came(self._question, self._trail)
        why = ""
        while True:
            attempt, delta = await self._begun(why)
            try:
                if not why:
                    yield Chunk(at=self._trail.clock())
                while not delta.finish:
                    if delta.tokens or delta.value is not None:  # else it only says what was counted so far
                        self._said = Said(self._said.text + delta.text, self._said.tokens + delta.tokens)
                        yield self._chunk(delta)
                    delta = await attempt.more(self._patience_s())
                if delta.text or delta.value is not None:
                    yield self._chunk(delta)
                self._add(attempt)
                yield self._done(attempt, delta.finish)
                return
            except Failure as failure:
                self._add(attempt)
                self._check_cut(attempt, failure)
                why = "continue"
            finally:
                await attempt.leave()

    def _chunk(self, delta: Delta) -> Chunk:
        return Chunk(text=delta.text, value=delta.value, tokens=delta.tokens, at=self._trail.clock())

    def _add(self, attempt: Attempt) -> None:
        for unit, amount in attempt.units.items():
            self._units[unit] = self._units.get(unit, 0.0) + amount

    def _done(self, attempt: Attempt, finish: str) -> Chunk:
        """The end: tokens that came in no piece of their own are counted here."""
        now = self._trail.clock()
        self._route.hedging.observe(attempt.first_s, now - attempt.started - attempt.first_s)
        usage = {unit: self._units.get(unit, 0.0) for unit in _TOLD}
        usage |= {unit: self._units[unit] for unit in _PARTS if self._units.get(unit)}
        rest = int(usage["output_tokens"]) - self._said.tokens
        return Chunk(done=True, finish=finish, usage=usage, tokens=max(0, rest), at=now)

    # -- to a first piece --------------------------------------------------------------------------------------

    async def _begun(self, why: str) -> Begun:
        """An attempt whose first piece is there; raises what the caller is to see."""
        tried = 0
        while True:
            tried += 1
            self._failures, self._asked = [], set(self._shut)
            while (endpoint := self._next()) is not None:
                found = await self._asked_of(endpoint, why)
                if found is not None:
                    return found
                why = why or "fallback"
            wait_s = self._pause_s(tried)
            if wait_s is None:
                raise self._error()
            await self._sleep(wait_s)
            why = "retry"

    def _next(self) -> Endpoint | None:
        """The best of those that were not asked in this round, as things stand now."""
        order = self._route.order(self._question.tokens, self._trail.left_s)
        return next((each for each in order if each.named not in self._asked), None)

    async def _asked_of(self, endpoint: Endpoint, why: str) -> Begun | None:
        """The first piece from an endpoint, or from the one that was asked beside it; None where both failed."""
        attempt = Attempt(endpoint, self._question, self._trail, why=why, said=self._said)
        self._asked.add(endpoint.named)
        begun = await self._raced(attempt)
        if begun is None:
            for label, failure in self._failures:
                if failure.kind == "wrong":
                    raise self._wrong(label, failure) from failure
        return begun

    def _failed(self, endpoint: Endpoint, failure: Failure) -> None:
        """Note it of the endpoint whose it is."""
        self._failures.append((endpoint.label, failure))
        if failure.kind == "denied":
            self._shut.add(endpoint.named)

    def _pause_s(self, tried: int) -> float | None:
        """How long to wait before all are tried again; None where that is no use or not allowed."""
        after_s = [each.retry_after_s for _, each in self._failures if each.kind != "denied"]
        if not after_s:
            return None
        return self._route.retrying.wait_s(tried, min(after_s), self._trail.left_s)

    async def _sleep(self, wait_s: float) -> None:
        started = self._trail.clock()
        limited = all(failure.kind == "limit" for _, failure in self._failures)
        try:
            await asyncio.sleep(wait_s)
        finally:
            self._trail.row("limit" if limited else "remote", started, self._trail.clock())

    def _patience_s(self) -> float:
        return min(self._route.patience_s, self._trail.left_s)

    def _first_patience_s(self) -> float:
        """For a first output: half of what is left while another endpoint could still be asked in this round."""
        left_s = self._trail.left_s
        others = self._next() is not None
        return min(self._route.patience_s, left_s * _SHARE if others else left_s)

    # -- two at once -------------------------------------------------------------------------------------------

    async def _raced(self, attempt: Attempt) -> Begun | None:
        """Begin it; where it lets the call run out of time, beside another. The loser is ended and booked."""
        after_s = self._hedge_after_s()
        if after_s is None:
            return await self._alone(attempt)
        first = asyncio.ensure_future(attempt.begin(self._first_patience_s()))
        running: dict[asyncio.Future[Delta], Attempt] = {first: attempt}
        begun: Begun | None = None
        try:
            await asyncio.wait(running, timeout=after_s)
            if not first.done() and (second := self._second()) is not None:
                running[asyncio.ensure_future(second.begin(self._patience_s()))] = second
            begun = await self._first_of(first, running)
            return begun
        finally:
            await _end_all(running, begun[0] if begun is not None else None)

    async def _alone(self, attempt: Attempt) -> Begun | None:
        try:
            return attempt, await attempt.begin(self._first_patience_s())
        except Failure as failure:
            self._failed(attempt.endpoint, failure)
            return None

    async def _first_of(
        self, first: asyncio.Future[Delta], running: dict[asyncio.Future[Delta], Attempt]
    ) -> Begun | None:
        """The first that has a piece; None where all failed.

        What is no failure of an endpoint (no budget pays for it) ends the call where it is the first one's; a hedge
        that may not be made was only an offer.
        """
        left = dict(running)
        refusal: BaseException | None = None
        while left:
            done, _ = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                attempt, error = left.pop(task), task.exception()
                if error is None:
                    return attempt, task.result()
                if isinstance(error, Failure):
                    self._failed(attempt.endpoint, error)
                elif task is first:
                    refusal = error
        if refusal is not None:
            raise refusal
        return None

    def _hedge_after_s(self) -> float | None:
        if not self._route.hedges or len(self._route.endpoints) < 2:
            return None
        return self._route.hedging.after_s(self._trail.headroom_s)

    def _second(self) -> Attempt | None:
        """A try at another endpoint that would not wait, where the budget for hedges pays for it."""
        tokens = self._question.tokens
        for each in self._route.order(tokens, self._trail.left_s):
            if each.named not in self._asked and not each.wait_s(tokens):
                if not self._route.hedging.takes(tokens):
                    return None
                self._asked.add(each.named)
                return Attempt(each, self._question, self._trail, why="hedge", said=self._said)
        return None

    # -- what the caller sees ----------------------------------------------------------------------------------

    def _check_cut(self, attempt: Attempt, failure: Failure) -> None:
        """Raise where a cut answer cannot, or must not, be gone on with."""
        label = attempt.endpoint.label
        if self._trail.left_s <= _EARLY_S:
            raise DeadlineExceeded(
                f"{label} had not ended its answer after {self._said.tokens} pieces: {failure.what}",
                help="give the request more time, or ask for a shorter answer",
                code="E401",
            ) from failure
        self._failures.append((label, failure))
        self._shut.add(attempt.endpoint.named)
        others = [each for each in self._route.endpoints if each.named not in self._shut]
        if self._route.continues and others and self._question.may_go_on(self._said):
            return
        why = "" if self._route.continues else "; `continue = true` lets another endpoint go on with it"
        raise BackendError(
            f"{label} cut its answer after {self._said.tokens} pieces: {failure.what}",
            help=f"what came is not the whole answer: ask again{why}",
            code="E461",
        ) from failure

    def _wrong(self, label: str, failure: Failure) -> InputError:
        return InputError(
            f"{label} refuses the request: {failure.what}",
            help="change what is asked, or give the stage another model",
            code="E230",
        )

    def _error(self) -> TautenError:
        """Nobody answered: too late, too much, or broken."""
        left_s, seen = self._trail.left_s, self._seen()
        if left_s <= _EARLY_S:
            return DeadlineExceeded(
                f"no provider answered in time: {seen}", help="give the request more time", code="E401"
            )
        after_s = self._after_s()
        if all(failure.kind == "limit" for _, failure in self._failures) and self._limited():
            return Overloaded(
                f"a provider's limit is reached: {seen}",
                help=f"ask again in {in_ms(after_s)} ms, or raise the limit with the provider",
                code="E462",
                retry_after_s=after_s,
            )
        return BackendError(
            f"no provider answered: {seen}",
            help="ask again later, or name further endpoints in `provider`",
            code="E460",
            retry_after_s=after_s,
        )

    def _limited(self) -> bool:
        """Whether it is limits that keep us out, and not that endpoints are left alone."""
        return bool(self._failures) or any(each.circuit.lets for each in self._route.endpoints)

    def _after_s(self) -> float:
        """When it may be worth asking again."""
        said = [failure.retry_after_s for _, failure in self._failures if failure.retry_after_s]
        soon_s = min(said) if said else self._route.soon_s(self._question.tokens)
        return soon_s if soon_s < math.inf else 0.0

    def _seen(self) -> str:
        if self._failures:
            return "; ".join(f"{label}: {failure.what}" for label, failure in self._failures)
        return "; ".join(
            f"{each.label} {'is left alone after failures' if not each.circuit.lets else 'would let it wait too long'}"
            for each in self._route.endpoints
        )


async def in_turn(questions: Sequence[Question], route: Route, trail: Trail) -> AsyncGenerator[Chunk, None]:
    """Several calls for one array: its rows in the order of the questions, and what all of them took."""
    rows: list[Any] = []
    usage: dict[str, float] = {}
    for question in questions:
        async with aclosing(Errand(question, route, trail).chunks()) as chunks:
            async for chunk in chunks:
                if chunk.value is not None:
                    rows.append(chunk.value)
                for unit, amount in chunk.usage.items():
                    usage[unit] = usage.get(unit, 0.0) + amount
    if len({each.shape[1] for each in rows}) > 1:
        raise BackendError(
            "one call for embeddings gave vectors of another size than the one before",
            help="name one provider for this stage: an array needs one model",
            code="E460",
        )
    yield Chunk(value=np.concatenate(rows), at=trail.clock())
    yield Chunk(done=True, finish="stop", usage=usage, at=trail.clock())


async def _end_all(running: dict[asyncio.Future[Delta], Attempt], winner: Attempt | None) -> None:
    """End all but the winner: their tasks, then their connections."""
    losers = {task: attempt for task, attempt in running.items() if attempt is not winner}
    for task in losers:
        task.cancel()
    if losers:
        await asyncio.wait(losers)
    for task, attempt in losers.items():
        if not task.cancelled():
            task.exception()  # seen: it is booked, and the winner answers
        await attempt.leave()
