"""A trace of a long stream with fewer rows and the same sums: the walk costs as much as it has rows."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import copy

from tauten.run.trace import Row, Trace

FROM_ROWS = 128  # shorter traces are walked as they are: a millisecond or two
TOGETHER = 64  # increments that become one: half a second of a fast model
_TOUCH_S = 1e-6  # rows that follow one another: reads of one clock


class _Block:
    """Increments of one step that followed one another: how long they took to make, and to be handed over."""

    __slots__ = ("count", "end", "start", "tokens_s")

    def __init__(self, start: float) -> None:
        self.start = self.end = start
        self.tokens_s = 0.0
        self.count = 0

    def rows(self, step: str) -> list[Row]:
        middle = min(self.start + self.tokens_s, self.end)
        made: list[Row] = [(step, "tokens", self.start, middle)]
        return [*made, (step, "loop", middle, self.end)] if self.end > middle else made


def condensed(trace: Trace) -> Trace:
    """The trace with runs of `tokens` and `loop` rows of a step put together; sums by cause stay as they are.

    Within a block of increments the hand-overs come last, which is not how it was: for sums, not for pictures.
    """
    if len(trace.rows) <= FROM_ROWS:
        return trace
    rows: list[Row] = []
    blocks: dict[str, _Block] = {}
    for row in trace.rows:
        step, cause, start, end = row
        block = blocks.get(step)
        if cause not in ("tokens", "loop") or (block is None and cause == "loop"):
            rows.append(row)
            continue
        if (
            block is None
            or abs(start - block.end) > _TOUCH_S
            or (block.count >= TOGETHER and cause == "tokens")
        ):
            if block is not None:
                rows += block.rows(step)
            block = blocks[step] = _Block(start)
        if cause == "tokens":
            block.tokens_s += end - start
            block.count += 1
        block.end = end
    for step, block in blocks.items():
        rows += block.rows(step)
    shorter = copy.copy(trace)
    shorter.rows = rows
    return shorter
