"""A reply's header that says: this is the answer of another question, which means the same as far as was proved."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.run.trace import LIKENED, Trace

HEADER = "x-tauten-cache"
_HIT = "semantic;"  # how the note of a hit begins


def likened(trace: Trace) -> list[tuple[str, str]]:
    """One header for all steps that were given such an answer, each with its score and bound; none without one."""
    said = [
        f"{step.removesuffix(LIKENED)}={words}"
        for step, words in trace.notes.items()
        if step.endswith(LIKENED) and words.startswith(_HIT)
    ]
    return [(HEADER, ", ".join(said).encode("ascii", "replace").decode())] if said else []
