"""Every error a caller can meet: one tree, each with a code, HTTP and gRPC status, and a way out.

    TautenError
    ├── InputError            the caller's input: flags, values, media               400  exit 2
    │   ├── MediaError        bytes that are not what they claim, or are too large   422
    │   └── NotFound          a name that nothing answers to                         404
    ├── WorkflowError         a workflow that cannot be built                        400  exit 2
    ├── PlanError             a plan that does not fit its workflow or this machine  400  exit 2
    ├── MachineError          disk, network, memory, models that are not here        503  exit 3
    │   └── StoreError        a model that cannot be fetched or is not itself
    ├── RequestError          a request that failed while it ran                     500  exit 5
    │   ├── DeadlineExceeded  its one deadline passed                                504
    │   ├── Overloaded        refused before work began: it would be too late        429
    │   ├── Unavailable       not ready yet, or draining                             503
    │   ├── Cancelled         the caller left                                        499
    │   ├── StageError        code of a stage raised                                 500
    │   └── BackendError      an engine failed or its worker died                    503
    └── InternalError         our own mistake                                        500  exit 70

A message says what was seen and what was expected; `help` says what to do.
Codes are stable; each has a page in docs/errors/.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class TautenError(Exception):
    """Base of every error that Tauten raises on purpose."""

    code: ClassVar[str] = "E000"
    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 70

    def __init__(self, message: str, *, help: str = "", code: str = "", where: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.help = help
        self.where = where
        if code:
            self.code = code  # type: ignore[misc]  # one class may carry several codes

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        lines = [f"{self.code} {place}{self.message}"]
        if self.help:
            lines.append(f"help: {self.help}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, str]:
        """What a program reads of it."""
        return {"code": self.code, "message": self.message, "help": self.help}


class InputError(TautenError):
    """The caller's input is wrong."""

    code = "E200"
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    exit_code = 2


class MediaError(InputError):
    """Media bytes that are damaged, mislabelled or larger than the limits."""

    code = "E210"
    http_status = 422


class NotFound(InputError):
    """A name (workflow, model, index, stage) that nothing answers to."""

    code = "E201"
    http_status = 404
    grpc_status = "NOT_FOUND"


class WorkflowError(TautenError):
    """A workflow that cannot be built as written; raised where the user's code stands."""

    code = "E100"
    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    exit_code = 2


class PlanError(TautenError):
    """A plan that does not parse, does not fit the workflow, or asks for the impossible."""

    code = "E120"
    http_status = 400
    grpc_status = "FAILED_PRECONDITION"
    exit_code = 2


class MachineError(TautenError):
    """This machine cannot do it now: disk, memory, network, a missing library."""

    code = "E300"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    exit_code = 3


class StoreError(MachineError):
    """A model that is not here, cannot be fetched, or whose bytes are not the pinned ones."""

    code = "E310"


class RequestError(TautenError):
    """A request that failed while it ran.

    `retry_after_s` is when the same request may succeed; 0.0 when that is not known.
    """

    code = "E400"
    exit_code = 5

    def __init__(
        self, message: str, *, help: str = "", code: str = "", where: str = "", retry_after_s: float = 0.0
    ) -> None:
        super().__init__(message, help=help, code=code, where=where)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(RequestError):
    """The request's one deadline passed."""

    code = "E401"
    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"


class Overloaded(RequestError):
    """Refused before work began: a bounded queue is full, or the answer would come too late."""

    code = "E402"
    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"


class Unavailable(RequestError):
    """Refused because the engine is not ready yet, or is draining; another one may take the request."""

    code = "E409"
    http_status = 503
    grpc_status = "UNAVAILABLE"


class Cancelled(RequestError):
    """The caller left; the work was stopped."""

    code = "E403"
    http_status = 499
    grpc_status = "CANCELLED"


class StageError(RequestError):
    """A stage's own code raised; the cause is chained."""

    code = "E404"


class BackendError(RequestError):
    """An engine failed, or its worker process died; the deployment restarts it.

    A backend sets `dead` on the instance it raises when it can do nothing more until it is opened anew.
    """

    code = "E405"
    http_status = 503
    grpc_status = "UNAVAILABLE"
    dead: bool = False


class InternalError(TautenError):
    """A broken promise of our own code."""

    code = "E500"


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ``did you mean `x`?`` for the closest known word, or the list of what there is."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known: {', '.join(choices)}" if choices else "nothing is known here"
