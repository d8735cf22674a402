"""How an exchange ended, in one word, and why it was refused: the same words in metrics, traces and logs."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.errors import Cancelled, TautenError
from tauten.serve.door import Call
from tauten.serve.exchange import Exchange

OUTCOMES = ("ok", "refused", "rejected", "expired", "cancelled", "failed")
"""refused: the request was wrong or not allowed (4xx). rejected: no capacity now (429, 503 before work).
expired: its deadline passed (504). cancelled: the client left (499). failed: ours or a stage's (5xx)."""

LEFT = 499  # the status that logs show for a client that left before its answer

_BY_STATUS = {429: "rejected", 503: "rejected", 504: "expired", LEFT: "cancelled", 408: "refused"}
_REASONS = {
    "E288": "body_too_large",
    "E262": "no_key",
    "E263": "scope",
    "E264": "host",
    "E265": "origin",
    "E402": "overloaded",
    "E409": "not_ready",
    "E411": "key_rate",
    "E412": "key_concurrency",
    "E413": "in_flight",
    "E414": "wrong_keys",
    "E451": "budget",
    "E452": "no_price",
    "E453": "budget_unread",
}


def went_well(exchange: Exchange, call: Call | None, error: BaseException | None) -> bool:
    """Whether it was answered as asked: the quick look that most exchanges need."""
    if error is not None or exchange.left or not 0 < exchange.status < 400:
        return False
    if call is None:
        return True
    request = call.request
    return call.error is None and (request is None or request.failure is None)


def error_of(exchange: Exchange, call: Call | None, error: BaseException | None) -> BaseException | None:
    """What ended the exchange badly: raised to the application, or told inside a stream that had begun."""
    if exchange.left:
        return (
            error
            if isinstance(error, Cancelled)
            else Cancelled("the client left", help="its work was stopped")
        )
    if error is not None or call is None:
        return error
    if call.error is not None:
        return call.error
    return call.request.failure if call.request is not None else None


def status_of(exchange: Exchange, error: BaseException | None) -> int:
    """The status that was sent; 499 for a client that left, an error's own where none was sent."""
    if isinstance(error, Cancelled) and exchange.left:
        return LEFT
    if exchange.status:
        return exchange.status
    return error.http_status if isinstance(error, TautenError) else (500 if error is not None else 200)


def outcome_of(status: int, error: BaseException | None) -> str:
    """One of OUTCOMES; a stream that failed half-way is what its error says, whatever its status was."""
    if isinstance(error, TautenError) and (status < 400 or status == LEFT):
        status = error.http_status
    elif error is not None and status < 400:
        status = 500
    if status < 400:
        return "ok"
    return _BY_STATUS.get(status, "refused" if status < 500 else "failed")


def reason_of(error: BaseException | None) -> str:
    """Why it was refused or failed, from a closed list: a label of metrics."""
    if error is None:
        return ""
    if not isinstance(error, TautenError):
        return "internal"
    known = _REASONS.get(error.code)
    if known is not None:
        return known
    if error.http_status == 404:
        return "not_found"
    return {429: "overloaded", 499: "client_left", 503: "unavailable", 504: "deadline"}.get(
        error.http_status, "input" if error.http_status < 500 else "failed"
    )
