"""One call to a provider, as it is booked: every attempt by itself, retries, hedges and cut streams included."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

Outcome = Literal["ok", "cancelled", "cut", "failed", "refused"]
"""Whole; ended by us; ended by them in mid-stream; an error; not taken on (429, or no room): the last costs nothing."""

UNITS: Final = (
    "input_tokens",  # all of the prompt, cached ones included
    "cached_tokens",  # of those read from the provider's cache
    "cache_write_tokens",
    "output_tokens",  # reasoning ones included
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "image_tokens",
    "audio_seconds",
    "characters",
    "requests",
    "sent_bytes",  # of calls that nobody bills by tokens
    "received_bytes",
)
"""What a provider may count; the closed list."""

MOST: Final = 1e12  # of a unit: no call takes so much


def is_count(amount: float) -> bool:
    """Whether a provider's number can be a count: below zero, and from `MOST` on, it is a mistake."""
    return 0 <= amount < MOST


def mistaken(units: Mapping[str, float]) -> bool:
    """Whether any of these numbers is none that a call can have taken."""
    return not all(is_count(amount) for amount in units.values())


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt. Instants in monotonic seconds of this process."""

    step: str  # its visit
    provider: str
    model: str  # as the provider calls it
    region: str = ""
    key: str = ""  # the name of the credential, never the credential
    started: float
    ended: float
    outcome: Outcome
    units: Mapping[str, float] = {}  # by the names of `UNITS`
    counted: Literal["provider", "estimate", "measured", "none"] = "provider"  # who says so
    request_id: str = ""  # as the provider calls it
    why: str = ""  # it was made: "", retry, hedge, fallback, continue, mirror


def divided(call: Call, weights: Sequence[int]) -> list[Call]:
    """A call that several share as a line for each, by weight: what is whole stays whole, and sums are those of the call."""
    whole, low, parts = sum(weights), 0, []
    span_s = call.ended - call.started
    for weight in weights:
        high = low + weight
        units = {unit: _part(amount, low, high, whole) for unit, amount in call.units.items()}
        started, ended = call.started + span_s * low / whole, call.started + span_s * high / whole
        parts.append(replace(call, units=units, started=started, ended=ended))
        low = high
    return parts


def together(calls: Sequence[Call]) -> Call:
    """Several attempts for one thing (one or more) as one, with what all of them took; as sure as the least sure."""
    first, units = calls[0], dict(calls[0].units)
    for call in calls[1:]:
        for unit, amount in call.units.items():
            units[unit] = units.get(unit, 0.0) + amount
    counted = "none" if any(call.counted == "none" for call in calls) else first.counted
    outcome = next((call.outcome for call in calls if call.outcome != "refused"), first.outcome)
    return replace(first, units=units, ended=calls[-1].ended, outcome=outcome, counted=counted)


def _part(amount: float, low: int, high: int, whole: int) -> float:
    if not float(amount).is_integer():
        return amount * (high - low) / whole
    return float(int(amount) * high // whole - int(amount) * low // whole)
