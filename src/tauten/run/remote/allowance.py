"""What a provider lets us send: requests and tokens a minute, kept before they are hit, learned from its answers."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

from tauten.clock import Clock

_MINUTE_S: Final = 60.0
_FIRST_PAUSE_S: Final = (
    1.0  # after a refusal that says nothing of when: limits are counted in seconds at least
)
_LONGEST_PAUSE_S: Final = 60.0  # a minute's limit is whole again then
_UNITS_S: Final = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


class Bucket:
    """A token bucket that may be overdrawn: who overdraws it waits until it is level, in the order of asking."""

    def __init__(self, per_minute: float, now: float) -> None:
        self._most = per_minute or math.inf  # that was configured: what they say may lower it
        self.size = self._most  # a minute's worth may go at once
        self._rate = self.size / _MINUTE_S
        self._level = self.size
        self._at = now
        self.told = False  # by the provider, who counts for himself

    def _fill(self, now: float) -> None:
        passed_s = max(0.0, now - self._at)  # a clock that was set back gives nothing
        self._at = now
        if self.size < math.inf:
            self._level = min(self.size, self._level + passed_s * self._rate)

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until so much may go; more than a full bucket goes when it is full."""
        if self.size == math.inf:
            return 0.0
        self._fill(now)
        return max(0.0, (min(amount, self.size) - self._level) / self._rate)

    def take(self, amount: float, now: float) -> None:
        if self.size < math.inf:
            self._fill(now)
            self._level = min(self.size, self._level - amount)

    def learn(self, limit: float, remaining: float, reset_s: float, now: float) -> None:
        """What they say: the size, what is left of it, and when it is full again."""
        if self.size == math.inf:
            self._level = remaining
        self.told = True
        self._fill(now)
        self.size = min(limit, self._most)
        self._level = min(self._level, remaining)  # others may use the same key
        rate = (limit - remaining) / reset_s if reset_s > 0 and limit > remaining else limit / _MINUTE_S
        self._rate = min(rate, self._most / _MINUTE_S)


class Allowance:
    """The limits of one key at one provider. What is not known is not limited."""

    def __init__(
        self, clock: Clock, *, requests_per_minute: float = 0.0, tokens_per_minute: float = 0.0
    ) -> None:
        now = clock()
        self._clock = clock
        self.requests = Bucket(requests_per_minute, now)
        self.tokens = Bucket(tokens_per_minute, now)
        self._shut_until = -math.inf
        self._refusals = 0  # in a row

    def wait_s(self, tokens: float) -> float:
        """Seconds until a call of so many tokens may go, as it looks now."""
        now = self._clock()
        return max(
            0.0, self._shut_until - now, self.requests.wait_s(1.0, now), self.tokens.wait_s(tokens, now)
        )

    def take(self, tokens: float) -> float:
        """Reserve a call of so many tokens; the seconds it has to wait for its turn."""
        wait_s, now = self.wait_s(tokens), self._clock()
        self.requests.take(1.0, now)
        self.tokens.take(tokens, now)
        return wait_s

    def give_back(self, tokens: float) -> None:
        """A reserved call did not go."""
        now = self._clock()
        self.requests.take(-1.0, now)
        self.tokens.take(-tokens, now)

    def settle(self, reserved: float, used: float) -> None:
        """A call took another number of tokens than was reserved for it; what a provider tells is not corrected."""
        if used > reserved or not self.tokens.told:
            self.tokens.take(used - reserved, self._clock())

    def answered(self, headers: Mapping[str, str]) -> None:
        """A call was let in: the next refusal is the first again, and headers tell what is left."""
        self._refusals = 0
        self.learn(headers)

    def refused(self, retry_after_s: float) -> float:
        """A limit was hit after all: nothing goes until then. Returns the seconds."""
        pause_s = retry_after_s or min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._refusals, 10))
        self._refusals += 1
        self._shut_until = max(self._shut_until, self._clock() + pause_s)
        return pause_s

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take over what an answer's headers say."""
        now = self._clock()
        for what, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            limit = _number(headers.get(f"x-ratelimit-limit-{what}", ""))
            left = _number(headers.get(f"x-ratelimit-remaining-{what}", ""))
            if limit and left is not None:
                bucket.learn(limit, left, span_s(headers.get(f"x-ratelimit-reset-{what}", "")), now)


def span_s(text: str) -> float:
    """Seconds of a span as providers write it: ``1s``, ``6m0s``, ``20ms``, ``1.5``; 0.0 for what is none.

    >>> span_s("6m0.5s"), span_s("20ms"), span_s("7"), span_s("soon")
    (360.5, 0.02, 7.0, 0.0)
    """
    if (plain := _number(text)) is not None:
        return plain
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h))+", text):
        return 0.0
    return sum(float(amount) * _UNITS_S[unit] for amount, unit in re.findall(r"([\d.]+)(ms|s|m|h)", text))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
