"""Keys and values as tables of a TOML file that people read: small dicts inline, routes in tables of their own."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def table_of(values: Mapping[str, Any]) -> Any:
    """A TOML table with scalars first and small dicts inline; a route and its options have tables of their own."""
    import tomlkit

    table = tomlkit.table()
    route = values.get("route")
    for key, value in values.items():
        if key == "route" and isinstance(route, dict) and "options" in route:
            continue  # last: what follows a table's header belongs to it
        table[key] = _inline(value)
    if isinstance(route, dict) and "options" in route:
        table["route"] = table_of({key: value for key, value in route.items() if key != "options"})
        listed = tomlkit.aot()
        for each in route["options"]:
            listed.append(table_of(each))
        table["route"]["options"] = listed
    return table


def _inline(value: Any) -> Any:
    """A value of a table: a dict, and what it holds, as inline tables; tuples as lists."""
    import tomlkit

    if not isinstance(value, dict):
        return list(value) if isinstance(value, tuple) else value
    inline = tomlkit.inline_table()
    for name, each in value.items():
        inline[name] = _inline(each)
    return inline
