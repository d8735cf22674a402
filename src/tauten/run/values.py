"""Values on their way between ports: increments joined, text spelled as the reader wants it."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from tauten.describe.payload import Text
from tauten.describe.ports import PortType
from tauten.errors import InputError


def join(values: list[Any], port: PortType | None = None) -> Any:
    """Collected increments as one value: texts are joined, anything else stays a list.

    `port` tells of what type nothing is.
    """
    if not values:
        texts = port is not None and port.kinds and all(kind in (str, Text) for kind in port.kinds)
        return port.kinds[0]("") if texts and port is not None else values
    if all(isinstance(value, Text | str) for value in values):
        whole = "".join(value.text if isinstance(value, Text) else value for value in values)
        return Text(whole) if any(isinstance(value, Text) for value in values) else whole
    return values


def unwrapped(value: Any, wanted: PortType) -> Any:
    """Text and str flow into each other, alone and in lists."""
    if isinstance(value, Text):
        return value.text if str in wanted.kinds and Text not in wanted.kinds else value
    if isinstance(value, str):
        return Text(value) if Text in wanted.kinds and str not in wanted.kinds else value
    if isinstance(value, list) and wanted.many:
        return [unwrapped(member, wanted) for member in value]
    return value


def field_of(value: Any, path: str) -> Any:
    """A field of a value, or of its fields; of what is absent, nothing."""
    for name in path.split("."):
        value = None if value is None else getattr(value, name)
    return value


def truth(value: Any) -> bool:
    """Whether a condition's value is true: a text that says something, or what Python calls so."""
    if isinstance(value, Text):
        return bool(value.text.strip())
    try:
        return bool(value)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"a condition of type {value.__class__.__name__} is neither true nor false: {error}",
            help="give a stage that returns a bool",
            code="E206",
        ) from error
