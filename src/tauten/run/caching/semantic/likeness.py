"""The tier that gives the answer of a question that means the same: an index by meaning, checks, and a gate.

Likeness alone says nothing: "turn on dark mode" and "turn off dark mode" lie closer than most paraphrases. So a candidate
passes all checks first, and then a gate that knows from evidence how often such scores were wrong. Where the gate is
closed nobody looks, and nobody waits: what a step gave is compared with the likest candidate behind it, and the gate
learns. Where it is open a share of the would-be hits is answered by the step, and compared. Nothing is looked for across
tenants, steps, models, settings or other inputs: only one text may be worded otherwise.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from typing import Any, ClassVar, Final, NamedTuple

from numpy.typing import NDArray

from tauten.clock import Clock, real
from tauten.run.caching.naming import content_name
from tauten.run.caching.refused import Refused
from tauten.run.caching.semantic.checks import CHECKS, refusal, stands_alone
from tauten.run.caching.semantic.gate import ASKING, Embed, Gate, Same
from tauten.run.caching.semantic.index import Index, Question
from tauten.run.caching.semantic.pays import Pays
from tauten.run.caching.semantic.remembered import Walked, recalled, remember
from tauten.run.caching.semantic.worded import worded
from tauten.run.contracts import Holdings, Kept, Sought
from tauten.run.gating.news import News
from tauten.run.trace import LIKENED

log = logging.getLogger("tauten.run.caching.semantic")

CANDIDATES: Final = 5  # that are checked: behind the fifth nothing is like enough
PENDING: Final = 1024  # questions under way: more than run at a time
ACCOUNTS: Final = 4096  # of tenants, each with a step: the oldest begins anew, which costs it a hundred looks
PATIENCE_S: Final = (
    0.1  # ten times what embedding takes: beyond that it queues, and the step had better begin
)


class _Asked(NamedTuple):
    """A question, where its like are kept, and whom the gate is asked about."""

    space: bytes
    text: str
    tenant: str
    category: str


class _Candidate(NamedTuple):
    """A kept question that passes the checks, and with what chance it was drawn to be verified."""

    score: float
    kept: Kept
    chance: float | None = None


class Semantic:
    """A `Likeness`. `field` and `category` are names of inputs; `disk` is where questions are known after a restart."""

    name: ClassVar[str] = "semantic"
    exact: ClassVar[bool] = False

    def __init__(
        self,
        size_bytes: int,
        *,
        embed: Embed,
        revision: str,
        gate: Gate,
        same: Same,
        field: str = "",
        category: str = "",
        disk: Walked | None = None,
        clock: Clock = real,
        now: Callable[[], float] = time.time,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._embed = embed
        self._revision = revision  # of what embeds: vectors of two models are never compared
        self._gate = gate
        self._same = same
        self._field, self._category = field, category
        self._disk = disk
        self._clock, self._now, self._draw = clock, now, draw
        self._index = Index(size_bytes)
        self._pays: dict[bytes, Pays] = {}
        self._vectors: dict[bytes, NDArray[Any]] = {}  # of questions under way, for when they are kept
        self._drawn: dict[bytes, _Candidate] = {}  # would-be hits that their steps answer
        self._marks: set[str] = set()  # of its questions on disk
        self._refused = 0
        self._news = News(gate, heard=clock())
        self.hits = 0
        self.events = dict.fromkeys(_EVENTS, 0)

    # -- looking ------------------------------------------------------------------------------------------

    async def get(self, sought: Sought) -> Kept | None:
        asked = self._asked(sought)
        if asked is None:
            return None
        if not self._open(asked):
            self._none(sought, "closed", "the gate is closed")
            return None
        pays = self._account(sought.space)
        if not pays.wanted():
            self._none(sought, "not_worth", "looks cost more than hits save")
            return None
        self.events["looks"] += 1
        began = self._clock()
        vector = await self._vector(asked.text, sought, PATIENCE_S)
        since = self._clock()
        kept = self._hit(sought, asked, vector) if vector is not None else None
        if kept is None and vector is not None:
            _bounded(self._vectors, sought.key, vector)
        now = self._clock()
        if sought.ask is not None:
            sought.ask.request.trace.rows.append((sought.ask.name, "lookup", since, now))
        pays.looked(
            now - began, 0.0 if kept is None else kept.saved_s + kept.saved_cents
        )  # a cent as a second
        return kept

    def _open(self, asked: _Asked) -> bool:
        """Whether the gate is open there, now that it was asked whether it closed in another process."""
        cell = asked.tenant, asked.category
        if not self._gate.opens(*cell):
            return False
        self._news.hear(self._clock())
        return self._gate.opens(*cell)

    def _hit(self, sought: Sought, asked: _Asked, vector: NDArray[Any]) -> Kept | None:
        """The answer of the likest question that passes every check, if the gate allows its score."""
        found, why = self._likest(asked, vector, sought.key)
        if found is None:
            _note(sought, f"none; {why}")
            return None
        cell = asked.tenant, asked.category
        if not self._gate.allows(found.score, *cell):
            self._none(sought, "refused_by_gate", f"score={found.score:.3f} is below the gate's threshold")
            return None
        chance = self._gate.shadows(found.score, *cell) if _teaches(sought) else 0.0
        if self._draw() < chance:
            _bounded(self._drawn, sought.key, found._replace(chance=chance))
            self._none(sought, "verified", f"score={found.score:.3f} would be a hit: drawn to be verified")
            _kind(sought, "verify")
            return None
        self.hits += 1
        self._gate.took(*cell)
        _note(
            sought,
            f"semantic; score={found.score:.3f}; checks={len(CHECKS)}; bound={self._gate.bound(*cell):.4f}",
        )
        return found.kept

    def _likest(self, asked: _Asked, vector: NDArray[Any], key: bytes) -> tuple[_Candidate | None, str]:
        """The likest candidate that passes every check, or why the likest of all does not."""
        why, now = "", self._now()
        for score, question in self._index.nearest(asked.space, vector, CANDIDATES):
            kept = question.kept
            if question.key == key or (kept.lives_s and now - kept.made_at >= kept.lives_s):
                continue
            check, _ = refusal(question.text, asked.text)
            if not check:
                return _Candidate(score, kept), ""
            self.events["refused_by_check"] += 1
            why = why or f"score={score:.3f}; refused by {check}"
        return None, why or "nothing like it is kept"

    def _none(self, sought: Sought, event: str, why: str) -> None:
        self.events[event] += 1
        _note(sought, f"none; {why}")

    # -- keeping ------------------------------------------------------------------------------------------

    async def put(self, sought: Sought, kept: Kept) -> bool:
        """Called behind what was asked: compares what was drawn, teaches a gate that is closed, keeps the question."""
        drawn, vector = self._drawn.pop(sought.key, None), self._vectors.pop(sought.key, None)
        asked = self._asked(sought)
        if asked is None:
            return False
        self._news.hear(self._clock())
        if drawn is not None:
            await self._observe(asked, drawn, kept.value)
        if isinstance(kept.value, Refused):
            return False
        if vector is None and (vector := await self._vector(asked.text, sought, None)) is None:
            return False
        if drawn is None and _teaches(sought) and not self._gate.opens(asked.tenant, asked.category):
            await self._learn(asked, vector, sought.key, kept.value)
        return await self._keep(Question(sought.key, asked.space, asked.text, kept), vector)

    async def _learn(self, asked: _Asked, vector: NDArray[Any], key: bytes, computed: Any) -> None:
        """What would have been given, had the gate been open, beside what the step gave."""
        found, _ = self._likest(asked, vector, key)
        if found is not None:
            self.events["learned"] += 1
            await self._observe(asked, found, computed)

    async def _observe(self, asked: _Asked, candidate: _Candidate, computed: Any) -> None:
        """Tell the gate whether a candidate was right; where the step refuses the input, no answer is."""
        correct = not isinstance(computed, Refused) and await self._same(candidate.kept.value, computed)
        self.events["wrong"] += not correct
        self._gate.observe(candidate.score, correct, asked.tenant, asked.category, chance=candidate.chance)

    async def _keep(self, question: Question, vector: NDArray[Any]) -> bool:
        done = self._index.add(question, vector)
        self._refused += not done
        if done and self._disk is not None:
            await remember(self._disk, question, vector)
        return done

    async def recall(self, mark: str) -> int:
        """Know again what lies on disk of a step; says how many questions those are."""
        if self._disk is None:
            return 0
        self._marks.add(mark)
        before = len(self._index)
        async for known in recalled(self._disk, mark):
            if known.question.key not in self._index:  # what came meanwhile is newer
                self._index.add(known.question, known.vector)
        return len(self._index) - before

    # -- what every cache has -----------------------------------------------------------------------------

    def resize(self, size_bytes: int) -> None:
        """What is beyond it goes with the next question."""
        self._index.bound_bytes = size_bytes

    def holdings(self) -> Holdings:
        index = self._index
        return Holdings(len(index), index.size_bytes, index.bound_bytes, index.evictions, self._refused)

    async def clear(self) -> None:
        self._index = Index(self._index.bound_bytes)
        for each in (self._vectors, self._drawn):
            each.clear()
        if self._disk is not None:
            for mark in self._marks:
                await self._disk.forget(mark)

    async def forget(self, label: str) -> int:
        keys = self._index.labelled(label)
        for key in keys:
            self._index.remove(key)
        if self._disk is not None:
            for mark in self._marks:
                await self._disk.forget(
                    label, mark
                )  # their answers stay: those may have been asked for word by word
        return len(keys)

    async def close(self) -> None:
        """It holds nothing but memory."""

    # -- inside -------------------------------------------------------------------------------------------

    def _asked(self, sought: Sought) -> _Asked | None:
        """The question; None where there is none that another's answer could serve."""
        found = worded(sought.inputs, self._field)
        if found is None or not stands_alone(found.text):
            return None
        category = sought.inputs.get(self._category)
        space = content_name(sought.space, sought.tenant, self._revision, found.name, found.others)
        return _Asked(space, found.text, sought.tenant, "" if category is None else str(category))

    def _account(self, space: bytes) -> Pays:
        """Whether looking pays, of one step and tenant."""
        if space not in self._pays and len(self._pays) >= ACCOUNTS:
            del self._pays[next(iter(self._pays))]
        return self._pays.setdefault(space, Pays())

    async def _vector(self, text: str, sought: Sought, patience_s: float | None) -> NDArray[Any] | None:
        token = ASKING.set(sought.ask)
        try:
            async with asyncio.timeout(patience_s):
                return await self._embed(text)
        except TimeoutError:
            self._none(sought, "late", "the question was not embedded in time")
        except Exception as error:  # noqa: BLE001  # fails closed: without a vector it is a miss, and counted
            self._none(sought, "failed", "the question could not be embedded")
            log.info("a question could not be embedded, its step works: %s", error)
        finally:
            ASKING.reset(token)
        return None


_EVENTS: Final = (
    *("looks", "closed", "not_worth", "refused_by_check", "refused_by_gate"),
    *("verified", "wrong", "learned", "late", "failed"),
)


def _teaches(sought: Sought) -> bool:
    """Whether the gate may learn of it: it is traffic, and no replay of what it has seen."""
    return sought.ask is None or bool(sought.ask.request.teaches)


def _note(sought: Sought, words: str) -> None:
    """Say in the trace what became of the look."""
    if sought.ask is not None:
        sought.ask.request.trace.notes[f"{sought.ask.name}{LIKENED}"] = words


def _kind(sought: Sought, kind: str) -> None:
    """Say for the books what its step works for, now that it does."""
    if sought.ask is not None:
        trace = sought.ask.request.trace
        trace.kinds = {**trace.kinds, sought.ask.name.partition("[")[0]: kind}


def _bounded(table: dict[bytes, Any], key: bytes, value: Any) -> None:
    """Note it; where there is too much, the oldest goes."""
    if len(table) >= PENDING:
        del table[next(iter(table))]
    table[key] = value
