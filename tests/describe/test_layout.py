"""Sheets as sections: columns in order, headings with their levels, paragraphs, tables, captions, and nothing lost."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.effort import within_bounds
from tauten.describe.layout import sections_of_sheets
from tauten.describe.passages import Section
from tauten.describe.reading_order import columns_of, without_running_heads
from tauten.describe.sheets import Mark, Sheet, Sheets, Span
from tauten.describe.table_rows import sentences

WIDE, HIGH, SIZE = 595.0, 842.0, 10.0
LETTER = 0.5  # of a letter's height is its width


def span(text: str, x: float, y: float, size: float = SIZE, *, bold: bool = False) -> Span:
    """A run of letters whose feet stand at `y`."""
    return Span(text, x, y - size, x + LETTER * size * len(text), y, size, bold)


def lines(texts: Sequence[str], x: float = 56.0, y: float = 120.0, size: float = SIZE) -> list[Span]:
    """Rows one below the other, as close as in a paragraph."""
    return [span(text, x, y + 1.3 * size * place, size) for place, text in enumerate(texts)]


def sheet(*spans: Span, number: int = 1, picture: bytes = b"") -> Sheet:
    return Sheet(number, WIDE, HIGH, tuple(spans), picture)


def read(*sheets: Sheet, marks: tuple[Mark, ...] = ()) -> list[Section]:
    return sections_of_sheets("a.pdf", Sheets(sheets, "a", marks))


def said(sections: Sequence[Section]) -> list[tuple[tuple[str, ...], list[str]]]:
    return [(each.titles, [block.text for block in each.blocks]) for each in sections]


TEXT = [
    "The pump draws water from the lower tank and lifts it",
    "into the upper one, as long as both are open.",
]
WHOLE = " ".join(TEXT)


# -- order -----------------------------------------------------------------------------------------------------


def column(word: str, x: float, rows: int = 6, y: float = 200.0) -> list[Span]:
    return lines([f"{word}{row} is a line of some forty letters, all in" for row in range(rows)], x, y, 9.0)


def test_columns_are_read_one_after_another_and_what_crosses_them_where_it_stands() -> None:
    title = span("A title that reaches over both of the columns of this sheet of paper", 56, 150, 14.0)
    foot = span(
        "A closing line that reaches over both of the columns of this sheet, too, and ends it", 56, 400
    )
    shown = [*column("right", 320), title, *column("left", 56), foot]
    order = [row.text.split()[0] for part in columns_of(sheet(*shown)) for row in part]
    assert order == ["A", *(f"left{n}" for n in range(6)), *(f"right{n}" for n in range(6)), "A"]


def test_three_columns() -> None:
    shown = [
        *column("c", 440, 5),
        *column("a", 20, 5),
        *column("b", 230, 5),
    ]
    order = [row.text.split()[0] for part in columns_of(sheet(*shown)) for row in part]
    assert order == [f"{word}{n}" for word in "abc" for n in range(5)]


def test_a_gap_between_paragraphs_that_both_columns_have_is_no_reason_to_jump() -> None:
    shown = [*column("l", 56), *column("m", 56, y=300), *column("r", 320), *column("s", 320, y=300)]
    order = [row.text[0] for part in columns_of(sheet(*shown)) for row in part]
    assert order == [*"l" * 6, *"m" * 6, *"r" * 6, *"s" * 6]


def test_narrow_cells_side_by_side_are_rows_of_a_table() -> None:
    rows = [("Part", "Interval", "Tool"), ("Belt", "200 h", "wrench"), ("Filter", "8 h", "none")]
    shown = [
        span(cell, 56 + 150 * place, 200 + 15 * number)
        for number, row in enumerate(rows)
        for place, cell in enumerate(row)
    ]
    [part] = columns_of(sheet(*shown))
    assert [tuple(cell.text for cell in row.cells) for row in part] == rows


def test_words_that_stand_near_are_one_cell() -> None:
    [part] = columns_of(sheet(span("one", 56, 100), span("two", 56 + 15 + 4, 100), span("three", 200, 100)))
    assert [tuple(cell.text for cell in row.cells) for row in part] == [("one two", "three")]


def test_a_row_of_strangers_costs_its_length() -> None:
    within_bounds(
        "from tauten.describe.reading_order import columns_of\n"
        "from tauten.describe.sheets import Sheet, Span\n"
        "spans = tuple(Span('x', 2.4 * n, 100.0, 2.4 * n + 1, 101.0, 1.0) for n in range(60_000))\n"
        "[[row]] = columns_of(Sheet(1, 144_000.0, 800.0, spans))\n"
        "assert len(row.cells) == 60_000"
    )


def test_running_heads_and_page_numbers_go_and_the_text_stays() -> None:
    pages = [
        sheet(span("The pump handbook", 56, 40), *lines(TEXT), span(f"Page {n} of 3", 290, 815), number=n)
        for n in (1, 2, 3)
    ]
    kept = without_running_heads(pages)
    assert [[each.text for each in page.spans] for page in kept] == [TEXT] * 3


def test_a_margin_that_says_something_once_is_kept() -> None:
    pages = [sheet(span("Only here", 56, 40), number=1), sheet(span("Chapter 2", 56, 40), number=2)]
    kept = without_running_heads(pages)
    assert [[each.text for each in page.spans] for page in kept] == [["Only here"], ["Chapter 2"]]
    alone = without_running_heads([sheet(span("17", 290, 815), span("Once", 56, 40))])
    assert [each.text for each in alone[0].spans] == ["Once"]


# -- headings --------------------------------------------------------------------------------------------------


def test_larger_letters_are_headings_and_the_largest_the_title() -> None:
    shown = [
        span("Corvus 40", 56, 80, 20.0),
        *lines(TEXT, y=120),
        span("Care", 56, 180, 14.0),
        *lines(TEXT, y=200),
        span("Belts", 56, 260, 12.0),
        *lines(TEXT, y=280),
        span("Codes", 56, 340, 14.0),
        *lines(TEXT, y=360),
    ]
    assert [titles for titles, _ in said(read(sheet(*shown)))] == [
        ("Corvus 40",),
        ("Corvus 40", "Care"),
        ("Corvus 40", "Care", "Belts"),
        ("Corvus 40", "Codes"),
    ]


def test_bold_lines_of_the_texts_size_are_headings_where_text_is_not_bold() -> None:
    heads = [span("1 Data", 56, 120, bold=True), span("1.1 Belts", 56, 180, bold=True)]
    shown = [heads[0], *lines(TEXT, y=140), heads[1], *lines(TEXT, y=200)]
    assert [titles for titles, _ in said(read(sheet(*shown)))] == [("1 Data",), ("1 Data", "1.1 Belts")]
    bold = [msgspec.structs.replace(each, bold=True) for each in shown]
    assert [titles for titles, _ in said(read(sheet(*bold)))] == [("a.pdf",)]


def test_the_files_own_contents_say_what_a_heading_is() -> None:
    marks = (Mark(0, "Setting  up", 1), Mark(1, "Where to put it", 1), Mark(0, "Elsewhere", 9))
    shown = [
        span("Setting up", 56, 100),
        *lines(TEXT, y=130),
        span("Where to put it", 56, 190),
        *lines(TEXT, y=220),
        span("Elsewhere", 56, 280),
        *lines(TEXT, y=310),
    ]
    titles = [titles for titles, _ in said(read(sheet(*shown), marks=marks))]
    assert titles == [
        ("Setting up",),
        ("Setting up", "Where to put it"),
    ]  # the last one stands on another page


def test_a_heading_of_two_lines_is_one_and_a_sentence_in_large_letters_is_none() -> None:
    shown = [
        span("How to carry", 56, 80, 16.0),
        span("a heavy pump", 56, 101, 16.0),
        *lines(TEXT, y=140),
        span("This is a warning.", 56, 200, 16.0),
        *lines(TEXT, y=240),
    ]
    [(titles, blocks)] = said(read(sheet(*shown)))
    assert titles == ("How to carry a heavy pump",)
    assert blocks == [WHOLE, "This is a warning.", WHOLE]


def test_a_heading_with_nothing_under_it_is_said() -> None:
    shown = [span("Left alone", 56, 80, 16.0), span("Care", 56, 200, 16.0), *lines(TEXT, y=240)]
    assert said(read(sheet(*shown))) == [(("Left alone",), ["Left alone"]), (("Care",), [WHOLE])]
    assert said(read(sheet(span("A poster", 56, 80, 30.0)))) == [(("a.pdf",), ["A poster"])]


# -- paragraphs ------------------------------------------------------------------------------------------------


def test_what_stands_apart_is_another_paragraph_and_items_are_their_own() -> None:
    shown = [*lines(TEXT, y=100), *lines(["It is heavy."], y=140), *lines(["• one item", "• another"], y=160)]
    [(_, blocks)] = said(read(sheet(*shown)))
    assert blocks == [WHOLE, "It is heavy.", "- one item", "- another"]


def test_a_word_that_was_parted_is_whole_again() -> None:
    shown = lines(["Never run the com-", "pressor without its well-known", "E-", "Stop beside it"])
    [(_, blocks)] = said(read(sheet(*shown)))
    assert blocks == ["Never run the compressor without its well-known E- Stop beside it"]


def test_a_paragraph_goes_on_over_the_page_and_sections_name_the_page_where_they_begin() -> None:
    first = sheet(*lines(["The last line of this page does not end the"]), number=1)
    second = sheet(*lines(["sentence.", "", "Another begins here."], y=100), number=2)
    sections = read(first, second)
    assert said(sections) == [
        (("a.pdf",), ["The last line of this page does not end the sentence."]),
        (("a.pdf",), ["Another begins here."]),
    ]
    assert [each.url for each in sections] == ["a.pdf#page=1", "a.pdf#page=2"]


def test_a_sheet_without_letters_says_nothing() -> None:
    assert read() == read(sheet()) == read(sheet(span("  ", 56, 80))) == []


# -- tables and captions ---------------------------------------------------------------------------------------


def table(rows: Sequence[Sequence[str]], y: float = 200.0, leading: float = 18.0) -> list[Span]:
    return [
        span(cell, 56 + 170 * place, y + leading * number)
        for number, row in enumerate(rows)
        for place, cell in enumerate(row)
        if cell
    ]


CARE = [["Part", "Interval", "Tool"], ["Belt", "200 h", "wrench"], ["Filter", "8 h", "no tool"]]


def test_a_table_becomes_sentences_under_its_caption() -> None:
    shown = [*lines(TEXT, y=120), span("Table 1. Care of the pump", 56, 175), *table(CARE)]
    after = lines(["Ask the service for parts."], y=290)
    assert said(read(sheet(*shown, *after))) == [
        (("a.pdf",), [WHOLE]),
        (
            ("a.pdf", "Table 1. Care of the pump"),
            ["Belt: Interval 200 h, Tool wrench.", "Filter: Interval 8 h, Tool no tool."],
        ),
        (("a.pdf",), ["Ask the service for parts."]),
    ]


def test_a_cell_that_goes_on_is_whole() -> None:
    rows = table([["Code", "Meaning", "Remedy"], ["F1", "the motor is", "wait until"]])
    rest = [span("too hot", 226, 231), span("it is cold", 396, 231)]
    more = table([["F2", "the cover is open", "close it"]], y=249)
    [(_, blocks)] = said(read(sheet(*rows, *rest, *more)))
    assert blocks == [
        "F1: Meaning the motor is too hot, Remedy wait until it is cold.",
        "F2: Meaning the cover is open, Remedy close it.",
    ]


def test_a_first_cell_that_goes_on_is_whole_in_a_table_whose_rows_stand_apart() -> None:
    rows = [*table(CARE), span("of paper", 56, 249)]
    [(_, blocks)] = said(read(sheet(*rows)))
    assert blocks[-1] == "Filter of paper: Interval 8 h, Tool no tool."


def test_a_table_goes_on_on_the_next_page() -> None:
    first = sheet(span("Table 2. Care", 56, 175), *table(CARE), number=1)
    second = sheet(*table([["Seal", "500 h", "pliers"]], y=120), number=2)
    [(titles, blocks)] = said(read(first, second))
    assert titles == ("a.pdf", "Table 2. Care")
    assert blocks[-1] == "Seal: Interval 500 h, Tool pliers."


def test_captions_of_figures_and_of_tables_that_never_come_are_text() -> None:
    shown = [
        *lines(["Figure 3: The drain is at the left."], y=120),
        *lines(["Table 9. Nothing follows"], y=160),
        *lines(["The end of it all."], y=200),
    ]
    texts = [text for _, blocks in said(read(sheet(*shown))) for text in blocks]
    assert texts == ["Figure 3: The drain is at the left.", "Table 9. Nothing follows", "The end of it all."]


def test_a_numbered_heading_with_a_wide_gap_is_no_table() -> None:
    shown = [span("2.1", 56, 100, 14.0), span("Belts", 110, 100, 14.0), *lines(TEXT, y=130)]
    assert said(read(sheet(*shown))) == [(("2.1 Belts",), [WHOLE])]


def test_a_line_with_a_wide_gap_in_a_paragraph_is_no_table() -> None:
    torn = [span("this line was set to both edges", 56, 133), span("and is torn", 300, 133)]
    shown = [span("A paragraph of which the second line", 56, 120), *torn, span("ends here.", 56, 146)]
    [(_, blocks)] = said(read(sheet(*shown)))
    assert blocks == [
        "A paragraph of which the second line this line was set to both edges and is torn ends here."
    ]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([["Weight", "38 kg"]], ["Weight: 38 kg."]),
        ([["A", "B", "C"]], ["A: B, C."]),
        ([["", "B", "C"], ["x", "", "z"]], ["B, C.", "x: z."]),
        ([["Part", "Use", "At 20 h"], ["x", "y", "z"]], ["Part: Use, At 20 h.", "x: y, z."]),
    ],
    ids=["two columns", "a head alone", "holes", "a number in the first row"],
)
def test_rows_as_sentences(rows: list[list[str]], expected: list[str]) -> None:
    assert sentences(rows) == expected


# -- pictures --------------------------------------------------------------------------------------------------


def test_letters_of_pictures_have_rough_heights() -> None:
    """Boxes around letters differ by a fifth: only what is clearly larger is a heading."""
    heights = [10.0, 11.5, 9.6, 10.8, 11.0, 10.2]
    rows = [
        Span("a line of a page that was read from its picture", 56, y - size, 400, y, size)
        for size, y in zip(heights, range(200, 290, 15), strict=True)
    ]
    head = Span("Clearly larger", 56, 150, 200, 170, 20.0)
    [(titles, blocks)] = said(read(sheet(head, *rows, picture=b"x")))
    assert titles == ("Clearly larger",)
    assert len(blocks) == 1


# -- whatever comes --------------------------------------------------------------------------------------------

WORD = st.text("abcdefghijklmnop", min_size=2, max_size=9)
SPANS = st.lists(
    st.tuples(
        st.lists(WORD, min_size=1, max_size=6),
        st.floats(0, 500),
        st.floats(90, 750),
        st.sampled_from([8.0, 10.0, 10.0, 12.0, 20.0]),
        st.booleans(),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(pages=st.lists(SPANS, max_size=3))
def test_no_word_is_lost_whatever_stands_where(
    pages: list[list[tuple[list[str], float, float, float, bool]]],
) -> None:
    sheets = [
        sheet(*(span(" ".join(words), x, y, size, bold=bold) for words, x, y, size, bold in spans), number=n)
        for n, spans in enumerate(pages, 1)
    ]
    sections = read(*sheets)
    shown = " ".join(
        [
            *(title for each in sections for title in each.titles),
            *(b.text for s in sections for b in s.blocks),
        ]
    )
    heard = set(re.findall(r"[a-p]+", shown))
    assert heard >= {word for spans in pages for words, *_ in spans for word in words}
    assert all(each.blocks and all(block.text for block in each.blocks) for each in sections)
