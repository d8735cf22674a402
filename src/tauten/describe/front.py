"""Front matter of a template: what it is called and for, and its variables with their types.

TOML between the first two lines of `+++`. A template without any has variables of any type.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import msgspec

from tauten.describe.variable import Format, Variable
from tauten.errors import WorkflowError, suggest

FENCE: Final = "+++"
_KEYS: Final = ("name", "description", "variables", "formats")
_Table = TypeVar("_Table", Variable, Format)


class Front(msgspec.Struct, frozen=True):
    """What the front matter says; empty where there is none. `lines` are those of the declarations."""

    name: str = ""
    description: str = ""
    variables: dict[str, Variable] = {}
    formats: dict[str, Format] = {}
    lines: dict[str, int] = {}


def read_front(lines: Sequence[str], where: str) -> tuple[Front | None, int]:
    """The front matter, and how many lines it takes; None and 0 without any. Raises WorkflowError E108."""
    if not lines or lines[0].rstrip() != FENCE:
        return None, 0
    end = next((place for place, line in enumerate(lines[1:], 1) if line.rstrip() == FENCE), 0)
    if not end:
        raise unreadable("the front matter has no end", "close it with a line `+++`", where, 1)
    return _front(lines[1:end], where), end + 1


def unreadable(message: str, help: str, where: str, line: int) -> WorkflowError:
    """A mistake in what a template says of itself, with its line."""
    return WorkflowError(message, help=help, where=f"{where}:{line}" if line else where, code="E108")


def _front(lines: Sequence[str], where: str) -> Front:
    raw = _toml(lines, where)
    _known(raw, _KEYS, "the front matter", where, lines)
    for key in ("name", "description"):
        if not isinstance(raw.get(key, ""), str):
            line = _line(lines, key)
            raise unreadable(f"`{key}` is no text", f'write {key} = "..."', where, line)
    variables = {
        key: _read(Variable, {"type": value} if isinstance(value, str) else value, key, where, lines)
        for key, value in _table(raw, "variables", where, lines).items()
    }
    formats = {
        key: _read(Format, value, key, where, lines)
        for key, value in _table(raw, "formats", where, lines).items()
    }
    at = {key: _line(lines, key) for key in (*variables, *formats)}
    for key, variable in variables.items():
        if problem := variable.contradiction():
            raise unreadable(f"variable `{key}` {problem}", "mend its declaration", where, at[key])
    return Front(raw.get("name", ""), raw.get("description", ""), variables, formats, at)


def _toml(lines: Sequence[str], where: str) -> dict[str, Any]:
    try:
        return tomllib.loads("\n".join(lines))
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"at line (\d+)", str(error))
        line = int(found[1]) + 1 if found else len(lines) + 1  # the fence above is line 1
        help = 'write NAME = "VALUE", and [variables] before the types of variables'
        raise unreadable(f"the front matter is no TOML: {error}", help, where, line) from error


def _known(
    raw: Mapping[str, Any], keys: Sequence[str], what: str, where: str, lines: Sequence[str], at: int = 0
) -> None:
    for key in raw:
        if key not in keys:
            line = at or _line(lines, key)
            raise unreadable(f"{what} has no key `{key}`", suggest(key, keys), where, line)


def _table(raw: Mapping[str, Any], key: str, where: str, lines: Sequence[str]) -> dict[str, Any]:
    found = raw.get(key, {})
    if not isinstance(found, dict):
        line = _line(lines, key)
        raise unreadable(f"`{key}` is no table", f"write [{key}] on a line of its own", where, line)
    return found


def _read(kind: type[_Table], raw: Any, key: str, where: str, lines: Sequence[str]) -> _Table:
    """One declaration; a mistake in it names its line."""
    line = _line(lines, key)
    if not isinstance(raw, dict):
        help = f'write {key} = "text", or {key} = {{ type = "text" }}'
        raise unreadable(f"`{key}` is declared by {raw!r}", help, where, line)
    _known(raw, kind.__struct_fields__, f"`{key}`", where, lines, line)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        help = "types are text, number, choice, list, images and struct"
        raise unreadable(f"`{key}`: {error}", help, where, line) from error


def _line(lines: Sequence[str], key: str) -> int:
    """Where a key stands in the file: as a key, or as the last name of a table."""
    quoted = rf"[\"']?{re.escape(key)}[\"']?"
    pattern = re.compile(rf"\s*(?:\[(?:\w+\.)?{quoted}\]|(?:\w+\.)*{quoted}\s*[=.])")
    return next((place for place, line in enumerate(lines, 2) if pattern.match(line)), 1)
