"""A tokenizer of words, and a workflow whose answers take told times, to look at prompts without a model."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import tauten as tt
from tauten.improve.recording import Item, Label
from tauten.plan.plan import Plan, StagePlan
from tauten.run.contracts import Prompted

FIRST_MS, TOKEN_MS = 40.0, 5.0


class WordReader:
    """A token a word, with the space before it, and a chat template of one line a message."""

    context = 1000

    def __init__(self, *, spells: bool = True, strips: bool = False) -> None:
        self.spells = spells  # whether its tokens are pieces of the text
        self.strips = strips

    def read(self, item: Mapping[str, Any]) -> Prompted:
        text = item["prompt"] if "prompt" in item else "".join(map(self._message, item["messages"])) + "<say>"
        ends = [found.end() for found in re.finditer(r"\s*\S+", text)]
        return Prompted(text, len(ends), tuple(ends) if self.spells else None)

    def _message(self, message: Mapping[str, str]) -> str:
        content = message["content"].strip() if self.strips else message["content"]
        return f"<{message['role']}> {content} <end> "

    def count(self, text: str) -> int:
        return len(text.split())


ASK = """+++
[variables]
question = "text"
+++
[prompt]
Answer in one word.
+++ example sky
Q: What is blue?
A: sky
+++ example grass
Q: What is green, and grows wherever it is left alone?
A: grass
+++
Q: {{ question }}
A:"""


@tt.workflow
def asked(question: tt.Text) -> tt.Stream[tt.Text]:
    """Asks with two examples."""
    return tt.generate(ASK, question=question, max_tokens=8)


@tt.metric
def long_enough(answer: tt.Text, label: Label) -> bool:
    """Whether an answer has the words that are wanted."""
    return len(answer.text.split()) >= int(label.answer)


def told(**settings: Any) -> Plan:
    """Its language model is a told one; the graph that it is for is said later."""
    options = {
        "prefill_ms": FIRST_MS,
        "ms_per_token": TOKEN_MS,
        "answer": "constant",
        "value": "a b c",
        **settings,
    }
    return Plan(stages={"generate": StagePlan(model="told", backend="synthetic_slots", settings=options)})


def items(count: int, wanted: int = 3) -> list[Item]:
    """Questions of different lengths; answers are to have so many words."""
    return [
        Item(
            id=f"item {number}",
            render=lambda number=number: {"question": tt.Text("why " * (number + 1))},  # type: ignore[misc]
            label=Label(answer=wanted),
        )
        for number in range(count)
    ]
