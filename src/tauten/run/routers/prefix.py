"""Equal beginnings of prompts go where they are kept: two places each, until the first output would be late there."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tauten.run.contracts import Allows, Ask, Candidate, Evidence, Outcome, Route, Stand

CHARACTERS = 512  # of a prompt that make its key: about 128 tokens, the least that providers keep


class PrefixRouter:
    """Each beginning has a first and a second home, by two hashes of it; the rest of the candidates are its exile.

    It goes to its first home, which has the prompt's keys and values, while the first output is foreseen in time
    there; then to its second, which has them soon; then to whoever gives the first output soonest. Homes are the two
    places with the highest hash of (place, beginning): one that leaves moves only what lived there (rendezvous
    hashing: Thaler and Ravishankar, IEEE/ACM Trans. Networking 6 (1998) 1-14). Two homes, chosen by state, are the
    idea of DualMap (ICLR 2026). `characters` of a prompt are its beginning; `patience_s` is waited at home where a
    request has no time by which its first output is due.
    """

    name: ClassVar[str] = "prefix"
    option_keys: ClassVar[Mapping[str, type]] = {"characters": int, "patience_s": float}
    judges: ClassVar[bool] = False

    def __init__(self, options: Mapping[str, Any], *, seed: int = 0, allows: Allows | None = None) -> None:
        self._characters = int(options.get("characters", CHARACTERS))
        self._patience_s = float(
            options.get("patience_s", 1.0)
        )  # reading a long prompt anew takes about that
        self._salt = seed.to_bytes(8, "big", signed=True)

    def route(self, ask: Ask, candidates: Sequence[Candidate]) -> Route:
        able = [each for each in candidates if each.healthy] or list(candidates)
        soonest = sorted(able, key=lambda each: (_first_s(each), each.load))
        beginning = ask.prefix[: self._characters]
        if not beginning:
            return Route(tuple(each.name for each in soonest), f"no prompt: {soonest[0].name} is soonest")
        homes = sorted(able, key=lambda each: self._hash(each.name, beginning), reverse=True)[:2]
        budget_s = min(ask.first_left_s, self._patience_s)
        for word, home in zip(("first", "second"), homes, strict=False):
            if _first_s(home) <= budget_s:
                return _route(home, soonest, f"{home.name} is the {word} home of this beginning")
        late = ", ".join(f"{home.name} {_first_s(home) * 1e3:.0f} ms" for home in homes)
        why = f"{soonest[0].name} is soonest: at home ({late}) the first output would miss {budget_s * 1e3:.0f} ms"
        return _route(soonest[0], soonest, why)

    def _hash(self, name: str, beginning: str) -> bytes:
        content = f"{name}\0{beginning}".encode()
        return hashlib.blake2b(content, digest_size=16, salt=self._salt).digest()

    def accepts(self, ask: Ask, evidence: Evidence) -> Stand:
        return Stand(True, "its answer is the answer")

    def ended(self, ask: Ask, name: str, outcome: Outcome, at: float) -> None:
        """Homes follow from the hashes alone."""


def _first_s(candidate: Candidate) -> float:
    return candidate.wait_s + candidate.first_s


def _route(first: Candidate, others: Sequence[Candidate], why: str) -> Route:
    return Route((first.name, *(each.name for each in others if each is not first)), why)
