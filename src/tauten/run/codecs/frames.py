"""The codec `frames`: pictures of an MP4 or WebM clip at chosen times."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tauten.describe.payload import Payload, Video, sniff
from tauten.describe.view import Frames, Pixels
from tauten.errors import MachineError, MediaError, PlanError
from tauten.run.decode.containers import Clip, Track, read_clip
from tauten.run.decode.media import check_pixels, check_seconds, checked_params, damaged, decoding, shrink

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    RGB = NDArray[np.uint8]

EVERY_S = 1.0  # a scene lasts seconds: one frame a second rarely misses one
MAX_FRAMES = 64  # 400 MB of 1080p RGB; a model that looks at more takes them in parts
MAX_BYTES = 2 << 30  # of all frames together: 64 of 4K take 1.6 GB; some kilobytes can hold ten times that
MAX_SECONDS = 600.0  # ten minutes: 18,000 frames, over a minute of decoding at 720p on one core
_POSTER_AT = 0.1  # share of the clip: past the fade-in, still the opening scene
_SLACK_S = 1.0  # sound may outlast the pictures by this much in a healthy file
_READERS = ("cv2", "av")


class FramesCodec:
    """Decodes frames: one `every_s` seconds, or `count` spread evenly, or one `poster`.

    A frame is the one on show at the wished time; its own exact time is in `times_s`. Rotation is
    applied. `reader` names the library: cv2 (default; H.264, HEVC, VP8, VP9, MPEG-4), or av, a separate
    install, which also reads AV1.
    """

    name: ClassVar[str] = "frames"
    param_keys: ClassVar[Mapping[str, type]] = {
        "every_s": float,
        "count": int,
        "poster": bool,
        "max_frames": int,
        "max_side": int,
        "max_seconds": float,
        "reader": str,
    }
    _low: ClassVar[Mapping[str, float]] = {
        "every_s": 0.001,
        "count": 1,
        "max_frames": 1,
        "max_side": 1,
        "max_seconds": 0.001,
    }

    def accepts(self, payload: Payload) -> bool:
        return isinstance(payload, Video)

    def decode(self, data: bytes, media_type: str, params: Mapping[str, Any], name: str) -> Frames:
        """Raises MediaError: E215 over the limits, E216 damaged, E218 no pictures; MachineError E320."""
        wish = checked_params(self.name, params, self.param_keys, self._low)
        kind = sniff(data) or media_type
        with decoding(f"{kind} clip"):
            clip = read_clip(data, kind)
            track = _check_header(clip, wish, kind)
            reader = _choose_reader(wish.get("reader", ""), track)
            moments = _read_av(data) if reader == "av" else _read_cv2(data)
            if 0.0 < track.seconds < clip.seconds:
                clip.seconds = track.seconds
            return _collect(moments, clip, wish, kind, name)


def _check_header(clip: Clip, wish: Mapping[str, Any], kind: str) -> Track:
    track = clip.first("video")
    if track is None:
        raise MediaError(f"{kind} without pictures", help="give a clip with a video track", code="E218")
    check_pixels(track.width, track.height, f"{kind} clip")
    check_seconds(clip.seconds, wish.get("max_seconds", MAX_SECONDS), f"{kind} clip")
    if len(wish.keys() & {"every_s", "count", "poster"}) > 1:
        raise PlanError(
            "codec `frames`: every_s, count and poster exclude one another",
            help="give one of them",
            code="E128",
        )
    return track


def _choose_reader(wanted: str, track: Track) -> str:
    if wanted and wanted not in _READERS:
        raise PlanError(f"codec `frames`: reader={wanted!r}", help="give cv2 or av", code="E128")
    reader = wanted or ("av" if track.codec in ("av01", "V_AV1") else "cv2")
    if reader == "av" and importlib.util.find_spec("av") is None:
        raise MachineError(
            f"no decoder is installed for {track.codec} pictures",
            help="pip install 'tauten[video]' adds PyAV (its wheel bundles GPL parts), or send H.264, VP8 or VP9",
            code="E320",
        )
    return reader


def _wished_times(clip: Clip, wish: Mapping[str, Any]) -> Iterator[float]:
    """The times to show, in order; without end when the clip does not know its length."""
    most = wish.get("max_frames", MAX_FRAMES)
    if wish.get("poster"):
        yield clip.seconds * _POSTER_AT
    elif count := wish.get("count"):
        if count > most:
            raise _too_many(count, most)
        if not clip.seconds:
            raise MediaError(
                "a clip that does not say how long it is cannot be divided", help="use every_s", code="E220"
            )
        yield from ((number + 0.5) * clip.seconds / count for number in range(count))
    else:
        step = wish.get("every_s") or max(EVERY_S, clip.seconds / most)
        number = 0
        while not clip.seconds or number * step < clip.seconds:
            if number >= most:
                raise _too_many(number + 1, most)
            yield number * step
            number += 1


def _too_many(count: int, most: int) -> MediaError:
    return MediaError(
        f"{count} frames or more are wanted, at most {most} are kept",
        help="raise `every_s`, or `max_frames` in the plan",
        code="E215",
    )


def _too_large() -> MediaError:
    return MediaError(
        f"the frames of the clip take more than {MAX_BYTES >> 20} MiB together",
        help="reduce them by `max_side`, or take fewer",
        code="E215",
    )


def _collect(
    moments: Iterator[tuple[float, float, Callable[[], RGB]]],
    clip: Clip,
    wish: Mapping[str, Any],
    kind: str,
    name: str,
) -> Frames:
    """Walk the clip once; a picture is converted only when it is on show at a wished time."""
    limit_s = wish.get("max_seconds", MAX_SECONDS)
    times, frames = _wished_times(clip, wish), Frames([], [], name, {"seconds": clip.seconds})
    target, at, kept = next(times, None), 0.0, 0
    for at, until, picture in moments:
        check_seconds(at, limit_s, f"{kind} clip")
        if target is None:
            break
        if until <= target + 1e-6:
            continue
        array = picture()
        check_pixels(array.shape[1], array.shape[0], f"{kind} clip")  # the header tells the first one's size
        frames.pixels.append(_reduced(array, wish.get("max_side", 0), f"{name}@{at:.3f}s"))
        frames.times_s.append(at)
        kept += frames.pixels[-1].array.nbytes
        if kept > MAX_BYTES:
            raise _too_large()
        while target is not None and target + 1e-6 < until:
            target = next(times, None)
    if not frames.pixels:
        raise damaged(f"{kind} clip", "not one picture of it can be decoded")
    if clip.seconds and target is not None and target > at + _SLACK_S:
        raise damaged(f"{kind} clip", f"pictures end at {at:.2f} s of {clip.seconds:.2f} s")
    return frames


def _reduced(array: RGB, max_side: int, name: str) -> Pixels:
    import cv2

    height, width = array.shape[:2]
    target = shrink(width, height, max_side, 0)
    if target != (width, height):
        array = cv2.resize(array, target, interpolation=cv2.INTER_AREA)  # the mean of what a pixel covers
    return Pixels(array, name, width, height)


def _read_cv2(data: bytes) -> Iterator[tuple[float, float, Callable[[], RGB]]]:
    """Yield (time, end of show, picture) of each frame by OpenCV, whose FFmpeg is LGPL, from memory."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # errors are ours to tell, not stderr's
    import cv2

    # One thread: a decode job is one core's work, and how many run at once is the plan's to say.
    source: Any = io.BytesIO(data)  # any buffered stream will do, whatever OpenCV's types say;
    # OpenCV does not keep it alive itself
    clip = cv2.VideoCapture(source, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    try:
        if not clip.isOpened():
            raise damaged("clip", "its header cannot be read")
        show_s = 1.0 / max(clip.get(cv2.CAP_PROP_FPS), 1.0)
        width, height = clip.get(cv2.CAP_PROP_FRAME_WIDTH), clip.get(cv2.CAP_PROP_FRAME_HEIGHT)
        check_pixels(int(width), int(height), "clip")
        while clip.grab():
            at = clip.get(cv2.CAP_PROP_POS_MSEC) / 1000.0
            yield at, at + show_s, lambda: _retrieved(clip)
    finally:
        clip.release()
        source.close()


def _retrieved(clip: Any) -> RGB:
    import cv2

    ok, picture = clip.retrieve()
    if not ok:
        raise damaged("clip", "a picture cannot be decoded")
    rgb: RGB = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    return rgb


def _read_av(data: bytes) -> Iterator[tuple[float, float, Callable[[], RGB]]]:
    """The same by PyAV."""
    import av
    import numpy as np

    with av.open(io.BytesIO(data)) as clip:
        stream = clip.streams.video[0]
        stream.codec_context.thread_count = 1  # as above
        show_s = 1.0 / float(stream.average_rate or 25)
        for frame in clip.decode(stream):
            at = float(frame.time or 0.0)
            turns = round((frame.rotation or 0) / 90) % 4

            def picture(frame: Any = frame, turns: int = turns) -> RGB:
                return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))

            yield at, at + show_s, picture
