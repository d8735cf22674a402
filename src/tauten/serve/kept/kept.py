"""What a server keeps for its tenants for a while: bounded in number, size and age, and fair.

When it is full, the tenant that holds the most loses its oldest: nobody can push out what others keep.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from tauten.clock import Clock, real

T = TypeVar("T")


Entry = tuple[Any, int, float]
"""(value, its size in bytes, until when it is kept)."""


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
        self._tenants: dict[str, OrderedDict[str, Entry]] = {}
        self._bytes: dict[str, int] = {}  # of each tenant

    def __len__(self) -> int:
        return self._count

    def get(self, tenant: str, name: str) -> T | None:
        """The value; None when it was never kept, has gone or is too old."""
        entry = self._tenants.get(tenant, _NOTHING).get(name)
        if entry is None:
            return None
        value, _, until = entry
        if until <= self._clock():
            self._lose(tenant, name, "expired")
            return None
        return value  # type: ignore[no-any-return]

    def put(self, tenant: str, name: str, value: T, size_bytes: int = 0) -> None:
        """Keep a value as the tenant's youngest, in place of one of that name."""
        if name in self._tenants.get(tenant, _NOTHING):
            self.pop(tenant, name)
        until = math.inf
        if self.age_s != math.inf:
            self._forget_old(tenant)
            until = self._clock() + self.age_s
        held = self._tenants.get(tenant)
        if held is None:
            held = self._tenants[tenant] = OrderedDict()
            self._bytes[tenant] = 0
        held[name] = (value, size_bytes, until)
        self._count += 1
        if size_bytes:
            self.size_bytes += size_bytes
            self._bytes[tenant] += size_bytes
        self._make_room()

    def weigh(self, tenant: str, name: str, size_bytes: int) -> None:
        """Say how large a value has become; what there is no room for any more goes, this one not before older ones."""
        held = self._tenants.get(tenant, _NOTHING)
        entry = held.get(name)
        if entry is not None:
            value, before, until = entry
            held[name] = (value, size_bytes, until)
            self.size_bytes += size_bytes - before
            self._bytes[tenant] += size_bytes - before
            self._make_room()

    def _make_room(self) -> None:
        while self._count > self.most or (self.most_bytes and self.size_bytes > self.most_bytes):
            self._drop()

    def touch(self, tenant: str, name: str) -> None:
        """Make a value its tenant's youngest, with its whole age before it."""
        held = self._tenants.get(tenant, _NOTHING)
        entry = held.get(name)
        if entry is not None:
            value, size_bytes, _ = entry
            held[name] = (value, size_bytes, self._clock() + self.age_s)
            held.move_to_end(name)

    def pop(self, tenant: str, name: str) -> T | None:
        """Take a value out."""
        held = self._tenants.get(tenant, _NOTHING)
        entry = held.pop(name, None)
        if entry is None:
            return None
        value, size_bytes, _ = entry
        self._count -= 1
        if size_bytes:
            self.size_bytes -= size_bytes
            self._bytes[tenant] -= size_bytes
        if not held:
            del self._tenants[tenant], self._bytes[tenant]
        return value  # type: ignore[no-any-return]

    def values(self) -> Iterator[T]:
        for held in self._tenants.values():
            for value, _, _ in held.values():
                yield value

    def tidy(self) -> None:
        """Let go of what is too old; a look at each tenant's oldest, and at what has to go."""
        for tenant in list(self._tenants):
            self._forget_old(tenant)

    def _forget_old(self, tenant: str) -> None:
        """A tenant's entries stand in the order of their age: look only at the first ones."""
        now = self._clock()
        while (held := self._tenants.get(tenant)) and next(iter(held.values()))[2] <= now:
            self._lose(tenant, next(iter(held)), "expired")

    def _drop(self) -> None:
        tenants = self._tenants
        tenant = next(iter(tenants))
        if len(tenants) > 1:
            heavy = self.most_bytes and self.size_bytes > self.most_bytes
            tenant = max(tenants, key=self._bytes.__getitem__ if heavy else lambda name: len(tenants[name]))
        self._lose(tenant, next(iter(tenants[tenant])), "evicted")

    def _lose(self, tenant: str, name: str, why: str) -> None:
        value = self.pop(tenant, name)
        if value is not None and self._gone is not None:
            self._gone(value, why)


_NOTHING: OrderedDict[str, Entry] = OrderedDict()
