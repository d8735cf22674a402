"""How sure a shortcut is of its answer, where nobody says otherwise."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

from tauten.describe.passages import Answer, Found
from tauten.describe.said import Said
from tauten.errors import StageError
from tauten.run.contracts import Evidence

Score = Callable[[Any], Any]

NOT_AT_ALL = Evidence(-math.inf)  # it says itself that it has no answer: no gate lets that pass, or learns
SUREST = sys.float_info.max  # that a gate can count, and keep


def evidence_of(step: str, value: Any, score: Score | None = None) -> Evidence:
    """The score of a value, by a function of the workflow or by what its type tells of itself.

    Found passages: the cosine of the first, and by what share it leads. A quoted answer: its own confidence. What a
    model said with its log probabilities: the geometric mean of those of its tokens.
    """
    if score is not None:
        try:
            return told(step, score(value))
        except StageError:
            raise
        except Exception as error:
            raise StageError(
                f"the score of '{step}' raised {error.__class__.__name__}: {error}",
                help="the chained error shows the line in your code",
            ) from error
    if isinstance(value, Found):
        return _of_found(value)
    if isinstance(value, Answer):
        return Evidence(value.confidence) if value.found else NOT_AT_ALL
    said = value if isinstance(value, list) else [value]
    logprobs = [token.logprob for each in said if isinstance(each, Said) for token in each.tokens]
    if logprobs:
        return Evidence(math.exp(math.fsum(logprobs) / len(logprobs)))
    raise StageError(
        f"'{step}' cannot tell how sure a {value.__class__.__name__} is",
        help="give tt.option(value, score=function): the higher, the surer",
    )


def told(step: str, score: Any) -> Evidence:
    """A number, or a number and its lead, as a score."""
    if isinstance(score, tuple) and len(score) == 2:
        return Evidence(_number(step, score[0]), _number(step, score[1]))
    return Evidence(_number(step, score))


def _number(step: str, score: Any) -> float:
    if score is None:
        return -math.inf  # it says nothing
    if isinstance(score, bool | int | float) and not math.isnan(score):
        return min(float(score), SUREST)
    raise StageError(
        f"the score of '{step}' is {score!r}", help="give a number, or (number, lead over the next best)"
    )


def _of_found(found: Found) -> Evidence:
    if not found:
        return NOT_AT_ALL
    first, *others = found.passages
    lead = 1.0 if not others or first.score <= 0.0 else 1.0 - others[0].score / first.score
    return Evidence(first.cosine, lead)
