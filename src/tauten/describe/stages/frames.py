"""Pictures out of a clip, at even intervals."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING

from tauten.describe.payload import Image, Video
from tauten.describe.ports import Stream
from tauten.describe.stage import Context, stage
from tauten.describe.view import Frames, View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@stage(pure=True, views={"clip": View("frames", {"every_s": 1.0, "max_frames": 64})})
async def frames(  # type: ignore[misc]  # callers see a Stream; the body is its generator
    ctx: Context, clip: Video, *, every_s: float = 1.0, max_frames: int = 64
) -> Stream[Image]:
    """Stream one frame every `every_s` seconds, in order; each is the frame on show at that time.

    Both settings belong to the `frames` view and take effect while decoding. A clip that gives more than
    `max_frames` is refused (MediaError E215) rather than cut short. Each picture is a lossless,
    uncompressed BMP of the clip's size, because it is decoded again at once: 2.8 MB for 1280 by 720. Raises
    MediaError for a damaged clip or one beyond the limits.
    """
    decoded: Frames = clip  # type: ignore[assignment]  # the `frames` view stands in for the payload
    for pixels in decoded.pixels:
        yield await ctx.work(_encoded, pixels.array)


def _encoded(pixels: NDArray[np.uint8]) -> Image:
    import io

    from PIL import Image as Pillow

    buffer = io.BytesIO()
    Pillow.fromarray(pixels).save(buffer, "BMP")
    return Image(buffer.getvalue())
