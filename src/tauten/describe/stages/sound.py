"""The sound track of a clip."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from tauten.describe.payload import Audio, Video
from tauten.describe.stage import Context, stage
from tauten.describe.view import Samples, View


@stage(pure=True, views={"clip": View("samples", {"rate": 16000})})
async def sound(ctx: Context, clip: Video, *, rate: int = 16000) -> Audio:
    """Take a clip's sound as 16-bit mono WAV at `rate` Hz (a setting of the `samples` view).

    `transcribe` hears a Video directly; this is for what should keep or play the sound. Raises MediaError for a
    clip without a sound track.
    """
    decoded: Samples = clip  # type: ignore[assignment]  # the `samples` view stands in for the payload
    return await ctx.work(Audio.from_array, decoded.array, decoded.rate)
