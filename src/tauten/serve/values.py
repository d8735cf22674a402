"""Values of ports as they cross the network, both ways."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import Any

from tauten.describe.payload import Json, Payload, Tensor, Text


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, Text):
        return value.text
    if isinstance(value, Json):
        return value.value
    if isinstance(value, Tensor):
        return value.array.tolist()
    if isinstance(value, Payload):
        return {"type": value.type, "size_bytes": value.size_bytes, "hash": value.hash}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
