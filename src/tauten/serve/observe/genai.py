"""The one place that knows the names of OpenTelemetry's GenAI conventions; ours begin with ``tauten.``."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

OPERATION: Final = "gen_ai.operation.name"
MODEL: Final = "gen_ai.request.model"
WORKFLOW: Final = "gen_ai.workflow.name"
PROVIDER: Final = "gen_ai.provider.name"
RESPONSE_ID: Final = "gen_ai.response.id"
FIRST_CHUNK_S: Final = "gen_ai.response.time_to_first_chunk"
TOKEN_TYPE: Final = "gen_ai.token.type"
ERROR: Final = "error.type"
STATUS: Final = "http.response.status_code"
ROUTE: Final = "http.route"
METHOD: Final = "http.request.method"

REQUEST_ID: Final = "tauten.request.id"
PLAN: Final = "tauten.plan"
OUTCOME: Final = "tauten.outcome"
TENANT: Final = "tauten.tenant"
DEADLINE_MS: Final = "tauten.budget.deadline_ms"
ON_PATH_MS: Final = "tauten.on_path_ms"

DURATION: Final = "gen_ai.server.request.duration"
FIRST_TOKEN: Final = "gen_ai.server.time_to_first_token"
TOKEN_TIME: Final = "gen_ai.server.time_per_output_token"
TOKEN_USAGE: Final = "gen_ai.client.token.usage"

SHARED_FLIGHTS: Final = "tauten.single_flight.joins"
REPLAYS: Final = "tauten.idempotent.replays"
SESSIONS: Final = "tauten.sessions"
SESSIONS_BEGUN: Final = "tauten.sessions.begun"
SESSIONS_ENDED: Final = "tauten.sessions.ended"
END_REASON: Final = "tauten.session.end_reason"

PROVIDER_OURS: Final = "tauten"

USAGE: Final[Mapping[str, str]] = {
    "input_tokens": "gen_ai.usage.input_tokens",  # cached ones included, as the conventions ask
    "output_tokens": "gen_ai.usage.output_tokens",
    "cached_tokens": "gen_ai.usage.cache_read.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
"""Units that our trace books, as usage attributes."""

_OPERATIONS: Final = (
    ("/v1/chat/completions", "chat"),
    ("/v1/responses", "chat"),
    ("/v1/completions", "text_completion"),
    ("/v1/embeddings", "embeddings"),
)


def operation_of(path: str) -> str:
    """The operation that a route stands for; a workflow is invoked whatever is in it."""
    return next((name for prefix, name in _OPERATIONS if path == prefix), "invoke_workflow")


def span_name(operation: str, model: str) -> str:
    return f"{operation} {model}"


def cause_attribute(cause: str) -> str:
    """Where a stage's visit spent its time: exclusive milliseconds by cause."""
    return f"tauten.cause.{cause}_ms"


def usage(spent: Mapping[str, float]) -> dict[str, int]:
    """Usage attributes of booked units."""
    return {USAGE[unit]: int(amount) for unit, amount in spent.items() if unit in USAGE}
