"""The codec `pixels`: JPEG, PNG, WebP, GIF, TIFF and BMP to upright RGB."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib
import io
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tauten.describe.payload import Image, Payload, sniff
from tauten.describe.view import Pixels
from tauten.errors import MediaError
from tauten.run.decode.media import check_pixels, checked_params, decoding, shrink

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image as Pillow

    RGB = NDArray[np.uint8]

MAX_PAGES = 1000  # a long scanned book or half a minute of GIF; the walk to a page stays below 1 ms a page
_ORIENTATION = 274  # EXIF and TIFF tag

# One reader a type, named by us: Pillow's own search would try every format it knows on hostile bytes.
_READERS: Mapping[str, tuple[str, str]] = {
    "image/jpeg": ("JpegImagePlugin", "JpegImageFile"),
    "image/png": ("PngImagePlugin", "PngImageFile"),
    "image/webp": ("WebPImagePlugin", "WebPImageFile"),
    "image/gif": ("GifImagePlugin", "GifImageFile"),
    "image/tiff": ("TiffImagePlugin", "TiffImageFile"),
    "image/bmp": ("BmpImagePlugin", "BmpImageFile"),
}


class PixelsCodec:
    """Decodes a picture to `Pixels`; `width` and `height` are those of the upright picture.

    `max_side`, `min_side`: reduce (never enlarge) until the long side fits `max_side`, or until the short
    side is `min_side`; with both, the short side wins. `page`: of a TIFF or an animation. `fast`: let the
    JPEG decoder reduce while it decodes; the size is the same, the pixels differ slightly.
    """

    name: ClassVar[str] = "pixels"
    param_keys: ClassVar[Mapping[str, type]] = {
        "max_side": int,
        "min_side": int,
        "page": int,
        "fast": bool,
    }

    def accepts(self, payload: Payload) -> bool:
        return isinstance(payload, Image)

    def decode(self, data: bytes, media_type: str, params: Mapping[str, Any], name: str) -> Pixels:
        """Raises MediaError: E215 over the limits, E216 damaged, E217 no such page, E220 not 8 or 16 bit."""
        wish = checked_params(self.name, params, self.param_keys, {"max_side": 1, "min_side": 1, "page": 0})
        kind = sniff(data) or media_type
        with decoding(f"{kind} picture"):
            picture = _open(data, kind)
            check_pixels(*picture.size, f"{kind} picture")
            _turn_to(picture, data, kind, wish.get("page", 0))
            turn = _orientation(picture)
            jpeg = kind == "image/jpeg" and _is_plain_jpeg(data)
            if not jpeg:
                picture.load()  # a TIFF knows its upright size only now
            width, height = picture.size
            target = shrink(width, height, wish.get("max_side", 0), wish.get("min_side", 0))
            fast = wish.get("fast", False)
            array = _decode_jpeg(data, target, fast) if jpeg else _rgb(picture)
            upright = _upright(_resized(array, target, fast), turn)
        if turn >= 5:  # 5 to 8 swap the sides
            width, height = height, width
        return Pixels(upright, name, width, height)


def _open(data: bytes, kind: str) -> Pillow.Image:
    """Read the header only; unlike `Image.open`, without Pillow's own bomb check, so that ours speaks."""
    if kind not in _READERS:
        raise MediaError(
            f"{kind or 'unknown data'} is not a picture",
            help=f"give one of: {', '.join(_READERS)}",
            code="E211",
        )
    module, cls = _READERS[kind]
    reader = getattr(importlib.import_module(f"PIL.{module}"), cls)
    picture: Pillow.Image = reader(io.BytesIO(data))
    return picture


def _turn_to(picture: Pillow.Image, data: bytes, kind: str, page: int) -> None:
    pages = _count_pages(picture, data, kind)
    if pages > MAX_PAGES:
        raise MediaError(
            f"{kind} of more than {MAX_PAGES} pages or frames",
            help=f"split it; at most {MAX_PAGES} are read",
            code="E215",
        )
    if page >= pages:
        raise MediaError(
            f"page {page} of a {kind} that has {pages}", help=f"give page 0 to {pages - 1}", code="E217"
        )
    if page:
        picture.seek(page)
        check_pixels(*picture.size, f"page {page} of a {kind}")


def _count_pages(picture: Pillow.Image, data: bytes, kind: str) -> int:
    """Count at most `MAX_PAGES` + 1: a hostile chain of millions must not cost millions of steps."""
    if kind == "image/gif":
        return max(1, _count_gif(data))
    if kind == "image/tiff":
        return max(1, _count_tiff(data))
    return int(getattr(picture, "n_frames", 1))  # WebP and PNG say it in their header


def _count_gif(data: bytes) -> int:
    def skip_blocks(at: int) -> int:
        while at < len(data) and data[at]:
            at += data[at] + 1
        return at + 1

    def table(flags: int) -> int:
        return 3 << ((flags & 7) + 1) if flags & 0x80 else 0

    at, frames = 13 + table(data[10]), 0
    while at < len(data) - 10 and frames <= MAX_PAGES:
        if data[at] == 0x2C:  # an image
            frames += 1
            at = skip_blocks(at + 11 + table(data[at + 9]))
        elif data[at] == 0x21:  # an extension
            at = skip_blocks(at + 2)
        else:
            break
    return frames


def _count_tiff(data: bytes) -> int:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    seen: set[int] = set()
    while at and at not in seen and at + 2 <= len(data) and len(seen) <= MAX_PAGES:
        seen.add(at)
        (entries,) = struct.unpack_from(order + "H", data, at)
        link = at + 2 + 12 * entries
        at = struct.unpack_from(order + "I", data, link)[0] if link + 4 <= len(data) else 0
    return len(seen)


def _orientation(picture: Pillow.Image) -> int:
    """How the camera was held, 1 (upright) to 8; TIFF turns itself when Pillow loads it."""
    if picture.format == "TIFF":
        return 1
    try:
        turn = picture.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error):
        return 1  # broken metadata is no damage to the picture; viewers show it as stored
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def _is_plain_jpeg(data: bytes) -> bool:
    """Whether simplejpeg gives RGB of it; the printers' colour spaces are left to Pillow."""
    import simplejpeg

    return simplejpeg.decode_jpeg_header(data)[2] not in ("CMYK", "YCCK")


def _decode_jpeg(data: bytes, target: tuple[int, int], fast: bool) -> RGB:
    import simplejpeg

    reduced = {"min_width": target[0], "min_height": target[1]} if fast else {}
    array: RGB = simplejpeg.decode_jpeg(data, "RGB", fastdct=fast, fastupsample=fast, strict=True, **reduced)
    return array


def _rgb(picture: Pillow.Image) -> RGB:
    import numpy as np
    from PIL import Image as Pillow

    if picture.mode.startswith("I;16"):
        grey = (np.asarray(picture) >> 8).astype(np.uint8)  # the high byte: what a screen shows of 16 bits
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise MediaError(
            f"a picture of 32-bit {'numbers' if picture.mode == 'I' else 'floats'}, which name no colours",
            help="save it with 8 or 16 bits a channel",
            code="E220",
        )
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        page = Pillow.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Pillow.alpha_composite(page, picture)
    return np.array(picture.convert("RGB"))


def _resized(array: RGB, target: tuple[int, int], fast: bool) -> RGB:
    import numpy as np
    from PIL import Image as Pillow

    if (array.shape[1], array.shape[0]) == target:
        return array
    # Bicubic over the whole area under a pixel: what image models are trained on. A gap of 2 first
    # averages whole blocks, about twice as fast, for a difference that the eye does not see.
    gap = 2.0 if fast else None
    return np.array(Pillow.fromarray(array).resize(target, Pillow.Resampling.BICUBIC, reducing_gap=gap))


def _upright(array: RGB, turn: int) -> RGB:
    """Undo the camera's turn: 2 to 4 mirror or rotate by half, 5 to 8 swap the sides."""
    import numpy as np

    if turn == 1:
        return array
    if turn >= 5:
        array = array.transpose(1, 0, 2)
    if turn in (2, 3, 6, 7):
        array = array[:, ::-1]
    if turn in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)
