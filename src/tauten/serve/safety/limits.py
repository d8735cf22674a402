"""How much a caller may ask for: rates, requests at a time, failed keys. Pure arithmetic over given times."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections import OrderedDict

from tauten.errors import Overloaded
from tauten.serve.door import Caller

IN_FLIGHT = 4096  # open requests of a server: four full queues; more is memory spent on hopeless waiting
ADDRESSES = 4096  # whose failed keys are counted; the longest quiet one is forgotten
FAILURES = 10  # wrong keys that an address may show at once, and
FAILURES_PER_S = 1 / 6  # how fast they are forgiven: a script that mistyped its key recovers within a minute


class Busy(Overloaded):
    """Refused by a limit; says when to come back."""

    code = "E411"


class Bucket:
    """A token bucket: `burst` at once, then `rate_per_s`."""

    __slots__ = ("_at", "_left", "burst", "rate_per_s")

    def __init__(self, rate_per_s: float, burst: float, now: float) -> None:
        self.rate_per_s = rate_per_s
        self.burst = burst
        self._left = float(burst)
        self._at = now

    def take(self, now: float) -> float:
        """Take one; returns 0, or the seconds until there is one (and takes none)."""
        self._left = min(self.burst, self._left + (now - self._at) * self.rate_per_s)
        self._at = now
        if self._left >= 1.0 - 1e-9:  # float noise of the refill
            self._left -= 1.0
            return 0.0
        return (1.0 - self._left) / self.rate_per_s


class Total:
    """Requests that run, whoever sent them."""

    __slots__ = ("running",)

    def __init__(self) -> None:
        self.running = 0


class Allowance:
    """What one key has left."""

    __slots__ = ("bucket", "caller", "running", "total")

    def __init__(self, caller: Caller, now: float, total: Total) -> None:
        self.running = 0
        self.total = total
        self.renew(caller, now)

    def renew(self, caller: Caller, now: float) -> None:
        """Take over what an edited key file says; what runs still counts."""
        self.caller = caller
        unbounded = math.isinf(caller.rate_per_s)
        self.bucket = None if unbounded else Bucket(caller.rate_per_s, caller.burst, now)

    def begin(self, now: float) -> None:
        """Count a request in; raises Busy when the key is at its bounds."""
        caller = self.caller
        if caller.concurrent and self.running >= caller.concurrent:
            raise Busy(
                f"key '{caller.name}' has {self.running} requests running, at most {caller.concurrent}",
                help="wait for an answer before the next request",
                retry_after_s=1.0,
                code="E412",
            )
        wait_s = self.bucket.take(now) if self.bucket is not None else 0.0
        if wait_s:
            raise Busy(
                f"key '{caller.name}' may send {caller.rate_per_s:g} requests a second",
                help="send slower; Retry-After says when the next may come",
                retry_after_s=wait_s,
            )
        self.running += 1
        self.total.running += 1

    def end(self) -> None:
        """Count a request out."""
        self.running -= 1
        self.total.running -= 1


class Failures:
    """Wrong keys by address. A right key is never held up: behind a proxy all share one address."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def count(self, address: str, now: float) -> float:
        """Note a wrong key; returns 0, or for how long this address is told to stay away."""
        bucket = self._buckets.pop(address, None) or Bucket(FAILURES_PER_S, FAILURES, now)
        self._buckets[address] = bucket
        while len(self._buckets) > ADDRESSES:
            self._buckets.popitem(last=False)
        return bucket.take(now)
