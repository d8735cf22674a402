"""What a client may read of an error: all of what is meant for it; of anything else its code and where to ask.

What a stage, an engine or this machine says may quote other people's inputs, paths and secrets, so it stays
in the log. Errors of the tree that a stage raises for the client (`InputError` and its kin) are passed on.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING

from tauten.errors import (
    Cancelled,
    DeadlineExceeded,
    InputError,
    InternalError,
    Overloaded,
    RequestError,
    TautenError,
    Unavailable,
)
from tauten.extras import missing
from tauten.run.context import own_error

if TYPE_CHECKING:
    from tauten.serve.door import Call

_FOR_CLIENTS = (InputError, DeadlineExceeded, Overloaded, Unavailable, Cancelled)


def as_ours(error: BaseException) -> TautenError:
    """An error of the tree; else our own mistake, but for what a workflow's body raised and for a missing package."""
    if isinstance(error, TautenError):
        return error
    if theirs := own_error(error) or missing(error):
        theirs.__cause__ = error
        return theirs
    ours = InternalError(f"{error.__class__.__name__} in the server", help="see the server's log")
    ours.__cause__ = error
    return ours


def told(error: BaseException, call: Call | None) -> TautenError:
    """The error as the caller may read it: with its own words where they are for clients, or for an admin."""
    ours = as_ours(error)
    if isinstance(ours, _FOR_CLIENTS) or (call is not None and call.caller.admin):
        return ours
    busy = ours.http_status == 503
    neutral = RequestError(
        "the server cannot answer this now" if busy else "the request failed inside the server",
        help=f"whoever runs it finds {f'request {call.id}' if call is not None else 'x-request-id'} in its log",
        code=ours.code,
        retry_after_s=getattr(ours, "retry_after_s", 0.0),
    )
    neutral.http_status, neutral.grpc_status = ours.http_status, ours.grpc_status  # type: ignore[misc]
    return neutral
