"""Asks a language model with fewer tokens: without some of its examples, or for a shorter format."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

from tauten.describe.graph import Literal
from tauten.describe.template import Template
from tauten.improve.situation import Proposal, Refusal, Situation, Tokens
from tauten.improve.turned import with_settings
from tauten.plan.lower import Step
from tauten.plan.plan import ModelChoice

WITHOUT, FORMAT = "without_examples", "prompt_format"  # settings of stages that ask by a template
AT_ONCE = 3  # examples that are tried in a round: each is run on the recording, and the longest gain most


class Asking(NamedTuple):
    """A step that asks by a template, and the model that it asks."""

    step: Step
    template: Template  # as it stands under the present plan
    choice: ModelChoice
    tokens: Tokens

    @property
    def keeps_beginnings(self) -> bool:
        return bool(self.choice.options.get("prefix_cache"))


class Refine:
    """Few-shot examples one by one, the longest first, and the formats that a template offers. Tokens are counted by
    the model's own tokenizer; what they save in time follows from the measured rates. Answers may change: labels decide."""

    name: ClassVar[str] = "refine"
    reason: ClassVar[str] = (
        "before compact, which cuts off what is said: this changes only what the model is told"
    )

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        found = False
        for step in seen.stages():
            asking = _asking(seen, step)
            if asking is None:
                continue
            found = True
            if why := seen.idle(step) or _uncounted(seen, asking):
                yield Refusal(self.name, f"{step.name}: a shorter prompt", why)
                continue
            yield from self._examples(seen, asking)
            yield from self._formats(seen, asking)
        if not found:
            yield Refusal(self.name, "any stage", "no stage of this workflow asks a model by a template")

    def _examples(self, seen: Situation, asking: Asking) -> Iterator[Proposal | Refusal]:
        """Each of the longest left out by itself: the next round leaves out the next one."""
        name, gone = asking.step.name, asking.template.choice.without
        left = [each for each in asking.template.examples if each not in gone]
        if why := _kept(seen, asking, WITHOUT) or (
            "" if left else "its template has no example to leave out"
        ):
            yield Refusal(self.name, f"{name}: fewer examples", why)
            return
        sizes = {each: _fewer(seen, asking, _without(asking, each)) for each in left}
        left.sort(key=lambda each: -sizes[each])  # among equals the first one first
        for each in left[:AT_ONCE]:
            change, saved_s = f"{name}: without example {each}", sizes[each] * asking.tokens.read_s
            told = f"{sizes[each]} of {asking.tokens.prompt:.0f} tokens of a prompt, {saved_s * 1e3:.3g} ms a request"
            if asking.keeps_beginnings and asking.template.opens_with(f"example {each}"):
                why = f"{told} if it were read: it is part of the beginning that is kept"
                yield Refusal(self.name, change, why)
            elif saved_s < seen.worth_s:
                yield Refusal(self.name, change, f"{told}: too little to be worth a change")
            else:
                plan = with_settings(seen, asking.step, {WITHOUT: [*gone, each]})
                yield Proposal(self.name, change, plan, "lossy", f"saves {told}, at the measured rate")
        if len(left) > AT_ONCE:
            why = f"the {AT_ONCE} longest are tried first, and what follows then is measured anew"
            yield Refusal(self.name, f"{name}: without any of {len(left) - AT_ONCE} shorter examples", why)

    def _formats(self, seen: Situation, asking: Asking) -> Iterator[Proposal | Refusal]:
        name, template = asking.step.name, asking.template
        present = template.choice.format or next(iter(template.formats), "")
        others = [each for each in template.formats if each != present]
        if why := _kept(seen, asking, FORMAT) or ("" if others else "its template offers no other format"):
            yield Refusal(self.name, f"{name}: a shorter format", why)
            return
        for each in others:
            change = f"{name}: format {each}"
            saved_s, told = _saved(seen, asking, present, each)
            if saved_s is not None and saved_s < seen.worth_s:
                why = "too little to be worth a change" if saved_s > 0.0 else f"no shorter than {present}"
                yield Refusal(self.name, change, f"{told}: {why}")
                continue
            plan = with_settings(seen, asking.step, {FORMAT: each})
            yield Proposal(self.name, change, plan, "lossy", told)


def _asking(seen: Situation, step: Step) -> Asking | None:
    """None for a step that asks no language model, or asks what comes with the request."""
    source = seen.graph.stages[step.name].inputs.get("template")
    template = source.value if isinstance(source, Literal) else None
    if not isinstance(template, Template) or not {WITHOUT, FORMAT} <= step.params.keys():
        return None
    shown = template.choose(step.params[FORMAT] or "", step.params[WITHOUT] or ())
    found = ((role, choice) for role, choice in step.models.items() if choice.backend)
    return next(
        (Asking(step, shown, choice, seen.facts.tokens(step.name, role)) for role, choice in found), None
    )


def _uncounted(seen: Situation, asking: Asking) -> str:
    """Why nothing can be foretold; empty where it can."""
    if seen.forms.counted(asking.choice, asking.template.fixed) is None:
        return f"its tokens cannot be counted: the tokenizer of {asking.choice.model} is not here, or not to be had alone"
    return "" if asking.tokens.read_s else "how fast it reads a prompt was not measured"


def _kept(seen: Situation, asking: Asking, setting: str) -> str:
    """What a workflow writes, it keeps."""
    written = seen.graph.stages[asking.step.name].params
    return f"the workflow writes {setting}, and what it writes it keeps" if setting in written else ""


def _without(asking: Asking, example: str) -> Template:
    choice = asking.template.choice
    return asking.template.choose(choice.format, (*choice.without, example))


def _fewer(seen: Situation, asking: Asking, other: Template) -> int:
    """Tokens that another form of the template asks less, the marks of its messages included."""
    counts = [seen.forms.counted(asking.choice, each.fixed) or 0 for each in (asking.template, other)]
    return counts[0] - counts[1]


def _saved(seen: Situation, asking: Asking, present: str, other: str) -> tuple[float | None, str]:
    """Seconds that another format saves, and how that is known; None where no answer shows how long they get."""
    asked = _fewer(seen, asking, asking.template.choose(other, asking.template.choice.without))
    read = f"{-asked:+d} tokens of a prompt"
    formats = asking.template.front.formats
    answers = [formats[each].answer if each in formats else "" for each in (present, other)]
    if not all(answers):
        return (
            None,
            f"{read}; the template shows no answer in both formats, so that only a run tells how long they get",
        )
    counts = [seen.forms.counted(asking.choice, each) or 0 for each in answers]
    saved_s = asked * asking.tokens.read_s + (counts[0] - counts[1]) * asking.tokens.token_s
    told = f"{read}; its answer has {counts[1]} tokens, that of {present} {counts[0]}"
    told += f", which {'saves' if saved_s >= 0.0 else 'costs'} {abs(saved_s) * 1e3:.3g} ms a request"
    return saved_s, told
