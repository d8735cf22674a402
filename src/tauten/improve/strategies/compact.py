"""Makes models read and write less: a bound on an answer, a shorter form of it, a trimmed context."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

from tauten.describe.graph import FromInput, FromStage, Listed, Source
from tauten.describe.turn import Turn
from tauten.improve.situation import NO_TOKENS, Proposal, Refusal, Situation, Tokens
from tauten.improve.turned import turned, with_settings
from tauten.plan.lower import Step

CAP, TRIM = "max_tokens", "top"  # settings that are decided by counting
LEAST_TOKENS = 8  # that are worth an answer: fewer make no sentence


class Compact:
    """What stages offer of it, and for each that bounds its answer the bound that the limits leave room for. Decided
    by counting tokens: what no answer reaches gains nothing."""

    name: ClassVar[str] = "compact"
    reason: ClassVar[str] = "last: it changes what people read"

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        yield from turned(self.name, seen, lambda step, turn: _why_not(seen, step, turn))
        for step in seen.stages():
            tokens = _tokens(seen, step)
            if step.kind is None or CAP not in step.kind.params or not tokens.token_s:
                continue
            cap, why = _cap(seen, step, tokens)
            if why:
                yield Refusal(self.name, f"{step.name}: fewer tokens", why)
                continue
            plan = with_settings(seen, step, {CAP: cap})
            saved = tokens.longest - cap
            told = (
                f"what the limits leave, at {tokens.token_s * 1e3:.3g} ms a token; answers have up to "
                f"{tokens.longest:.0f}, and the longest then take {saved * tokens.token_s * 1e3:.3g} ms less"
            )
            yield Proposal(self.name, f"{step.name}: {CAP} = {cap}", plan, "lossy", told)


def _tokens(seen: Situation, step: Step) -> Tokens:
    """Of the model that writes most."""
    found = [seen.facts.tokens(step.name, role) for role, choice in step.models.items() if choice.backend]
    return max(found, key=lambda each: each.longest, default=NO_TOKENS)


def _cap(seen: Situation, step: Step, tokens: Tokens) -> tuple[int, str]:
    """The most tokens for which the tightest limit leaves time after everything else, or why no bound is worth it."""
    written = seen.graph.stages[step.name].params
    if CAP in written:
        return (
            0,
            f"the workflow writes {CAP} = {written[CAP]}, and what it writes it keeps; {_counted(tokens)}",
        )
    limits = [value for name, value in seen.slo.limits().items() if name in ("p50_ms", "p95_ms", "p99_ms")]
    if not limits:
        return 0, f"no limit on a request's time leaves too little; {_counted(tokens)}"
    limit_s = min(limits) / 1e3
    others_s = sum(seen.facts.work_s(each.name) for each in seen.lowered.steps if each.name != step.name)
    left_s = limit_s - others_s - tokens.first_s
    cap = math.floor(left_s / tokens.token_s) + 1 if left_s > 0.0 else 0
    if cap < LEAST_TOKENS:
        took = f"{others_s * 1e3:.3g} ms of other steps and {tokens.first_s * 1e3:.3g} ms to the first token"
        return 0, f"after {took} {limit_s * 1e3:g} ms leave {cap} tokens: no answer"
    present = step.params.get(CAP)
    if tokens.longest <= cap or (present is not None and present <= cap):
        bound = f" of the {present} allowed" if present is not None else ""
        return 0, f"{_counted(tokens)}{bound}, and there is time for {cap}: a bound gains nothing"
    return cap, ""


def _counted(tokens: Tokens) -> str:
    return f"answers have {tokens.answer:.0f} tokens, at most {tokens.longest:.0f}"


def _why_not(seen: Situation, step: Step, turn: Turn) -> str:
    """Why counting speaks against a turn; empty where it does not."""
    tokens = _tokens(seen, step)
    if CAP in turn.settings and 0.0 < tokens.longest <= turn.settings[CAP]:
        return f"{_counted(tokens)} of a bound of {turn.settings[CAP]}: it gains nothing"
    if TRIM in turn.settings:
        lists = [name for name, source in seen.graph.stages[step.name].inputs.items() if _many(seen, source)]
        if not lists:
            return "nothing that it is shown is a list: there is no context to trim"
    return ""


def _many(seen: Situation, source: Source) -> bool:
    """Whether a source gives a list."""
    if isinstance(source, Listed):
        return True
    if not isinstance(source, FromStage | FromInput):
        return False
    stage = seen.graph.stages.get(source.name)
    port = stage.output if stage is not None else seen.graph.inputs.get(source.name)
    if port is None:
        return False
    return port.many if not source.attribute else any(_lists(kind, source.attribute) for kind in port.kinds)


def _lists(kind: Any, attribute: str) -> bool:
    """Whether a part of a struct is a list, as its annotation is spelled: evaluating it may need absent modules."""
    for each in getattr(kind, "__mro__", ()):
        if attribute in (said := vars(each).get("__annotations__", {})):
            return str(said[attribute]).startswith(("list", "tuple"))
    return False
