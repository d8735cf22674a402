"""What a server keeps for its tenants for a while: bounded in number, size and age, and fair.

When it is full, the tenant that holds the most loses its oldest: nobody can push out what others keep.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from tauten.clock import Clock, real

T = TypeVar("T")


class _Entry(NamedTuple):
    value: object
    size_bytes: int
    until: float


class Kept(Generic[T]):
    """Values by tenant and name; the oldest of a tenant go first.

    `gone` is told of what had to go, and why: "expired", or "evicted" for want of room.
    """

    def __init__(
        self,
        most: int,
        *,
        most_bytes: int = 0,
        age_s: float = math.inf,
        clock: Clock = real,
        gone: Callable[[T, str], None] | None = None,
    ) -> None:
        self.most = most
        self.most_bytes = most_bytes  # 0: only the number is bounded
        self.age_s = age_s
        self.size_bytes = 0
        self._count = 0
        self._clock = clock
        self._gone = gone
        self._tenants: dict[str, OrderedDict[str, _Entry]] = {}
        self._bytes: dict[str, int] = {}  # of each tenant

    def __len__(self) -> int:
        return self._count

    def get(self, tenant: str, name: str) -> T | None:
        """The value; None when it was never kept, has gone or is too old."""
        entry = self._tenants.get(tenant, _NOTHING).get(name)
        if entry is None:
            return None
        if entry.until <= self._clock():
            self._lose(tenant, name, "expired")
            return None
        return entry.value  # type: ignore[return-value]

    def put(self, tenant: str, name: str, value: T, size_bytes: int = 0) -> None:
        """Keep a value as the tenant's youngest, in place of one of that name."""
        self.pop(tenant, name)
        if self.age_s != math.inf:
            self._forget_old(tenant)
        held = self._tenants.setdefault(tenant, OrderedDict())
        held[name] = _Entry(value, size_bytes, self._clock() + self.age_s)
        self._count += 1
        self.size_bytes += size_bytes
        self._bytes[tenant] = self._bytes.get(tenant, 0) + size_bytes
        while self._count > self.most or (self.most_bytes and self.size_bytes > self.most_bytes):
            self._drop()

    def touch(self, tenant: str, name: str) -> None:
        """Make a value its tenant's youngest, with its whole age before it."""
        held = self._tenants.get(tenant, _NOTHING)
        entry = held.get(name)
        if entry is not None:
            held[name] = entry._replace(until=self._clock() + self.age_s)
            held.move_to_end(name)

    def pop(self, tenant: str, name: str) -> T | None:
        """Take a value out."""
        held = self._tenants.get(tenant, _NOTHING)
        entry = held.pop(name, None)
        if entry is None:
            return None
        self._count -= 1
        self.size_bytes -= entry.size_bytes
        self._bytes[tenant] -= entry.size_bytes
        if not held:
            del self._tenants[tenant], self._bytes[tenant]
        return entry.value  # type: ignore[return-value]

    def values(self) -> Iterator[T]:
        for held in self._tenants.values():
            for entry in held.values():
                yield entry.value  # type: ignore[misc]

    def tidy(self) -> None:
        """Let go of what is too old; a look at each tenant's oldest, and at what has to go."""
        for tenant in list(self._tenants):
            self._forget_old(tenant)

    def _forget_old(self, tenant: str) -> None:
        """A tenant's entries stand in the order of their age: look only at the first ones."""
        now = self._clock()
        while (held := self._tenants.get(tenant)) and next(iter(held.values())).until <= now:
            self._lose(tenant, next(iter(held)), "expired")

    def _drop(self) -> None:
        heavy = self.most_bytes and self.size_bytes > self.most_bytes
        share = self._bytes.__getitem__ if heavy else lambda name: len(self._tenants[name])
        tenant = max(self._tenants, key=share)
        self._lose(tenant, next(iter(self._tenants[tenant])), "evicted")

    def _lose(self, tenant: str, name: str, why: str) -> None:
        value = self.pop(tenant, name)
        if value is not None and self._gone is not None:
            self._gone(value, why)


_NOTHING: OrderedDict[str, _Entry] = OrderedDict()
