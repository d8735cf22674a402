"""L1: what 8-bit weights save, in the file, in memory and in time, and what becomes of the decisions."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tauten.describe.payload import Payload, Text
from tauten.improve.compress.build import build
from tauten.improve.compress.calibration import calibrate
from tauten.improve.headlines.alone import alone
from tauten.improve.headlines.decisions import Decide, agreement, likeliest, nearest, results, words
from tauten.improve.headlines.how import How, without
from tauten.improve.headlines.rounds import Measure, Reading, Trial, lines
from tauten.improve.headlines.row import Column, Row
from tauten.run.contracts import ModelSpec

CLAIM = "8-bit weights: memory −75 %"

NAIVE, ZERO_EFFORT, OURS, ALSO = "fp32", "fp32, OpenVINO", "int8", "int8, OpenVINO"
BACKENDS = {NAIVE: "onnx", ZERO_EFFORT: "openvino", OURS: "onnx", ALSO: "openvino"}
COLUMNS = [
    Column(NAIVE, "the file as it was trained, on ONNX Runtime with its defaults"),
    Column(ZERO_EFFORT, "the same file on OpenVINO with its defaults"),
    Column(OURS, "the variant that a recipe built here, on ONNX Runtime"),
    Column(ALSO, "the same variant on OpenVINO"),
]
SHOWN = {
    "file": Measure("MB", headline=True),
    "resident memory": Measure("MB", headline=True),
    "load": Measure("ms"),
    "one run": Measure("ms", headline=True),
}


class Subject(NamedTuple):
    """A model, the recipe that makes it smaller with its settings, and what it decides."""

    name: str
    model: str
    recipe: str
    settings: Mapping[str, Any]
    decision: str
    decide: Decide


SUBJECTS = (
    Subject("EfficientNet-Lite0", "efficientnet-lite0", "ort_static", {}, "class", likeliest),
    Subject("MiniLM-L6", "minilm-l6-v2", "ort_dynamic", {"embeddings": True}, "nearest text", nearest),
)


async def measure(how: How) -> Row:
    """Build the variants unless they are here, then open each form anew in every round."""
    prepared = [await _prepared(how, each) for each in SUBJECTS]
    runs = 3 if how.quick else 20

    def trial(column: str) -> Trial:
        async def once(turn: int) -> Reading:
            read: dict[tuple[str, str], float] = {}
            for each in prepared:
                read |= await _opened(how, each, column, runs)
            return read

        return once

    rounds = await how.interleaved({name: trial(name) for name in BACKENDS}, "L1")
    return Row(
        id="L1",
        claim=CLAIM,
        naive=NAIVE,
        zero_effort=ZERO_EFFORT,
        ours=OURS,
        conditions=_conditions(prepared, runs),
        columns=without(COLUMNS, rounds.failed),
        lines=lines(rounds.readings, SHOWN, naive=NAIVE, zero_effort=ZERO_EFFORT, ours=OURS),
        quality=[await _quality(each) for each in prepared],
        notes=rounds.notes,
        rounds=len(rounds.others),
        others=rounds.typical,
        worst=rounds.worst,
    )


class Prepared(NamedTuple):
    """A subject with its two forms, and the items that none of them was calibrated on."""

    subject: Subject
    forms: Mapping[str, ModelSpec]
    items: Sequence[Any]
    how_built: str


async def _prepared(how: How, subject: Subject) -> Prepared:
    how.say(f"L1: prepare {subject.name}")
    texts: list[Payload] = [Text(each) for each in how.inputs.texts]
    payloads = texts if subject.decide is nearest else list(how.inputs.images)
    given = await calibrate(how.inputs.recording(payloads), subject.model, store=how.store)
    feeds, options = given.feeds[::2], dict(given.options)
    card = build(
        how.store, subject.model, subject.recipe, settings=subject.settings, items=feeds, tell=how.say
    )
    name, variant = how.store.find(subject.model)
    forms = {
        NAIVE: ModelSpec(name, variant, how.store.files(name, variant), options=options),
        OURS: ModelSpec(name, card.variant, how.store.files(name, card.variant), options=options),
    }
    return Prepared(subject, forms, given.items[1::2], card.variant)


def _form(prepared: Prepared, column: str) -> ModelSpec:
    return prepared.forms[NAIVE if column in (NAIVE, ZERO_EFFORT) else OURS]


async def _opened(how: How, prepared: Prepared, column: str, runs: int) -> dict[tuple[str, str], float]:
    spec, case = _form(prepared, column), prepared.subject.name
    found = await alone(how.start, BACKENDS[column], spec, prepared.items, runs=runs)
    read = {
        (case, "file"): spec.files["model.onnx"].stat().st_size / 1e6,
        (case, "load"): found.load_ms,
        (case, "one run"): found.run_ms[1],
    }
    return read | ({(case, "resident memory"): found.memory_mb} if found.memory_mb is not None else {})


async def _quality(prepared: Prepared) -> str:
    subject = prepared.subject
    before, after = [
        subject.decide(await results("onnx", prepared.forms[name], prepared.items)) for name in (NAIVE, OURS)
    ]
    return words(f"{subject.name} {prepared.how_built}", subject.decision, agreement(before, after))


def _conditions(prepared: Sequence[Prepared], runs: int) -> dict[str, str]:
    found = {
        each.subject.name: f"{each.how_built}; {len(each.items)} items that it was not calibrated on"
        for each in prepared
    }
    return found | {
        "each value": f"a fresh process: opened, warmed up, {runs} runs of one item, their median",
        "memory": "of the process, above what it held with the engine imported and no model open",
        "threads": "the engines' defaults: all cores",
    }
