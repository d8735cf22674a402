"""What formulas and labels say of a proposal before a model runs or a request is simulated for it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable

from tauten.describe.graph import Graph
from tauten.errors import PlanError
from tauten.improve.optimizer.formula import formula
from tauten.improve.optimizer.memory import memory_of
from tauten.improve.optimizer.record import note_change, worth_simulating
from tauten.improve.optimizer.search import Figures
from tauten.improve.simulate.library import Library
from tauten.improve.situation import Proposal
from tauten.plan.ledger import Ledger
from tauten.plan.lower import lower
from tauten.plan.plan import Plan


class Formulas:
    """A `Pruning` of one search. Its errors are its own, so that the same search comes to the same plan again.

    `hopeless` says why no change that may alter answers could be proven harmless; empty where one could. With
    `weighs` a plan that may take less memory is worth a look, too: an SLO limits it.
    """

    def __init__(
        self,
        graph: Graph,
        library: Library,
        cores: int,
        hopeless: Callable[[], str],
        *,
        weighs: bool = False,
    ) -> None:
        self.graph = graph
        self.library = library
        self.cores = cores
        self.hopeless = hopeless
        self.weighs = weighs
        self.errors = Ledger()
        self._known: dict[bytes, Figures] = {}

    def why_not(self, present: Plan, proposal: Proposal) -> str:
        if proposal.answers == "lossy" and (reason := self.hopeless()):
            return reason
        before, after = self.formula(present), self.formula(proposal.plan)
        if before is None or after is None:
            return ""
        if worth_simulating(before, after, self.errors, proposal.strategy):
            return ""
        if self.weighs and self._lighter(present, proposal.plan):
            return ""
        return (
            f"gains nothing by formula, and formulas of {proposal.strategy} were not far enough off to hope"
        )

    def _lighter(self, present: Plan, plan: Plan) -> bool:
        """Whether a plan may take less memory, as far as anybody knows."""
        now, then = (memory_of(self.library, lower(self.graph, each)) for each in (present, plan))
        return now is None or then is None or then < now

    def formula(self, plan: Plan) -> Figures | None:
        content = plan.content
        if content not in self._known:
            try:
                self._known[content] = formula(self.library, lower(self.graph, plan), cores=self.cores)
            except PlanError:  # not known yet: it may be later
                return None
        return self._known[content]

    def came(self, present: Plan, proposal: Proposal, before: Figures, after: Figures) -> None:
        one, other = self.formula(present), self.formula(proposal.plan)
        if one is not None and other is not None:
            note_change(self.errors, proposal.strategy, (one, other), (before, after))
