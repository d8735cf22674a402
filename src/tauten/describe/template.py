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

A template may begin with front matter (`front.py`), TOML between two lines of `+++`: its name, what it is for, the
types of its variables. It may then have blocks (`blocks.py`): what always stays, few-shot examples one by one, formats
to choose from. Its version is its content.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import difflib
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from tauten.describe.blocks import Choice, Marked, blocks, check_choice, loose, named, plain
from tauten.describe.front import Front, read_front, unreadable
from tauten.describe.message import (
    VARIABLE,
    Field,
    Line,
    Message,
    Span,
    chosen,
    fixed_first,
    has_field,
    joined,
    numbered,
    said,
    trimmed,
    written,
)
from tauten.describe.payload import Json, Media, Payload
from tauten.describe.variable import images_in
from tauten.errors import WorkflowError, suggest

SECTIONS = ("system", "user", "assistant", "prompt")
_SECTION = re.compile(r"^\[([A-Za-z]+)\]\s*$")
_FIELD = re.compile(r"\\\{\{|\{\{(.*?)\}\}|\{\{")
_INSIDE = re.compile(r"^\s*([A-Za-z_]\w*)((?:\.[A-Za-z_]\w*)*)(\?)?\s*$")
INLINE = "template"  # how errors name a template that is written in the call


class Template(msgspec.Struct, frozen=True):
    """A parsed template. Equal sources are equal templates.

    >>> parse("Say {{ word }}.").render({"word": "hello"})
    [{'role': 'user', 'content': 'Say hello.'}]
    """

    name: str
    source: str
    messages: tuple[Message, ...]
    front: Front = Front()
    formats: tuple[str, ...] = ()  # to choose from; the first one stands
    examples: tuple[str, ...] = ()  # by name, or by number where a template names none
    choice: Choice = Choice()
    hidden: tuple[Field, ...] = ()  # fields of formats and examples that the choice leaves out

    @property
    def version(self) -> str:
        """Sixteen hexadecimal digits of its content: another byte is another version."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    @property
    def identity(self) -> str:
        """What names this template in a workflow's signature: its content."""
        return f"template {self.version}"

    def choose(self, format: str = "", without: str | Sequence[str] = ()) -> Template:
        """The same template in another format, or without some of its examples; raises WorkflowError E108.

        >>> parse("[user]\\n1?\\n[assistant]\\none\\n[user]\\n{{ n }}?").choose(without=["1"]).render({"n": 2})
        [{'role': 'user', 'content': '2?'}]
        """
        names = (without,) if isinstance(without, str) and without else tuple(without)
        choice = Choice(format, names)
        return self if choice == self.choice else parse(self.source, self.name, choice)

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
    def opening(self) -> str:
        """The text before the first field: what every prompt begins with."""
        said = ""
        for message in self.messages:
            for line in message.lines:
                for part in line:
                    if isinstance(part, Field):
                        return said
                    said += part
                said += "\n"
        return said

    @property
    def head(self) -> int:
        """Characters before the first field."""
        return len(self.opening)

    @property
    def fixed_spans(self) -> list[tuple[str, list[Span]]]:
        """The messages without the values of fields, what every request says, in pieces."""
        return [
            (each.role, trimmed([Span(_without_fields(line), mark) for line, mark in each.rows]))
            for each in self.messages
        ]

    @property
    def fixed(self) -> list[dict[str, str]]:
        """The same as whole messages."""
        return joined(self.fixed_spans)

    def opens_with(self, mark: str) -> bool:
        """Whether all of a block stands before the first field."""
        rows = [row for each in self.messages for row in each.rows]
        first = next((place for place, (line, _) in enumerate(rows) if has_field([line])), len(rows))
        return all(each != mark for _, each in rows[first:])

    def fixed_first(self) -> Template:
        """The same paragraphs, in each message those without a field before those with one.

        >>> parse("Passage: {{ passage }}\\n\\nAnswer in one sentence.").fixed_first().messages[0].lines
        (('Answer in one sentence.',), (), ('Passage: ', Field(name='passage', path=(), optional=False, line=1)))
        """
        messages = tuple(map(fixed_first, self.messages))
        return self if messages == self.messages else msgspec.structs.replace(self, messages=messages)

    def check(self, given: Iterable[str], *, maybe: Iterable[str] = (), reserved: Iterable[str] = ()) -> None:
        """Compare fields with the names given by a call; raises WorkflowError E104, E103.

        `maybe` are given names whose value may be absent, `reserved` names that no field may have.
        """
        names, absent, settings = set(given), set(maybe), set(reserved)
        for use in (*self.uses, *self.hidden):
            if use.name in settings:
                raise self._error(use.line, f"{use} is a setting of the stage", "rename the field")
            if use.name not in names and not use.optional:
                listed = ", ".join(sorted(names)) or "nothing"
                raise self._error(use.line, f"{use} is not given; given: {listed}", suggest(use.name, names))
            if use.name in absent and not use.optional:
                help = f"write {{{{ {use.name}? }}}}, or give a default: tt.default({use.name}, value)"
                raise self._error(use.line, f"{use} may be absent, and is not optional", help, code="E103")
        unused = sorted(names - self.fields.keys() - {use.name for use in self.hidden})
        if unused:
            raise self._error(
                0,
                f"`{unused[0]}` is given but never used; fields: {', '.join(self.fields) or 'none'}",
                f"write {{{{ {unused[0]} }}}} in the template, or do not pass it",
            )

    def render(self, values: Mapping[str, Any]) -> list[dict[str, str]]:
        """Fill in the values: messages of `role` and `content`; raises WorkflowError E103, E104, E119."""
        return joined(self.spans(values))

    def spans(self, values: Mapping[str, Any]) -> list[tuple[str, list[Span]]]:
        """What `render` gives, in pieces that say where they come from; raises as it does."""
        self.check_values(values)
        filled = [(message.role, trimmed(self._fill(message, values))) for message in self.messages]
        shown = [(role, spans) for role, spans in filled if spans]
        if not shown or shown[-1][0] == "assistant":
            raise self._error(
                0, "nothing is left to ask: every field is absent", "ask something", code="E103"
            )
        return shown

    def check_values(self, values: Mapping[str, Any]) -> None:
        """Raise WorkflowError E119 for a value that a declared variable does not take."""
        for name, variable in self.front.variables.items():
            if problem := variable.problem(values.get(name)):
                help = f"give {variable}, or declare it otherwise"
                raise self._error(self.front.lines[name], f"`{name}` {problem}", help, code="E119")

    def _fill(self, message: Message, values: Mapping[str, Any]) -> list[Span]:
        kept: list[list[Span]] = []
        dropped = False
        for line, mark in message.rows:
            spans = self._fill_line(line, mark, values)
            if spans is None:
                dropped = True
                continue
            # a vanished line must not leave its two blank neighbours behind
            if not (dropped and not said(spans) and (not kept or not said(kept[-1]))):
                kept.append(spans)
            dropped = dropped and not said(spans)
        return [span for line in kept for span in line]

    def _fill_line(self, line: Line, mark: str, values: Mapping[str, Any]) -> list[Span] | None:
        """The line in pieces, its end included, or None where it disappears."""
        shown: list[Span] = []
        present = absent = False
        for part in line:
            if isinstance(part, str):
                shown.append(Span(part, mark))
                continue
            text = self._value(part, values)
            present, absent = present or bool(text) or not part.optional, absent or not text
            shown.append(Span(text, VARIABLE))
        return None if absent and not present else [*shown, Span("\n", mark)]

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
        declared = self.front.variables.get(field.name)
        if declared is not None and declared.type == "images" and value is not None and not field.path:
            count = images_in(value)
            return str(count) if count or isinstance(value, int) else ""
        try:
            return as_text(value)
        except TypeError as error:
            raise self._error(field.line, f"{field}: {error}", "give text, numbers or structs") from error

    def _error(self, line: int, message: str, help: str, code: str = "E104") -> WorkflowError:
        where = f"{self.name}:{line}" if line else self.name
        return WorkflowError(message, help=help, where=where, code=code)


def _without_fields(line: Line) -> str:
    return "".join(part for part in line if isinstance(part, str)) + "\n"


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
        return parse(path.read_text(encoding="utf-8-sig"), path.name)
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


@functools.lru_cache(maxsize=256)  # a plan's choice is made for each request; a workflow has a few templates
def parse(source: str, name: str = INLINE, choice: Choice = Choice()) -> Template:
    """Read a template; raises WorkflowError E104 or E108 with the line."""
    lines = source.replace("\r\n", "\n").split("\n")
    front, first = read_front(lines, name)
    marked = plain(lines) if front is None else blocks(lines[first:], first, name)
    read = [(each, _section(each.text, name, each.number)) for each in marked]
    for each in loose(marked, [section for _, section in read]):
        help = "begin with [user] or [system], or move it into the block above"
        raise unreadable("text follows a block with sections, and stands in none", help, name, each.number)
    whole = numbered(_messages(read, name))
    marks = [mark for message in whole for mark in message.marks]
    formats, examples = named("format", marks), named("example", marks)
    check_choice(choice, formats, examples, name)
    messages, hidden = chosen(whole, choice, formats[0] if formats else "")
    stand = _checked(list(messages), name)
    found = Template(name, source, stand, front or Front(), formats, examples, choice, hidden)
    _check_declared(found)
    return found


def _messages(read: Sequence[tuple[Marked, str]], name: str) -> tuple[Message, ...]:
    parts: list[tuple[str, list[Line], list[str]]] = [("", [], [])]
    for each, section in read:
        if section:
            parts.append((section, [], []))
        else:
            line = tuple(_line(each.text, name, each.number))
            _check_stable(line, each, name)
            parts[-1][1].append(line)
            parts[-1][2].append(each.mark)
    if len(parts) == 1:
        parts = [("user", *parts[0][1:])] if written(parts[0][1]) else []
    elif written(parts.pop(0)[1]):
        raise WorkflowError(
            "text stands before the first section",
            help="begin with [system] or [user]",
            where=name,
            code="E104",
        )
    return _checked([Message(role, tuple(lines), tuple(marks)) for role, lines, marks in parts], name)


def _check_stable(line: Line, marked: Marked, name: str) -> None:
    field = next((part for part in line if isinstance(part, Field)), None)
    if marked.mark == "stable" and field is not None:
        help = "move the line out of the block, or the field out of the line"
        raise unreadable(f"{field} stands in the stable part, which never changes", help, name, marked.number)


def _check_declared(template: Template) -> None:
    """Where variables are declared, fields and declarations are the same names."""
    declared, lines = template.front.variables, template.front.lines
    uses = (*template.uses, *template.hidden)
    for use in uses if declared else ():
        if use.name not in declared:
            help = suggest(use.name, declared)
            raise unreadable(f"{use} is not among the variables", help, template.name, use.line)
    for name in sorted(declared.keys() - {use.name for use in uses}):
        help = f"write {{{{ {name} }}}} where it belongs, or do not declare it"
        raise unreadable(f"variable `{name}` is declared and never used", help, template.name, lines[name])
    for name in sorted(template.front.formats.keys() - set(template.formats)):
        help = suggest(name, template.formats)
        raise unreadable(f"format `{name}` is declared and has no block", help, template.name, lines[name])


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
