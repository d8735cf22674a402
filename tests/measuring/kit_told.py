"""A measurer whose times are told, on a clock that only they move: no process, no wall clock."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tauten.errors import BackendError, StoreError
from tauten.improve.measuring.bench import Opened, Ran
from tauten.improve.measuring.prober import Slice
from tauten.plan.hardware import Hardware
from tauten.plan.peaks import MatrixRate, Peaks, Probe


@dataclass
class World:
    """What the measurers share: the time, what they were asked, and how they misbehave.

    Items are numbers: their own weights. A run takes 10 ms and 1 ms for each unit of weight, over the threads.
    """

    now: float = 0.0
    log: list[tuple[int, list[int]]] = field(default_factory=list)
    alive: int = 0
    started: int = 0
    asked_for_peaks: int = 0
    shut: frozenset[int] = frozenset()  # thread counts with which the model does not open
    dies_at: int = 0  # the batch at which the process of one thread dies
    fails_at: int = 0  # the batch that the engine refuses
    deaf: bool = False  # the probe gives nothing
    streams: bool = False
    most: int = 99  # processes that can be started

    def clock(self) -> float:
        return self.now

    async def start(self) -> Told:
        if self.started >= self.most:
            raise BackendError("no more processes", help="none")
        self.started += 1
        self.alive += 1
        return Told(self)


class Told:
    """One of them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.threads = 0
        self.items: list[float] = []
        self.dead = self.ended = False

    async def ask(self, message: Mapping[str, Any], timeout_s: float) -> Any:
        return msgspec.to_builtins(self._answer(message))

    def _answer(self, message: Mapping[str, Any]) -> msgspec.Struct:
        if "open" in message:
            return self._open(message)
        if "peaks" in message:
            self.world.asked_for_peaks += 1
            here = msgspec.convert(message["peaks"], Hardware)
            return Peaks(here, (MatrixRate("onnx", "f32", 1, 1e9),), probe=Probe(80.0, 8.0))
        if "probe" in message:
            if self.world.deaf:
                raise BackendError("no probe", help="none")
            self.world.now += 1.0
            return Slice(100.0, 10.0)
        return self._run(message["run"])

    def _open(self, message: Mapping[str, Any]) -> Opened:
        self.threads = message["spec"]["threads"]
        if self.threads in self.world.shut:
            raise StoreError("it cannot be loaded", help="none", code="E325")
        self.items = message["items"]
        streams = self.world.streams
        places = tuple((0, 0.0 if streams else float(item)) for item in self.items)
        return Opened(0.5 * self.threads, 1000, {"threads": str(self.threads)}, streams, places)

    def _run(self, members: list[int]) -> Ran:
        world = self.world
        world.log.append((self.threads, members))
        if self.dead or (self.threads == 1 and len(members) == world.dies_at):
            self.dead = True
            raise BackendError("the process ended", help="none")
        if len(members) == world.fails_at:
            return Ran(0.0, error="E407 too large")
        weight = sum(self.items[index] for index in members)
        seconds = (0.010 + 0.001 * weight) / self.threads
        world.now += seconds
        rates = (0.2, 50.0, 25.0) if world.streams else (None, None, None)
        return Ran(seconds, weight, *rates, memory_bytes=2000 + 100 * len(members))

    async def end(self) -> None:
        if not self.ended:
            self.ended = True
            self.world.alive -= 1
