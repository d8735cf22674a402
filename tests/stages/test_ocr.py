"""ocr: sizes, regions, rows and letters on made-up maps; then a rendered traceback on the real models."""
# SPDX-License-Identifier: Apache-2.0

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from kit.direct import DirectContext, direct
from tauten.describe.payload import Image
from tauten.describe.stages import ocr as module
from tauten.describe.stages.ocr import Box, Line, Page, ocr
from tauten.errors import InputError

SETTINGS = {"threshold": 0.3, "box_threshold": 0.5, "unclip": 1.6}
LETTERS = ("a", "b", " ", "é")


def flat(left: float, top: float, wide: float, high: float) -> Box:
    return ((left, top), (left + wide, top), (left + wide, top + high), (left, top + high))


def words(*rows: tuple[str, Box]) -> list[Line]:
    return [Line(text, box, 0.9) for text, box in rows]


def one_hot(*classes: int) -> np.ndarray[Any, Any]:
    out = np.full((len(classes), len(LETTERS) + 1), 0.05, np.float32)
    out[np.arange(len(classes)), classes] = 0.8
    return out


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((1280, 720), ("max", 960), (960, 544)),
        ((640, 160), ("max", 960), (640, 160)),
        ((640, 320), ("min", 736), (1472, 736)),
        ((1920, 1080), ("min", 736), (1920, 1088)),
        ((8, 8), ("max", 960), (32, 32)),
        ((30, 2000), ("min", 736), (64, 4096)),  # a tall strip is not blown up to 49,000 pixels
    ],
)
def test_detector_size(size: tuple[int, int], limit: tuple[str, int], expected: tuple[int, int]) -> None:
    assert module.detector_size(*size, limit) == expected


@given(
    some.integers(1, 5000), some.integers(1, 5000), some.sampled_from(["min", "max"]), some.integers(32, 2000)
)
def test_detector_sizes_are_multiples_of_32_and_bounded(
    width: int, height: int, kind: str, side: int
) -> None:
    for edge in module.detector_size(width, height, (kind, side)):
        assert edge % 32 == 0
        assert 32 <= edge <= module.LONGEST_SIDE


def test_a_flat_picture_gets_a_border_and_boxes_come_back_without_it() -> None:
    picture = np.zeros((20, 800, 3), np.uint8)
    padded, above, tensor = module.prepare(picture, ("max", 960))
    assert padded.shape == (20 + 2 * above, 800, 3)
    assert padded.shape[0] >= 800 / module.WIDEST_ASPECT
    assert tensor.shape == (3, 96, 800)
    placed = module._placed(Line("x", flat(0, above + 5, 10, 10), 1.0), 2.0, 2.0, above)
    assert placed.box == flat(0, 10, 20, 20)


def test_normalised_is_blue_first_in_minus_one_to_one() -> None:
    pixel = np.array([[[255, 127, 0]]], np.uint8)
    assert module.normalised(pixel)[:, 0, 0] == pytest.approx([-1.0, -0.0039, 1.0], abs=1e-3)


def test_a_bright_rectangle_becomes_one_grown_box_in_picture_pixels() -> None:
    heat = np.zeros((100, 200), np.float32)
    heat[40:60, 50:150] = 0.9
    (box,) = module.find_boxes(heat, 400, 200, **SETTINGS)
    grow = 100 * 20 * 1.6 / 240 * 2  # each side, twice the scale
    (left, top), (right, _), (_, bottom), _ = box
    assert left == pytest.approx(100 - grow, abs=6)
    assert right == pytest.approx(300 + grow, abs=6)
    assert top == pytest.approx(80 - grow, abs=6)
    assert bottom == pytest.approx(120 + grow, abs=6)


def test_a_tilted_region_keeps_its_angle() -> None:
    import cv2

    heat = np.zeros((200, 200), np.float32)
    corners = cv2.boxPoints(((100.0, 100.0), (120.0, 16.0), 10.0))
    cv2.fillPoly(heat, [corners.astype(np.int32)], 0.9)
    (box,) = module.find_boxes(heat, 200, 200, **SETTINGS)
    angle = math.degrees(math.atan2(box[1][1] - box[0][1], box[1][0] - box[0][0]))
    assert angle == pytest.approx(10, abs=1.5)


@pytest.mark.parametrize(("value", "size"), [(0.4, (20, 100)), (0.9, (2, 2)), (0.2, (20, 100))])
def test_weak_and_tiny_regions_are_dropped(value: float, size: tuple[int, int]) -> None:
    heat = np.zeros((64, 160), np.float32)
    heat[20 : 20 + size[0], 20 : 20 + size[1]] = value
    assert module.find_boxes(heat, 160, 64, **SETTINGS) == []


def test_boxes_stay_inside_the_picture() -> None:
    heat = np.full((64, 64), 0.9, np.float32)
    (box,) = module.find_boxes(heat, 100, 50, **SETTINGS)
    assert all(0 <= x <= 99 and 0 <= y <= 49 for x, y in box)


def test_cut_out_takes_slices_warps_and_turns_upright() -> None:
    picture = np.arange(60 * 80 * 3, dtype=np.uint32).reshape(60, 80, 3).astype(np.uint8)
    assert np.array_equal(module.cut_out(picture, flat(10, 20, 40, 15)), picture[20:35, 10:50])
    assert module.cut_out(picture, flat(10, 5, 10, 50)).shape == (10, 50, 3)
    tilted: Box = ((10, 10), (50, 14), (49, 24), (9, 20))
    assert module.cut_out(picture, tilted).shape == (10, 40, 3)


@pytest.mark.parametrize(
    ("box", "min_width", "expected"), [((40, 20), 32, 96), ((40, 20), 320, 320), ((9000, 20), 32, 3200)]
)
def test_rows_are_48_high_and_padded_to_32(box: tuple[int, int], min_width: int, expected: int) -> None:
    picture = np.zeros((20, 9000, 3), np.uint8)
    assert module._row(picture, flat(0, 0, *box), min_width).shape == (3, 48, expected)


def test_ctc_collapses_repeats_and_drops_blanks() -> None:
    text, score = module.ctc(one_hot(0, 1, 1, 0, 1, 2, 2, 3, 4, 0), LETTERS)
    assert (text, score) == ("aab é", pytest.approx(0.8))
    assert module.ctc(one_hot(0, 0), LETTERS) == ("", 0.0)


@given(some.lists(some.sampled_from([1, 2, 4]), min_size=1, max_size=30), some.data())
def test_ctc_reads_back_any_alignment(classes: list[int], data: some.DataObject) -> None:
    path: list[int] = []
    for before, now in zip([0, *classes], classes, strict=False):
        blanks = data.draw(some.integers(1 if before == now else 0, 3))
        path += [0] * blanks + [now] * data.draw(some.integers(1, 3))
    text, _ = module.ctc(one_hot(*path), LETTERS)
    assert text == "".join(LETTERS[each - 1] for each in classes)


def test_parts_of_a_row_are_joined_and_columns_are_not() -> None:
    lines = module.lines_of(
        words(
            ("'apples'", flat(95, 52, 60, 18)),
            ("Traceback", flat(10, 10, 100, 20)),
            ("KeyError:", flat(10, 50, 80, 20)),
            ("sidebar", flat(600, 51, 70, 20)),
        )
    )
    assert [line.text for line in lines] == ["Traceback", "KeyError: 'apples'", "sidebar"]
    assert lines[1].box == ((10, 50), (155, 52), (155, 70), (10, 70))


def test_rows_of_a_tilted_picture_follow_its_tilt() -> None:
    def tilted(left: float, row: float) -> Box:
        rise = 0.1 * left
        return (
            (left, row + rise),
            (left + 90, row + rise + 9),
            (left + 90, row + rise + 29),
            (left, row + rise + 20),
        )

    boxes = [tilted(left, row) for row in (0, 30) for left in (0, 100, 200, 300)]
    assert module.rows_of(list(reversed(boxes))) == [boxes[:4], boxes[4:]]


@given(some.permutations(range(6)))
def test_reading_order_does_not_depend_on_the_order_found(order: list[int]) -> None:
    found = words(*((str(i), flat(10 + 50 * (i % 2), 30 * (i // 2), 40, 20)) for i in range(6)))
    lines = module.lines_of([found[i] for i in order])
    assert [line.text for line in lines] == ["0 1", "2 3", "4 5"]


def test_a_page_without_text_and_a_misspelt_limit(tmp_path: Path) -> None:
    (tmp_path / "characters.txt").write_text("a\nb")
    context = DirectContext(
        ocr,
        fakes={"detect": lambda item: {"heat": np.zeros((1, *item["x"].shape[1:]), np.float32)}},
        files={"recognize": {"characters.txt": tmp_path / "characters.txt"}},
    )
    blank = Image.from_array(np.zeros((40, 60, 3), np.uint8))
    assert direct(ocr, blank, context=context) == Page([], 60, 40)
    with pytest.raises(InputError) as caught:
        direct(ocr, blank, limit="most:9", context=context)
    assert caught.value.code == "E240"


TRACEBACK = [
    "Traceback (most recent call last):",
    '  File "/srv/app/report.py", line 42, in <module>',
    "    total = prices[name]",
    "KeyError: 'apples'",
]


def screen(back: str, ink: str, size: int) -> Image:
    picture = Pillow.new("RGB", (900, 40 + int(len(TRACEBACK) * size * 1.5)), back)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    for row, line in enumerate(TRACEBACK):
        draw.text((16, 16 + row * size * 1.5), line, font=font, fill=ink)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Image(buffer.getvalue())


@pytest.mark.models
@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("look", [("#1e1e1e", "#d4d4d4", 18), ("white", "#202020", 20)])
def test_the_exception_line_of_a_rendered_traceback_is_right(
    backend: str, look: tuple[str, str, int]
) -> None:
    context = DirectContext(ocr, backends={"detect": backend, "recognize": backend}, precision="f32")
    page = direct(ocr, screen(*look), limit="max:960", min_row_width=32, context=context)
    assert page.lines[-1].text == "KeyError: 'apples'"
    assert page.text.startswith("Traceback (most recent call last):\n")
    assert page.lines[-1].score > 0.9
    assert 0 <= page.lines[-1].box[0][0] < 40
    context = DirectContext(ocr, backends={"detect": backend, "recognize": backend}, precision="f32")
    last = direct(ocr, screen(*look), limit="max:960", min_row_width=32, last_rows=1, context=context)
    assert [line.text for line in last.lines] == ["KeyError: 'apples'"]
    assert len(context.items["recognize"]) == 1


@pytest.mark.models
def test_row_padding_does_not_change_what_is_read() -> None:
    picture = screen("#1e1e1e", "#d4d4d4", 18)
    wide = direct(ocr, picture, limit="max:960")
    tight = direct(ocr, picture, limit="max:960", min_row_width=32)
    assert [line.text for line in wide.lines] == [line.text for line in tight.lines]
