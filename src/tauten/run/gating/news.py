"""What other processes proved or closed meanwhile: who stands behind a gate asks for it now and then."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import logging
import math
from typing import Final, Protocol

from tauten.errors import InputError

log = logging.getLogger("tauten.run.gating")

NEWS_S: Final = (
    5.0  # between looks at the file of a gate: who certifies one waits no longer than for a page to load
)


class Refreshed(Protocol):
    """A gate that somebody else may certify or close."""

    def refresh(self) -> bool:
        """Go by what was proved elsewhere since."""
        ...


class News:
    """Of one gate. `heard` is when its state was read last; without it the first request has it looked at."""

    def __init__(self, gate: Refreshed, heard: float = -math.inf) -> None:
        self._gate = gate
        self._heard = heard

    def hear(self, now: float) -> None:
        """Look whether there is any, if that is due. A file that cannot be read changes nothing, and is said."""
        if now < self._heard + NEWS_S:
            return
        self._heard = now
        try:
            self._gate.refresh()
        except InputError as error:
            log.warning("the gate goes by what it knows: %s", error)
