"""The codec `pages`: letters with their places, pages that are pictures, bounds, and files of people who mean ill."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from media import pdf
from tauten.describe.payload import Image, Pdf, Text, sniff
from tauten.describe.sheets import Mark, Sheets, Span
from tauten.describe.view import View
from tauten.errors import MachineError, MediaError, TautenError
from tauten.run.caching import encoding, naming
from tauten.run.caching.holding import held
from tauten.run.codecs import pages as codec
from tauten.run.codecs.pages import PagesCodec
from tauten.run.contracts import Kept, find, names
from tauten.run.decode.decoders import Decoders


def decode(data: bytes, **params: Any) -> Sheets:
    return PagesCodec().decode(data, "application/pdf", params, "s")


def refused(data: bytes, **params: Any) -> TautenError:
    with pytest.raises(TautenError) as caught:
        decode(data, **params)
    assert caught.value.help
    return caught.value


def texts(sheets: Sheets) -> list[list[str]]:
    return [[span.text for span in sheet.spans] for sheet in sheets.sheets]


WORDS = "The pump draws water from the lower tank"
PLAIN = pdf.pdf(pdf.shown(WORDS), pdf.shown("Chapter 2", size=20, font="F2"))


def test_it_is_on_the_shelf_and_reads_pdf_alone() -> None:
    assert "pages" in names("codecs")
    assert find("codecs", "pages") is PagesCodec
    assert PagesCodec().accepts(Pdf(PLAIN))
    assert not PagesCodec().accepts(Text("%PDF-"))
    assert sniff(PLAIN) == "application/pdf"


def test_a_pdf_is_told_by_its_bytes() -> None:
    assert Pdf(PLAIN).type == "application/pdf"
    with pytest.raises(MediaError, match="is not a PDF"):
        Pdf(b"hello there")
    with pytest.raises(MediaError, match="application/pdf is not an image"):
        Image(PLAIN)


# -- letters ---------------------------------------------------------------------------------------------------


def test_letters_come_with_their_places_from_the_top_left() -> None:
    sheets = decode(PLAIN)
    assert [sheet.number for sheet in sheets.sheets] == [1, 2]
    assert texts(sheets) == [[WORDS], ["Chapter 2"]]
    [span] = sheets.sheets[0].spans
    assert span.left == pytest.approx(72, abs=2)
    assert 792 - 700 - 14 < span.top < span.bottom < 792 - 700 + 5
    assert 200 < span.right < 320
    assert (sheets.sheets[0].width, sheets.sheets[0].height) == (612, 792)
    assert not sheets.sheets[0].seen


def test_sizes_and_bold_letters_are_told_apart() -> None:
    small, large = (sheet.spans[0] for sheet in decode(PLAIN).sheets)
    assert large.size / small.size == pytest.approx(20 / 12, rel=0.02)
    assert (small.bold, large.bold) == (False, True)


def test_size_is_as_it_is_seen_whatever_the_font_was_set_to() -> None:
    scaled = pdf.pdf(f"BT /F1 1 Tf 12 0 0 12 72 700 Tm ({WORDS}) Tj ET")
    [one], [other] = (sheet.spans for sheet in (decode(scaled).sheets[0], decode(PLAIN).sheets[0]))
    assert one.size == pytest.approx(other.size, rel=0.02)


def test_what_stands_apart_in_a_row_are_spans_of_their_own() -> None:
    cells = [pdf.shown("Weight"), pdf.shown("38 kg", x=300), pdf.shown("next row", y=680)]
    assert texts(decode(pdf.pdf("\n".join(cells)))) == [["Weight", "38 kg", "next row"]]


@pytest.mark.parametrize(
    ("turn", "matrix"),
    [(90, "0 1 -1 0 200 72"), (180, "-1 0 0 -1 500 700"), (270, "0 -1 1 0 200 700")],
)
def test_a_turned_page_is_read_as_it_is_seen(turn: int, matrix: str) -> None:
    content = f"BT /F1 12 Tf {matrix} Tm ({WORDS}) Tj ET"
    [sheet] = decode(pdf.pdf(content, page=f"/MediaBox [0 0 612 792] /Rotate {turn}")).sheets
    assert [span.text for span in sheet.spans] == [WORDS]
    [span] = sheet.spans
    assert (sheet.width, sheet.height) == ((612, 792) if turn == 180 else (792, 612))
    assert 0 <= span.left < span.right <= sheet.width
    assert 0 <= span.top < span.bottom <= sheet.height
    assert span.right - span.left > 10 * (span.bottom - span.top)


def test_what_lies_outside_of_the_page_is_not_read() -> None:
    content = "\n".join([pdf.shown(WORDS), pdf.shown("hidden words", y=1500)])
    assert texts(decode(pdf.pdf(content))) == [[WORDS]]
    cropped = pdf.pdf(pdf.shown(WORDS, x=300), page="/MediaBox [0 0 612 792] /CropBox [250 400 612 792]")
    [span] = decode(cropped).sheets[0].spans
    assert span.left == pytest.approx(50, abs=2)


def test_the_files_own_contents_are_read() -> None:
    outlines = [
        "<< /Type /Outlines /First 4 0 R /Last 5 0 R /Count 2 >>",
        "<< /Title (Setting up) /Parent 3 0 R /Next 5 0 R /Dest [7 0 R /Fit] >>",
        "<< /Title (Care) /Parent 3 0 R /Prev 4 0 R /Dest [9 0 R /Fit] >>",
    ]
    data = pdf.pdf(pdf.shown(WORDS), pdf.shown(WORDS), more=outlines, catalogue="/Outlines 3 0 R")
    assert decode(data).marks == (Mark(0, "Setting up", 1), Mark(0, "Care", 2))


def test_contents_that_go_round_in_circles_end() -> None:
    outlines = [
        "<< /Type /Outlines /First 4 0 R /Last 4 0 R /Count 1 >>",
        "<< /Title (Again) /Parent 3 0 R /First 4 0 R /Next 4 0 R /Dest [6 0 R /Fit] >>",
    ]
    marks = decode(pdf.pdf(pdf.shown(WORDS), more=outlines, catalogue="/Outlines 3 0 R")).marks
    assert {mark.title for mark in marks} == {"Again"}
    assert len(marks) < 10


# -- pages that are pictures -----------------------------------------------------------------------------------


def test_a_scan_comes_as_a_picture_and_a_blank_page_as_nothing() -> None:
    [sheet] = decode(pdf.scan()).sheets
    assert sheet.seen
    assert sheet.spans == ()
    picture = Image(sheet.picture)
    assert picture.type == "image/png"
    [blank] = decode(pdf.pdf("")).sheets
    assert not blank.seen
    assert blank.spans == ()


def test_a_drawn_page_has_the_wished_resolution_and_no_side_beyond_the_bound() -> None:
    from tauten.run.codecs.pixels import PixelsCodec

    def size(data: bytes, **params: Any) -> tuple[int, int]:
        [sheet] = decode(data, **params).sheets
        pixels = PixelsCodec().decode(sheet.picture, "image/png", {}, "p")
        return pixels.width, pixels.height

    assert size(pdf.scan(), dpi=72) == (612, 792)
    assert max(size(pdf.scan(), dpi=1200)) == codec.LONGEST_SIDE_PX


def test_a_scan_with_a_stamp_is_read_from_its_picture_and_text_on_a_small_picture_is_not() -> None:
    [stamped] = decode(pdf.scan(pdf.shown("CONFIDENTIAL, copy 7 of 9"))).sheets
    assert stamped.seen
    small = pdf.pdf(
        "\n".join(["q 60 0 0 60 0 0 cm /Im0 Do Q", pdf.shown(WORDS)]),
        resources="/XObject << /Im0 3 0 R >>",
        more=[pdf.picture(40, 40)],
    )
    [texted] = decode(small).sheets
    assert not texted.seen
    assert [span.text for span in texted.spans] == [WORDS]


def test_letters_without_names_are_read_from_the_picture() -> None:
    """A font whose letters map to no character: the file shows words and says nothing."""
    font = (
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /FirstChar 65 /LastChar 70 /Widths [600 600 600 600 600 600] "
        "/Encoding << /Type /Encoding /Differences [65 /g1 /g2 /g3 /g4 /g5 /g6] >> /ToUnicode 4 0 R >>"
    )
    mapping = (
        b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def 1 begincodespacerange <00> <ff> "
        b"endcodespacerange 6 beginbfchar <41> <E001> <42> <E002> <43> <E003> <44> <E004> <45> <E005> <46> <E006> "
        b"endbfchar endcmap end end"
    )
    content = "BT /F9 12 Tf 72 700 Td (ABCDEFABCDEFABCDEF) Tj ET"
    data = pdf.written(
        [
            b"<< /Type /Catalog /Pages 2 0 R >>",
            b"<< /Type /Pages /Kids [6 0 R] /Count 1 >>",
            font.encode(),
            pdf.stream("", mapping),
            pdf.stream("", content.encode()),
            b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F9 3 0 R >> >> /Contents 5 0 R >>",
        ]
    )
    [sheet] = decode(data).sheets
    assert sheet.seen


# -- bounds ----------------------------------------------------------------------------------------------------


def test_bounds_are_told_with_what_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(PLAIN, max_pages=1)
    assert (error.code, error.message) == ("E215", "a PDF of 2 pages; at most 1 are read")
    monkeypatch.setattr(codec, "MAX_LETTERS", 30)
    assert "letters; at most 30" in refused(PLAIN).message
    monkeypatch.setattr(codec, "MAX_PICTURE_BYTES", 100)
    assert "bytes of drawn pages; at most 100" in refused(pdf.scan()).message


def test_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr(codec, "monotonic", lambda: float(next(ticks)))
    error = refused(PLAIN, max_seconds=1.0)
    assert (error.code, error.http_status) == ("E215", 422)
    assert "of 2 pages is not read after 1 s" in error.message


def test_a_picture_that_claims_gigapixels_is_refused_before_it_is_decoded() -> None:
    error = refused(pdf.scan(body=pdf.raw_picture(50_000, 50_000)))
    assert error.code == "E215"
    assert "50000x50000" in error.message


def test_unknown_parameters_are_plan_errors() -> None:
    assert refused(PLAIN, pages=3).code == "E128"
    assert refused(PLAIN, dpi=1).code == "E128"


# -- people who mean ill ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [pdf.locked(), pdf.locked("/Nobody", 9)], ids=["password", "handler"])
def test_a_locked_file_says_so(data: bytes) -> None:
    error = refused(data)
    assert (error.code, error.message) == ("E220", "a PDF that asks for a password")


@pytest.mark.parametrize(
    "data",
    [
        b"%PDF-1.7\n",
        b"%PDF-1.7\n" + b"\0" * 1000,
        b"%PDF-1.7\n" + b"<<" * 50_000,
        b"%PDF-1.7\n" + b"[" * 200_000,
        pdf.written([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [2 0 R] /Count 1 >>"]),
        pdf.written([b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Kids [] /Count 0 >>"]),
        PLAIN.replace(b"xref", b"xxxx").replace(b"obj", b"jbo"),
    ],
    ids="head zeros nested brackets own-child none no-objects".split(),
)
def test_a_file_that_is_none_is_damaged(data: bytes) -> None:
    error = refused(data)
    assert error.code in ("E216", "E215")
    assert error.http_status == 422


def test_a_tree_that_claims_millions_of_pages_has_those_that_it_has() -> None:
    data = PLAIN.replace(b"/Count 2", b"/Count 9999999")
    assert texts(decode(data)) == texts(decode(PLAIN))


@settings(max_examples=60, deadline=None)
@given(
    places=st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.integers(0, 255)), max_size=12),
    cut=st.integers(9, len(PLAIN)),
)
@example(places=[], cut=len(PLAIN) // 2)
def test_damage_is_an_error_or_read_and_never_anything_else(places: list[tuple[int, int]], cut: int) -> None:
    data = bytearray(PLAIN)
    for place, value in places:
        data[place] = value
    try:
        sheets = decode(bytes(data[:cut]))
    except TautenError as error:
        assert error.code in ("E215", "E216", "E220", "E213")  # noqa: PT017  # what it raises is one of these
    else:
        assert all(
            isinstance(span.text, str) and span.text.encode()
            for sheet in sheets.sheets
            for span in sheet.spans
        )


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(MachineError, match="no decoder is installed for PDF") as caught:
        decode(PLAIN)
    assert caught.value.code == "E320"


# -- threads, processes, caches --------------------------------------------------------------------------------


def test_documents_wait_for_one_another_in_threads() -> None:
    found: list[Sheets] = []
    data = [pdf.pdf(*(pdf.shown(f"{WORDS} {n}") for _ in range(8))) for n in range(6)]
    threads = [threading.Thread(target=lambda each=each: found.append(decode(each))) for each in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(texts(sheets)[0][0] for sheets in found) == [f"{WORDS} {n}" for n in range(6)]


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders(threads=1, processes=1, job_limit_s=60.0)
    yield made
    made.close()


def test_a_process_gives_the_same_and_the_same_errors(decoders: Decoders) -> None:
    async def body() -> None:
        for data in (PLAIN, pdf.scan()):
            here, *_ = await decoders.decode(Pdf(data), View("pages"), mode="thread")
            there, *_ = await decoders.decode(Pdf(data), View("pages"), mode="process")
            assert here == there
            assert there.name == f"{Pdf(data).hash}/pages()"
        with pytest.raises(MediaError, match="asks for a password"):
            await decoders.decode(Pdf(pdf.locked()), View("pages"), mode="process")

    asyncio.run(body())


def test_sheets_have_a_name_and_a_form_on_disk() -> None:
    sheets = decode(PLAIN)
    assert naming.content_name(sheets) == naming.content_name(Sheets((), sheets.name))
    same, size = held(sheets)
    assert same == sheets
    assert size > len(WORDS)
    kept = Kept(sheets, size, 0.1)
    key = b"k" * 32
    back = encoding.decoded(key, encoding.encoded(key, kept, encoding.secret()), encoding.secret())
    assert back.value == sheets
    assert isinstance(back.value.sheets[0].spans[0], Span)
