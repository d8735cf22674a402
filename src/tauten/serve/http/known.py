"""A head that came again: a client sends the same bytes again and again, or nearly so, on one connection or many."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tauten.serve.http.cycle import Express

VARYING = (b"x-request-id", b"x-tauten-deadline-ms", b"traceparent")  # of each request its own
_FIELDS = re.compile(rb"\r\n(%b)(: ?)[!-~]+(?=\r\n)" % b"|".join(VARYING), re.IGNORECASE)
_VALUE = re.compile(
    rb"[!-~]{1,200}"
)  # what needs no second look: whatever else comes goes through the parser
_END = b"\r\n\r\n"
KNOWN_BYTES = 4096  # of a head that is remembered; a common one has 200 to 600
_CLIENTS = 64  # whose heads outlive their connections, by address
_HEADS = 64  # of each: models, times keys, times lengths of a body

Given = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values."""


def outline(head: bytes) -> bytes:
    """A head without the values that vary."""
    return _FIELDS.sub(rb"\r\n\1\2", head)


class Known:
    """What such a head means, and what answers it in a quicker way, if anything does."""

    __slots__ = ("_begin", "_names", "_rest", "_scope", "express", "head", "length")

    def __init__(self, head: bytes, scope: dict[str, Any], length: int) -> None:
        self.head = head
        self.length = length  # of the body
        self.express: Express | None = None
        self._scope = scope
        self._names = tuple(found[1].lower() for found in _FIELDS.finditer(head))
        # what stands between the values that vary
        self._begin, *self._rest = _FIELDS.sub(rb"\r\n\1\2\0", head).split(b"\0")

    @property
    def sure(self) -> bool:
        """Whether all that may vary was recognised: of what is written oddly each request goes through the parser."""
        return self._names == tuple(name for name, _ in self._scope["headers"] if name in VARYING)

    @property
    def host(self) -> str:
        """The address of its client, without the port."""
        return host_in(self._scope)

    def read(self, data: bytes) -> tuple[int, Given] | None:
        """Where the body begins, and what varies, of one request with this head, whose body may still come in part;
        the parser never sees it."""
        if not data.startswith(self._begin):
            return None
        at, values = len(self._begin), []
        for part in self._rest:
            value = _VALUE.match(data, at)
            if value is None or not data.startswith(part, value.end()):
                return None
            at = value.end() + len(part)
            values.append(value[0])
        if len(data) - at > self.length:
            return None
        return at, tuple(zip(self._names, values, strict=True)) if values else ()

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

    def elsewhere(self, common: dict[str, Any]) -> Known:
        """The same head on another connection: `common` is what all scopes there have in common."""
        return Known(self.head, self._scope | common, self.length)


def host_in(scope: Mapping[str, Any]) -> str:
    """The address of a scope's client, without the port; one for all that come by a Unix socket."""
    client = scope["client"]
    return "" if client is None else str(client[0])


class Heads:
    """What clients send on one connection after the other: each head means the same on the next one.

    The oldest are forgotten first, and each address forgets its own.
    """

    def __init__(self) -> None:
        self._of: dict[str, dict[bytes, Known]] = {}
        self._sights: dict[str, tuple[bytes, bool]] = {}  # of each the last outline, and whether it is of use

    def keep(self, known: Known) -> None:
        own = self._of.get(known.host)
        if own is None:
            _make_room(self._of, _CLIENTS)
            own = self._of[known.host] = {}
        key = outline(known.head)
        if key not in own:
            _make_room(own, _HEADS)
        own[key] = known

    def sighted(self, host: str, sight: bytes) -> bool:
        """Whether the last head that was parsed for a client at that address was of the same outline."""
        seen, useful = self._sights.get(host, (b"", True))
        if seen == sight:
            return useful
        if host not in self._sights:
            _make_room(self._sights, _CLIENTS)
        self._sights[host] = (sight, True)
        return False

    def useless(self, known: Known) -> None:
        """Nothing answers it in a quicker way: what its like means is only worth knowing on a connection that repeats it."""
        self._sights[known.host] = (outline(known.head), False)

    def find(self, data: bytes, host: str) -> Known | None:
        """The head that `data` begins with, where a client at that address sent its like before."""
        own = self._of.get(host)
        if own is None:
            return None
        end = data.find(_END, 0, KNOWN_BYTES) + len(_END)
        return own.get(outline(data[:end]))


def _make_room(kept: dict[Any, Any], most: int) -> None:
    if len(kept) >= most:
        del kept[next(iter(kept))]
