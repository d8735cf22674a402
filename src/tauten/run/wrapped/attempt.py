"""One call of a wrapped client, from when it is made to its end: let through, held for, and booked once."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from tauten.clock import in_ms
from tauten.errors import BackendError, Overloaded
from tauten.run.context import StepContext
from tauten.run.remote.allowance import Allowance
from tauten.run.remote.circuit import Pass
from tauten.run.remote.failure import retry_after_s
from tauten.run.remote.units import MOST_ANSWER_TOKENS, UNKNOWN_ANSWER_TOKENS, text_tokens
from tauten.run.usage.budgets import Hold
from tauten.run.usage.call import Call, Outcome
from tauten.run.wrapped.answer import Answer
from tauten.run.wrapped.client import Client

_TOLD: Final = ("input_tokens", "cached_tokens", "output_tokens")  # to the step; the books have the rest
_BOUNDS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_PROMPTS: Final = ("messages", "input", "prompt", "system", "instructions", "contents", "tools")
_DEPTH: Final = (
    8  # of lists and records in a prompt: tools that describe nested objects; an object may hold itself
)
_LIMITED: Final = 429
_FAULTS: Final = frozenset({408, 409, 425})  # of the 4xx, those that a second try may cure
_LOST: Final = ("ConnectionError", "TimeoutError", "TransportError", "ClientError", "OSError")
"""Parts of the names that clients give to errors of the way: they do not share a class."""

Counted = Literal["provider", "estimate", "none"]


class Attempt:
    """`named` says that it names a model: such calls are booked whatever comes of them. Others are where their answer
    counts tokens."""

    def __init__(self, client: Client, context: StepContext, asked: Mapping[str, Any]) -> None:
        self.answer = Answer()
        self._client = client
        self._context = context
        self._asked = asked
        model = asked.get("model")
        self._model = model if isinstance(model, str) else ""
        self._pass: Pass | None = None
        self._hold: Hold | None = None
        self._over = False
        self._reserved = 0.0  # tokens, of the provider's limits
        self._started = context.request.clock()

    @property
    def named(self) -> bool:
        return bool(self._model)

    # -- before it is made -------------------------------------------------------------------------------------

    def enter(self) -> None:
        """Raise BackendError E460 where the model is left alone after failures."""
        if not self.named:
            return
        clock = self._context.request.clock
        circuit = self._client.circuit(self._model, clock)
        self._pass = circuit.enter()
        if self._pass is None:
            self._over = True  # nothing is sent, and nothing booked
            raise BackendError(
                f"{self._client.provider.name}/{self._model} is left alone after failures",
                help="ask again later, or another provider",
                code="E460",
                retry_after_s=circuit.opens_in_s,
            )

    async def hold(self) -> None:
        """Wait for the provider's limits, and hold what it may take where there are budgets. Raises Overloaded E462 where
        the wait is longer than the request has, and what budgets say; then it must not be made."""
        if not self.named:
            return
        purse = self._context.request.purse
        try:
            await self._turn()
            if purse is not None:
                self._hold = await purse.reserve(self._client.provider.name, self._model, self._most())
        except BaseException:
            self._turned_away()
            raise

    async def _turn(self) -> None:
        context, allowance = self._context, self._allowance
        asked, tokens = context.request.clock(), self._expected()
        wait_s = allowance.wait_s(tokens)
        if wait_s and wait_s >= context.deadline_left():
            raise Overloaded(
                f"a limit of {self._client.provider.name} is reached",
                help=f"ask again in {in_ms(wait_s)} ms, or raise the limit with the provider",
                code="E462",
                retry_after_s=wait_s,
            )
        self._reserved = tokens
        allowance.take(tokens)
        if wait_s:
            try:
                await asyncio.sleep(wait_s)
            finally:
                context.request.trace.rows.append((context.name, "limit", asked, context.request.clock()))
        self._started = context.request.clock()

    @property
    def _allowance(self) -> Allowance:
        return self._client.allowance(self._context.request.clock)

    def _expected(self) -> float:
        """Tokens that it will probably take, for limits."""
        most = self._bound()
        answer = UNKNOWN_ANSWER_TOKENS if most is None else most
        return sum(text_tokens(text) for text in self._texts()) + answer

    def hold_now(self) -> None:
        """As `hold`, for a call that blocks; limits are waited for by those that are awaited only."""
        purse = self._context.request.purse
        if purse is None or not self.named:
            return
        try:
            self._hold = purse.reserve_now(self._client.provider.name, self._model, self._most())
        except BaseException:
            self._turned_away()
            raise

    def _turned_away(self) -> None:
        """It is not made: nothing was sent, and nothing is booked."""
        self._over = True
        self._pass_back(None)
        if self._reserved:
            self._allowance.give_back(self._reserved)

    def _bound(self) -> float | None:
        """Of its answer, where it gives one."""
        bounds = (self._asked.get(name) for name in _BOUNDS)
        return next((float(each) for each in bounds if isinstance(each, int | float) and each > 0), None)

    def _most(self) -> dict[str, float]:
        """No prompt has more tokens than bytes; an answer has its bound, or what most models say at most."""
        most = self._bound()
        read = sum(len(text.encode()) for text in self._texts())
        return {
            "input_tokens": float(read),
            "output_tokens": MOST_ANSWER_TOKENS if most is None else most,
            "requests": 1.0,
        }

    def _texts(self) -> Iterator[str]:
        """All that it sends as a prompt, with the names of its parts, which are tokens, too."""
        for name in _PROMPTS:
            if name in self._asked:
                yield from _words(self._asked[name], _DEPTH)

    # -- its end ------------------------------------------------------------------------------------------------

    def ended(self, error: BaseException | None = None, *, whole: bool = True, begun: bool = False) -> None:
        """It is over; the first end counts. `begun` says that pieces of an answer have come, `whole` that all have."""
        if self._over:
            return
        self._over = True
        outcome = _outcome(error, whole=whole, begun=begun)
        self._pass_back(_fault(error, outcome))
        if not self.named and not self.answer.units:
            return
        units, counted = self._took(outcome, error)
        self._settle(outcome, units, error)
        if not self._context.request.trace.booked:
            for unit in _TOLD:
                if units.get(unit):
                    self._context.spend(unit, units[unit])
        call = self._call(outcome, units, counted)
        self._context.request.took(call)
        if self._hold is not None:
            self._hold.settle(call)

    def _settle(self, outcome: Outcome, units: Mapping[str, float], error: BaseException | None) -> None:
        """Let the next ones know how far the limit is."""
        if not self._reserved:
            return
        if outcome == "refused":
            headers = getattr(getattr(error, "response", None), "headers", None)
            self._allowance.refused(retry_after_s(headers) if isinstance(headers, Mapping) else 0.0)
            return
        if outcome == "ok":
            self._allowance.answered({})
        used = units.get("input_tokens", 0.0) + units.get("output_tokens", 0.0)
        self._allowance.settle(self._reserved, used)

    def _pass_back(self, fault: bool | None) -> None:
        if self._pass is not None:
            self._client.circuit(self._model, self._context.request.clock).ended(self._pass, fault)
            self._pass = None

    def _took(self, outcome: Outcome, error: BaseException | None) -> tuple[dict[str, float], Counted]:
        """What it took, and who says so."""
        told = self.answer.units
        if outcome == "ok" and told:
            return {**told, "requests": 1.0}, "provider"
        if outcome == "refused" or (outcome == "failed" and _status(error)):
            return {
                "requests": 1.0,
                "input_tokens": 0.0,
                "output_tokens": 0.0,
            }, "estimate"  # nobody bills errors
        if outcome == "failed" or (outcome == "ok" and not self.answer.pieces):
            return {"requests": 1.0}, "none"
        read = sum(text_tokens(text) for text in self._texts())
        made = self.answer.made_tokens
        return {"input_tokens": read, **told, "output_tokens": made, "requests": 1.0}, "estimate"

    def _call(self, outcome: Outcome, units: Mapping[str, float], counted: Counted) -> Call:
        provider, context = self._client.provider, self._context
        return Call(
            step=context.name,
            provider=provider.name,
            model=self._model or self.answer.model,
            region=provider.region,
            key=provider.key,
            started=self._started,
            ended=max(self._started, context.request.clock()),
            outcome=outcome,
            units=units,
            counted=counted,
            request_id=self.answer.request_id,
        )


def _outcome(error: BaseException | None, *, whole: bool, begun: bool) -> Outcome:
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return "cancelled"
    if error is not None:
        return "cut" if begun else "refused" if _status(error) == _LIMITED else "failed"
    return "ok" if whole else "cancelled"


def _fault(error: BaseException | None, outcome: Outcome) -> bool | None:
    """Whether the provider failed; None where its end says nothing of him, as a limit or an error of the caller's."""
    if outcome == "ok":
        return False
    if error is None or outcome in ("cancelled", "refused"):
        return None
    status = _status(error)
    if status:
        return True if status >= 500 or status in _FAULTS else None
    names = [each.__name__ for each in type(error).__mro__]
    return True if outcome == "cut" or any(part in name for name in names for part in _LOST) else None


def _status(error: BaseException | None) -> int:
    """What the provider answered, where it did."""
    for name in ("status_code", "status", "code"):
        found = getattr(error, name, None)
        if isinstance(found, int) and not isinstance(found, bool) and 100 <= found < 600:
            return found
    return 0


def _words(value: Any, depth: int) -> Iterator[str]:
    """The texts in a prompt, whatever it is made of; bytes of media are not among them."""
    if isinstance(value, str):
        yield value
    elif not depth:
        return
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _words(name, depth - 1)
            yield from _words(each, depth - 1)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _words(each, depth - 1)
    elif isinstance(fields := getattr(value, "__dict__", None), dict):
        yield from _words(fields, depth - 1)
