"""What kind of answer a question wants: yes or no, how, why, where, when, how long, how many; and of which time."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tauten.run.caching.semantic.wording import Wording

_HELPERS: Final = "do|does|did|is|are|was|were|will|would|can|could|should|may|must|have|has|had"
_KINDS: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("why", r"\bwhy\b|\bhow come\b|\breason (?:that|why|for)\b"),
        ("how many", r"\bhow many\b|\bwhat number of\b"),
        ("how much", r"\bhow much\b"),
        ("how long", r"\bhow long\b"),
        ("how often", r"\bhow often\b"),
        ("who", r"\bwhose?\b|\bwhom\b"),
        ("where", r"\bwhere\b"),
        ("when", rf"\bwhen (?:{_HELPERS})\b"),
        ("what happens", r"\bwhat (?:happens|would happen|will happen)\b"),
        ("which", r"\bwhich\b"),
        ("how", r"\bhow\b|\b(?:way|manner|difference)\b|\bwhat (?:do|can|must|should) i do\b"),
        ("how", r"\b(?:can|could|would|will) you (?:please )?(?:explain|tell|show|help|describe)\b"),
        ("what", r"\bwhat\b"),
    )
)
_REQUEST: Final = re.compile(r"^(?:please )?(?:explain|tell|show|describe|help)\b|\bhow\b")
_ASKS_LENGTH: Final = re.compile(r"\b(?:measure|count|check|know|see) how (?:long|many|much|often)\b")
_POSSIBLE: Final = re.compile(r"\b(?:can|could|may|might|possible|able|allowed|permitted)\b")
_NEEDED: Final = re.compile(r"\b(?:must|should|need|needs|required|ought|have to|has to|necessary)\b")
_PAST: Final = re.compile(r"\b(?:did|was|were|had|has been|have been)\b")


class Kind(NamedTuple):
    """What is wanted: the kind of answer, whether it is about what may or must be, and whether about the past."""

    answer: str
    modal: str
    past: bool


def asked(one: Wording, other: Wording) -> str:
    """Why the two want another kind of answer; empty where they want the same."""
    mine, theirs = kind_of(one), kind_of(other)
    return "" if mine == theirs else f"one asks {_shown(mine)}, the other {_shown(theirs)}"


def kind_of(question: Wording) -> Kind:
    text = " ".join(question.words)
    plain = _ASKS_LENGTH.sub("how", text)  # "how do I measure how long ..." asks how
    answer = next((kind for kind, pattern in _KINDS if pattern.search(plain)), "")
    answer = answer or ("how" if _REQUEST.search(text) else "yes or no")
    timed = answer in ("yes or no", "when")
    return Kind(answer, _modal(text) if answer == "yes or no" else "", bool(timed and _PAST.search(text)))


def _modal(text: str) -> str:
    if _NEEDED.search(text):
        return "must"
    return "may" if _POSSIBLE.search(text) else ""


def _shown(kind: Kind) -> str:
    return " ".join(
        filter(None, (kind.answer, kind.modal and f"({kind.modal})", "of the past" if kind.past else ""))
    )
