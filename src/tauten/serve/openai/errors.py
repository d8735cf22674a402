"""Errors as clients of the OpenAI endpoints know them."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from typing import Any, NoReturn, TypeVar

import msgspec

from tauten.errors import InputError, TautenError
from tauten.serve.exchange import Reply

T = TypeVar("T")

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_CODES = {
    "E233": "context_length_exceeded",
    "E402": "rate_limit_exceeded",
    "E451": "insufficient_quota",
    "E318": "model_not_found",
}
"""Codes that clients look at; any other error carries our own."""

_QUOTA = frozenset({"E451"})  # money is used up: to wait a moment does not help, and clients know the word


class Refused(InputError):
    """A request that this model or server does not take; `param` is the field, `says` the client's code."""

    code = "E270"

    def __init__(
        self, message: str, *, help: str, param: str = "", says: str = "unsupported_value", code: str = ""
    ) -> None:
        super().__init__(message, help=help, code=code)
        self.param = param
        self.says = says


class NoModel(Refused):
    """A model that is not served here."""

    code = "E272"
    http_status = 404
    grpc_status = "NOT_FOUND"


def failure(error: TautenError) -> Reply:
    """An error as this API says it."""
    headers = [("x-tauten-error", error.code)]
    return Reply.json(body_of(error), status=error.http_status, headers=headers)


def body_of(error: TautenError) -> dict[str, Any]:
    """The body of an error, also for the last event of a stream that breaks."""
    message = f"{error.message} ({error.help})" if error.help else error.message
    param = getattr(error, "param", "") or None
    return {"error": {"message": message, "type": _type(error), "param": param, "code": _code(error)}}


def _type(error: TautenError) -> str:
    status = error.http_status
    if error.code in _QUOTA:
        return "insufficient_quota"
    named = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    return named.get(status) or ("server_error" if status >= 500 else "invalid_request_error")


def _code(error: TautenError) -> str:
    says = getattr(error, "says", "")
    if says:
        return str(says)
    if error.http_status == 401:
        return "invalid_api_key"
    return _CODES.get(error.code, error.code)


def checked(fields: Any, kind: type[T], *, strict: bool = True) -> T:
    """Fields as a type; raises Refused E290 with the field that is wrong."""
    try:
        return msgspec.convert(fields, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise_wrong(error)


def raise_wrong(error: msgspec.ValidationError) -> NoReturn:
    """Say which field is wrong, as clients expect it: its name apart."""
    text = str(error)
    place = _PLACE.search(text)
    param = place[1] if place else ""
    if not param and (missing := re.search(r"missing required field `(\w+)`", text)):
        param = missing[1]
    raise Refused(
        text, help="see /openapi.json for the fields", param=param, says="invalid_value", code="E290"
    ) from None
