"""pages, pictures and laid_out: what a document gives, whatever form it comes in, and what is read from its pictures."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import tauten as tt
from kit.direct import direct
from media import pdf
from media.make import drawing, encode
from tauten.describe.sheets import Sheet, Sheets
from tauten.describe.stages.ocr import Line, Page
from tauten.describe.stages.pages import laid_out, pages, pictures, with_lines
from tauten.errors import MediaError, StageError
from tauten.plan.plan import Plan
from tauten.run.engine import Engine
from tauten.run.trace import Trace

WORDS = "The pump draws water from the lower tank"
PICTURE = tt.Image(encode(drawing(), "PNG"))


def box(x: float, y: float, wide: float, high: float) -> Any:
    return ((x, y), (x + wide, y), (x + wide, y + high), (x, y + high))


READ = Page([Line("Care", box(100, 100, 300, 60), 0.9), Line(WORDS, box(100, 200, 900, 30), 0.9)], 1190, 1684)


def test_a_pdf_a_picture_and_a_text_are_documents() -> None:
    [sheet] = direct(pages, tt.Pdf(pdf.pdf(pdf.shown(WORDS)))).sheets
    assert [span.text for span in sheet.spans] == [WORDS]
    [sheet] = direct(pages, PICTURE).sheets
    assert sheet.picture == PICTURE.data
    assert direct(pages, tt.Text("# Care")) == Sheets()


def test_settings_reach_the_codec() -> None:
    two = tt.Pdf(pdf.pdf(pdf.shown(WORDS), pdf.shown(WORDS)))
    with pytest.raises(MediaError, match="at most 1 are read"):
        direct(pages, two, max_pages=1)


def test_only_pages_without_letters_are_looked_at() -> None:
    sheets = Sheets((Sheet(1, 595, 842), Sheet(2, 595, 842, picture=PICTURE.data)))
    assert pictures.function(sheets) == [PICTURE]


def test_what_was_read_comes_to_its_page_in_points() -> None:
    sheets = Sheets((Sheet(1, 595, 842), Sheet(2, 595, 842, picture=PICTURE.data)))
    filled = with_lines(sheets, [READ])
    assert filled.sheets[0] == sheets.sheets[0]
    head, line = filled.sheets[1].spans
    assert (head.text, head.left, head.top, head.size) == ("Care", 50, 50, 30)
    assert (line.text, line.right) == (WORDS, 500)
    assert filled.sheets[1].height == pytest.approx(842)


def test_a_reading_too_few_is_an_error_and_never_another_pages() -> None:
    sheets = Sheets((Sheet(1, 595, 842, picture=PICTURE.data),))
    with pytest.raises(StageError, match="0 readings were given of 1 pictures"):
        with_lines(sheets, [])


def test_sections_name_their_page() -> None:
    sheets = Sheets((Sheet(1, 595, 842, picture=PICTURE.data),))
    [section] = laid_out.function("care.pdf", sheets, [READ])
    assert (section.titles, section.url) == (("Care",), "care.pdf#page=1")
    assert [block.text for block in section.blocks] == [WORDS]


@tt.workflow
def read(file: tt.Pdf | tt.Text) -> Any:
    return tt.pages(file)


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_reading_is_a_step_of_its_own_off_the_loop(mode: Any) -> None:
    async def body() -> tuple[Any, Trace]:
        async with Engine() as engine:
            await engine.open(read, Plan().edit("pages", decode=mode))
            done = await engine.run(read.bind(tt.Pdf(pdf.pdf(pdf.shown(WORDS)))))
            return done.value, done.trace

    sheets, trace = asyncio.run(body())
    assert sheets.sheets[0].spans[0].text == WORDS
    assert any(step == "pages.file" and cause == "decode" for step, cause, *_ in trace.rows)
    assert [crew for step, crew, *_ in trace.calls if step == "pages.file"] == [f"decode-{mode}"]
