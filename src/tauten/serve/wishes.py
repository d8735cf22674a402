"""What the head of a request asks for: an id, numbers, the trace that it belongs to."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import msgspec

from tauten.errors import InputError
from tauten.run.usage.payer import Payer, name_of, tags_of

ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class TraceParent(msgspec.Struct, frozen=True):
    """W3C trace context: the trace that this request belongs to, and the caller's span."""

    trace_id: str
    span_id: str
    sampled: bool = True


def id_of(given: str) -> str:
    """A caller's request id where it is one; log lines and headers carry it."""
    if given and not ID.fullmatch(given):
        raise InputError(
            f"x-request-id {given[:40]!r}", help="1 to 128 letters, digits, dots, colons, dashes", code="E291"
        )
    return given


def number(headers: Mapping[str, str], name: str, default: float) -> float:
    text = headers.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{name}: {text[:40]!r} is not a number", help="give a finite number", code="E291")
    return value


def whole(headers: Mapping[str, str], name: str, default: int) -> int:
    value = number(headers, name, float(default))
    if not value.is_integer():
        raise InputError(
            f"{name}: {headers[name][:40]!r} is not a whole number", help="give one", code="E291"
        )
    return int(value)


def payer_of(headers: Mapping[str, str], key: str) -> Payer:
    """On whose account a request goes: the name of its key, what its client calls itself, its tags."""
    tags, client = headers.get("x-tauten-tag", ""), headers.get("x-tauten-client", "")
    if not tags and not client:
        return Payer(key)
    return Payer(key, client and name_of(client, "a client"), tags_of(tags))


def parent_of(given: str) -> TraceParent | None:
    """The caller's trace; a header that does not parse is ignored, as the standard asks.

    What later versions put behind the flags is left unread, as it asks, too; version 00 has nothing there.
    """
    match = _TRACEPARENT.fullmatch(given) if given else None
    if match is None or (match[1] == "00" and match[5]):
        return None
    if set(match[2]) == {"0"} or set(match[3]) == {"0"}:
        return None
    return TraceParent(match[2], match[3], bool(int(match[4], 16) & 1))
