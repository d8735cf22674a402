"""L5: the same model as a graph that was compiled, against its operators one by one."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from tauten.describe.payload import Payload, Text
from tauten.improve.compress.calibration import calibrate
from tauten.improve.headlines.alone import alone
from tauten.improve.headlines.eager import Eager
from tauten.improve.headlines.how import How, without
from tauten.improve.headlines.rounds import Measure, Reading, Trial, lines
from tauten.improve.headlines.row import Column, Row
from tauten.run.contracts import ModelSpec
from tauten.run.workers import in_thread

CLAIM = "compiled graph: twice the throughput, half the latency"

EAGER, PLAIN, FULL, OTHER = "eager", "graph as written", "ONNX Runtime", "OpenVINO"
BATCHES = (1, 8)
COLUMNS = [
    Column(EAGER, "torch, one operator after another, in float32"),
    Column(PLAIN, "ONNX Runtime with its graph optimisations off"),
    Column(FULL, "ONNX Runtime with its defaults"),
    Column(OTHER, "OpenVINO with its defaults"),
]
BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    PLAIN: ("onnx", {"graph_optimization": "off"}),
    FULL: ("onnx", {}),
    OTHER: ("openvino", {}),
}
SHOWN = {
    **{f"batch of {batch}": Measure("ms", headline=True) for batch in BATCHES},
    "load": Measure("ms"),
}
NO_TORCH = "torch is not installed: pip install 'tauten[compress]'"


class Subject(NamedTuple):
    """A model and its items, as its stage prepares them."""

    name: str
    spec: ModelSpec
    items: Sequence[Any]


async def measure(how: How) -> Row:
    """Eager torch only where it is installed, and then it is the naive setting."""
    subjects = [
        await _subject(how, "EfficientNet-Lite0", "efficientnet-lite0", list(how.inputs.images)),
        await _subject(how, "MiniLM-L6", "minilm-l6-v2", [Text(each) for each in how.inputs.texts]),
    ]
    runs, precision = 3 if how.quick else 20, dict[str, str]()
    trials = {name: _compiled(how, subjects, name, runs, precision) for name in BACKENDS}
    torch = importlib.util.find_spec("torch") is not None
    if torch:
        trials[EAGER] = _eager(subjects[0], runs)
    naive = EAGER if torch else PLAIN
    rounds = await how.interleaved(trials, "L5")
    return Row(
        id="L5",
        claim=CLAIM,
        naive=naive,
        zero_effort=FULL,
        ours=OTHER,
        conditions={
            "each value": f"a fresh process: opened, warmed up, {runs} runs a batch, their median",
            "threads": "the engines' defaults: all cores",
            "precision": ", ".join(f"{name} {text}" for name, text in sorted(precision.items())),
        },
        columns=without(COLUMNS, ({} if torch else {EAGER: NO_TORCH}) | rounds.failed),
        lines=lines(rounds.readings, SHOWN, naive=naive, zero_effort=FULL, ours=OTHER),
        notes=[
            *rounds.notes,
            *(["eager torch runs EfficientNet-Lite0 only, in this process"] if torch else []),
        ],
        rounds=len(rounds.others),
        others=rounds.typical,
        worst=rounds.worst,
    )


async def _subject(how: How, name: str, model: str, payloads: Sequence[Payload]) -> Subject:
    how.say(f"L5: prepare {name}")
    given = await calibrate(how.inputs.recording(payloads), model, store=how.store)
    found, variant = how.store.find(model)
    spec = ModelSpec(found, variant, how.store.files(found, variant), options=dict(given.options))
    return Subject(name, spec, given.items)


def _compiled(
    how: How, subjects: Sequence[Subject], column: str, runs: int, precision: dict[str, str]
) -> Trial:
    backend, options = BACKENDS[column]

    async def once(turn: int) -> Reading:
        read: dict[tuple[str, str], float] = {}
        for each in subjects:
            spec = msgspec.structs.replace(each.spec, options={**each.spec.options, **options})
            found = await alone(how.start, backend, spec, each.items, batches=BATCHES, runs=runs)
            precision[column] = found.properties.get("precision", "unknown")
            read |= {(each.name, f"batch of {batch}"): ms for batch, ms in found.run_ms.items()}
            read[each.name, "load"] = found.load_ms
        return read

    return once


def _eager(subject: Subject, runs: int) -> Trial:
    opened: list[Eager] = []

    async def once(turn: int) -> Reading:
        if not opened:
            opened.append(await in_thread(Eager, subject.spec.files["model.onnx"]))
        read = {}
        for batch in BATCHES:
            items = [subject.items[place % len(subject.items)] for place in range(batch)]
            read[subject.name, f"batch of {batch}"] = await in_thread(opened[0].run_ms, items, runs)
        return read

    return once
