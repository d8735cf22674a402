"""What a semantic tier asks before it gives anything: whether likeness of that score may be taken for equality."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from numpy.typing import NDArray


class Gate(Protocol):
    """Says from evidence which scores may be used. Without evidence it allows none."""

    def allows(self, score: float, tenant: str, category: str) -> bool: ...

    def observe(self, score: float, correct: bool, tenant: str, category: str) -> None:
        """What giving it would have been, or was: right or wrong."""
        ...


Embed = Callable[[str], Awaitable[NDArray[Any]]]
"""A vector of length one for a text."""

Same = Callable[[Any, Any], Awaitable[bool]]
"""Whether two results serve as well: (what was given, what the step gives)."""
