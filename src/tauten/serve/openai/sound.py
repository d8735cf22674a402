"""Sound in the formats of /v1/audio/speech, encoded as it comes; blocking, for a thread."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING, Any

from tauten.describe.payload import Audio
from tauten.errors import InternalError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RATE = 24_000  # Hz of every reply: what clients expect of pcm, which has no header to say another
TYPES = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_WRITTEN = {"mp3": ("MP3", "MPEG_LAYER_III"), "opus": ("OGG", "OPUS"), "flac": ("FLAC", "PCM_16")}
_UNKNOWN = 0xFFFFFFFF  # the length of a WAV that is still being spoken
_BLOCK = RATE // 5  # frames encoded at a time: libsndfile's Opus keeps a block on the stack


class Encoder:
    """Takes sounds, gives bytes of one file: mono, 16 bits where the format has bits.

    FLAC comes whole at the end: without its length in the header, libsndfile itself could not read it back.
    """

    def __init__(self, form: str) -> None:
        self._form = form
        self._pipe = _Pipe()
        self._file: Any = None
        self._begun = False

    def add(self, sound: Audio) -> bytes:
        """The bytes that a further sound makes ready."""
        samples = _samples(sound)
        if self._form in ("pcm", "wav"):
            head = b"" if self._begun or self._form == "pcm" else _wav_head()
            self._begun = True
            return head + _pcm(samples)
        if self._file is None:
            self._file = self._open()
        for start in range(0, len(samples), _BLOCK):
            self._file.write(samples[start : start + _BLOCK])
        return b"" if self._form == "flac" else self._ready()

    def end(self) -> bytes:
        """The bytes that end the file; where nothing was said it is a short silence."""
        if self._form in ("pcm", "wav"):
            return b"" if self._begun or self._form == "pcm" else _wav_head()
        if self._file is None:
            self._file = self._open()
            self._file.write([0.0] * (RATE // 100))  # encoders write no header before the first frame
        self._file.close()
        return self._ready()

    def _ready(self) -> bytes:
        data = self._pipe.take()
        if self._form == "mp3" and data and not self._begun:
            data = data[_tag_bytes(data) :]
            self._begun = True
        return data

    def _open(self) -> Any:
        import soundfile

        form, subtype = _WRITTEN[self._form]
        # Constant bit rate: without the table of lengths players tell the time from the size.
        mode = {"bitrate_mode": "CONSTANT", "compression_level": 0.6} if self._form == "mp3" else {}
        return soundfile.SoundFile(self._pipe, "w", RATE, 1, subtype, format=form, **mode)


class _Pipe(io.RawIOBase):
    """A file whose written part has left: what an encoder goes back to correct there stays as it was.

    Encoders go back at the end to fill in lengths; players do without them, as in any live stream.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held = bytearray()
        self._gone = 0  # bytes that were taken
        self._at = 0

    def write(self, data: Any) -> int:
        chunk = bytes(data)
        skip = min(max(self._gone - self._at, 0), len(chunk))
        start = self._at + skip - self._gone
        if start > len(self._held):
            raise InternalError("an encoder left a gap in its file")
        if skip < len(chunk):
            self._held[start : start + len(chunk) - skip] = chunk[skip:]
        self._at += len(chunk)
        return len(chunk)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._gone + len(self._held)}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        return b""

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def take(self) -> bytes:
        """What was written since the last time."""
        data = bytes(self._held)
        self._gone += len(data)
        self._held.clear()
        return data


def _tag_bytes(data: bytes) -> int:
    """Size of an MP3's first frame where that is the encoder's table of lengths, which is still empty."""
    rate = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[(data[2] >> 4) - 1]  # kbit/s, MPEG-2
    size = 72 * rate * 1000 // RATE + ((data[2] >> 1) & 1)  # one more where it is padded
    frame = data[4:size]
    return size if not any(frame) or b"Xing" in frame or b"Info" in frame else 0


def _samples(sound: Audio) -> NDArray[np.float32]:
    """A sound as mono float32 of the one rate."""
    import soundfile

    block, rate = soundfile.read(io.BytesIO(sound.data), dtype="float32", always_2d=True)
    mono: NDArray[np.float32] = block.mean(axis=1)
    if rate != RATE:
        import soxr

        mono = soxr.resample(mono, rate, RATE)
    return mono


def _pcm(samples: NDArray[np.float32]) -> bytes:
    import numpy as np

    return (np.clip(samples, -1.0, 1.0) * 32767).astype("<i2").tobytes()


def _wav_head() -> bytes:
    """A RIFF header that leaves the lengths open."""
    fields = (
        16,
        1,
        1,
        RATE,
        RATE * 2,
        2,
        16,
    )  # size, PCM, channels, rate, bytes a second, bytes a frame, bits
    form = struct.pack("<IHHIIHH", *fields)
    unknown = struct.pack("<I", _UNKNOWN)
    return b"RIFF" + unknown + b"WAVEfmt " + form + b"data" + unknown
