"""What good means: a metric that the user writes, from an answer and its label to a score."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, overload

from tauten.errors import InputError


class Metric:
    """What good means: a function of an answer and its label, to a score in 0..1 (True is 1).

    `enough` says of a streamed answer, as far as it has come, whether the score is the same whatever still comes: where
    only scores are wanted, the rest is then not computed. So a failure in the rest is not seen there.
    """

    def __init__(
        self, function: Callable[..., Any], name: str = "", enough: Callable[[Any], Any] | None = None
    ) -> None:
        self.function = function
        self.enough = enough
        self.name = name or getattr(function, "__name__", "metric")
        self.description = (inspect.getdoc(function) or "").partition("\n")[0]

    @property
    def revision(self) -> str:
        """Another one when the file is that its function stands in; empty where that is no file."""
        try:
            return hashlib.sha256(Path(inspect.getfile(self.function)).read_bytes()).hexdigest()
        except (OSError, TypeError):  # typed in at a prompt, or not written in Python
            return ""

    def __call__(self, answer: Any, label: Any) -> float:
        """The score of one answer; raises InputError when the function gives anything but 0..1."""
        score = self.function(answer, label)
        if not isinstance(score, (bool, int, float)) or not 0.0 <= score <= 1.0:
            raise InputError(
                f"metric `{self.name}` gave {score!r}, expected True, False or a number in 0..1",
                help="return 1 for a perfect answer and 0 for a useless one",
                code="E253",
            )
        return float(score)

    def __repr__(self) -> str:
        return f"<metric {self.name}>"


@overload
def metric(function: Callable[..., Any], /) -> Metric: ...
@overload
def metric(
    *, name: str = "", enough: Callable[[Any], Any] | None = None
) -> Callable[[Callable[..., Any]], Metric]: ...
def metric(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str = "",
    enough: Callable[[Any], Any] | None = None,
) -> Any:
    """Make a metric of ``def good(answer, label) -> bool | float``; what `enough` is says `Metric`."""
    return Metric(function, name) if function is not None else lambda body: Metric(body, name, enough)
