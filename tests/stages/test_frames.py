"""frames and sound: settings reach the view, pictures are lossless."""
# SPDX-License-Identifier: Apache-2.0

import io

import numpy as np
import pytest
from PIL import Image as Pillow

from kit.direct import direct
from media.make import clip, sine, webm
from tauten.describe.payload import Audio, Image, Video
from tauten.describe.stages.frames import frames
from tauten.describe.stages.sound import sound
from tauten.errors import MediaError
from tauten.run.contracts import find


@pytest.mark.parametrize(("every_s", "expected"), [(1.0, 2), (0.5, 4), (0.25, 8)])
def test_one_frame_every_so_many_seconds(every_s: float, expected: int) -> None:
    pictures = direct(frames, Video(clip(frames=20, fps=10)), every_s=every_s)
    assert len(pictures) == expected
    assert all(isinstance(picture, Image) and picture.type == "image/bmp" for picture in pictures)


def test_pictures_hold_exactly_what_was_decoded() -> None:
    video = Video(clip(frames=20, fps=10))
    view = {"every_s": 1.0, "max_frames": 64}
    decoded = find("codecs", "frames")().decode(video.data, video.type, view, "frames")
    for picture, pixels in zip(direct(frames, video), decoded.pixels, strict=True):
        assert np.array_equal(np.asarray(Pillow.open(io.BytesIO(picture.data))), pixels.array)


def test_more_frames_than_allowed_is_an_error_not_a_silent_cut() -> None:
    with pytest.raises(MediaError):
        direct(frames, Video(clip(frames=20, fps=10)), every_s=0.1, max_frames=5)


def test_sound_is_wav_at_the_rate_asked_for() -> None:
    heard = direct(sound, Video(webm(sine(seconds=1.0))), rate=24000)
    assert isinstance(heard, Audio)
    assert heard.type == "audio/wav"
    samples = find("codecs", "samples")().decode(heard.data, heard.type, {"rate": 24000}, "samples").array
    assert len(samples) == pytest.approx(24000, abs=2400)
    loudest = np.abs(np.fft.rfft(samples)).argmax() * 24000 / len(samples)
    assert loudest == pytest.approx(440, abs=2)


def test_a_clip_without_sound_says_so() -> None:
    with pytest.raises(MediaError):
        direct(sound, Video(clip()))
