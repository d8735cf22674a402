"""What a plan says of answers to questions that mean the same: which input may be worded otherwise, and what is promised."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tauten.describe.payload import Payload, Text
from tauten.describe.ports import PortType
from tauten.describe.stage import StageKind
from tauten.errors import PlanError, suggest
from tauten.plan.plan import CachePlan, SemanticPlan

LIKENESS: Final = "semantic"  # the tier that takes likeness for equality
USUAL: Final = SemanticPlan()
_NO_WORDS: Final = (bool, int, float, complex, bytes)


class Wrong(NamedTuple):
    """What contradicts itself, and what to do."""

    why: str
    help: str


def likeness_rules(rules: CachePlan) -> SemanticPlan | None:
    """How a cache takes likeness for equality; None where it does not.

    >>> likeness_rules(CachePlan(tiers=("memory", "semantic"))) == USUAL
    True
    """
    return (rules.semantic or USUAL) if LIKENESS in rules.tiers else None


def likeness_words(rules: SemanticPlan) -> str:
    """What a plan asks for, as EXPLAIN says it.

    >>> likeness_words(SemanticPlan(field="question"))
    'answers by likeness of question (minilm-l6-v2): at most 2% wrong with 95% confidence, 2% verified'
    """
    return (
        f"answers by likeness of {rules.field or 'the text'} ({rules.model}): at most {100 * rules.epsilon:.3g}% wrong with "
        f"{100 * rules.confidence:.3g}% confidence, {100 * rules.shadow:.3g}% verified"
    )


def wrongs(rules: CachePlan) -> Iterator[Wrong]:
    """What contradicts itself in the rules alone."""
    if rules.semantic is not None and LIKENESS not in rules.tiers:
        yield Wrong(f'semantic = {{...}} and no tier "{LIKENESS}"', f'write tiers = ["memory", "{LIKENESS}"]')
    if LIKENESS in rules.tiers and (rules.tiers[-1] != LIKENESS or len(rules.tiers) == 1):
        yield Wrong(
            f"tiers = {list(rules.tiers)} looks for what is alike before it has looked for what is the same",
            f'name "{LIKENESS}" last, behind one that keeps equal questions: ["memory", "{LIKENESS}"]',
        )
    for key, value, low, high in _bounds(rules.semantic or USUAL):
        if not low < value < high:
            yield Wrong(f"semantic.{key} = {value}", f"give a share above {low} and below {high:g}")
    if rules.semantic is not None and rules.semantic.threads < 0:
        yield Wrong(
            f"semantic.threads = {rules.semantic.threads}", "give 1 or more; 0 is the engine's choice"
        )


def _bounds(rules: SemanticPlan) -> Iterator[tuple[str, float, float, float]]:
    """Each share, and what it must lie between."""
    yield "epsilon", rules.epsilon, 0.0, 0.5  # half of them wrong is no cache
    yield "confidence", rules.confidence, 0.5, 1.0
    yield "shadow", rules.shadow, 0.0, 1.0 + 1e-9  # all of them may be
    yield "agree", rules.agree, 0.0, 1.0 + 1e-9


def check_likeness(where: str, kind: StageKind[..., Any], rules: CachePlan) -> None:
    """Raise PlanError E135 for a stage that is asked nothing that could be worded otherwise."""
    like = likeness_rules(rules)
    if like is None:
        return
    for wrong in _unfit(kind, like):
        raise PlanError(f"cache: {wrong.why}", help=wrong.help, where=where, code="E135")


def _unfit(kind: StageKind[..., Any], like: SemanticPlan) -> Iterator[Wrong]:
    for key in ("field", "category"):
        name = getattr(like, key)
        if name and name not in kind.inputs and kind.open_inputs is None:
            yield Wrong(f"semantic.{key} = {name!r} is no input of it", suggest(name, kind.inputs))
    port = kind.inputs.get(like.field)
    if port is not None and (like.field in kind.views or _wordless(port)):
        yield Wrong(
            f"semantic.field = {like.field!r} is {port}, which nobody words otherwise",
            "name an input that is text, or the messages of a conversation; `tiers` without `semantic` keeps the rest",
        )
    texts = [name for name, port in kind.inputs.items() if _is_text(port)]
    if not like.field and (len(texts) != 1 or kind.open_inputs is not None):
        seen = f"{len(texts)} of its inputs are text" if texts else "none of its inputs is surely one text"
        yield Wrong(
            f"{seen}: which of them may be worded otherwise?",
            'name it: semantic = { field = "question" }; all others must be the same',
        )


def _is_text(port: PortType) -> bool:
    return bool(port.kinds) and not port.many and all(each in (str, Text) for each in port.kinds)


def _wordless(port: PortType) -> bool:
    """Whether nothing that may come there has words, or it is a list of texts, which are no messages."""
    listed = (str, Text) if port.many else ()
    return bool(port.kinds) and all(kind in listed or _has_no_words(kind) for kind in port.kinds)


def _has_no_words(kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    return kind in _NO_WORDS or (issubclass(kind, Payload) and kind not in (Text, Payload))
