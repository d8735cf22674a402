"""Gates before shortcuts as Prometheus sees them: whether they are open, what was taken and verified, what was proved."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator

from tauten.run.gating.gates import KeptGate, opened_gates
from tauten.serve.observe.exposition import Exposition

_OF = ("gate", "scope")
_GAUGES = {
    "open": ("tauten_gate_open", "1 where shortcuts of a scope are taken."),
    "bound": ("tauten_gate_bound", "Of shortcuts taken at most such a share is wrong, as was proved."),
    "epsilon": ("tauten_gate_epsilon", "What it promises: at most such a share."),
    "evidence": (
        "tauten_gate_evidence",
        "Of what was verified since, against the promise; it closes at 1 / alpha.",
    ),
}
_COUNTS = {
    "verified": ("tauten_gate_verified", "Shortcuts that were drawn and compared with the full answer."),
    "verified_wrong": ("tauten_gate_verified_wrong", "Those of them that were wrong."),
}


def of_gates(page: Exposition) -> Iterator[str]:
    """Families of the gates that this process has opened; scopes come from their files, never from clients."""
    gates = opened_gates()
    if not gates:
        return
    scopes = [((name, each.scope), each) for name, gate in gates.items() for each in gate.verdicts()]
    for key, words in _GAUGES.items():
        yield from page.gauge(*words, _OF, [(at, getattr(verdict, key)) for at, verdict in scopes])
    for key, words in _COUNTS.items():
        yield from page.counter(*words, _OF, [(at, getattr(verdict, key)) for at, verdict in scopes])
    taken = [((name, scope), count) for name, gate in gates.items() for scope, count in _taken(gate).items()]
    yield from page.counter("tauten_gate_taken", "Shortcuts that were taken.", _OF, taken)
    yield from page.gauge(
        "tauten_gate_learned",
        "Labelled candidates that wait for `tauten route certify`.",
        ("gate",),
        [((name,), gate.learned) for name, gate in gates.items()],
    )
    yield from page.gauge(
        "tauten_gate_unkept",
        "1 where the last write of a gate failed: a restart forgets what was seen since.",
        ("gate",),
        [((name,), bool(gate.problem)) for name, gate in gates.items()],
    )


def _taken(gate: KeptGate) -> dict[str, int]:
    """By scope, those that took none too."""
    return {each.scope: gate.taken[each.scope] for each in gate.verdicts()}
