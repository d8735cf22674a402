"""Labelled pairs of questions become the proof that opens a cache's gate: scores of one half, errors of the other.

A pair is two questions, and whether one answer serves both. Pairs that fail a check are no hits, whatever their score,
and prove nothing. Thresholds come from the scores of the `dev` half alone; the held-out half is what is counted.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from tauten.errors import InputError
from tauten.run.caching.semantic.checks import refusal, stands_alone
from tauten.run.caching.semantic.index import DIGITS
from tauten.run.gating.gate import Gate, Labelled
from tauten.run.gating.scope import Verdict
from tauten.statistics.selective import grid

AT_ONCE: Final = 32  # texts, as many as share a batch: more would wait for one another in its queue
Embed = Callable[[str], Awaitable[NDArray[Any]]]


class Pair(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two questions: the first is in the cache, the second is asked. `same`: whether one answer serves both."""

    kept: str
    asked: str
    same: bool
    split: Literal["dev", "held_out"] = "held_out"
    tenant: str = ""
    category: str = ""


class Scored(NamedTuple):
    """A pair that passes the checks, which makes it a would-be hit."""

    pair: Pair
    score: float


class Proved(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `hits` of the held-out pairs passed the checks, `wrong` of these need two answers; of the pairs
    that one answer serves, a share `found` passed."""

    pairs: int
    held_out: int
    hits: int
    wrong: int
    found: float
    verdicts: list[Verdict]

    @property
    def open(self) -> bool:
        return any(each.open for each in self.verdicts)


def read_pairs(path: Path) -> list[Pair]:
    """Pairs of a file: lines of JSON (`.jsonl`), or TOML with `[[pair]]`."""
    try:
        text = path.read_text("utf-8")
        if path.suffix == ".jsonl":
            return [msgspec.json.decode(line, type=Pair) for line in text.splitlines() if line.strip()]
        return msgspec.convert(tomllib.loads(text).get("pair", []), list[Pair])
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {str(path)!r}: {error}", help="check the path", code="E203") from error
    except (msgspec.MsgspecError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"{path.name}: {error}",
            help='each pair has kept = "...", asked = "...", same = true or false; and may have split, tenant, category',
            code="E292",
        ) from error


async def prove(gate: Gate, embed: Embed, pairs: Sequence[Pair], *, again: bool = False) -> Proved:
    """Certify a gate on labelled pairs; `again` forgets what was proved before, for these are others.

    Raises InputError E292 where they cannot suffice, and then spends and forgets nothing.
    """
    vectors = await _vectors(embed, pairs)
    scored = [Scored(pair, _score(pair, vectors)) for pair in pairs if passes(pair)]
    held = [each for each in scored if each.pair.split == "held_out"]
    items = [Labelled(each.score, each.pair.same, each.pair.tenant, each.pair.category) for each in held]
    if len(items) < gate.needed:
        raise InputError(
            f"{len(items)} of the held-out pairs pass the checks and would be hits; {gate.needed} without an error "
            "are the least that proves it",
            help="give more pairs, or promise less: a larger epsilon; nothing was spent",
            code="E292",
        )
    if again:
        gate.forget()
    same = sum(pair.same for pair in pairs)
    return Proved(
        pairs=len(pairs),
        held_out=sum(pair.split == "held_out" for pair in pairs),
        hits=len(items),
        wrong=sum(not each.correct for each in items),
        found=sum(each.pair.same for each in scored) / max(1, same),
        verdicts=gate.certify(items, thresholds=_thresholds(gate, scored, items)),
    )


def passes(pair: Pair) -> bool:
    """Whether a cache would look for the second question, and take the first one for it by its words."""
    return stands_alone(pair.asked) and not refusal(pair.kept, pair.asked)[0]


def _thresholds(gate: Gate, scored: Sequence[Scored], items: Sequence[Labelled]) -> list[float] | None:
    """From the other half's scores; None where there is none, and the gate takes them from the first fifth of its own."""
    scores = [each.score for each in scored if each.pair.split == "dev"]
    if not scores:
        return None
    cells = len({(each.tenant, each.category) for each in items})
    terms = gate.terms
    return grid(scores, len(items), terms.epsilon, terms.eta / terms.tries / cells) or [min(scores)]


async def _vectors(embed: Embed, pairs: Sequence[Pair]) -> dict[str, NDArray[Any]]:
    """The vector of each text that is part of a hit."""
    said = (text for pair in pairs if passes(pair) for text in (pair.kept, pair.asked))
    texts = list(dict.fromkeys(said))
    found: dict[str, NDArray[Any]] = {}
    for first in range(0, len(texts), AT_ONCE):
        some = texts[first : first + AT_ONCE]
        found |= zip(some, await asyncio.gather(*map(embed, some)), strict=True)
    return found


def _score(pair: Pair, vectors: dict[str, NDArray[Any]]) -> float:
    return round(float(np.dot(vectors[pair.kept], vectors[pair.asked])), DIGITS)
