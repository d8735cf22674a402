"""A head that came again: a client sends the same bytes again and again, or nearly so, on one connection or many."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from typing import Any

from tauten.serve.http.cycle import Express

VARYING = (b"x-request-id", b"x-tauten-deadline-ms", b"traceparent")  # of each request its own
_FIELDS = re.compile(rb"(?<=\r\n)(%b)(: ?)[!-~]+(?=\r\n)" % b"|".join(VARYING), re.IGNORECASE)
_VALUE = rb"([!-~]{1,200})"  # what needs no second look: whatever else comes goes through the parser

_END = b"\r\n\r\n"
_KEPT = 256  # heads that outlive their connection: clients times models
_KEPT_BYTES = 4096  # of such a head; a common one has 200 to 600

Given = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values."""


def outline(head: bytes) -> bytes:
    """A head without the values that vary."""
    return _FIELDS.sub(rb"\1\2", head)


class Known:
    """What such a head means, and what answers it in a quicker way, if anything does."""

    __slots__ = ("_names", "_pattern", "_scope", "_size", "express", "head", "length")

    def __init__(self, head: bytes, scope: dict[str, Any], length: int) -> None:
        self.head = head
        self.length = length  # of the body
        self.express: Express | None = None
        self._scope = scope
        self._size = len(head)
        self._names = tuple(found[1].lower() for found in _FIELDS.finditer(head))
        self._pattern: re.Pattern[bytes] | None = None
        if self._names and self.sure:
            parts = _FIELDS.sub(rb"\1\2\0", head).split(b"\0")
            self._pattern = re.compile(_VALUE.join(re.escape(part) for part in parts))

    @property
    def host(self) -> str:
        """The address of its client, without the port."""
        return host_in(self._scope)

    def elsewhere(self, common: dict[str, Any]) -> Known:
        """The same head on another connection: `common` is what all scopes there have in common."""
        twin = copy(self)
        twin._scope = self._scope | common
        return twin

    @property
    def sure(self) -> bool:
        """Whether all that may vary was recognised: of what is written oddly each request goes through the parser."""
        return self._names == tuple(name for name, _ in self._scope["headers"] if name in VARYING)

    def read(self, data: bytes) -> tuple[int, Given] | None:
        """Where the body begins, and what varies, of a whole request with this head; the parser never sees it."""
        if self._pattern is None:
            if len(data) - self._size != self.length or not data.startswith(self.head):
                return None
            return self._size, ()
        found = self._pattern.match(data)
        if found is None or len(data) - found.end() != self.length:
            return None
        return found.end(), tuple(zip(self._names, found.groups(), strict=True))

    def scope(self, given: Given) -> dict[str, Any]:
        """A scope for one more request."""
        scope = self._scope.copy()
        headers = scope["headers"] = scope["headers"].copy()
        if given:
            values = iter(given)
            for index, (name, _) in enumerate(headers):
                if name in VARYING:
                    headers[index] = next(values)
        return scope


def host_in(scope: Mapping[str, Any]) -> str:
    """The address of a scope's client, without the port; one for all that come by a Unix socket."""
    client = scope["client"]
    return "" if client is None else str(client[0])


class Heads:
    """What clients send on one connection after the other: each head means the same on the next one."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes], Known] = {}

    def keep(self, known: Known) -> None:
        if len(known.head) > _KEPT_BYTES:
            return
        if len(self._known) >= _KEPT:
            self._known.clear()
        self._known[known.host, outline(known.head)] = known

    def find(self, data: bytes, host: str) -> Known | None:
        """The head that `data` begins with, where a client at that address sent its like before."""
        if not self._known:
            return None
        end = data.find(_END, 0, _KEPT_BYTES) + len(_END)
        return self._known.get((host, outline(data[:end])))
