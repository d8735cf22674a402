"""The codec `samples`: WAV, FLAC, MP3, OGG and the sound track of MP4 and WebM to mono float samples."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from tauten.describe.payload import Audio, Payload, Video, sniff
from tauten.describe.view import Samples
from tauten.errors import MachineError, MediaError, PlanError
from tauten.run.decode.containers import opus_as_ogg, read_clip
from tauten.run.decode.media import check_seconds, checked_params, damaged, decoding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE_HZ = 16_000  # what speech models are trained on
MAX_SECONDS = 3600.0  # an hour: 230 MB of samples at 16 kHz; longer sound is cut by the caller
QUALITIES = ("QQ", "LQ", "MQ", "HQ", "VHQ")
_BLOCK_VALUES = 1 << 18  # samples x channels a block: 1 MB, so that a header's lie is met after one of them
_MP3_SLACK = 2 * 1152  # samples: two MP3 frames, which encoders count differently for their own delay
_UNKNOWN_FRAMES = 1 << 62  # libsndfile's "no idea" lies near 2**63
_CONTAINERS = ("video/mp4", "video/webm", "audio/mp4")


@dataclass(slots=True)
class _Sound:
    """Sound on its way: its rate, how many samples its header announces (0: unknown), and mono blocks."""

    rate: int
    announced: int
    blocks: Iterator[NDArray[np.float32]]
    slack: int = 0


class SamplesCodec:
    """Decodes sound to mono `Samples` at `rate`; channels are averaged.

    `quality` is the resampler's: HQ, or QQ, which saves a third of the time of a WAV and lets faint
    alias tones through. `max_seconds` is a limit, not a cut: longer sound is refused.
    """

    name: ClassVar[str] = "samples"
    param_keys: ClassVar[Mapping[str, type]] = {"rate": int, "max_seconds": float, "quality": str}

    def accepts(self, payload: Payload) -> bool:
        return isinstance(payload, Audio | Video)

    def decode(self, data: bytes, media_type: str, params: Mapping[str, Any], name: str) -> Samples:
        """Raises MediaError: E213 no samples, E215 too long, E216 damaged, E218 no sound; MachineError E320."""
        wish = checked_params(self.name, params, self.param_keys, {"rate": 1000, "max_seconds": 0.001})
        quality = wish.get("quality", "HQ")
        if quality not in QUALITIES:
            raise PlanError(
                f"codec `samples`: quality={quality!r}",
                help=f"give one of {', '.join(QUALITIES)}",
                code="E128",
            )
        kind, rate = sniff(data) or media_type, wish.get("rate", RATE_HZ)
        limit_s = wish.get("max_seconds", MAX_SECONDS)
        with decoding(f"{kind} sound"):
            sound = _from_container(data, kind, limit_s) if kind in _CONTAINERS else _from_file(data, kind)
            check_seconds(sound.announced / sound.rate, limit_s, f"{kind} sound")
            array = _resampled(_checked(sound, limit_s, kind), sound.rate, rate, quality)
        return Samples(array, rate, name)


def _from_file(data: bytes, kind: str) -> _Sound:
    import soundfile

    if kind == "audio/wav":
        _check_wav(data)
    try:
        file = soundfile.SoundFile(io.BytesIO(data))
    except soundfile.LibsndfileError as error:
        if error.code == 4:  # a known container around an encoding that libsndfile lacks
            return _from_av(data, kind)
        raise
    announced = file.frames if file.frames < _UNKNOWN_FRAMES else 0
    slack = _MP3_SLACK if kind == "audio/mpeg" else 0
    return _Sound(file.samplerate, announced, _file_blocks(file), slack)


def _check_wav(data: bytes) -> None:
    """libsndfile reads what is there of a cut WAV; a whole one is what was asked for."""
    at = 12
    while at + 8 <= len(data):
        chunk, size = struct.unpack_from("<4sI", data, at)
        if chunk == b"data":
            if not _is_live(size) and at + 8 + size > len(data):
                raise damaged("WAV", f"{size} bytes of sound announced, {len(data) - at - 8} are there")
            return
        at += 8 + size + (size & 1)


def _is_live(size: int) -> bool:
    """Whether a length stands for none: writers to a pipe, such as FFmpeg, SoX and arecord, cannot know it."""
    return size >= 0xFFFFFF00 or 0x7FFFF000 <= size <= 0x80000000


def _file_blocks(file: Any) -> Iterator[NDArray[np.float32]]:
    frames = max(1, _BLOCK_VALUES // file.channels)
    with file:
        while len(block := file.read(frames, dtype="float32", always_2d=True)):
            yield block[:, 0] if file.channels == 1 else block.mean(axis=1)


def _from_container(data: bytes, kind: str, limit_s: float) -> _Sound:
    clip = read_clip(data, kind)
    track = clip.first("audio")
    if track is None:
        raise MediaError(f"{kind} without a sound track", help="give sound, or leave it out", code="E218")
    check_seconds(clip.seconds, limit_s, f"{kind} sound")
    if track.codec == "A_OPUS":
        ogg = opus_as_ogg(data, track)
        if not ogg:
            return _Sound(RATE_HZ, 0, iter(()))
        return _from_file(ogg, "audio/ogg")
    return _from_av(data, f"{kind} ({track.codec.strip()})")


def _from_av(data: bytes, what: str) -> _Sound:
    if importlib.util.find_spec("av") is None:
        raise MachineError(
            f"no decoder is installed for the sound of {what}",
            help="pip install 'tauten[video]' adds PyAV (its wheel bundles GPL parts), or send WAV, FLAC, MP3, OGG",
            code="E320",
        )
    import av

    container = av.open(io.BytesIO(data))
    if not container.streams.audio:
        container.close()
        raise MediaError(f"{what} without a sound track", help="give sound, or leave it out", code="E218")
    rate = container.streams.audio[0].rate
    return _Sound(rate, int((container.duration or 0) / 1e6 * rate), _av_blocks(container), 2**31)


def _av_blocks(container: Any) -> Iterator[NDArray[np.float32]]:
    import av

    mixer = av.AudioResampler(format="flt", layout="mono")
    with container:
        for frame in container.decode(audio=0):
            for mono in mixer.resample(frame):
                yield mono.to_ndarray().reshape(-1)


def _checked(sound: _Sound, limit_s: float, kind: str) -> Iterator[NDArray[np.float32]]:
    """Pass the blocks on; refuse what outgrows the limit, holds no number, or falls short."""
    import numpy as np

    got = 0
    for block in sound.blocks:
        got += len(block)
        check_seconds(got / sound.rate, limit_s, f"{kind} sound")
        if not np.isfinite(block).all():
            raise damaged(f"{kind} sound", "it holds samples that are not finite numbers")
        yield block
    if not got:
        raise MediaError(
            f"{kind} sound without a single sample",
            help="check the recorder: the file is a header",
            code="E213",
        )
    if got + sound.slack < sound.announced:
        raise damaged(f"{kind} sound", f"{got} samples of {sound.announced} are there")


def _resampled(
    blocks: Iterator[NDArray[np.float32]], source: int, target: int, quality: str
) -> NDArray[np.float32]:
    import numpy as np
    import soxr

    if source == target:
        parts = list(blocks)
    else:
        stream = soxr.ResampleStream(source, target, 1, dtype="float32", quality=quality)
        parts = [stream.resample_chunk(np.ascontiguousarray(block)) for block in blocks]
        parts.append(stream.resample_chunk(np.empty(0, np.float32), last=True))
    whole = np.concatenate(parts)
    return np.clip(whole, -1.0, 1.0, out=whole)  # resampling overshoots loud edges by a little
