"""The parameters of a request, REST and gRPC: those that we honour, and the names of the others."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.errors import InputError
from tauten.serve.ignored import ignored
from tauten.serve.kept.sessions import HEADER as SESSION

if TYPE_CHECKING:
    from tauten.describe.ports import Session
    from tauten.serve.door import Call
    from tauten.serve.service import Service

_LOWEST = 1000  # priorities; more steps than anybody tells apart
_ID_CHARACTERS = 128  # of a sequence's name, as of other ids


class NotOffered(InputError):
    """An operation that this server does not do, or not for this caller."""

    code = "E297"
    http_status = 400
    grpc_status = "UNIMPLEMENTED"


def no_classes(output: str) -> NotOffered:
    """Scores are given as they are."""
    return NotOffered(
        f"output {output[:80]!r}: this server makes no classifications of scores",
        help="take the scores, or serve a workflow that classifies",
    )


class Parameters(msgspec.Struct, gc=False):
    """What a request may set; `unknown` are the names of parameters that change nothing."""

    timeout: int = 0  # µs
    priority: int = 0  # 1 is the highest, 0 the default
    binary_data_output: bool = False
    details: bool = False
    sequence_id: int | str = 0
    sequence_start: bool = False
    sequence_end: bool = False
    triton_enable_empty_final_response: bool = False
    unknown: tuple[str, ...] = ()


NAMES = frozenset(Parameters.__struct_fields__) - {"unknown"}
NOTHING = Parameters()


def parameters(given: Any) -> Parameters:
    """Parameters as they came; raises InputError E298 for one of ours that has another type."""
    if not isinstance(given, dict):
        raise InputError("`parameters` is no object", help="give values by their names", code="E298")
    known = {name: value for name, value in given.items() if name in NAMES}
    try:
        found = msgspec.convert(known, Parameters)
    except msgspec.ValidationError as error:
        raise InputError(
            f"parameters: {error}", help="see /openapi.json for their types", code="E298"
        ) from None
    found.unknown = tuple(name for name in given if name not in NAMES)
    return found


def of_message(given: Mapping[str, Any]) -> Parameters:
    """The same of a gRPC message's parameters."""
    if not given:
        return NOTHING
    return parameters(
        {
            name: getattr(each, each.WhichOneof("parameter_choice") or "bool_param")
            for name, each in given.items()
        }
    )


def honour(call: Call, asked: Parameters) -> None:
    """Set deadline and priority (the tighter holds, 1 is the caller's highest); name what was not taken."""
    if asked.timeout:
        if asked.timeout < 0:
            raise InputError(f"timeout {asked.timeout}", help="give microseconds, or 0 for none", code="E298")
        call.deadline_ms = min(call.deadline_ms, asked.timeout / 1e3 + call.exchange.sent_s * 1e3)
    if asked.priority:
        if not 0 < asked.priority <= _LOWEST:
            raise InputError(f"priority {asked.priority}", help=f"1 (highest) to {_LOWEST}", code="E298")
        call.priority = call.caller.priority + 1 - asked.priority
    if asked.unknown:
        call.exchange.extra += ignored(asked.unknown)


def session_of(call: Call, service: Service, asked: Parameters) -> Session | None:
    """The session of the sequence that a request belongs to, else the one that a header names."""
    if not asked.sequence_id:
        if asked.sequence_start or asked.sequence_end:
            raise InputError("a sequence without a name", help="give sequence_id", code="E298")
        return call.session(service)
    if not service.workflow.session:
        raise NotOffered(
            f"'{service.name}' keeps nothing from one request to the next, so it has no sequences",
            help="leave sequence_id out, or serve a workflow that takes a Session",
        )
    tenant, sessions = call.caller.tenant, call.door.sessions
    name = f"{service.name}\0{asked.sequence_id}"
    if len(str(asked.sequence_id)) > _ID_CHARACTERS:
        raise InputError("a long sequence_id", help=f"{_ID_CHARACTERS} characters at most", code="E298")
    session = sessions.named(tenant, name, begin=asked.sequence_start)
    call.exchange.extra.append((SESSION, session.id))
    call.exchange.on_close(lambda: sessions.rest(session, name))
    if asked.sequence_end:
        call.exchange.on_close(lambda: sessions.forget(tenant, name))
    return session
