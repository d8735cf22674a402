"""Requests that are wrong in themselves: a target that takes not one of them is not measured any longer."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Final

from tauten.errors import InputError
from tauten.improve.load.generator import Stop
from tauten.improve.load.samples import Sample, Samples

ENOUGH: Final = 20  # answers: a recording in which so many wrong requests lead is nobody's

_HELP: Final = {
    "HTTP 401": "put a key of the server into TAUTEN_API_KEY",
    "HTTP 403": "put a key of the server that may do this into TAUTEN_API_KEY",
    "HTTP 404": "check the address: its path and the name in it",
    "HTTP 405": "check the address: its path takes no POST",
}
_ANY: Final = "send one with curl and mend that first; the key comes from TAUTEN_API_KEY"


class Mistaken:
    """Ends a run whose answers all say that the request itself is wrong (4xx, but neither 408 nor 429).

    Decided by the whole warm-up, or by the first `ENOUGH` answers; `stop` may end the run as well.
    """

    def __init__(self, stop: Stop | None = None) -> None:
        self.stop = stop
        self.found = False
        self._wrong = 0
        self._warm = False
        self._looking = True

    def __call__(self, sample: Sample) -> bool:
        """Whether the run is over."""
        if self._looking:
            self._look(sample)
        return self.found or (self.stop is not None and self.stop(sample))

    def _look(self, sample: Sample) -> None:
        self._looking = sample.wrong
        self._wrong += sample.wrong
        self.found = sample.wrong and (self._wrong >= ENOUGH or (self._warm and sample.due >= 0))
        self._warm = self._warm or sample.due < 0

    def check(self, samples: Samples) -> None:
        """Raise InputError E248 where it was found."""
        if not self.found:
            return
        error = samples.first_error()
        raise InputError(
            f"each of the first {self._wrong} answers is a refusal: {error}",
            help=_HELP.get(error.partition(":")[0], _ANY),
            code="E248",
        )
