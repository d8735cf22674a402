"""Templates in a folder: every file that says it is one, by front matter or by its sections."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tauten.describe.front import FENCE
from tauten.describe.template import SECTIONS, Template, parse
from tauten.errors import InputError, WorkflowError

_SECTION = re.compile(rf"^\[(?:{'|'.join(SECTIONS)})\]\s*$", re.MULTILINE)
_HIDDEN = (".", "_", "node_modules", "site-packages")  # folders of tools: what lies there is nobody's prompt


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One template; `problem` says why it cannot be read."""

    place: str
    name: str = ""
    version: str = ""
    description: str = ""
    variables: dict[str, str] = {}
    examples: list[str] = []
    formats: list[str] = []
    problem: str = ""


def listed(place: str, template: Template) -> Listed:
    """What a list says of a template."""
    declared = template.front.variables
    return Listed(
        place=place,
        name=template.front.name or template.name,
        version=template.version,
        description=template.front.description,
        variables={name: declared[name].type if name in declared else "any" for name in template.fields},
        examples=list(template.examples),
        formats=list(template.formats),
    )


def read(path: Path) -> Template:
    """A template's file; raises InputError E203 where it cannot be read, WorkflowError E104 or E108."""
    try:
        return parse(path.read_text(encoding="utf-8-sig"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise InputError(
            f"cannot read {str(path)!r}: {reason}", help="give a template's file", code="E203"
        ) from error


def in_folder(folder: Path) -> list[Listed]:
    """The templates below a folder, by path; one that is wrong is listed with what is wrong."""
    if not folder.is_dir():
        raise InputError(f"no folder {str(folder)!r}", help="give a folder, or FILE.py:WORKFLOW", code="E203")
    return [_entry(folder, path) for path in sorted(_files(folder))]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*.md"):
        inside = path.relative_to(folder).parts[:-1]
        if not any(part.startswith(_HIDDEN) for part in inside) and _is_template(path):
            yield path


def _is_template(path: Path) -> bool:
    """Whether a file says that it is one: other Markdown has neither front matter of this kind nor sections."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False
    return text.partition("\n")[0].rstrip() == FENCE or _SECTION.search(text) is not None


def _entry(folder: Path, path: Path) -> Listed:
    place = path.relative_to(folder).as_posix()
    try:
        return listed(place, read(path))
    except (InputError, WorkflowError) as error:
        return Listed(place=place, name=path.name, problem=f"{error.code} {error.where}: {error.message}")
