"""One model, opened anew in a process of its own: what opening it takes, what it holds, how long it runs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tauten.errors import BackendError
from tauten.improve.measuring.bench import Opened, Ran
from tauten.improve.measuring.profile import TIMEOUT_S, WARM, Start
from tauten.run.contracts import ModelSpec

ITEMS_BYTES = 1e6


class Alone(NamedTuple):
    """What one opening gave. `run_ms` are medians by batch."""

    load_ms: float
    memory_mb: float | None
    run_ms: Mapping[int, float]
    properties: Mapping[str, str]


async def alone(
    start: Start,
    backend: str,
    spec: ModelSpec,
    items: Sequence[Any],
    *,
    batches: Sequence[int] = (1,),
    runs: int = 20,
) -> Alone:
    """Open, warm up, and run each batch so many times; memory is what the process holds after it.

    A fresh process each time: where memory happens to lie makes one process faster than another, and only many
    of them show how much. A few items of one shape only, the most frequent. Raises what opening and running raise.
    """
    measurer = await start()
    pool = few(items)
    try:
        asked = {"open": backend, "spec": msgspec.structs.asdict(spec), "items": pool}
        opened = msgspec.convert(await measurer.ask(asked, TIMEOUT_S), Opened)
        run_ms: dict[int, float] = {}
        memory = opened.memory_bytes
        for batch in batches:
            found = []
            for turn in range(WARM + runs):
                members = [(turn * batch + each) % len(pool) for each in range(batch)]
                ran = msgspec.convert(await measurer.ask({"run": members}, TIMEOUT_S), Ran)
                if ran.error:
                    raise BackendError(f"{spec.model} on {backend}: {ran.error}", help="check the model")
                found.append(ran.seconds)
                memory = ran.memory_bytes or memory
            run_ms[batch] = statistics.median(found[WARM:]) * 1e3
    finally:
        await measurer.end()
    held = memory / 1e6 if memory is not None else None
    return Alone(opened.load_s * 1e3, held, run_ms, opened.properties)


def few(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Items of the most frequent shape, about a megabyte: a process that was sent more held its memory before the
    model came, and the model then seems to need less."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for item in items:
        groups.setdefault(tuple(array.shape for array in item.values()), []).append(item)
    chosen = max(groups.values(), key=len)
    each_bytes = sum(array.nbytes for array in chosen[0].values())
    return chosen[: max(1, int(ITEMS_BYTES / each_bytes))]
