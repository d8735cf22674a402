"""The tokens that a model of an option will read and make for a request, before it is asked."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tauten.describe.graph import FromInput, Listed, Literal, Source
from tauten.describe.passages import Found, Passage
from tauten.describe.payload import Text
from tauten.describe.template import Template
from tauten.plan.lower import Step
from tauten.run.bound import BoundStep
from tauten.run.contracts import PromptReader, find
from tauten.run.deploy.slots_deployment import CHARACTERS_A_TOKEN, SlotDeployment
from tauten.run.slots import Run
from tauten.run.workers import in_thread

KEPT: Final = 64  # answers whose lengths are remembered: the ninth of ten is then known to a few per cent
QUANTILE: Final = 0.9  # of those lengths: a bill that is foreseen too low is the worse mistake
MOST_TOKENS: Final = 512.0  # of an answer of which nothing is known: the default of `chat`
COUNTED: Final = (
    16_384  # characters that are counted by a tokenizer, some ms; of longer texts the ratio says as much
)
_GAIN: Final = 1 / 8  # of a new request, as round-trip estimators take it


class Tokens(NamedTuple):
    """What a model reads and makes."""

    read: float = 0.0
    made: float = 0.0

    @property
    def all(self) -> float:
        return self.read + self.made


class There(NamedTuple):
    """What of a prompt is there when a choice is made: its characters, and its tokens where they were counted."""

    characters: int = 0
    tokens: float | None = None


class Foresight:
    """One model of one step on the side of an option, at a deployment of streams.

    What is read is counted by the model's tokenizer where it is at hand, else by the characters that a token of that
    model had so far; the texts are those that are there when the choice is made, and what they lack (what is found
    between, what a template adds) is learned from what was read in the end. What is made is a high quantile of what
    the step made before; before it made anything, as much as it may.
    """

    def __init__(
        self, step: Step, place: SlotDeployment, slots: Mapping[str, int], reader: PromptReader | None
    ) -> None:
        self.step = step.name
        self.place = place
        self._reader = reader
        self._sources = [source for source in step.inputs.values() if not isinstance(source, Literal)]
        self._slots = slots
        self._written = "".join(_written(step))
        self._bound = _bound(step)
        self._lacks = 0.0  # tokens that the texts at hand fall short of
        self._made: deque[float] = deque(maxlen=KEPT)
        self._seen = 0

    def there(self, run: Run) -> There:
        """The texts that are there now."""
        texts = self._texts(run)
        characters = sum(map(len, texts))
        if self._reader is None or characters > COUNTED:
            return There(characters)
        return There(characters, float(sum(self._reader.count(each) for each in texts)))

    def tokens(self, there: There) -> Tokens:
        """What is foreseen, of what is there."""
        return Tokens(max(0.0, self._counted(there) + self._lacks), self._makes())

    def learn(self, there: There, took: Tokens) -> None:
        """What it took in the end, and what had been there; a result that was kept took nothing, and teaches nothing."""
        if not took.all:
            return
        gain = _GAIN if self._seen else 1.0
        self._seen += 1
        if took.read:
            self._lacks += (took.read - self._counted(there) - self._lacks) * gain
        self._made.append(took.made)

    def weight(self, tokens: Tokens) -> float:
        """A prompt of so many tokens in the unit by which its deployment knows prompts."""
        return tokens.read * self.place.streams.characters_a_token / CHARACTERS_A_TOKEN

    def _makes(self) -> float:
        if not self._made:
            return self._bound
        ordered = sorted(self._made)
        return min(self._bound, ordered[math.ceil(QUANTILE * len(ordered)) - 1])

    def _counted(self, there: There) -> float:
        """By the tokenizer, else by what the model is known of by now."""
        if there.tokens is not None:
            return there.tokens
        return there.characters / self.place.streams.characters_a_token

    def _texts(self, run: Run) -> list[str]:
        found = [self._written] if self._written else []
        for source in self._sources:
            found += _texts(self._value(source, run))
        return found

    def _value(self, source: Source, run: Run) -> Any:
        """What a source holds now; None of what is still to come."""
        if isinstance(source, Listed):
            return [self._value(member, run) for member in source.members]
        if isinstance(source, Literal):
            return source.value
        name = f"input.{source.name}" if isinstance(source, FromInput) else source.name
        value = run.values[self._slots[name]] if name in self._slots else None
        for attribute in filter(None, source.attribute.split(".")):
            value = getattr(value, attribute, None)
        return value


def foresights(step: Step, bound: BoundStep, slots: Mapping[str, int]) -> list[Foresight]:
    """Of each model of a step that makes tokens."""
    return [
        Foresight(step, place, slots, bound.readers.get(role))
        for role, place in bound.deployments.items()
        if isinstance(place, SlotDeployment)
    ]


async def open_readers(step: Step, bound: Mapping[str, BoundStep]) -> None:
    """The tokenizers of the models that a choice is made among, opened once, in a thread."""
    for side in step.sides.values():
        for each in side.steps():
            if each.name not in bound:
                continue
            for role, choice in each.models.items():
                open_reader = (
                    getattr(find("backends", choice.backend), "reader", None) if choice.backend else None
                )
                if open_reader is not None and role not in bound[each.name].readers:
                    files = bound[each.name].files[role]
                    bound[each.name].readers[role] = await in_thread(open_reader, files)


def _written(step: Step) -> Iterator[str]:
    """The texts that the workflow itself writes."""
    for source in step.inputs.values():
        if isinstance(source, Literal):
            yield from _texts(source.value)


def _texts(value: Any) -> list[str]:
    """The texts in a value; nothing of what is no text."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Text):
        return [value.text]
    if isinstance(value, Template):
        return [each["content"] for each in value.fixed]
    if isinstance(value, Found):
        return _texts(value.passages)
    if isinstance(value, Passage):
        return [value.chunk.text]
    if isinstance(value, Mapping):
        return _texts(list(value.values()))
    if isinstance(value, list | tuple):
        return [text for member in value for text in _texts(member)]
    return []


def _bound(step: Step) -> float:
    """As many tokens as its answer may have, where the workflow or the plan says it."""
    source = step.inputs.get("max_tokens")
    said = source.value if isinstance(source, Literal) else step.params.get("max_tokens")
    return float(said) if isinstance(said, int | float) and said > 0 else MOST_TOKENS


def took(spent: Sequence[tuple[str, str, float]], step: str) -> Tokens:
    """What a step, or each of its members, booked."""
    sums = {"input_tokens": 0.0, "output_tokens": 0.0}
    for visit, unit, amount in spent:
        if unit in sums and visit.partition("[")[0] == step:
            sums[unit] += amount
    return Tokens(sums["input_tokens"], sums["output_tokens"])
