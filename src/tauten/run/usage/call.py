"""One call to a provider, as it is booked: every attempt by itself, retries, hedges and cut streams included."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

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
)
"""What a provider may count; the closed list."""


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
    counted: Literal["provider", "estimate", "none"] = "provider"  # who says so
    request_id: str = ""  # as the provider calls it
    why: str = ""  # it was made: "", retry, hedge, fallback, continue, mirror
