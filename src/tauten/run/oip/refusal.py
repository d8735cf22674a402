"""How a server of the protocol fails, as the caller sees it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.errors import BackendError, InputError, Overloaded, TautenError
from tauten.run.remote.failure import Kind


def refusal(kind: Kind, what: str, retry_after_s: float = 0.0) -> TautenError:
    """The error for a failure of that kind."""
    if kind == "wrong":
        return InputError(
            f"the server refuses the request: {what}",
            help="compare names, types and shapes with the model's metadata",
            code="E230",
        )
    if kind == "limit":
        return Overloaded(
            f"the server's limit is reached: {what}",
            help="ask again later",
            code="E462",
            retry_after_s=retry_after_s,
        )
    return BackendError(
        f"no provider answered: {what}",
        help="check that the server runs, and that it serves the model under this name",
        code="E460",
        retry_after_s=retry_after_s,
    )
