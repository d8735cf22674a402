"""What a semantic tier asks before it gives anything: whether likeness of that score may be taken for equality."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

from numpy.typing import NDArray

from tauten.run.contracts import Asker


class Gate(Protocol):
    """Says from evidence which scores may be used. Without evidence it allows none. `run/gating` has one."""

    def opens(self, tenant: str, category: str) -> bool:
        """Whether any score would be allowed there: else nobody need look."""
        ...

    def allows(self, score: float, tenant: str, category: str) -> bool: ...

    def shadows(self, score: float, tenant: str, category: str) -> float:
        """With what chance a hit of that score is answered by the step instead, and compared."""
        ...

    def observe(
        self, score: float, correct: bool, tenant: str, category: str, *, chance: float | None = None
    ) -> None:
        """What giving it would have been: right or wrong. `chance` is what it was drawn with; None: it was not allowed."""
        ...

    def took(self, tenant: str, category: str) -> None:
        """A hit was given."""
        ...

    def bound(self, tenant: str, category: str) -> float:
        """Of the hits there at most such a share is wrong, as far as was proved."""
        ...

    def refresh(self) -> bool:
        """Go by what was proved elsewhere since; called now and then, behind."""
        ...


Embed = Callable[[str], Awaitable[NDArray[Any]]]
"""A vector of length one for a text."""

ASKING: Final[ContextVar[Asker | None]] = ContextVar("tauten.asking", default=None)
"""For whom a text is embedded: what that takes is booked there, and waits in its turn."""

Same = Callable[[Any, Any], Awaitable[bool]]
"""Whether two results serve as well: (what was kept, what the step gives)."""
