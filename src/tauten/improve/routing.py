"""Recorded choices under another policy: what it would have chosen, and what is known or foreseen of that.

Only what was asked has an outcome. Of any other candidate there is what was foreseen when the choice was made; each
figure says how many of its choices stand on which. Loads are those that the recorded policy brought about.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from tauten.errors import InputError
from tauten.plan.files import replace
from tauten.run.contracts import Allows, Candidate, Evidence, Outcome, Router, find
from tauten.run.routing.decision import Decision
from tauten.run.routing.policy import check_options
from tauten.statistics import percentile

SCHEMA = "tauten.routes/1"

Ground = Literal["known", "foreseen", "unknown"]
"""What a figure stands on: an outcome that was seen; a prediction made before; nothing."""


class Header(msgspec.Struct, frozen=True):
    """The first line of a file of decisions."""

    schema: str = SCHEMA
    decisions: int = 0


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What the same choices came to under one policy."""

    policy: str
    chosen: dict[str, int]
    p50_ms: float
    p95_ms: float
    first_p50_ms: float
    failed: int
    cents: float | None  # None where the price or the tokens of any of them are unknown


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """A replay. Both sides are over the same choices: those of which the new one has a ground."""

    schema: str = "tauten.route.replay/1"
    decisions: int
    same: int  # choices that both policies made alike
    known: int
    foreseen: int
    unknown: int  # left out: the new policy needs a score that nobody took
    recorded: Side
    replayed: Side
    notes: tuple[str, ...]


class _Way(NamedTuple):
    """One choice under one policy."""

    chosen: str
    took_s: float
    first_s: float
    failed: bool
    cents: float | None
    ground: Ground


# -- files ----------------------------------------------------------------------------------------------------


def save(path: Path, decisions: Sequence[Decision]) -> None:
    """Write decisions, one a line after a header."""
    lines = [msgspec.json.encode(Header(decisions=len(decisions)))]
    lines += [msgspec.json.encode(_finite(msgspec.to_builtins(each))) for each in decisions]
    replace(path, b"\n".join(lines) + b"\n")


def load(path: Path) -> list[Decision]:
    """Read decisions; raises InputError E293 where the file is none, or cut short."""
    try:
        first, *lines = path.read_bytes().splitlines()
        header = msgspec.json.decode(first, type=Header)
        found = [msgspec.json.decode(line, type=Decision) for line in lines]
    except (OSError, ValueError, msgspec.DecodeError) as error:
        raise _unreadable(path, str(error)) from error
    if header.schema != SCHEMA:
        raise _unreadable(path, f"it has schema {header.schema!r}, this version reads {SCHEMA!r}")
    if header.decisions != len(found):
        raise _unreadable(path, f"{len(found)} decisions, its header says {header.decisions}")
    return found


def _unreadable(path: Path, why: str) -> InputError:
    return InputError(
        f"cannot read decisions from {path.name!r}: {why}",
        help="make the file with `tauten route record`",
        code="E293",
    )


def _finite(value: Any) -> Any:
    """Without infinite numbers, which JSON has no word for: they are the defaults."""
    if isinstance(value, dict):
        kept = {key: _finite(each) for key, each in value.items()}
        return {key: each for key, each in kept.items() if not _infinite(each)}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def _infinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


# -- replaying --------------------------------------------------------------------------------------------------


def replayed(
    decisions: Sequence[Decision],
    policy: str,
    options: Mapping[str, Any] | None = None,
    *,
    seed: int = 0,
    threshold: float | None = None,
) -> Replayed:
    """Ask a policy the recorded choices, in the order in which they were made.

    It learns as it would have: of outcomes that are known, and of what was foreseen where none is. A policy that
    judges lets scores of at least `threshold` pass; without one none does.
    """
    if not decisions:
        raise InputError("no decisions to replay", help="record some requests", code="E293")
    kind = find("routers", policy)
    given = dict(options or {})
    check_options(policy, given, kind.option_keys)
    router: Router = kind(given, seed=seed, allows=_allows(threshold))
    pairs = [
        (before, _way(each, router, judges=kind.judges))
        for each in decisions
        if (before := _recorded(each)) is not None
    ]
    grounded = [(before, after) for before, after in pairs if after.ground != "unknown"]
    return _report(decisions, policy, pairs, grounded)


def _allows(threshold: float | None) -> Allows:
    return lambda score, tenant, category: threshold is not None and score >= threshold


def _recorded(decision: Decision) -> _Way | None:
    """What came of a choice as it was made; None where its request left before anything did."""
    asked = [name for name in decision.order if name in decision.outcomes]
    if not asked:
        return None
    return _walked(decision, asked, "known")


def _way(decision: Decision, router: Router, *, judges: bool) -> _Way:
    route = router.route(decision.ask, decision.candidates)
    asked = list(route.order[:1])
    ground: Ground = "known"
    if judges:
        asked, ground = _judged(decision, router, route.order)
    for name in asked:
        outcome = decision.outcomes.get(name) or _foreseen(decision, name)
        router.ended(decision.ask, name, outcome, decision.ask.at + outcome.took_s)
    return _walked(decision, asked, ground)


def _judged(decision: Decision, router: Router, order: Sequence[str]) -> tuple[list[str], Ground]:
    """Whom a policy that judges would have asked, as far as scores are known."""
    asked: list[str] = []
    for name in order[:-1]:
        outcome = decision.outcomes.get(name)
        asked.append(name)
        if outcome is None or (outcome.score is None and outcome.accepted is None and not outcome.failed):
            return asked, "unknown"
        if outcome.score is not None and router.accepts(decision.ask, Evidence(outcome.score)).stands:
            return asked, "known"
    return [*asked, order[-1]], "known"


def _walked(decision: Decision, asked: Sequence[str], ground: Ground) -> _Way:
    """Asking these one after another; the last one's answer is given."""
    outcomes = [decision.outcomes.get(name) or _foreseen(decision, name) for name in asked]
    if ground == "known" and any(name not in decision.outcomes for name in asked):
        ground = "foreseen"
    before_s = sum(each.took_s for each in outcomes[:-1])
    last = outcomes[-1]
    prices = [_cents(decision, name, each) for name, each in zip(asked, outcomes, strict=True)]
    known = [each for each in prices if each is not None]
    return _Way(
        chosen=asked[-1],
        took_s=before_s + last.took_s,
        first_s=before_s + (last.first_s or last.took_s),
        failed=last.failed,
        cents=math.fsum(known) if len(known) == len(prices) else None,
        ground=ground,
    )


def _foreseen(decision: Decision, name: str) -> Outcome:
    candidate = _candidate(decision, name)
    tokens = candidate.input_tokens + candidate.output_tokens
    return Outcome(candidate.wait_s + candidate.total_s, candidate.wait_s + candidate.first_s, tokens=tokens)


def _cents(decision: Decision, name: str, outcome: Outcome) -> float | None:
    price = _candidate(decision, name).cost_per_token
    tokens = outcome.tokens or decision.ask.tokens or _usual_tokens(decision)
    return None if price is None or not tokens else price * tokens


def _usual_tokens(decision: Decision) -> float:
    """Of a candidate that was not asked: as many as the one that was."""
    return max((each.tokens for each in decision.outcomes.values()), default=0.0)


def _candidate(decision: Decision, name: str) -> Candidate:
    return next(each for each in decision.candidates if each.name == name)


# -- the report ---------------------------------------------------------------------------------------------------


def _report(
    decisions: Sequence[Decision],
    policy: str,
    pairs: list[tuple[_Way, _Way]],
    grounded: list[tuple[_Way, _Way]],
) -> Replayed:
    names = " ".join(dict.fromkeys(each.policy for each in decisions))
    return Replayed(
        decisions=len(decisions),
        same=sum(before.chosen == after.chosen for before, after in grounded),
        known=sum(after.ground == "known" for _, after in grounded),
        foreseen=sum(after.ground == "foreseen" for _, after in grounded),
        unknown=len(pairs) - len(grounded),
        recorded=_side(names, [before for before, _ in grounded]),
        replayed=_side(policy, [after for _, after in grounded]),
        notes=_notes(len(decisions) - len(pairs), pairs, grounded),
    )


def _notes(left: int, pairs: Sequence[Any], grounded: Sequence[tuple[_Way, _Way]]) -> tuple[str, ...]:
    notes = [
        "waits and loads are those of the recorded traffic: another policy would have brought about others"
    ]
    if foreseen := sum(after.ground == "foreseen" for _, after in grounded):
        notes.append(
            f"{foreseen} of {len(grounded)} stand on what was foreseen of a candidate that nobody asked"
        )
    if len(grounded) < len(pairs):
        notes.append(f"{len(pairs) - len(grounded)} are left out: their shortcuts have no score")
    if left:
        notes.append(f"{left} are left out: their requests ended before anything answered")
    return tuple(notes)


def _side(policy: str, ways: Sequence[_Way]) -> Side:
    chosen: dict[str, int] = {}
    for way in ways:
        chosen[way.chosen] = chosen.get(way.chosen, 0) + 1
    known = [way.cents for way in ways if way.cents is not None]
    took = [way.took_s * 1e3 for way in ways] or [math.nan]
    first = [way.first_s * 1e3 for way in ways] or [math.nan]
    return Side(
        policy=policy,
        chosen=dict(sorted(chosen.items(), key=lambda pair: -pair[1])),
        p50_ms=percentile(took, 0.5),
        p95_ms=percentile(took, 0.95),
        first_p50_ms=percentile(first, 0.5),
        failed=sum(way.failed for way in ways),
        cents=math.fsum(known) if len(known) == len(ways) and ways else None,
    )


def decisions_of(traces: Iterable[Any]) -> list[Decision]:
    """The decisions that traces hold, in the order in which they were made."""
    found = [decision for trace in traces for decision in trace.routes]
    return sorted(found, key=lambda each: each.ask.at)
