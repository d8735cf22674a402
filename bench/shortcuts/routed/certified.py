"""A gate of the bench: certified on labelled items that the measured ones are not among, and gone afterwards."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

from tauten.run.gating.gate import Labelled, Terms
from tauten.run.gating.gates import gate_path, open_gate
from tauten.run.gating.scope import Verdict

EPSILON = 0.05  # P(wrong | shortcut taken): 59 labelled shortcuts without an error prove it


STEPS = 20  # further thresholds below the strictest one


def thresholds(items: Sequence[Labelled], needed: int) -> list[float]:
    """Which to try, the strictest first, by the scores alone: above the first lie just as many as prove it without an
    error, above each further one a twentieth of the rest more. No label is read."""
    ordered = sorted((each.score for each in items), reverse=True)
    rest = len(ordered) - needed
    if rest < 0:
        return []
    counts = [needed + math.ceil(rest * step / STEPS) for step in range(STEPS + 1)]
    return list(dict.fromkeys(ordered[count - 1] for count in counts))


@contextlib.contextmanager
def certified(name: str, items: Sequence[Labelled], epsilon: float = EPSILON) -> Iterator[Verdict]:
    """What is claimed of the gate; workflows that name it take the shortcut where it lets them."""
    gate = open_gate(name, Terms(epsilon=epsilon))
    gate.forget()
    try:
        [found] = gate.certify(items, thresholds=thresholds(items, gate.needed))
        yield found
    finally:
        gate.forget()
        gate.flush()
        gate_path(name).unlink(missing_ok=True)
