"""Text in pictures: lines are found, cut out, read and put in reading order.

Detection is DB (Liao et al. 2020, arXiv 1911.08947), recognition SVTR with CTC (Du et al. 2022, arXiv
2205.00159; Graves et al. 2006), both as PP-OCRv6 small. Defaults are RapidOCR's, the usual framework.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import functools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tauten.describe.payload import Image
from tauten.describe.stage import Context, Role, stage
from tauten.describe.turn import Turn
from tauten.describe.view import Pixels, View
from tauten.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]
    Picture = NDArray[np.uint8]

Point = tuple[float, float]
Box = tuple[Point, Point, Point, Point]

STRIDE = 32  # the detector halves five times; the recogniser's rows are padded to it to share batches
ROW_HEIGHT = 48  # of the recogniser's input
WIDEST_ROW = 3200  # a row of 400 letters; longer ones are squeezed
WIDEST_ASPECT = 8  # flatter pictures get a border above and below: the detector misses letters at edges
LONGEST_SIDE = 4096  # of the detector's input: "min:736" would scale a 10-pixel strip to any length
SMALLEST_PX = 3  # sides of a region below this are specks
MOST_BOXES = 1000
SAME_ROW = 0.5  # boxes whose centres differ by less than half a letter's height stand in one row
SAME_LINE = 3.0  # a gap of three letters' heights separates columns
UPRIGHT = 1.5  # a box this much taller than wide is text turned by 90 degrees


class Line(msgspec.Struct, frozen=True):
    """One line: its text, its box (top left, top right, bottom right, bottom left) in pixels of the encoded
    picture, and the score of its least certain part, 0 to 1."""

    text: str
    box: Box
    score: float


class Page(msgspec.Struct, frozen=True):
    """What a picture says, in reading order; `width` and `height` are the encoded picture's, in pixels."""

    lines: list[Line]
    width: int
    height: int

    @property
    def text(self) -> str:
        """All lines, one below the other."""
        return "\n".join(line.text for line in self.lines)


@stage(
    pure=True,
    roles={
        "detect": Role("pp-ocrv6-small-det", ("onnx", "openvino")),
        "recognize": Role("pp-ocrv6-small-rec", ("onnx", "openvino")),
    },
    views={"image": View("pixels", {"max_side": 2000})},  # RapidOCR's own bound
    turns=(
        Turn("reduce", {"min_row_width": 32}, "lossy", "pads rows of text to their own width only"),
        Turn("reduce", {"limit": "max:960"}, "lossy", "looks for text in at most 960 pixels a side"),
        Turn("reduce", {"limit": "max:640"}, "lossy", "looks for text in at most 640 pixels a side"),
        Turn("reduce", {"last_rows": 3}, "lossy", "reads the last three rows of a picture only"),
    ),
)
async def ocr(
    ctx: Context,
    image: Image,
    *,
    limit: str = "min:736",
    threshold: float = 0.3,
    box_threshold: float = 0.5,
    unclip: float = 1.6,
    min_row_width: int = 320,
    min_score: float = 0.5,
    last_rows: int = 0,
) -> Page:
    """Read the text of a picture of shape (height, width, 3).

    `limit` sizes the detector's input: "min:736" scales the short side up to 736 pixels (costly on small
    pictures), "max:960" scales the long side down to 960 and never up. `threshold` makes the text mask,
    `box_threshold` is the mean text probability that a region needs, `unclip` how far a region grows back
    (area times this, over perimeter). `min_row_width` pads each row to at least that many of its 48-pixel-high
    input's pixels. Parts read with less than `min_score` are dropped. `last_rows` above 0 reads only that many
    rows at the bottom.

    The defaults are RapidOCR's. A picture without text gives a Page without lines. Raises InputError E240 for
    a misspelt limit, MediaError for a damaged picture. Not for handwriting or text turned upside down.
    """
    side = _limit(limit)
    pixels: Pixels = image  # type: ignore[assignment]  # the `pixels` view stands in for the payload
    padded, above, tensor = await ctx.work(prepare, pixels.array, side)
    heat = _only(await ctx.infer("detect", {"x": tensor}))[0]
    find = functools.partial(find_boxes, threshold=threshold, box_threshold=box_threshold, unclip=unclip)
    boxes = await ctx.work(find, heat, padded.shape[1], padded.shape[0])
    if last_rows > 0:
        boxes = [box for row in rows_of(boxes)[-last_rows:] for box in row]
    characters = await ctx.work(_characters, ctx.files("recognize")["characters.txt"])
    reads = [_read(ctx, padded, box, min_row_width, characters) for box in boxes]
    words = [word for word in await _all(reads) if word.text and word.score >= min_score]
    x, y = pixels.width / pixels.array.shape[1], pixels.height / pixels.array.shape[0]
    lines = [_placed(line, x, y, above) for line in lines_of(words)]
    return Page(lines, pixels.width, pixels.height)


async def _read(ctx: Context, picture: Picture, box: Box, width: int, characters: Sequence[str]) -> Line:
    row = await ctx.work(_row, picture, box, width)
    probabilities = _only(await ctx.infer("recognize", {"x": row}))
    text, score = await ctx.work(ctc, probabilities, characters)
    return Line(text, box, score)


async def _all(reads: Sequence[Any]) -> list[Line]:
    """Run side by side, so that a deployment may batch rows; one failure stops the others."""
    tasks = [asyncio.ensure_future(each) for each in reads]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def _only(outputs: dict[str, Array]) -> Array:
    """A model's single output, whatever it is called."""
    return next(iter(outputs.values()))


def _limit(limit: str) -> tuple[str, int]:
    found = re.fullmatch(r"(min|max):(\d{2,4})", limit)
    if not found:
        raise InputError(
            f"limit={limit!r}", help='write "min:736" (short side, up) or "max:960" (long side)', code="E240"
        )
    return found[1], int(found[2])


# ---- detection -----------------------------------------------------------------------------------------------


def prepare(picture: Picture, limit: tuple[str, int]) -> tuple[Picture, int, Array]:
    """The picture with a border where it is too flat, that border's height, and the detector's (3, h, w)."""
    import cv2

    height, width = picture.shape[:2]
    above = max(0, math.ceil(width / WIDEST_ASPECT) - height + 1) // 2
    if above:
        picture = cv2.copyMakeBorder(picture, above, above, 0, 0, cv2.BORDER_REPLICATE)
    wide, high = detector_size(width, picture.shape[0], limit)
    return picture, above, normalised(cv2.resize(picture, (wide, high)))


def detector_size(width: int, height: int, limit: tuple[str, int]) -> tuple[int, int]:
    """Width and height that the detector sees: scaled by `limit`, then to multiples of 32."""
    kind, side = limit
    scale = min(1.0, side / max(width, height)) if kind == "max" else max(1.0, side / min(width, height))
    scale = min(scale, LONGEST_SIDE / max(width, height))
    return tuple(max(STRIDE, round(int(edge * scale) / STRIDE) * STRIDE) for edge in (width, height))  # type: ignore[return-value]


def normalised(picture: Picture) -> Array:
    """RGB uint8 (h, w, 3) to blue-green-red float32 (3, h, w) in [-1, 1], as PP-OCR was trained."""
    import numpy as np

    planes = picture[..., ::-1].transpose(2, 0, 1).astype(np.float32)
    planes /= 127.5
    planes -= 1.0
    return planes


def find_boxes(
    heat: Array, width: int, height: int, *, threshold: float, box_threshold: float, unclip: float
) -> list[Box]:
    """Boxes of text in a probability map (h, w), in pixels of a picture of `width` by `height`."""
    import cv2
    import numpy as np

    mask = (heat > threshold).astype(np.uint8)
    mask = cv2.dilate(mask, np.ones((2, 2), np.uint8))  # closes cracks between letters
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    scale = np.array([width / heat.shape[1], height / heat.shape[0]])
    boxes: list[Box] = []
    for contour in contours[:MOST_BOXES]:
        centre, (wide, high), angle = cv2.minAreaRect(contour)
        if min(wide, high) < SMALLEST_PX:
            continue
        inner = cv2.boxPoints((centre, (wide, high), angle))
        if _mean_inside(heat, inner) < box_threshold:
            continue
        grow = 2 * wide * high * unclip / (2 * (wide + high))  # the same distance on either side
        corners = cv2.boxPoints((centre, (wide + grow, high + grow), angle)) * scale
        box = _clipped(_ordered(corners), width, height)
        if min(_sides(box)) > SMALLEST_PX:
            boxes.append(box)
    return boxes


def _mean_inside(heat: Array, corners: Array) -> float:
    import cv2
    import numpy as np

    low = np.clip(np.floor(corners.min(0)).astype(int), 0, None)
    high = np.minimum(np.ceil(corners.max(0)).astype(int) + 1, heat.shape[::-1])
    mask = np.zeros((high[1] - low[1], high[0] - low[0]), np.uint8)
    cv2.fillPoly(mask, [(corners - low).astype(np.int32)], 1)
    return float(cv2.mean(heat[low[1] : high[1], low[0] : high[0]], mask)[0])


def _ordered(corners: Array) -> list[Point]:
    """Top left, top right, bottom right, bottom left: left pair and right pair by x, each from above."""
    points = sorted((float(x), float(y)) for x, y in corners)
    (a, b), (c, d) = sorted(points[:2], key=lambda p: p[1]), sorted(points[2:], key=lambda p: p[1])
    return [a, c, d, b]


def _clipped(corners: Sequence[Point], width: int, height: int) -> Box:
    inside = [(min(max(round(x), 0), width - 1), min(max(round(y), 0), height - 1)) for x, y in corners]
    return inside[0], inside[1], inside[2], inside[3]


def _sides(box: Box) -> tuple[float, float]:
    """Width and height of a box, the longer of each pair of opposite edges."""
    return (
        max(math.dist(box[0], box[1]), math.dist(box[3], box[2])),
        max(math.dist(box[0], box[3]), math.dist(box[1], box[2])),
    )


# ---- recognition ---------------------------------------------------------------------------------------------


def _row(picture: Picture, box: Box, min_width: int) -> Array:
    """The recogniser's input (3, 48, w) for one box, w a multiple of 32; the rest is mid-grey."""
    import cv2
    import numpy as np

    cut = cut_out(picture, box)
    wide = min(max(1, math.ceil(ROW_HEIGHT * cut.shape[1] / cut.shape[0])), WIDEST_ROW)
    length = math.ceil(max(wide, min_width) / STRIDE) * STRIDE
    row = np.zeros((3, ROW_HEIGHT, length), np.float32)
    row[:, :, :wide] = normalised(cv2.resize(cut, (wide, ROW_HEIGHT)))
    return row


def cut_out(picture: Picture, box: Box) -> Picture:
    """The box's content made upright and rectangular."""
    import cv2
    import numpy as np

    wide, high = (max(1, int(side)) for side in _sides(box))
    (left, top), right, _, below = box
    if top == right[1] and left == below[0]:
        cut = picture[int(top) : int(top) + high, int(left) : int(left) + wide]
    else:
        target = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
        warp = cv2.getPerspectiveTransform(np.array(box, np.float32), target)
        cut = cv2.warpPerspective(
            picture, warp, (wide, high), borderMode=cv2.BORDER_REPLICATE, flags=cv2.INTER_CUBIC
        )
    return np.rot90(cut) if high >= UPRIGHT * wide else cut


def ctc(probabilities: Array, characters: Sequence[str]) -> tuple[str, float]:
    """Greedy CTC: (steps, classes) to text and the mean probability of its letters; class 0 is the blank."""
    import numpy as np

    best = probabilities.argmax(1)
    kept = best != 0
    kept[1:] &= best[1:] != best[:-1]
    steps = np.flatnonzero(kept)
    if not len(steps):
        return "", 0.0
    text = "".join(characters[best[step] - 1] for step in steps)
    return text.strip(), float(probabilities[steps, best[steps]].mean())


@functools.lru_cache(maxsize=4)  # 18,709 characters; a process meets few models
def _characters(path: Path) -> tuple[str, ...]:
    """One a line; not `splitlines`, because some of the characters are line separators themselves."""
    return tuple(path.read_text(encoding="utf-8").split("\n"))


# ---- reading order -------------------------------------------------------------------------------------------


def lines_of(words: Sequence[Line]) -> list[Line]:
    """Lines in reading order: parts of one row are joined unless a column's gap lies between them."""
    by_box = {word.box: word for word in words}
    lines: list[Line] = []
    for row in rows_of(list(by_box)):
        run = [by_box[row[0]]]
        for box in row[1:]:
            gap = box[0][0] - run[-1].box[1][0]
            if gap > SAME_LINE * _sides(box)[1]:
                lines.append(_joined(run))
                run = []
            run.append(by_box[box])
        lines.append(_joined(run))
    return lines


def rows_of(boxes: Sequence[Box]) -> list[list[Box]]:
    """Boxes by row from the top, each row from the left; a tilted picture's rows tilt with it."""
    tilt = _tilt(boxes)

    def middle(box: Box) -> float:
        x = sum(point[0] for point in box) / 4
        return sum(point[1] for point in box) / 4 * math.cos(tilt) - x * math.sin(tilt)

    rows: list[list[Box]] = []
    for box in sorted(boxes, key=middle):
        row = rows[-1] if rows else []
        reach = SAME_ROW * min((_sides(each)[1] for each in (*row, box)), default=0)
        if row and middle(box) - middle(row[0]) < reach:
            row.append(box)
        else:
            rows.append([box])
    return [sorted(row, key=lambda box: box[0][0]) for row in rows]


def _tilt(boxes: Sequence[Box]) -> float:
    """The text's angle in radians: the longer boxes' upper edges, in the median."""
    edges = sorted(
        math.atan2(box[1][1] - box[0][1], box[1][0] - box[0][0])
        for box in boxes
        if _sides(box)[0] > 2 * _sides(box)[1]  # the angle of a single letter says nothing
    )
    return edges[len(edges) // 2] if edges else 0.0


def _joined(run: Sequence[Line]) -> Line:
    first, last = run[0].box, run[-1].box
    text = " ".join(word.text for word in run)
    return Line(text, (first[0], last[1], last[2], first[3]), min(word.score for word in run))


def _placed(line: Line, x: float, y: float, above: int) -> Line:
    """Move a line from the detector's picture to the encoded one."""
    a, b, c, d = ((px * x, max(0.0, (py - above) * y)) for px, py in line.box)
    return Line(line.text, (a, b, c, d), line.score)
