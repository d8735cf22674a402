"""The account as a JSON document, and back: schema `tauten.explain/1`.

The flat `rows` are for programs that only want figures; `account` holds everything that the screens print.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any, Final

import msgspec

from tauten.errors import InputError
from tauten.explain.account import Account, Comparison

SCHEMA: Final = "tauten.explain/1"


def to_document(shown: Account | Comparison) -> dict[str, Any]:
    """Plain values, ready for any JSON writer."""
    if isinstance(shown, Comparison):
        return {
            "schema": SCHEMA,
            "kind": "comparison",
            "plans": [_summary(shown.name_a, shown.a), _summary(shown.name_b, shown.b)],
            "rows": [{**msgspec.to_builtins(row), "diff_ms": row.diff_ms} for row in shown.rows],
            "ablation": msgspec.to_builtins(shown.ablation),
            "comparison": msgspec.to_builtins(shown),
        }
    return {
        "schema": SCHEMA,
        "kind": "account",
        **_summary(shown.header.plan, shown),
        "account": msgspec.to_builtins(shown),
    }


def to_json(shown: Account | Comparison, *, indent: int = 2) -> str:
    """The document as text; `indent` 0 is one line."""
    text = msgspec.json.encode(to_document(shown))
    return (msgspec.json.format(text, indent=indent) if indent else text).decode()


def from_json(text: str | bytes) -> Account | Comparison:
    """Read a document back; raises InputError when it is not one of ours."""
    try:
        document = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InputError(
            f"not JSON: {error}", help="give a file written by `tauten explain --json`", code="E251"
        ) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != SCHEMA:
        raise InputError(
            f"schema {schema!r} is not {SCHEMA!r}",
            help="give a file written by `tauten explain --json`",
            code="E251",
        )
    kind: type[Account | Comparison] = Comparison if document.get("kind") == "comparison" else Account
    try:
        return msgspec.convert(document.get("comparison" if kind is Comparison else "account"), kind)
    except msgspec.ValidationError as error:
        raise InputError(f"damaged explain document: {error}", help="write it again", code="E251") from error


def _summary(plan: str, account: Account) -> dict[str, Any]:
    return {
        "plan": plan,
        "wall_ms": account.wall_ms,
        "first_output_ms": account.first_output_ms,
        "unattributed_ms": account.unattributed_ms,
        "rows": account.rows(),
        "sources": account.sources,
        "critical_path": account.path,
        "usage": account.spent,
    }
