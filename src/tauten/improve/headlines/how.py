"""How rows are measured: the inputs, how often, and whatever opens models; tests hand in doubles."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from tauten.clock import Clock, real
from tauten.describe.payload import Image, Payload
from tauten.improve.headlines.rounds import Rounds, Trial, interleaved
from tauten.improve.headlines.row import Column
from tauten.improve.headlines.speaker import Speaker, speaking
from tauten.improve.measuring.process import started
from tauten.improve.measuring.profile import Start
from tauten.improve.measuring.quiet import Watch
from tauten.improve.recording import Item, Recording
from tauten.plan.hardware import hardware
from tauten.run.contracts import ModelSpec
from tauten.run.kernel import core_seconds

if TYPE_CHECKING:
    from tauten.models.store import Store

ROUNDS = 7  # the median of 7 values has a 95 % interval; 6 are the fewest
QUICK = 1

Speak = Callable[[ModelSpec], AbstractAsyncContextManager[Speaker]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the models are given: photographs, short texts (questions), and one long text (a manual)."""

    images: Sequence[Image]
    texts: Sequence[str]
    manual: str

    def recording(self, payloads: Sequence[Payload]) -> Recording:
        """Some of them as a recording, for whoever reads inputs from one."""
        items = [Item(id=f"{n:04}", render=partial(dict, input=each)) for n, each in enumerate(payloads)]
        return Recording("headlines", items)


def watched() -> Callable[[], float]:
    """Tells what share of the cores others had since the last look, while processes of ours come and go."""
    return Watch(hardware().cores, own=_own_seconds).share


def _own_seconds() -> float:
    """CPU of this process, of those below it, and of those below it that have ended."""
    if sys.platform == "win32":
        return core_seconds()
    import resource

    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return core_seconds() + ended.ru_utime + ended.ru_stime


@dataclass(frozen=True, slots=True)
class How:
    """What every row is measured with."""

    inputs: Inputs
    store: Store
    quick: bool = False
    seed: int = 0
    clock: Clock = real
    start: Start = started
    speak: Speak = speaking
    share: Callable[[], float] = field(default_factory=watched)
    say: Callable[[str], None] = lambda text: None

    @property
    def rounds(self) -> int:
        return QUICK if self.quick else ROUNDS

    async def interleaved(self, trials: dict[str, Trial], name: str) -> Rounds:
        return await interleaved(
            trials,
            self.rounds,
            share=self.share,
            say=lambda text: self.say(f"{name}: {text}"),
            seed=self.seed,
        )


def without(columns: Sequence[Column], failed: dict[str, str]) -> list[Column]:
    """The columns, each that failed with its reason."""
    return [Column(each.name, each.setup, failed.get(each.name, each.missing)) for each in columns]
