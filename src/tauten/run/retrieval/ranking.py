"""How an index puts two rankings together, and when it says that it does not know.

The numbers in `IndexSettings` were tuned on the development questions of the help desk alone
(examples/help_desk/questions_dev.toml); the recording it is judged by was not looked at.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence, Set
from typing import Annotated

import msgspec

_DOTTED = re.compile(r"\b[A-Za-z_]\w*+(?:\.[A-Za-z_]\w*+)*+")  # possessive: linear time, whatever is asked
_ENDINGS = ("Error", "Exception", "Warning", "Interrupt", "Exit", "Iteration", "Expired", "Group")
_TOOL = re.compile(r"[a-z0-9-]+(?:\+\+|#|\.js)?")
FOREIGN = (
    "npm node node.js javascript typescript java c++ c# golang rust ruby rails php perl swift kotlin scala "
    "haskell matlab excel pandas numpy matplotlib scipy tensorflow pytorch scikit-learn sklearn django flask "
    "fastapi react vue angular css html docker kubernetes git github mysql postgres postgresql mongodb redis "
    "nginx apache maven gradle powershell bash photoshop wordpress android ios terraform ansible jquery dart "
    "flutter cmake gcc webpack yarn latex"
).split()
FOREIGN_ERRORS = (
    "java.",
    "nullpointer",
    "undefined",
    "segmentation fault",
    "core dumped",
    "npm err",
    "goroutine",
    "panicked at",
    "error[e",
    "parse error:",
    "uncaught",
)


class IndexSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an index was built with and how it searches; kept in the index."""

    model: str = "minilm-l6-v2"
    variant: str = "fp32"
    dim: Annotated[int, msgspec.Meta(ge=1)] = 384
    candidates: Annotated[int, msgspec.Meta(ge=1)] = (
        50  # of each half; beyond it a rank adds less than 1/60 to a score near 1/11
    )
    k0: Annotated[float, msgspec.Meta(ge=0)] = (
        10  # of reciprocal rank fusion; 60, the usual value, flattens the first places
    )
    lexical_weight: float = 1.5  # an error message shares its very words with the documentation
    name_vote: float = 0.06  # for the definition that the question or the error names
    generic_vote: float = 0.2  # the same when the question says nothing else ("what does this mean?")
    priors: dict[str, float] = {}  # factor on the score by source pattern
    title_vote: float = 0.06  # for a title that says what the question says
    later_title_vote: float = 0.0  # the same for a later piece of the section, whose subject has moved on
    refuse_below: float = 0.62  # refused when best cosine + cover_weight * best cover stays below
    cover_weight: float = 0.5
    known_error: float = 0.1  # added when the error names an exception that the documents define
    foreign: tuple[str, ...] = tuple(FOREIGN)  # other languages and tools
    foreign_errors: tuple[str, ...] = FOREIGN_ERRORS  # signs of their error messages


class Candidate(msgspec.Struct):
    """One chunk on its way through the fusion."""

    key: int
    source: str
    part: int = 0
    title: frozenset[str] = frozenset()
    cosine: float = 0.0
    bm25: float = 0.0
    dense_rank: int = 0
    lexical_rank: int = 0
    named: bool = False
    score: float = 0.0


def exception_names(*texts: str) -> list[str]:
    """The exception classes that texts name, in order, without their modules.

    >>> exception_names("json.decoder.JSONDecodeError: Expecting value", "a KeyError?")
    ['JSONDecodeError', 'KeyError']
    """
    found = (_exception(dotted) for text in texts for dotted in _DOTTED.findall(text))
    return list(dict.fromkeys(filter(None, found)))


def _exception(dotted: str) -> str:
    """The last part of a dotted name that is called like an exception class; empty where none is."""
    parts = reversed(dotted.split("."))
    return next((each for each in parts if "A" <= each[0] <= "Z" and each[1:].endswith(_ENDINGS)), "")


def fuse(
    candidates: Sequence[Candidate],
    settings: IndexSettings,
    asked: Set[str] = frozenset(),
    generic: bool = False,
) -> list[Candidate]:
    """Order candidates by weighted reciprocal ranks, votes and priors; ties by key. `asked` are stems."""
    vote = settings.generic_vote if generic else settings.name_vote
    for each in candidates:
        score = 1 / (settings.k0 + each.dense_rank) if each.dense_rank else 0.0
        if each.lexical_rank:
            score += settings.lexical_weight / (settings.k0 + each.lexical_rank)
        if each.named:
            score += vote
        weight = settings.title_vote if each.part == 0 else settings.later_title_vote
        score += weight * agreement(each.title, asked) ** 2  # squared: half a title is no title
        each.score = score * prior(each.source, settings)
    return sorted(candidates, key=lambda each: (-each.score, each.key))


_SAYS_NOTHING = frozenset(
    "wrong mistak kind problem fix issu code program crash messag except go print complain python tell fail "
    "solv thing script line screen see understand caus reason warn one now".split()
)  # stems of words that ask about whatever is on screen


_LONGEST_GENERIC = 100  # stems: who says nothing says it in fewer


def is_generic(stems: Sequence[str], named: Iterable[str]) -> bool:
    """Whether a question says nothing beyond the error it is about ("what does this mean?")."""
    if len(stems) > _LONGEST_GENERIC:
        return False
    spoken = {part for name in named for part in (name, *re.findall(r"[a-z]+", name))}
    return all(
        stem in _SAYS_NOTHING or any(name.startswith(stem) or stem in name for name in spoken)
        for stem in stems
    )


def agreement(title: Set[str], asked: Set[str]) -> float:
    """How much a title says what is asked: harmonic mean of the shares of shared stems, 0 to 1."""
    return 2 * len(title & asked) / (len(title) + len(asked)) if title else 0.0


def prior(source: str, settings: IndexSettings) -> float:
    """The factor of a source's kind; 1.0 without a matching pattern."""
    for pattern, factor in settings.priors.items():
        if fnmatch.fnmatchcase(source, pattern):
            return factor
    return 1.0


def foreign_words(question: str, settings: IndexSettings) -> list[str]:
    """The other languages and tools that a question names.

    >>> foreign_words("How do I merge in pandas?", IndexSettings())
    ['pandas']
    """
    asked = set(_TOOL.findall(question.lower()))
    return [word for word in settings.foreign if word in asked]


def refusal(
    question: str,
    error: str,
    title: str,
    known_error: bool,
    cosine: float,
    cover: float,
    settings: IndexSettings,
) -> str:
    """Why what was found should not be trusted, or an empty string.

    `title` is the first passage's. `cover` is the best BM25 as a share of what the question's words could
    reach: words that the documents do not have count against it, however often the others occur.
    """
    elsewhere = [word for word in foreign_words(question, settings) if not _mentions(title.lower(), word)]
    signs = [word for word in settings.foreign_errors if word in error.lower()]
    if signs:
        return f"the error does not come from Python ({signs[0]!r})"
    if elsewhere and not known_error:
        return f"the question is about {elsewhere[0]}, which the documents do not cover"
    near = cosine + settings.cover_weight * cover + (settings.known_error if known_error else 0.0)
    if near < settings.refuse_below:
        return f"the closest passage is not close enough ({near:.2f}, {settings.refuse_below:.2f} is needed)"
    return ""


def _mentions(text: str, word: str) -> bool:
    return re.search(rf"(?<![\w+#]){re.escape(word)}(?![\w+#])", text) is not None
