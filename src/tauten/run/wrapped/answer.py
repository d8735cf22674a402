"""What the answers of a client say of their tokens: whole ones, pieces and events, of OpenAI, Anthropic and Google."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tauten.run.remote.units import counted, tokens_of

_USAGE: Final = ("usage", "usage_metadata")
_INSIDE: Final = ("message", "response")  # of an event that carries a whole answer
_GOOGLE: Final = {
    "prompt_token_count": "input_tokens",
    "cached_content_token_count": "cached_tokens",
    "candidates_token_count": "output_tokens",
    "thoughts_token_count": "reasoning_tokens",
}
_CACHED: Final = {
    "cache_read_input_tokens": "cached_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}


class Answer:
    """The counts of one answer, as its pieces come: the provider's own, and what came so far."""

    def __init__(self) -> None:
        self.units: dict[str, float] = {}  # by the provider; counts in streams rise
        self.pieces = 0
        self.characters = 0
        self.model = ""
        self.request_id = ""

    def add(self, piece: Any) -> None:
        """One piece, or the whole."""
        for part in (piece, *(_get(piece, name) for name in _INSIDE)):
            self._read(part)
        text = _text(piece)
        self.pieces += bool(text)
        self.characters += len(text)

    def _read(self, part: Any) -> None:
        for name in _USAGE:
            for unit, amount in units_of(_get(part, name)).items():
                self.units[unit] = max(self.units.get(unit, 0.0), amount)
        self.model = self.model or _word(_get(part, "model"))
        self.request_id = self.request_id or _word(_get(part, "_request_id")) or _word(_get(part, "id"))

    @property
    def made_tokens(self) -> float:
        """Of the answer, at least: as counted so far, as pieces came, or as long as they are."""
        return max(self.units.get("output_tokens", 0.0), float(self.pieces), tokens_of(self.characters))


def units_of(usage: Any) -> dict[str, float]:
    """A usage record in the units of the books, whoever wrote it; empty for none."""
    told = _mapping(usage)
    found = counted(told)
    for theirs, ours in _GOOGLE.items():
        _add(found, ours, told.get(theirs))
    if (
        "prompt_token_count" in told and "reasoning_tokens" in found
    ):  # Google counts thoughts beside the answer
        found["output_tokens"] = found.get("output_tokens", 0.0) + found["reasoning_tokens"]
    parts = {ours: told.get(theirs) for theirs, ours in _CACHED.items() if theirs in told}
    for (
        ours,
        amount,
    ) in parts.items():  # Anthropic counts what was cached beside the prompt; the books within it
        if _add(found, ours, amount):
            found["input_tokens"] = found.get("input_tokens", 0.0) + found[ours]
    return found


def _add(found: dict[str, float], unit: str, amount: Any) -> bool:
    if isinstance(amount, bool) or not isinstance(amount, int | float):
        return False
    if not amount > 0 or not math.isfinite(amount):
        return False
    found[unit] = float(amount)
    return True


def _mapping(value: Any) -> Mapping[str, Any]:
    """A record as a mapping, and those in it."""
    if isinstance(value, Mapping):
        return value
    if value is None or isinstance(value, str | bytes | int | float | list | tuple):
        return {}
    if callable(dump := getattr(value, "model_dump", None)):
        made = dump()
        return made if isinstance(made, Mapping) else {}
    fields: dict[str, Any] = getattr(value, "__dict__", {})
    return {name: _mapping(each) if name.endswith("_details") else each for name, each in fields.items()}


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _text(piece: Any) -> str:
    """What a piece of a stream says; empty for one that says nothing, and for what is no piece."""
    return "".join(_texts(piece))


def _texts(piece: Any) -> Iterator[str]:
    delta = _get(piece, "delta")
    yield _word(delta)
    yield _word(_get(delta, "text"))
    choices = _get(piece, "choices")
    for choice in choices if isinstance(choices, list | tuple) else ():
        yield _word(_get(_get(choice, "delta"), "content"))
