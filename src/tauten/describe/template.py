"""Prompt templates: text with `{{ fields }}` and sections that start messages, checked when a call is written.

    [system]
    Answer from the passages.

    [user]
    {{ passages }}

    On the screen: {{ screen? }}
    Question: {{ question }}

`[system]`, `[user]` and `[assistant]` alone on a line start a message and may repeat (few-shot examples);
without any the whole text is one user message. `[prompt]`, alone in a template, makes it a raw completion
without messages. `{{ name? }}` is optional: a line whose fields are all optional and all absent or empty
disappears, its own words with it. Lists are joined by blank lines, `{{ answer.text }}` reads a part, and
`\\{{` writes two braces. Values are never read as template text, so a user cannot open a section.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tauten.describe.payload import Json, Media, Payload
from tauten.errors import WorkflowError, suggest

SECTIONS = ("system", "user", "assistant", "prompt")
_SECTION = re.compile(r"^\[([A-Za-z]+)\]\s*$")
_FIELD = re.compile(r"\\\{\{|\{\{(.*?)\}\}|\{\{")
_INSIDE = re.compile(r"^\s*([A-Za-z_]\w*)((?:\.[A-Za-z_]\w*)*)(\?)?\s*$")
INLINE = "template"  # how errors name a template that is written in the call


class Field(msgspec.Struct, frozen=True):
    """One `{{ name.path? }}` and the line it stands on."""

    name: str
    path: tuple[str, ...] = ()
    optional: bool = False
    line: int = 0

    def __str__(self) -> str:
        return "{{ " + ".".join([self.name, *self.path]) + " }}"


Line = tuple[str | Field, ...]


class Message(msgspec.Struct, frozen=True):
    """One message: who speaks, and its lines."""

    role: str
    lines: tuple[Line, ...]


class Template(msgspec.Struct, frozen=True):
    """A parsed template. Equal sources are equal templates.

    >>> parse("Say {{ word }}.").render({"word": "hello"})
    [{'role': 'user', 'content': 'Say hello.'}]
    """

    name: str
    source: str
    messages: tuple[Message, ...]

    @property
    def identity(self) -> str:
        """What names this template in a workflow's signature: its content."""
        return f"template {hashlib.sha256(self.source.encode()).hexdigest()[:16]}"

    def __repr__(self) -> str:
        return f"Template({self.name}, fields={', '.join(self.fields)})"

    @property
    def is_prompt(self) -> bool:
        """Whether this is a raw completion rather than messages."""
        return self.messages[0].role == "prompt"

    @property
    def uses(self) -> Iterator[Field]:
        """Every field, in order of use."""
        lines = (line for message in self.messages for line in message.lines)
        return (part for line in lines for part in line if isinstance(part, Field))

    @property
    def fields(self) -> dict[str, bool]:
        """Field names, and whether each may be absent (every use of it is optional)."""
        found: dict[str, bool] = {}
        for use in self.uses:
            found[use.name] = found.get(use.name, True) and use.optional
        return found

    @property
    def head(self) -> int:
        """Characters before the first field: what every prompt begins with."""
        count = 0
        for message in self.messages:
            for line in message.lines:
                for part in line:
                    if isinstance(part, Field):
                        return count
                    count += len(part)
                count += 1
        return count

    def fixed_first(self) -> Template:
        """The same paragraphs, in each message those without a field before those with one.

        >>> parse("Passage: {{ passage }}\\n\\nAnswer in one sentence.").fixed_first().messages[0].lines
        (('Answer in one sentence.',), (), ('Passage: ', Field(name='passage', path=(), optional=False, line=1)))
        """
        messages = tuple(
            msgspec.structs.replace(each, lines=_fixed_first(each.lines)) for each in self.messages
        )
        return self if messages == self.messages else msgspec.structs.replace(self, messages=messages)

    def check(self, given: Iterable[str], *, maybe: Iterable[str] = (), reserved: Iterable[str] = ()) -> None:
        """Compare fields with the names given by a call; raises WorkflowError E104, E103.

        `maybe` are given names whose value may be absent, `reserved` names that no field may have.
        """
        names, absent, settings = set(given), set(maybe), set(reserved)
        for use in self.uses:
            if use.name in settings:
                raise self._error(use.line, f"{use} is a setting of the stage", "rename the field")
            if use.name not in names and not use.optional:
                listed = ", ".join(sorted(names)) or "nothing"
                raise self._error(use.line, f"{use} is not given; given: {listed}", suggest(use.name, names))
            if use.name in absent and not use.optional:
                help = f"write {{{{ {use.name}? }}}}, or give a default: tt.default({use.name}, value)"
                raise self._error(use.line, f"{use} may be absent, and is not optional", help, code="E103")
        unused = sorted(names - self.fields.keys())
        if unused:
            raise self._error(
                0,
                f"`{unused[0]}` is given but never used; fields: {', '.join(self.fields) or 'none'}",
                f"write {{{{ {unused[0]} }}}} in the template, or do not pass it",
            )

    def render(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """Fill in the values: messages of `role` and `content`; raises WorkflowError E103, E104."""
        filled = [(message.role, self._fill(message, values)) for message in self.messages]
        shown = [{"role": role, "content": content} for role, content in filled if content]
        if not shown or shown[-1]["role"] == "assistant":
            raise self._error(
                0, "nothing is left to ask: every field is absent", "ask something", code="E103"
            )
        return shown

    def _fill(self, message: Message, values: Mapping[str, Any]) -> str:
        kept: list[str] = []
        dropped = False
        for line in message.lines:
            text = self._fill_line(line, values)
            if text is None:
                dropped = True
                continue
            # a vanished line must not leave its two blank neighbours behind
            if not (dropped and not text and (not kept or not kept[-1])):
                kept.append(text)
            dropped = dropped and not text
        return "\n".join(kept).strip("\n")

    def _fill_line(self, line: Line, values: Mapping[str, Any]) -> str | None:
        """The line's text, or None where it disappears."""
        shown: list[str] = []
        present = absent = False
        for part in line:
            if isinstance(part, str):
                shown.append(part)
                continue
            text = self._value(part, values)
            present, absent = present or bool(text) or not part.optional, absent or not text
            shown.append(text)
        return None if absent and not present else "".join(shown)

    def _value(self, field: Field, values: Mapping[str, Any]) -> str:
        value = values.get(field.name)
        for step in field.path:
            if value is not None:
                value = self._part(field, value, step)
        if value is None and not field.optional:
            raise self._error(
                field.line, f"{field} has no value", f"write {{{{ {field.name}? }}}}", code="E103"
            )
        return self._text(field, value)

    def _part(self, field: Field, value: Any, step: str) -> Any:
        value = value.value if isinstance(value, Json) else value
        if isinstance(value, Mapping) and step in value:
            return value[step]
        if step.startswith("_") or not hasattr(value, step):
            kind = value.__class__.__name__
            raise self._error(field.line, f"{field}: {kind} has no `{step}`", suggest(step, _parts(value)))
        return getattr(value, step)

    def _text(self, field: Field, value: Any) -> str:
        try:
            return as_text(value)
        except TypeError as error:
            raise self._error(field.line, f"{field}: {error}", "give text, numbers or structs") from error

    def _error(self, line: int, message: str, help: str, code: str = "E104") -> WorkflowError:
        where = f"{self.name}:{line}" if line else self.name
        return WorkflowError(message, help=help, where=where, code=code)


def _fixed_first(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Paragraphs are parted by empty lines, and keep one between them."""
    paragraphs: list[list[Line]] = [[]]
    for line in lines:
        if _written([list(line)]):
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    written = [each for each in paragraphs if each]
    ordered = sorted(written, key=_has_field)  # keeps the order of equals
    if ordered == written:
        return tuple(lines)
    return tuple(line for place, each in enumerate(ordered) for line in ([()] if place else []) + each)


def _has_field(paragraph: Sequence[Line]) -> bool:
    return any(isinstance(part, Field) for line in paragraph for part in line)


def as_text(value: Any) -> str:
    """Write a value as prompt text: its `.text` if it has one, lists by blank lines, structs as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Media) or callable(value):
        raise TypeError(f"{value.__class__.__name__} is not text")
    text = getattr(value, "text", None)
    if isinstance(text, str):
        return text
    if isinstance(value, list | tuple):
        return "\n\n".join(filter(None, map(as_text, value)))
    if isinstance(value, bool | int | float):
        return str(value)
    if isinstance(value, Payload) and not isinstance(value, Json):
        raise TypeError(f"{value.__class__.__name__} is not text")
    return msgspec.json.encode(value.value if isinstance(value, Json) else value).decode()


def _parts(value: Any) -> list[str]:
    names = value if isinstance(value, Mapping) else dir(value)
    return [str(name) for name in names if not str(name).startswith("_")]


def load(literal: str | Template, folder: Path) -> Template:
    """A template from a call's literal: a file's name relative to `folder`, or the text itself.

    Text is what holds a line break or `{{`. Raises WorkflowError E104.
    """
    if isinstance(literal, Template):
        return literal
    if "\n" in literal or "{{" in literal:
        return parse(literal)
    path = folder / literal
    try:
        return parse(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        there = [each.name for each in folder.glob(f"*{path.suffix}")] if path.suffix else []
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else "cannot be read"
        raise WorkflowError(
            f"template {literal!r} {reason} in {folder.name or 'this folder'}",
            help=suggest(path.name, there)
            if there
            else "give a file beside your code, or text with {{ fields }}",
            code="E104",
        ) from error


def parse(source: str, name: str = INLINE) -> Template:
    """Read a template; raises WorkflowError E104 with the line."""
    blocks: list[tuple[str, list[Line]]] = [("", [])]
    for number, line in enumerate(source.replace("\r\n", "\n").split("\n"), 1):
        section = _section(line, name, number)
        if section:
            blocks.append((section, []))
        else:
            blocks[-1][1].append(tuple(_line(line, name, number)))
    if len(blocks) == 1:
        blocks = [("user", blocks[0][1])] if _written(blocks[0][1]) else []
    elif _written(blocks.pop(0)[1]):
        raise WorkflowError(
            "text stands before the first section",
            help="begin with [system] or [user]",
            where=name,
            code="E104",
        )
    return Template(name, source, _checked([Message(role, tuple(lines)) for role, lines in blocks], name))


def _written(lines: Sequence[Sequence[str | Field]]) -> bool:
    return any(not isinstance(part, str) or bool(part.strip()) for line in lines for part in line)


def _section(line: str, name: str, number: int) -> str:
    found = _SECTION.match(line)
    if not found or found[1] in SECTIONS:
        return found[1] if found else ""
    close = difflib.get_close_matches(found[1].lower(), SECTIONS, n=1, cutoff=0.75)
    if close:
        raise WorkflowError(
            f"`{line.strip()}` looks like a section, and is none",
            help=f"did you mean `[{close[0]}]`?",
            where=f"{name}:{number}",
            code="E104",
        )
    return ""


def _line(line: str, name: str, number: int) -> Iterator[str | Field]:
    end = 0
    for found in _FIELD.finditer(line):
        if found.start() > end:
            yield line[end : found.start()]
        end = found.end()
        yield "{{" if found[0].startswith("\\") else _field(found[0], found[1], name, number)
    if end < len(line):
        yield line[end:]


def _field(whole: str, inside: str | None, name: str, number: int) -> Field:
    found = _INSIDE.match(inside or "")
    if not found:
        raise WorkflowError(
            f"cannot read `{whole}`",
            help="write {{ name }}, {{ name? }} or {{ name.part }}; \\{{ gives two braces",
            where=f"{name}:{number}",
            code="E104",
        )
    return Field(found[1], tuple(filter(None, found[2].split("."))), bool(found[3]), number)


def _checked(messages: list[Message], name: str) -> tuple[Message, ...]:
    roles = [message.role for message in messages]
    if not messages:
        problem, help = "the template is empty", "write what the model is to do"
    elif "prompt" in roles and len(roles) > 1:
        problem, help = "[prompt] stands beside other sections", "use [prompt] alone, or messages"
    elif roles[-1] == "assistant":
        problem, help = "the template ends with [assistant]", "end with what the model is to answer"
    else:
        return tuple(messages)
    raise WorkflowError(problem, help=help, where=name, code="E104")
