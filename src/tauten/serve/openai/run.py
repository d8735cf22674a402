"""What all OpenAI endpoints share: the model by its name, one budget, usage, events, what was ignored."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.errors import NotFound
from tauten.run.trace import SHARED, Trace
from tauten.serve import sse
from tauten.serve.door import Call
from tauten.serve.exchange import Reply
from tauten.serve.ignored import ignored as header_of
from tauten.serve.kept.flights import shared_with
from tauten.serve.openai.errors import NoModel, Refused, body_of
from tauten.serve.openai.ports import Inputs, gives
from tauten.serve.openai.types import SAID_BY_SERVER
from tauten.serve.service import Service

if TYPE_CHECKING:
    from tauten.serve.app import Site

ASKED = ("input_tokens", f"{SHARED}input_tokens")  # units of what a request asks, computed for it or not
_CLIENT_TIMEOUT = "x-stainless-read-timeout"  # seconds; the official clients say how long they will wait


def model(site: Site, name: str) -> Service:
    """The service behind a model's name; raises NoModel, or NotReady."""
    try:
        return site.services[name]
    except NotFound as error:
        raise NoModel(
            f"the model {name[:80]!r} does not exist here",
            help=error.help,
            param="model",
            says="model_not_found",
        ) from None


def check_gives(service: Service, kinds: Iterable[type], what: str) -> None:
    """Refuse an endpoint whose result the workflow does not give."""
    if not gives(service.workflow, kinds):
        raise unfit(service, f"{service.workflow.output}", what)


def unfit(service: Service, seen: str, what: str, *, does: str = "gives") -> Refused:
    """The model gives something else than this endpoint's result, or takes something else than is said to it."""
    return Refused(
        f"the model '{service.name}' {does} {seen}, which is no {what}",
        help=f"ask another model; /v1/models names them, /v1/workflows/{service.name} says what this one takes",
        param="model",
        says="unsupported_model",
        code="E274",
    )


def ignored(inputs: Inputs, fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A header that names the fields nobody took, so that a client can see what had no effect."""
    names = [
        name
        for name, value in fields.items()
        if value is not None and name not in SAID_BY_SERVER and not inputs.takes(name)
    ]
    return header_of(names)


def bound_by_client(call: Call, service: Service) -> None:
    """A client that says when it stops waiting has said its deadline, which counts from when it has sent all; a stream
    may take longer than that."""
    text = call.exchange.headers.get(_CLIENT_TIMEOUT, "")
    if call.deadline_ms == math.inf and text.isascii() and text.replace(".", "", 1).isdigit():
        wait_s = float(text)
        if wait_s < service.budget_s:
            call.deadline_ms = (wait_s + call.exchange.sent_s) * 1e3


class Budget:
    """One deadline for all the engine's requests of one call."""

    def __init__(self, call: Call, service: Service) -> None:
        self._call = call
        self._clock = asyncio.get_running_loop().time
        self._total_ms = call.budget_ms(service)
        self._began = self._clock()

    def spend(self) -> None:
        """Before a further request begins: what is left is its deadline."""
        self._call.spent_s = self._clock() - self._began
        self._call.deadline_ms = self._total_ms - self._call.spent_s * 1e3


def spent(trace: Trace, *units: str) -> int:
    """How much of some units was booked."""
    return round(sum(amount for _, booked, amount in trace.spent if booked in units))


def spent_by(call: Call, *units: str) -> int:
    """The same of the request that a call runs."""
    return 0 if call.request is None else spent(call.request.trace, *units)


def usage(call: Call) -> dict[str, Any]:
    """The tokens of this request's answer, as clients count them; cached ones are among those asked.

    An answer that was computed for an identical request has its tokens too; all those asked were then cached.
    """
    asked = spent_by(call, *ASKED)
    made = spent_by(call, "output_tokens", f"{SHARED}output_tokens")
    return {
        "prompt_tokens": asked,
        "completion_tokens": made,
        "total_tokens": asked + made,
        "prompt_tokens_details": {"cached_tokens": spent_by(call, "cached_tokens", f"{SHARED}input_tokens")},
    }


def event(value: Any) -> bytes:
    """One server-sent event without a name, as these clients expect."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def events(call: Call, body: AsyncGenerator[bytes, None], headers: list[tuple[str, str]]) -> Reply:
    """A reply of events; where the work fails half-way the last event says why, and no [DONE] follows."""
    reply = sse.told_reply(call, body, lambda error: event(body_of(error)))
    reply.headers += [*headers, *shared_with(call.request)]
    return reply
