"""A gate before a shortcut: of those that it lets pass at most a share epsilon is wrong, or it closes.

The shortcut may be a cached answer, a small model's answer, an answer out of search. `certify` finds the threshold on
labelled items; `allows` is asked for each request; `shadows` says how likely a taken shortcut is verified by running
the full path, too, and `observe` is told what came of that. See docs/selective_risk.md for what is promised.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import secrets
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from tauten.errors import InputError
from tauten.run.gating.scope import POOL, Scope, Verdict, scope_of
from tauten.statistics.monitor import Watch
from tauten.statistics.selective import Judged, check_levels, grid, needed_items, select

FORMAT = "tauten.gate/1"
ALONE = 2.0  # times the needed items make a cell stand alone: at 1 a single error would close it
PILOT = (
    0.2  # of the labelled items give the thresholds, by their scores alone, where no other scores are given
)
NEAR = 2.5  # times as often a shortcut just above the threshold is verified: there errors are likeliest
LEARNED = 20_000  # labelled candidates that are kept: enough for an epsilon of 0.1 % with errors
KEEP_EVERY = 16  # observations between two writes of the state: what a crash may lose of the evidence


class Labelled(NamedTuple):
    """A candidate for a shortcut, whether it would have been right, and whose it was."""

    score: float
    correct: bool
    tenant: str = ""
    category: str = ""


class Terms(msgspec.Struct, frozen=True):
    """What a gate promises. `epsilon`: P(wrong | shortcut taken). `eta`: the chance that a threshold is let through
    which does not keep that, all scopes and `tries` together. `alpha`: that a scope which does keep it is closed by
    the watch, ever. `floor`: the least share of shortcuts that is verified."""

    epsilon: float = 0.02
    eta: float = 0.05
    alpha: float = 0.01
    floor: float = 0.02  # one in fifty costs two per cent of what the shortcut saves
    tries: int = 1


class State(msgspec.Struct, kw_only=True):
    """A gate as it is kept: plain JSON."""

    format: str = FORMAT
    terms: Terms
    scopes: list[Scope] = []
    tried: int = 0
    learned: list[Labelled] = []
    about: str = ""  # what the scores are of: proofs of others say nothing here
    claim: str = (
        ""  # another one whenever it is certified, forgotten or closed: by it processes tell what is news
    )


class Gate:
    """Says whether a shortcut may be taken. `keep` is given the state as JSON whenever it should be written."""

    def __init__(
        self,
        terms: Terms = Terms(),
        *,
        state: State | None = None,
        keep: Callable[[bytes], None] | None = None,
        about: str = "",
    ) -> None:
        check_levels(terms.epsilon, terms.eta)
        Watch(terms.epsilon, terms.alpha, terms.floor)  # refuses what no scope could be watched by
        self._keep = keep
        self._unkept = 0
        self.taken: Counter[str] = Counter()  # shortcuts by scope, since this process began
        self._adopt(state or State(terms=terms, about=about))

    def _adopt(self, state: State) -> None:
        """Go by a state: the one that was kept, or a newer one."""
        self._state = state
        self._learned = deque(state.learned, maxlen=LEARNED)
        self._arrange()

    @property
    def terms(self) -> Terms:
        return self._state.terms

    @property
    def about(self) -> str:
        return self._state.about

    def _arrange(self) -> None:
        """What the hot path reads: for each (tenant, category) its scope, and the score from which it passes."""
        self._scopes: dict[tuple[str, str], Scope] = {}
        self._least: dict[tuple[str, str], float] = {}
        for scope in self._state.scopes:
            for cell in scope.cells:
                tenant, _, category = cell.partition("/")
                self._scopes[tenant, category] = scope
                self._least[tenant, category] = scope.least(cell)

    # -- while serving ----------------------------------------------------------------------------------------

    def allows(self, score: float, tenant: str = "", category: str = "") -> bool:
        """Whether the shortcut may be taken. A tenant or category that was never labelled takes none, and a score
        that is no finite number is none."""
        return self._least.get((tenant, category), math.inf) <= score < math.inf

    def opens(self, tenant: str = "", category: str = "") -> bool:
        """Whether any score passes there."""
        return self._least.get((tenant, category), math.inf) < math.inf

    def bound(self, tenant: str = "", category: str = "") -> float:
        """Of the shortcuts taken there at most such a share is wrong, as far as the labelled items prove."""
        scope = self._scopes.get((tenant, category))
        return 1.0 if scope is None else scope.bound

    def took(self, tenant: str = "", category: str = "") -> None:
        """A shortcut was taken, and not verified."""
        scope = self._scopes.get((tenant, category))
        if scope is not None:
            self.taken[scope.name] += 1

    def shadows(self, score: float, tenant: str = "", category: str = "") -> float:
        """With what chance a shortcut that is taken now must be verified; 0 where none is taken."""
        if not self.allows(score, tenant, category):
            return 0.0
        near = self._scopes[tenant, category].near
        often = NEAR if near is None or score < near else 1.0
        return min(1.0, self.terms.floor * often)

    def observe(
        self,
        score: float,
        correct: bool,
        tenant: str = "",
        category: str = "",
        *,
        chance: float | None = None,
    ) -> None:
        """Tell whether a shortcut was right that was taken and drawn to be verified, or that was not taken.

        `chance` is what `shadows` gave when the lot was drawn, where that may have changed since. Of what was not
        taken only closed scopes learn: there everything was verified, and nothing was left out by its score. Who says
        that it has no answer was never a candidate: a score that is not finite counts nowhere.
        """
        if not math.isfinite(score):
            return
        drawn = self.shadows(score, tenant, category)
        if drawn:
            self._verified(tenant, category, correct, chance or drawn)
        elif chance is None and self._least.get((tenant, category), math.inf) == math.inf:
            self._learned.append(Labelled(score, correct, tenant, category))
            self._count()

    def _verified(self, tenant: str, category: str, correct: bool, chance: float) -> None:
        scope = self._scopes[tenant, category]
        if scope.observe(f"{tenant}/{category}", not correct, chance):
            self._arrange()
            self._state.tried = 0  # what it will be certified for is other traffic
            self._state.claim = secrets.token_hex(8)  # news for every process that goes by it
            self.save()
        else:
            self._count()

    def _count(self) -> None:
        self._unkept += 1
        if self._unkept >= max(KEEP_EVERY, len(self._learned) // 8):  # what is written grows with those
            self.save()

    # -- certifying --------------------------------------------------------------------------------------------

    def certify(
        self, items: Sequence[Labelled] | None = None, *, thresholds: Sequence[float] | None = None
    ) -> list[Verdict]:
        """Find the thresholds on labelled items, or on those that were learned while the gate was closed.

        The items must be draws from the traffic to come, in the order in which they came. Cells with many items stand
        alone; the others share one claim, which is about their mix. Which cell does what is decided by how many items
        it has, before a label is read. `thresholds`, the strictest first, are used for every scope; without them they
        are taken from the scores of the first fifth of a scope's items, which then prove nothing. The items are spent:
        another try needs others, and there are `terms.tries` of them. Scores and thresholds that are not finite
        are left out.
        """
        if self._state.tried >= self.terms.tries:
            raise InputError(
                f"the {self.terms.tries} tries of this gate are used up: each more would let errors through",
                help="label other items and `forget` what was claimed, or allow more tries from the start",
                code="E292",
            )
        given = [each for each in (self._learned if items is None else items) if math.isfinite(each.score)]
        if not given:
            raise InputError(
                "no labelled items to certify a gate on",
                help=f"give some, in the order in which they came: {self.needed} or more",
                code="E292",
            )
        cells = _by_cell(given)
        groups = _groups(cells, self.terms)
        eta = self.terms.eta / self.terms.tries / max(1, len(groups))
        self._state.scopes = [
            self._claim(name, members, given, thresholds, eta) for name, members in groups.items()
        ]
        self._state.tried += 1
        self._state.claim = secrets.token_hex(8)
        self._learned.clear()
        self._arrange()
        self.save()
        return self.verdicts()

    def _claim(
        self,
        name: str,
        cells: list[str],
        items: Sequence[Labelled],
        thresholds: Sequence[float] | None,
        eta: float,
    ) -> Scope:
        terms = self.terms
        mine = [Judged(each.score, not each.correct) for each in items if _cell(each) in cells]
        levels = [each for each in thresholds or () if math.isfinite(each)]
        if thresholds is None:
            pilot = math.ceil(PILOT * len(mine))
            scores, mine = [each.score for each in mine[:pilot]], mine[pilot:]
            levels = grid(scores, len(mine), terms.epsilon, eta)
        found = select(mine, levels, terms.epsilon, eta)
        near = None
        if found.threshold is not None and (place := levels.index(found.threshold)):
            near = levels[place - 1]
        watch = Watch(terms.epsilon, terms.alpha, terms.floor)
        return scope_of(name, cells, found, near, watch, eta, pooled=name == POOL)

    def forget(self) -> None:
        """Close everywhere and begin anew, with all tries."""
        self._state.scopes, self._state.tried = [], 0
        self._state.claim = secrets.token_hex(8)
        self._learned.clear()
        self._arrange()
        self.save()

    # -- looking ----------------------------------------------------------------------------------------------

    @property
    def learned(self) -> int:
        """Labelled items that wait for `certify`."""
        return len(self._learned)

    @property
    def needed(self) -> int:
        """Items above a threshold, none of them wrong, that a single scope needs."""
        return needed_items(self.terms.epsilon, self.terms.eta / self.terms.tries)

    def verdicts(self) -> list[Verdict]:
        """What is claimed of each scope, and how that stands."""
        return [scope.verdict() for scope in self._state.scopes]

    def why(self, tenant: str = "", category: str = "") -> str:
        """Why a cell's shortcuts are taken or not, in words."""
        scope = self._scopes.get((tenant, category))
        if scope is None:
            return f"closed: no labelled items; {self.needed} shortcuts without an error would do"
        return scope.closed.get(f"{tenant}/{category}") or scope.verdict().why

    # -- keeping ----------------------------------------------------------------------------------------------

    def refresh(self) -> bool:
        """Go by what somebody else proved since; of a gate that is kept nowhere nobody else proves anything."""
        return False

    def state(self) -> bytes:
        """All that it knows, as JSON."""
        self._state.learned = list(self._learned)
        return msgspec.json.encode(self._state)

    def save(self) -> None:
        """Have the state written, where somebody keeps it."""
        self._unkept = 0
        if self._keep is not None:
            self._keep(self.state())


def _cell(item: Labelled) -> str:
    return f"{item.tenant}/{item.category}"


def _by_cell(items: Sequence[Labelled]) -> dict[str, int]:
    found: dict[str, int] = {}
    for item in items:
        if "/" in item.tenant:
            raise InputError(f"a tenant named {item.tenant!r}", help="names have no slash", code="E292")
        found[_cell(item)] = found.get(_cell(item), 0) + 1
    return found


def _groups(cells: dict[str, int], terms: Terms) -> dict[str, list[str]]:
    """Scopes and their cells, by counts alone."""
    enough = ALONE * needed_items(terms.epsilon, terms.eta / terms.tries / (len(cells) + 1))
    alone = {cell: [cell] for cell, count in cells.items() if count >= enough}
    rest = [cell for cell in cells if cell not in alone]
    return {**alone, POOL: rest} if rest else alone
