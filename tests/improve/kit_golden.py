"""Golden files of strategies: a told situation in, what a strategy proposes and refuses for it out.

`golden/<strategy>.in.toml` holds cases that people write: a workflow of this file, a plan, a rate, an SLO, a machine,
and told figures. `golden/<strategy>.out.toml` is what came of each; `UPDATE_GOLDEN=1` writes it anew.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

import tauten as tt
from simulate.kit_desk import desk
from tauten.describe.slo import parse_slo
from tauten.examples.help_desk.desk import help_desk
from tauten.improve.compress.cards import READERS
from tauten.improve.situation import (
    Asks,
    First,
    Proposal,
    Repeated,
    Said,
    Situation,
    Strategy,
    Tokens,
    Unbuilt,
)
from tauten.plan.card import Card
from tauten.plan.hardware import Hardware
from tauten.plan.lower import lower
from tauten.plan.plan import ModelChoice, Plan, diff_plans, parse_plan

GOLDEN = Path(__file__).parent / "golden"


class Sources(msgspec.Struct, frozen=True):
    """What was found, best first."""

    passages: tuple[tt.Text, ...] = ()


@tt.stage(pure=True)
def found_in(question: tt.Text) -> Sources:
    """The same passages for every question."""
    said = (
        "The with statement closes a file properly after its suite finishes, even if an exception is raised.",
        "Raised when the second argument of a division or modulo operation is zero.",
        "Return the number of items in a container, such as a string, a list or a range.",
    )
    return Sources(tuple(tt.Text(each) for each in said))


@tt.workflow
def chat(question: tt.Text, audience: tt.Text) -> tt.Stream[tt.Text]:
    """Answers from passages; its template says the same again behind what changes."""
    found = found_in(question)
    return tt.generate(
        "[system]\nYou answer for {{ audience }}.\n[user]\n{{ passages }}\n\nAnswer in one sentence.\n\n{{ question }}",
        passages=found.passages,
        question=question,
        audience=audience,
    )


SHOTS = """+++
name = "short answers"

[variables]
passage = "text"
question = "text"

[formats.sentence]
answer = "The loop variable keeps its last value after the loop has come to its end."
[formats.words]
answer = "It keeps its last value."
+++
[system]
Answer from the passage.
+++ format sentence
Write one whole sentence of at most twenty words.
+++ format words
Write at most six words.
+++ format list
Write a list of all that the passage says of it, one point a line, the most important one first of all of them.
+++ example loop
[user]
Unlike in C, the loop variable keeps its last value after the loop. It is an ordinary variable of the function.
What is the value of i after my for loop?
[assistant]
The loop variable keeps its last value.
+++ example file
[user]
The best way to read a file line by line is to loop over the file object.
How do I read a file?
[assistant]
Loop over the file object.
+++
[user]
{{ passage }}
{{ question }}
"""


@tt.workflow
def shots(question: tt.Text, passage: tt.Text) -> tt.Stream[tt.Text]:
    """Asks with two examples, in the first of three formats."""
    return tt.generate(SHOTS, question=question, passage=passage)


@tt.workflow
def fixed_shots(question: tt.Text, passage: tt.Text) -> tt.Stream[tt.Text]:
    """The same, with its format and its examples written."""
    return tt.generate(
        SHOTS, question=question, passage=passage, prompt_format="words", without_examples=["file"]
    )


@tt.workflow
def voice(answer: tt.Text) -> tt.Stream[tt.Audio]:
    return tt.speak(answer)


@tt.workflow
def page(photo: tt.Image) -> tt.Page:
    return tt.ocr(photo)


@tt.workflow
def heard(question: tt.Audio) -> tt.Text:
    return tt.transcribe(question)


@tt.workflow
def meaning(text: tt.Text) -> tt.Tensor:
    return tt.embed(text)


@tt.workflow
def picture(photo: tt.Image) -> tt.Labels:
    return tt.classify(photo)


WORKFLOWS = {
    each.name: each
    for each in (desk, help_desk, chat, shots, fixed_shots, voice, picture, page, heard, meaning)
}


class ToldStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured of a step; of its models by role."""

    work_ms: float = 0.0
    run_ms: dict[str, float] = {}
    asks: dict[str, Asks] = {}
    tokens: dict[str, Tokens] = {}
    quoted: float | None = None
    repeats: float = 0.0  # the share of requests that a cache would meet again


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One situation."""

    name: str
    workflow: str
    steps: dict[str, ToldStep]
    plan: dict[str, dict[str, Any]] = {}
    rate: float = 1.0
    slo: str = "p95<500ms"
    cores: int = 2
    flags: tuple[str, ...] = ("avx512", "amx")
    cards: list[Card] = []
    unbuilt: dict[str, list[Unbuilt]] = {}
    firsts: list[First] = []
    counts: bool = True  # whether the tokenizer of its model is here


class ToldFacts:
    """Facts as a case tells them."""

    def __init__(self, steps: dict[str, ToldStep], firsts: Sequence[First] = ()) -> None:
        self.steps = steps
        self._firsts = firsts

    def _step(self, name: str) -> ToldStep:
        return self.steps.get(name, ToldStep())

    def work_s(self, step: str) -> float:
        return self._step(step).work_ms / 1e3

    def asks(self, step: str, role: str) -> Asks:
        return self._step(step).asks.get(
            role, Asks(1.0, 1.0, 1.0) if self.run_s(step, role) else Asks(0, 0, 0)
        )

    def run_s(self, step: str, role: str) -> float:
        return self._step(step).run_ms.get(role, 0.0) / 1e3

    def tokens(self, step: str, role: str) -> Tokens:
        return self._step(step).tokens.get(role, Tokens(*[0.0] * len(Tokens._fields)))

    def quoted(self, step: str) -> float | None:
        return self._step(step).quoted

    def firsts(self) -> Sequence[First]:
        return self._firsts

    def repeats(self, step: str) -> Repeated:
        return Repeated(self._step(step).repeats, 0.00003)


class ToldForms:
    """Forms as a case tells them; formats are read as they are here."""

    def __init__(self, case: Case) -> None:
        self.case = case

    def cards(self, model: str) -> Sequence[Card]:
        return [card for card in self.case.cards if card.model == model]

    def unbuilt(self, model: str) -> Sequence[Unbuilt]:
        return self.case.unbuilt.get(model, [])

    def readers(self, format: str) -> Sequence[str]:
        return READERS.get(format, ())

    def counted(self, choice: ModelChoice, said: Said) -> int | None:
        """A token a word, and three for the marks of a message."""
        if not self.case.counts:
            return None
        if isinstance(said, str):
            return len(said.split())
        return sum(3 + len(each["content"].split()) for each in said)


def cases(strategy: str) -> list[Case]:
    """The situations that a strategy is held to."""
    raw = tomllib.loads((GOLDEN / f"{strategy}.in.toml").read_text())
    return msgspec.convert(raw["case"], list[Case])


def situation(case: Case) -> Situation:
    graph = WORKFLOWS[case.workflow].graph
    assert graph is not None
    return Situation(
        graph,
        plan_of(case),
        Hardware(case.cores, case.flags, 24),
        parse_slo(case.slo),
        case.rate,
        ToldFacts(case.steps, case.firsts),
        ToldForms(case),
    )


def plan_of(case: Case) -> Plan:
    import tomlkit

    graph = WORKFLOWS[case.workflow].graph
    assert graph is not None
    text = tomlkit.dumps({"tauten": "plan/1", "graph": graph.hash, "stage": case.plan})
    return parse_plan(text, name="before")


def said(strategy: Strategy, case: Case) -> str:
    """What a strategy says of a case, as the golden file holds it."""
    seen = situation(case)
    lines = [f"# {case.name}"]
    for each in strategy.propose(seen):
        if isinstance(each, Proposal):
            lower(seen.graph, each.plan)  # it can be opened
            lines += [
                "[[proposal]]",
                *_told(case=case.name, change=each.change, answers=each.answers, why=each.why),
            ]
            lines += [f"diff = {_array(changes(seen.plan, each.plan))}"]
        else:
            lines += ["[[refusal]]", *_told(case=case.name, change=each.change, why=each.why)]
        lines.append("")
    return "\n".join(lines)


def changes(before: Plan, after: Plan) -> list[str]:
    """Lines of TOML that differ, as `stage.key = value`."""
    return [
        f"{stage}.{key} = {'default' if new is None else _toml(new)}"
        for stage, key, _, new in diff_plans(before, after)
    ]


def _told(**values: str) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in values.items() if value]


def _array(lines: list[str]) -> str:
    return "[" + ", ".join(_toml(each) for each in lines) + "]"


def _toml(value: Any) -> str:
    import tomlkit

    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return str(tomlkit.item(list(value) if isinstance(value, tuple) else value).as_string())
