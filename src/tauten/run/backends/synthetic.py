"""A batch backend made of told latencies, answers and failures: for tests and for the simulator."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from tauten.describe.payload import Payload
from tauten.errors import BackendError, PlanError, suggest
from tauten.run.contracts import ModelSpec

_ANSWERS = ("echo", "constant", "table")


class SyntheticBackend:
    """Takes `ms_per_batch` + `ms_per_item` · n, spread lognormally by `sigma` around that mean.

    `answer` is echo, constant (`value`) or table (`table`: input hash to answer, else `value`). Every
    `fail_every`-th item fails. The same `seed` gives the same times. `run` sleeps; on a virtual clock,
    wait for `duration(items)` and take `answer(items)` instead.
    """

    name: ClassVar[str] = "synthetic"
    needs_files: ClassVar[bool] = False
    option_keys: ClassVar[frozenset[str]] = frozenset(
        {"ms_per_item", "ms_per_batch", "sigma", "seed", "answer", "value", "table", "fail_every"}
    )

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        options = spec.options
        self._item_s = float(options.get("ms_per_item", 0.0)) / 1000
        self._batch_s = float(options.get("ms_per_batch", 0.0)) / 1000
        self._sigma = float(options.get("sigma", 0.0))
        self._fail_every = int(options.get("fail_every", 0))
        self._kind = str(options.get("answer", "echo"))
        if self._kind not in _ANSWERS:
            raise PlanError(
                f"synthetic option answer = {self._kind!r}", help=suggest(self._kind, _ANSWERS), code="E122"
            )
        if min(self._item_s, self._batch_s, self._sigma) < 0:
            raise PlanError(
                "synthetic latencies and sigma cannot be negative", code="E122", help="give 0 or more"
            )
        self._open = False
        self._seen = 0
        self._draws = random.Random(0)

    def open(self) -> None:
        if not self._open:
            self._draws = random.Random(int(self.spec.options.get("seed", 0)))
            self._seen = 0
            self._open = True

    def group(self, item: Any) -> Hashable:
        return ()

    def weight(self, item: Any) -> float:
        return 1.0

    def duration(self, items: Sequence[Any]) -> float:
        """Seconds that the next batch of these items takes; each call draws anew."""
        mean = self._batch_s + self._item_s * len(items)
        if not self._sigma:
            return mean
        return mean * self._draws.lognormvariate(-(self._sigma**2) / 2, self._sigma)

    def answer(self, items: Sequence[Any]) -> list[Any]:
        """The results of one batch, at once; failing members are exceptions."""
        return [self._answer_one(item) for item in items]

    def _answer_one(self, item: Any) -> Any:
        self._seen += 1
        if self._fail_every and self._seen % self._fail_every == 0:
            return BackendError(f"synthetic failure of item {self._seen}", help="fail_every asked for it")
        if self._kind == "echo":
            return item
        if self._kind == "table":
            return self.spec.options.get("table", {}).get(input_hash(item), self.spec.options.get("value"))
        return self.spec.options.get("value")

    def run(self, items: Sequence[Any]) -> list[Any]:
        if not self._open:
            raise BackendError(
                "synthetic: run() on a backend that is not open", help="call open() first", code="E406"
            )
        time.sleep(self.duration(items))
        return self.answer(items)

    def properties(self) -> Mapping[str, str]:
        return {"precision": "none", "threads": "1", "device": "synthetic"}

    def close(self) -> None:
        self._open = False


def input_hash(item: Any) -> str:
    """The name of an input in an answer table: a payload's own hash, else SHA-256 of the item as JSON."""
    if isinstance(item, Payload):
        return item.hash
    return hashlib.sha256(msgspec.json.encode(item, order="deterministic")).hexdigest()
