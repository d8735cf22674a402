"""Runs a model in shorter numbers: a precision of its engine, or a form of the model whose weights are stored in them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

from tauten.improve.situation import FULL, Proposal, Refusal, Situation, computes_in, label, with_choice
from tauten.improve.turned import turned
from tauten.plan.card import Card, CardLatency
from tauten.plan.lower import Step
from tauten.plan.plan import ModelChoice
from tauten.run.contracts import find

WORTH = 0.01  # of the time: a form that is less faster is not worth another answer


class Quantize:
    """Each precision that a model's engine offers, where this machine has units for it; and each other form of the
    model that lies here, unless its card says that it gains nothing or was rejected."""

    name: ClassVar[str] = "quantize"
    reason: ClassVar[str] = (
        "first of those that may change answers: it gains most where a model is what takes long"
    )

    def propose(self, seen: Situation) -> Iterator[Proposal | Refusal]:
        for step, role, choice in seen.models():
            if why := seen.idle(step):
                yield Refusal(self.name, f"{label(step, role)} in shorter numbers", why)
                continue
            yield from self._precisions(seen, step, role, choice)
            yield from self._forms(seen, step, role, choice)
            yield from self._unbuilt(seen, step, role, choice)
        yield from (each for each in turned(self.name, seen) if isinstance(each, Proposal))

    def _precisions(
        self, seen: Situation, step: Step, role: str, choice: ModelChoice
    ) -> Iterator[Proposal | Refusal]:
        what = label(step, role)
        offered = getattr(find("backends", choice.backend), "precisions", ())
        if not offered:
            yield Refusal(self.name, f"{what} in shorter numbers", f"{choice.backend} runs the file as it is")
        present = computes_in(choice, seen.hardware)
        for precision in offered:
            if precision == present:
                if not choice.precision:
                    why = f"{choice.backend} computes in {precision} here by itself: the same answers in the same time"
                    yield Refusal(self.name, f"{what} in {precision}", why)
                continue
            if precision == "bf16" and "amx" not in seen.hardware.flags:
                why = "this machine has no unit for bf16: the engine would convert back and forth"
                yield Refusal(self.name, f"{what} in {precision}", why)
                continue
            plan = with_choice(seen.plan, step, role, precision=precision)
            yield Proposal(self.name, f"{what} in {precision}", plan, "lossy")

    def _forms(
        self, seen: Situation, step: Step, role: str, choice: ModelChoice
    ) -> Iterator[Proposal | Refusal]:
        cards = {card.variant: card for card in seen.forms.cards(choice.model)}
        usual = step.kind.roles[role].variant if step.kind is not None else ""
        source = cards.get(usual) or next(iter(cards.values()), None)  # what the others were made of
        present = cards.get(choice.variant) or source
        for card in cards.values():
            if card in (source, present):
                continue
            what = f"{label(step, role)} as {card.variant}"
            backend = _reader(seen, step, role, choice, card)
            if not backend:
                yield Refusal(self.name, what, f"none of its stage's engines reads {card.format}")
            elif why := _why_not(seen, choice, card, [each for each in (source, present) if each], backend):
                yield Refusal(self.name, what, why)
            else:
                changes = {} if backend == choice.backend else {"backend": backend, "precision": ""}
                plan = with_choice(seen.plan, step, role, variant=card.variant, **changes)
                yield Proposal(self.name, what, plan, "lossy", _told(card, backend, choice.threads))

    def _unbuilt(self, seen: Situation, step: Step, role: str, choice: ModelChoice) -> Iterator[Refusal]:
        """What could be built, in one line; what had better not be, each with its reason."""
        what, advised = label(step, role), []
        for each in seen.forms.unbuilt(choice.model):
            if each.doubt:
                yield Refusal(self.name, f"{what} by {each.recipe}", each.doubt)
            elif _readers(seen, step, role, each.writes):
                advised.append(each.recipe)
        if advised:
            why = f"not built here: {', '.join(advised)}; `tauten model build {choice.model} --recipe {advised[0]}`"
            yield Refusal(self.name, f"{what} in another form", why)


def _readers(seen: Situation, step: Step, role: str, format: str) -> list[str]:
    assert step.kind is not None  # a model's step is a stage
    able = seen.forms.readers(format)
    return [backend for backend in step.kind.roles[role].backends if backend in able]


def _reader(seen: Situation, step: Step, role: str, choice: ModelChoice, card: Card) -> str:
    """The engine for a form: the present one where it reads it, else the one that runs it fastest by its card."""
    able = _readers(seen, step, role, card.format)
    if choice.backend in able or not able:
        return choice.backend if able else ""
    return min(
        able, key=lambda each: row.mid_ms if (row := _row(card, each, choice.threads)) else float("inf")
    )


def _why_not(seen: Situation, choice: ModelChoice, card: Card, known: Sequence[Card], backend: str) -> str:
    """Why a form is not worth trying, by its card and those of what it was made of and of what runs now."""
    if card.verdict == "reject":
        return f"the gate rejected it{_quality(card)}"
    row = _row(card, backend, choice.threads)
    if row is None or (card.made_on and card.made_on != str(seen.hardware)):
        return ""  # figures of another machine refuse nothing
    rows = [(each_row, each) for each in known if (each_row := _row(each, backend, choice.threads))]
    same = [(each_row, each) for each_row, each in rows if each_row.threads == row.threads]
    if not same:
        return ""
    best, other = min(same, key=lambda each: each[0].mid_ms)
    if row.mid_ms <= best.mid_ms * (1.0 - WORTH):
        return ""
    saved = other.memory_bytes - card.memory_bytes if card.memory_bytes and other.memory_bytes else 0
    less = f", though it takes {saved / 1e6:.0f} MB less" if saved > 0 else ""
    return (
        f"no gain on this engine: a run takes {_ms(row)} on {backend}{_quality(card)}, "
        f"and {other.variant} {_ms(best)}{_default(seen, backend)}{less}"
    )


def _default(seen: Situation, backend: str) -> str:
    """What an engine computes in when nobody tells it, where that is not what the file holds."""
    chooses = computes_in(ModelChoice(backend=backend), seen.hardware)
    return f" in {chooses}, which that engine chooses here" if chooses != FULL else ""


def _row(card: Card, backend: str, threads: int) -> CardLatency | None:
    """Of a single item, as the plan runs it; else as its engine does by default."""
    return card.latency_at(1, threads, backend) or card.latency_at(1, 0, backend)


def _ms(row: CardLatency) -> str:
    return f"{row.mid_ms:.3g} ms ({row.low_ms:.3g}-{row.high_ms:.3g})"


def _quality(card: Card) -> str:
    """What its card says of its answers, to be put behind a clause."""
    if not card.quality:
        return ""
    row = card.quality[-1]
    against = f" against {row.against}" if row.against else ""
    return f" ({row.metric} {row.value:.3g}, {row.low:.3g}-{row.high:.3g}, n = {row.n}{against})"


def _told(card: Card, backend: str, threads: int) -> str:
    """A form as its card describes it."""
    row = _row(card, backend, threads)
    said = [f"a run takes {_ms(row)} on {backend}" if row else f"never measured on {backend}"]
    if card.size_bytes:
        said.append(f"{card.size_bytes / 1e6:.3g} MB")
    if card.quality:
        said.append(_quality(card).strip(" ()"))
    if card.verdict:
        said.append(f"verdict: {card.verdict}" + (f", n >= {card.needed}" if card.needed else ""))
    return "; ".join(said)
