"""Turn documents into sections: markup gone, title paths kept, every definition a section of its own.

reStructuredText is read line by line: headings, definitions (``.. function::``), glossaries, literal
blocks, tables and admonitions. What only helps navigation (labels, index entries, version notes) goes.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from textwrap import dedent
from typing import Literal

from tauten.describe.markup import plain_markdown, plain_rst
from tauten.describe.passages import Block, Document, Kind, Section
from tauten.describe.stage import stage

_RULE = re.compile(r"^([=\-*~^\"'#+.`:])\1{2,}$")
_DIRECTIVE = re.compile(r"^( *)\.\. (?:py:|c:)?([a-z-]+):: ?(.*)$")
_DEFINES = frozenset(
    "exception function class method attribute data describe classmethod staticmethod decorator coroutinefunction "
    "coroutinemethod awaitablefunction awaitablemethod abstractmethod decoratormethod option cmdoption "
    "envvar opcode property".split()
)
_KEEPS_TEXT = frozenset(
    "note warning important tip hint caution attention impl-detail admonition rubric".split()
)
_CODE = frozenset("code-block code sourcecode doctest testcode parsed-literal".split())
_TABLE = re.compile(r"^\s*=+(?: +=+)+\s*$|^\s*\+[-=+]+\+\s*$")
_BULLET = re.compile(r"^(?:[*+-]|#\.|\d+\.|\(?[a-z]\))\s+(?=\S)")
_LABEL = re.compile(r"^ *\.\. _([^:]+):\s*$")
_FENCES = ("```", "~~~")
_HEADING = re.compile(r"#{1,6} ")


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


class _Rst:
    """One pass over one document; `sections` is the result."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.lines = document.text.expandtabs().splitlines()
        self.at = 0
        self.sections: list[Section] = []
        self.styles: list[tuple[str, bool]] = []  # underline characters in the order of their levels
        self.heads: list[tuple[int, str]] = []
        self.definitions: list[tuple[int, str, str]] = []  # indent, shown title, signature
        self.blocks: list[Block] = []
        self.module = self.label = self.anchor = ""

    def parse(self) -> list[Section]:
        while self.at < len(self.lines):
            self._step(self.lines[self.at])
        self._flush()
        return self.sections

    def _step(self, line: str) -> None:
        if not line.strip():
            self.at += 1
            return
        if self._heading():
            return
        if self.definitions and _indent(line) <= self.definitions[-1][0]:
            self._leave(_indent(line))
        if match := _DIRECTIVE.match(line):
            self._directive(match)
        elif line.lstrip().startswith(".. "):
            self._comment(line)
        elif _TABLE.match(line):
            self._table()
        elif line.lstrip().startswith(">>>"):
            self._add_code(self._paragraph_lines())
        else:
            self._paragraph()

    # headings and definitions

    def _heading(self) -> bool:
        line = self.lines[self.at]
        after = [text.rstrip() for text in self.lines[self.at + 1 : self.at + 3]] + ["", ""]
        over = bool(_RULE.match(line.rstrip())) and bool(_RULE.match(after[1])) and bool(after[0].strip())
        title, rule = (after[0], after[1]) if over else (line, after[0])
        if not over and (line.startswith(" ") or _RULE.match(line.rstrip()) or not _RULE.match(rule)):
            return False
        if len(rule) < len(title.strip()) - 1 or (over and rule != line.rstrip()):
            return False
        self._open_section(plain_rst(title.strip()), (rule[0], over))
        self.at += 3 if over else 2
        return True

    def _open_section(self, title: str, style: tuple[str, bool]) -> None:
        self._flush()
        self.definitions.clear()
        if style not in self.styles:
            self.styles.append(style)
        level = self.styles.index(style)
        self.heads = [head for head in self.heads if head[0] < level] + [
            (level, title.replace(" --- ", " — "))
        ]
        self.anchor = self.label or _slug(title)
        self.label = ""

    def _define(self, indent: int, role: str, first: str) -> None:
        self._leave(indent)
        self._flush()
        signatures = [first]
        while self.at < len(self.lines) and self.lines[self.at].strip():
            if _indent(self.lines[self.at]) <= indent:
                break
            further = self.lines[self.at].strip()
            if not further.startswith(":"):
                signatures.append(further)
            self.at += 1
        signature = plain_rst("\n".join(signatures).replace("\\\n", " ").replace("\\", ""))
        name = signatures[0].split("(")[0].strip().lstrip("@").split(" ")[-1 if role != "option" else 0]
        outer = self.definitions[-1][1].removesuffix("()") if self.definitions else ""
        member = outer and "." not in name and role not in ("option", "cmdoption", "envvar")
        shown = f"{outer}.{name}" if member else name
        called = "(" in signatures[0] and role not in ("class", "exception")
        self.definitions.append((indent, f"{shown}()" if called else shown, signature))

    def _leave(self, indent: int) -> None:
        if self.definitions and indent <= self.definitions[-1][0]:
            self._flush()
        while self.definitions and indent <= self.definitions[-1][0]:
            self.definitions.pop()

    def _flush(self) -> None:
        blocks = tuple(block for block in self.blocks if block.text)
        self.blocks = []
        if not blocks:
            return
        titles = (*(title for _, title in self.heads), *(shown for _, shown, _ in self.definitions))
        signature = self.definitions[-1][2] if self.definitions else ""
        kind: Kind = "definition" if self.definitions else "section"
        self.sections.append(
            Section(self.document.source, titles, blocks, kind, signature, self._url(titles))
        )

    def _url(self, titles: tuple[str, ...]) -> str:
        if not self.document.url:
            return ""
        anchor = self.anchor
        if self.definitions:
            name = titles[-1].removesuffix("()")
            outside = self.module and not name.startswith((f"{self.module}.", "-"))
            anchor = f"{self.module}.{name}" if outside else name
        return f"{self.document.url}#{anchor}" if anchor else self.document.url

    # directives

    def _directive(self, match: re.Match[str]) -> None:
        indent, name, argument = len(match[1]), match[2], match[3].strip()
        self.at += 1
        if name in _DEFINES:
            self._define(indent, name, argument)
        elif name in _CODE:
            self._skip_options(indent)
            self._add_code(self._body(indent))
        elif name in _KEEPS_TEXT:
            self._skip_options(indent)
            self._add_prose(argument)
        elif name == "glossary":
            self._glossary(self._body(indent))
        else:
            self._other(indent, name, argument)

    def _other(self, indent: int, name: str, argument: str) -> None:
        if name in ("module", "currentmodule"):
            self.module = argument
        body = self._body(indent)
        synopsis = next((line for line in body if line.strip().startswith(":synopsis:")), "")
        self._add_prose(synopsis.partition(":synopsis:")[2])

    def _comment(self, line: str) -> None:
        if label := _LABEL.match(line):
            self.label = label[1].strip("`").replace("_", "-").lower()
            self.at += 1
            return
        self.at += 1
        self._body(_indent(line))

    def _skip_options(self, indent: int) -> None:
        while self.at < len(self.lines) and re.match(rf" {{{indent + 1},}}:[\w-]+:", self.lines[self.at]):
            self.at += 1

    def _body(self, indent: int) -> list[str]:
        """The lines that stand further in than `indent`, blank ones included."""
        start = self.at
        while self.at < len(self.lines):
            line = self.lines[self.at]
            if line.strip() and _indent(line) <= indent:
                break
            self.at += 1
        return self.lines[start : self.at]

    def _glossary(self, lines: list[str]) -> None:
        self._flush()
        entries: list[tuple[str, list[str]]] = []
        margin = min((_indent(line) for line in lines if line.strip()), default=0)
        for line in lines:
            if line.strip() and _indent(line) == margin and not line.lstrip().startswith(".. "):
                entries.append((plain_rst(line.strip()), []))
            elif entries:
                entries[-1][1].append(line)
        for term, body in entries:
            self._term(term, "\n".join(body))

    def _term(self, term: str, body: str) -> None:
        inner = _Rst(Document(self.document.source, dedent(body), "rst"))
        blocks = tuple(block for section in inner.parse() for block in section.blocks)
        url = f"{self.document.url}#term-{_slug(term)}" if self.document.url else ""
        titles = (*(title for _, title in self.heads), term)
        if blocks:
            self.sections.append(Section(self.document.source, titles, blocks, "term", "", url))

    # paragraphs, code, tables

    def _paragraph_lines(self) -> list[str]:
        start = self.at
        while self.at < len(self.lines) and self.lines[self.at].strip():
            if self.at > start and _DIRECTIVE.match(self.lines[self.at]):
                break
            self.at += 1
        return self.lines[start : self.at]

    def _paragraph(self) -> None:
        indent = _indent(self.lines[self.at])
        lines = self._paragraph_lines()
        literal = lines[-1].rstrip().endswith("::")
        if literal:
            lines[-1] = lines[-1].rstrip()[:-1]
        for item in _items(lines):
            self._add_prose(item)
        if literal:
            self._add_code(self._body(indent))

    def _table(self) -> None:
        start = self.at
        while self.at < len(self.lines):
            self.at += 1
            ended = self.at >= len(self.lines) or not self.lines[self.at].strip()
            if ended and _TABLE.match(self.lines[self.at - 1]):
                break
        rows = [line.strip().strip("|") for line in self.lines[start : self.at] if not _is_border(line)]
        text = "\n".join(re.sub(r"\s{2,}|\s*\|\s*", "  ", plain_rst(row)).strip() for row in rows)
        self.blocks.append(Block(text.strip(), "table"))

    def _add_prose(self, text: str) -> None:
        words = " ".join(plain_rst(text).split())
        if words and words != ":":
            self.blocks.append(Block(words))

    def _add_code(self, lines: list[str]) -> None:
        self.blocks.append(Block(dedent("\n".join(lines)).strip("\n").rstrip(), "code"))


def _is_border(line: str) -> bool:
    return not line.strip(" =+-|")


def _items(lines: list[str]) -> list[str]:
    """A paragraph, or its list items, or its term and definition, one string each."""
    items: list[list[str]] = []
    for number, line in enumerate(lines):
        text = line.strip()
        if bullet := _BULLET.match(text):
            items.append([f"- {text[bullet.end() :]}"])
        elif items:
            first = items[0][0]
            defined = number == 1 and _indent(line) > _indent(lines[0]) and not first.startswith("- ")
            items[-1].append(f": {text}" if defined and not first.endswith((".", ":", ",")) else f" {text}")
        else:
            items.append([text])
    return ["".join(item) for item in items]


def _pieces(text: str) -> Iterator[tuple[Literal["heading", "code", "text"], list[str]]]:
    """What the lines of a Markdown text are, in order, without fences; a fence that nothing closes is text."""
    lines = text.replace("\r\n", "\n").split("\n")
    closing = {
        fence: [at for at, line in enumerate(lines) if line.startswith(fence) and not line[3:].strip()]
        for fence in _FENCES
    }
    held: list[str] = []
    at = 0
    while at < len(lines):
        ends = closing.get(lines[at][:3], [])
        place = bisect_right(ends, at)
        fenced = place < len(ends)
        if not fenced and not _HEADING.match(lines[at]):
            held.append(lines[at])
            at += 1
            continue
        yield "text", held
        held = []
        end = ends[place] if fenced else at
        yield ("code", lines[at + 1 : end]) if fenced else ("heading", [lines[at]])
        at = end + 1
    yield "text", held


def _markdown(document: Document) -> list[Section]:
    heads: list[tuple[int, str]] = []
    sections: list[Section] = []
    blocks: list[Block] = []

    def flush() -> None:
        if blocks:
            titles = tuple(title for _, title in heads) or (document.source,)
            anchor = f"#{_slug(titles[-1])}" if document.url and heads else ""
            sections.append(Section(document.source, titles, tuple(blocks), url=f"{document.url}{anchor}"))
        blocks.clear()

    for kind, lines in _pieces(document.text):
        if kind == "heading":
            flush()
            sign, _, title = lines[0].partition(" ")
            heads[:] = [head for head in heads if head[0] < len(sign)]
            heads.append((len(sign), plain_markdown(title.strip(" #"))))
        elif kind == "text":
            blocks.extend(_paragraphs("\n".join(lines), plain_markdown))
        elif any(map(str.strip, lines)):
            blocks.append(Block("\n".join(lines), "code"))
    flush()
    return sections


def _paragraphs(text: str, plain: Callable[[str], str]) -> list[Block]:
    blocks: list[Block] = []
    for paragraph in re.split(r"\n\s*\n", text.expandtabs(4)):
        lines = [line for line in paragraph.splitlines() if line.strip()]
        if lines and all(line.startswith("    ") for line in lines):
            kind: Literal["prose", "code"] = "code"
            blocks.append(Block(dedent("\n".join(lines)).rstrip(), kind))
        else:
            blocks.extend(Block(" ".join(plain(item).split())) for item in _items(lines))
    return blocks


def _text(document: Document) -> list[Section]:
    blocks = tuple(_paragraphs(document.text, str))
    return [Section(document.source, (document.source,), blocks, url=document.url)] if blocks else []


def sections_of(document: Document) -> list[Section]:
    """Read one document by its format."""
    if document.format == "rst":
        return _Rst(document).parse()
    return _markdown(document) if document.format == "markdown" else _text(document)


@stage(pure=True)
def clean(documents: list[Document]) -> list[Section]:
    """Turn documents into sections of plain words and code blocks, under their title paths."""
    return [section for document in documents for section in sections_of(document)]
