"""From documents to chunks: what a reader of the markup would see, under the right titles."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import tauten
from index.kit_index import DOCUMENTS
from kit.effort import within_bounds
from tauten.describe import markup
from tauten.describe.markup import plain_markdown, plain_rst, sentences
from tauten.describe.passages import Block, Chunk, Document, Section
from tauten.describe.stages.chunk import MAX_WORDS, chunks_of
from tauten.describe.stages.clean import sections_of
from tauten.describe.stages.ingest import read_documents
from tauten.errors import InputError

CORPUS = Path(tauten.__file__).parent / "examples" / "help_desk" / "docs"


def test_examples_in_the_docstrings_hold() -> None:
    assert doctest.testmod(markup).failed == 0


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (":func:`open`", "open()"),
        (":meth:`~dict.get`", "get()"),
        (":class:`!Missing`", "Missing"),
        (":ref:`the tutorial <tut>`", "the tutorial"),
        (":attr:`~.errno`", "errno"),
        (":pep:`484`", "PEP 484"),
        ("``**kwargs`` and **bold** and *soft*", "**kwargs and bold and soft"),
        ("`site <https://x.org>`_ [1]_", "site"),
        (r"a :keyword:`with`\ -statement", "a with-statement"),
        ("2*3*4 is not markup", "2*3*4 is not markup"),
    ],
)
def test_inline_markup_reads_as_words(written: str, read: str) -> None:
    assert plain_rst(written) == read


def test_markdown_reads_as_words() -> None:
    assert (
        plain_markdown("**Use** [`run`](x.md) _now_, snake_case stays") == "Use `run` now, snake_case stays"
    )


def test_only_tags_go_from_markdown() -> None:
    assert plain_markdown("n < 10 or n > 100, <b>bold</b>") == "n < 10 or n > 100, bold"
    assert plain_markdown("see [C](https://x.org/C_(language)).") == "see C."


@pytest.mark.parametrize(
    "text",
    [
        "'[' * n",
        "'<' * n",
        "'**a ' * (n // 50)",
        "'`' * n + 'x' * n",
        "'[](' * n",
        "'```a\\n' * n",  # fences that nothing closes
        "'```\\n' * n",  # code of no line
        "'```\\n' + 'a ' * 500 + '\\n' * n + 'b\\n```'",
    ],
)
def test_markdown_of_strangers_costs_its_length(text: str) -> None:
    _read_within_bounds(text, "markdown")


@pytest.mark.parametrize("text", ["'`' + ' ' * n + 'x'", "'x' + ' ' * n + 'x'", "':a:`' + '<' * n + '`'"])
def test_restructured_text_of_strangers_costs_its_length(text: str) -> None:
    _read_within_bounds(text, "rst")


@pytest.mark.parametrize("text", ["'a\\n' * n * 5", "'A. ' * n"])
def test_text_of_strangers_costs_its_length(text: str) -> None:
    _read_within_bounds(text, "text")


def _read_within_bounds(text: str, form: str) -> None:
    within_bounds(
        "from tauten.describe.passages import Document\n"
        "from tauten.describe.stages.chunk import chunks_of\n"
        "from tauten.describe.stages.clean import sections_of\n"
        "n = 200_000\n"
        f"chunks_of(sections_of(Document('a', {text}, {form!r})))"
    )


def test_sentences_end_where_they_end() -> None:
    text = "Use a dict, e.g. One. It has 3.5 keys! Does it?\n\nYes"
    assert sentences(text) == ["Use a dict, e.g. One.", "It has 3.5 keys!", "Does it?", "Yes"]


def test_a_long_row_of_what_is_no_end_is_one_sentence() -> None:
    """What stands before an end is looked at, not all since the last one: that took hours of this."""
    text = " ".join(["See e.g. A"] * 100_000)
    assert sentences(text) == [text]


def test_definitions_are_sections_with_their_own_titles_and_links() -> None:
    sections = {section.titles[-1]: section for section in sections_of(DOCUMENTS[0])}
    assert list(sections) == [
        "Built-in Problems",
        "KeyError",
        "KeyError.args",
        "fetch()",
        "Reading the manual",
    ]
    error = sections["KeyError"]
    assert error.kind == "definition"
    assert error.titles == ("Built-in Problems", "Lookups", "KeyError")
    assert error.blocks == (Block("Raised when a mapping key is not found, see dict.get()."),)
    assert error.url == "https://docs.example.org/problems.html#problems.KeyError"
    assert sections["Built-in Problems"].url.endswith("#errors-page")
    assert sections["Reading the manual"].url.endswith("#reading-the-manual")


def test_code_keeps_its_place_and_signatures_are_whole() -> None:
    fetch = next(section for section in sections_of(DOCUMENTS[0]) if section.titles[-1] == "fetch()")
    assert fetch.signature == "fetch(name, /, default=None, *,  strict=False)\nfetch(names)"
    assert [block.kind for block in fetch.blocks] == ["prose", "code", "prose"]
    assert fetch.blocks[0].text == "Return what name stands for. Use it so:"
    assert fetch.blocks[1].text == '>>> fetch("a")\n1'


def test_lists_and_tables_stay_apart() -> None:
    manual = next(s for s in sections_of(DOCUMENTS[0]) if s.titles[-1] == "Reading the manual")
    assert manual.blocks == (
        Block("- first item"),
        Block("- second item that goes on"),
        Block("one  two\n1  2", "table"),
    )


def test_a_glossary_gives_a_section_for_each_term() -> None:
    prompt, decorator = sections_of(DOCUMENTS[1])
    assert (prompt.kind, prompt.titles) == ("term", ("Glossary", ">>>"))
    assert decorator.blocks[1] == Block("@wrap\ndef f(): pass", "code")
    assert decorator.url == "https://docs.example.org/glossary.html#term-decorator"


def test_markdown_has_headings_code_and_lists() -> None:
    text = "# Guide\n\nHello *you*.\n\n## Run\n\n```sh\n# not a heading\nmake\n```\n\n- one\n- two\n"
    guide, run = sections_of(Document("guide.md", text, "markdown", "https://x.org/guide.md"))
    assert (guide.titles, guide.blocks) == (("Guide",), (Block("Hello you."),))
    assert run.titles == ("Guide", "Run")
    assert run.blocks == (Block("# not a heading\nmake", "code"), Block("- one"), Block("- two"))
    assert run.url == "https://x.org/guide.md#run"


def test_fences_of_markdown() -> None:
    text = "# One\r\n\r\nSay:\r\n\r\n```py\r\n# no heading\r\n\r\nx = 1\r\n```\r\n\r\n## Two ##\r\n\r\nend\r\n```\r\nopen"
    one, two = sections_of(Document("a.md", text, "markdown"))
    assert one.titles == ("One",)
    assert one.blocks == (Block("Say:"), Block("# no heading\n\nx = 1", "code"))
    assert two.titles == ("One", "Two")
    assert two.blocks == (Block("end ``` open"),)  # a fence that nothing closes is text


def test_plain_text_is_one_section_of_paragraphs() -> None:
    [section] = sections_of(Document("notes.txt", "One\nline.\n\n    code()\n\nTwo."))
    assert section.titles == ("notes.txt",)
    assert section.blocks == (Block("One line."), Block("code()", "code"), Block("Two."))


def _section(*blocks: Block) -> Section:
    return Section("a.rst", ("A", "B"), blocks)


def test_code_stays_with_the_sentence_that_leads_to_it() -> None:
    prose, code = Block("word " * 90), Block("x = 1\n" * 30, "code")
    first, second = chunks_of([_section(prose, Block("And now so:"), code)], MAX_WORDS)
    assert first.blocks == (prose,)
    assert second.blocks == (Block("And now so:"), code)


def test_long_prose_is_cut_between_sentences() -> None:
    prose = " ".join(f"Sentence number {number} has seven words inside." for number in range(60))
    chunks = chunks_of([_section(Block(prose))], 70)
    assert len(chunks) == 6
    assert all(chunk.text.endswith("inside.") for chunk in chunks)
    assert [chunk.part for chunk in chunks] == list(range(6))


def test_ids_name_the_content() -> None:
    one, again = (chunks_of(sections_of(DOCUMENTS[0])) for _ in range(2))
    assert [chunk.id for chunk in one] == [chunk.id for chunk in again]
    moved = Document("other.rst", DOCUMENTS[0].text, "rst")
    assert not {chunk.id for chunk in one} & {chunk.id for chunk in chunks_of(sections_of(moved))}


def test_equal_text_under_equal_titles_is_kept_once() -> None:
    section = _section(Block("The same words as in the section before."))
    assert len(chunks_of([section, section])) == 1


def test_the_bundled_documentation_is_cut_as_measured() -> None:
    documents = read_documents([CORPUS], url="https://docs.python.org/3.11")
    chunks = chunks_of(section for document in documents for section in sections_of(document))
    assert len(documents) == 51
    assert 2500 < len(chunks) < 2900
    assert max(len(chunk.body.split()) for chunk in chunks) <= MAX_WORDS * 1.6
    [error] = [chunk for chunk in chunks if chunk.title == "KeyError"]
    assert error.text == "Raised when a mapping (dictionary) key is not found in the set of existing keys."
    assert error.url == "https://docs.python.org/3.11/library/exceptions.html#KeyError"
    leftovers = [chunk for chunk in chunks if any(mark in chunk.text for mark in (":func:", ":ref:", ".. _"))]
    assert leftovers == []


def test_the_licence_travels_with_the_documentation() -> None:
    licence = (CORPUS / "LICENSE").read_text()
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in licence
    assert "ZERO-CLAUSE BSD LICENSE" in licence


def test_only_text_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="not UTF-8") as caught:
        read_documents([tmp_path])
    assert caught.value.code == "E222"


def test_a_folder_without_documents_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no documents"):
        read_documents([tmp_path])
    with pytest.raises(InputError, match="no file or folder"):
        read_documents([tmp_path / "gone"])


def test_names_of_a_chunk() -> None:
    chunk = Chunk("a.rst", ("A", "json.dump()"), (Block("Text."), Block("x", "code")), "definition")
    assert (chunk.name, chunk.code, chunk.text, chunk.body) == ("json.dump", ("x",), "Text.", "Text.\n\nx")
