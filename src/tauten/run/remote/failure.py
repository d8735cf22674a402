"""How an attempt at a provider fails, read from what came back: whose fault it is decides what may follow."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import msgspec

Kind = Literal["fault", "limit", "denied", "wrong"]
"""The provider's fault; a limit of ours with them, which is none; a door that stays shut until somebody mends the
settings; a request that is malformed wherever it is sent."""

_DENIED: Final = frozenset({401, 402, 403, 404})  # key, money, model: another endpoint may still answer
_FAULTS: Final = frozenset({408, 409, 425})  # of the 4xx, those that a second try may cure
_REFUSED: Final = frozenset(
    {"image_content_policy_violation", "image_too_large", "unsupported_image_media_type"}
)
_SHOWN: Final = 200  # characters of a provider's own words: a line or two


class Failure(Exception):
    """One attempt failed. `what` is said to the caller; `retry_after_s` is when they said it may succeed; `given_up`
    says that it was silent for so long that we ended it; `units` are what they count for it all the same."""

    def __init__(
        self,
        kind: Kind,
        what: str,
        *,
        status: int = 0,
        retry_after_s: float = 0.0,
        given_up: bool = False,
        units: Mapping[str, float] = {},
    ) -> None:
        super().__init__(what)
        self.units = units
        self.given_up = given_up
        self.kind = kind
        self.what = what
        self.status = status
        self.retry_after_s = retry_after_s


def of_status(status: int, headers: Mapping[str, str], body: bytes) -> Failure:
    """The failure that an answer other than 200 is."""
    said, code = _words(body)
    what = f"HTTP {status}"
    if said and status not in (401, 403):  # those answers repeat keys
        what += f": {said}"
    kind = _kind(status, code)
    return Failure(kind, what, status=status, retry_after_s=retry_after_s(headers))


def of_code(code: str, what: str, units: Mapping[str, float] = {}) -> Failure:
    """The failure that an event inside an answer tells, by its code."""
    kind: Kind = "fault"
    if code == "insufficient_quota":
        kind = "denied"
    elif code == "rate_limit_exceeded":
        kind = "limit"
    elif code.startswith("invalid_") or code in _REFUSED:
        kind = "wrong"
    return Failure(kind, what, units=units)


def _kind(status: int, code: str) -> Kind:
    if code == "insufficient_quota":  # comes as 429, and no waiting mends it
        return "denied"
    if status == 429:
        return "limit"
    if status in _DENIED:
        return "denied"
    if 400 <= status < 500 and status not in _FAULTS:
        return "wrong"
    return "fault"


def _words(body: bytes) -> tuple[str, str]:
    """A provider's own message and code, where the body is an error as OpenAI writes it."""
    try:
        error = msgspec.json.decode(body)["error"]
        if isinstance(error, str):
            return error[:_SHOWN], ""
        return str(error.get("message", ""))[:_SHOWN], str(error.get("code") or "")
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError):
        return "", ""  # a page of a proxy: its status says enough


def retry_after_s(headers: Mapping[str, str]) -> float:
    """Seconds that an answer asks us to wait; 0.0 where it asks nothing that can be read.

    A date is compared with the answer's own `Date`, not with our clock, which may have jumped.
    """
    if (ms := _number(headers.get("retry-after-ms", ""))) is not None:
        return ms / 1e3
    said = headers.get("retry-after", "")
    if not said:
        return 0.0
    if (seconds := _number(said)) is not None:
        return seconds
    try:
        until = parsedate_to_datetime(said)
        return max(0.0, (until - parsedate_to_datetime(headers.get("date", ""))).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
