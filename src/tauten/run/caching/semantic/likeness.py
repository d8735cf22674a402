"""The tier that gives the answer of a question that means the same: an index by meaning, checks, and a gate.

Likeness alone says nothing: "turn on dark mode" and "turn off dark mode" lie closer than most paraphrases. So a candidate
passes all checks first, and then a gate that knows from evidence how often such scores were wrong. A share of the hits is
verified behind; candidates that the gate does not allow yet are compared with what the step gives. Both teach the gate.
Nothing is looked for across tenants, steps, models, settings or other inputs: only one text may be worded otherwise.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from numpy.typing import NDArray

from tauten.clock import Clock, real
from tauten.describe.payload import Text
from tauten.run.caching.naming import content_name
from tauten.run.caching.refused import Refused
from tauten.run.caching.semantic.checks import refusal, stands_alone
from tauten.run.caching.semantic.gate import Embed, Gate, Same
from tauten.run.caching.semantic.index import Index, Question
from tauten.run.caching.semantic.pays import Pays
from tauten.run.contracts import Holdings, Kept, Sought

log = logging.getLogger("tauten.run.caching.semantic")

VERIFIED = 0.05  # of hits: enough to see a drift of a few percent within some thousand hits, for a twentieth of the saving
CANDIDATES = 5  # that are checked: behind the fifth nothing is like enough
PENDING = 1024  # questions under way, or given and not verified yet: more than run at a time

Category = Callable[[str], str]


class _Candidate(NamedTuple):
    """A kept question that passes the checks, and what the gate is asked of it."""

    score: float
    tenant: str
    category: str
    value: Any


class Semantic:
    """Give it to an engine's caches by `offer("semantic", lambda size: Semantic(size, ...))`."""

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
        category: Category = lambda _: "",
        verified: float = VERIFIED,
        clock: Clock = real,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._embed = embed
        self._revision = revision  # of what embeds: vectors of two models are never compared
        self._gate = gate
        self._same = same
        self._category = category
        self._share = verified
        self._clock = clock
        self._draw = draw
        self._index = Index(size_bytes)
        self._pays: dict[bytes, Pays] = {}
        self._vectors: dict[bytes, NDArray[Any]] = {}  # of questions under way, for when they are kept
        self._pending: dict[bytes, _Candidate] = {}
        self._given: dict[bytes, _Candidate] = {}
        self._refused = 0
        self.events = {"refused_by_check": 0, "refused_by_gate": 0, "not_worth": 0, "wrong": 0, "failed": 0}

    async def get(self, sought: Sought) -> Kept | None:
        asked = self._asked(sought)
        if asked is None:
            return None
        space, text = asked
        pays = self._pays.setdefault(space, Pays())
        if not pays.wanted():
            self.events["not_worth"] += 1
            return None
        began = self._clock()
        vector = await self._vector(text)
        if vector is None:
            return None
        _bounded(self._vectors, sought.key, vector)
        kept = self._hit(sought, space, text, vector)
        pays.looked(self._clock() - began, kept.saved_s if kept is not None else 0.0)
        return kept

    async def put(self, sought: Sought, kept: Kept) -> bool:
        pending, vector = self._pending.pop(sought.key, None), self._vectors.pop(sought.key, None)
        if isinstance(kept.value, Refused):
            return False
        if pending is not None:
            await self._observe(pending, kept.value)
        asked = self._asked(sought)
        if asked is None:
            return False
        if vector is None and (vector := await self._vector(asked[1])) is None:
            return False
        done = self._index.add(Question(sought.key, asked[0], asked[1], kept), vector)
        self._refused += not done
        return done

    def wants(self, sought: Sought) -> bool:
        """A share of the hits is verified; what is not is forgotten here."""
        wanted = sought.key in self._given and self._draw() < self._share
        if not wanted:
            self._given.pop(sought.key, None)
        return wanted

    async def verified(self, sought: Sought, given: Any, computed: Any) -> None:
        candidate = self._given.pop(sought.key, None)
        if candidate is not None:
            await self._observe(candidate, computed)

    def resize(self, size_bytes: int) -> None:
        """What is beyond it goes with the next question."""
        self._index.bound_bytes = size_bytes

    def holdings(self) -> Holdings:
        index = self._index
        return Holdings(len(index), index.size_bytes, index.bound_bytes, index.evictions, self._refused)

    async def clear(self) -> None:
        self._index = Index(self._index.bound_bytes)
        for each in (self._vectors, self._pending, self._given):
            each.clear()

    async def forget(self, label: str) -> int:
        keys = self._index.labelled(label)
        for key in keys:
            self._index.remove(key)
        return len(keys)

    async def close(self) -> None:
        """It holds nothing but memory."""

    # -- inside -------------------------------------------------------------------------------------------

    def _asked(self, sought: Sought) -> tuple[bytes, str] | None:
        """(where to look, the question): where one input is a text, and all others are the same."""
        texts = {name: value for name, value in sought.inputs.items() if value.__class__ in (str, Text)}
        if len(texts) != 1:
            return None
        [(name, value)] = texts.items()
        text = str(value)
        if not stands_alone(text):
            return None
        others = {key: each for key, each in sought.inputs.items() if key != name}
        return content_name(sought.space, sought.tenant, self._revision, name, others), text

    async def _vector(self, text: str) -> NDArray[Any] | None:
        try:
            return await self._embed(text)
        except Exception as error:  # noqa: BLE001  # fails closed: without a vector it is a miss, and counted
            self.events["failed"] += 1
            log.info("a question could not be embedded, its step works: %s", error)
            return None

    def _hit(self, sought: Sought, space: bytes, text: str, vector: NDArray[Any]) -> Kept | None:
        """The best candidate that passes every check, if the gate allows its score."""
        for score, question in self._index.nearest(space, vector, CANDIDATES):
            if refusal(question.text, text)[0]:
                self.events["refused_by_check"] += 1
                continue
            candidate = _Candidate(score, sought.tenant, self._category(text), question.kept.value)
            if self._gate.allows(score, candidate.tenant, candidate.category):
                _bounded(self._given, sought.key, candidate)
                return question.kept
            self.events["refused_by_gate"] += 1
            _bounded(self._pending, sought.key, candidate)
            return None
        return None

    async def _observe(self, candidate: _Candidate, computed: Any) -> None:
        """Tell the gate whether a candidate was right."""
        correct = await self._same(candidate.value, computed)
        self.events["wrong"] += not correct
        self._gate.observe(candidate.score, correct, candidate.tenant, candidate.category)


def _bounded(table: dict[bytes, Any], key: bytes, value: Any) -> None:
    """Note it; where there is too much, the oldest goes."""
    if len(table) >= PENDING:
        del table[next(iter(table))]
    table[key] = value
