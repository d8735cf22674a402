"""What the HTTP server refuses before any application is asked, as errors of the tree, and the body that says so."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import msgspec

from tauten.errors import InputError, InternalError, RequestError, TautenError, Unavailable
from tauten.serve.exchange import TooLarge


class Malformed(InputError):
    """Bytes that are no HTTP request as this server takes it."""

    code = "E416"


class TooSlow(RequestError):
    """A request whose head or body does not arrive."""

    code = "E417"
    http_status = 408
    grpc_status = "DEADLINE_EXCEEDED"


class HeadTooLarge(InputError):
    """More headers, or longer ones, than the server takes."""

    code = "E418"
    http_status = 431
    grpc_status = "RESOURCE_EXHAUSTED"


class TargetTooLong(InputError):
    """A longer path and query than the server takes."""

    code = "E419"
    http_status = 414


class NotTaken(InputError):
    """A WebSocket that the application did not accept."""

    code = "E421"
    http_status = 403
    grpc_status = "PERMISSION_DENIED"


class Full(Unavailable):
    """A server that takes no connection now: it has all that it may hold, or it ends."""

    code = "E422"


_KINDS: dict[int, tuple[type[TautenError], str]] = {
    400: (Malformed, "send HTTP/1.1 as RFC 9112 has it"),
    403: (NotTaken, "check the path, the key and the page's origin"),
    408: (TooSlow, "send the request again, faster"),
    413: (TooLarge, "send less, or start the server with a larger --max-body-mb"),
    414: (TargetTooLong, "put what is long into the body"),
    417: (Malformed, "leave the Expect header out"),
    431: (HeadTooLarge, "send fewer or shorter headers; cookies are not needed"),
    503: (Full, "send it again in a moment"),
}
_OURS: tuple[type[TautenError], str] = (InternalError, "see the server's log")


def body(status: int, reason: str) -> bytes:
    """The body of a refusal with a status, in the native API's form."""
    kind, help = _KINDS.get(status, _OURS)
    return msgspec.json.encode({"error": {"code": kind.code, "message": reason, "help": help}})
