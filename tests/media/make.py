"""Draws the media that tests decode: pictures, sine waves, clips, and headers that lie."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import functools
import io
import struct
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

RED, BLUE = (200, 30, 30), (30, 30, 200)


def drawing(width: int = 120, height: int = 80, seed: int = 0) -> Pillow.Image:
    """A smooth random picture, which every codec keeps well."""
    grid = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Pillow.fromarray(grid).resize((width, height), Pillow.Resampling.BICUBIC)


def encode(picture: Pillow.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces any size and holds a few bytes."""

    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(1000))) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def sine(hertz: float = 440.0, seconds: float = 1.0, rate: int = 48_000) -> NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def sound(samples: NDArray[Any], rate: int, format: str, subtype: str | None = None) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def riff(data: bytes, *, rate: int = 16_000, announced: int | None = None) -> bytes:
    """A mono 16-bit WAV whose header may announce another length than it has."""
    size = len(data) if announced is None else announced
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, rate * 2, 2, 16)
    body = form + struct.pack("<4sI", b"data", size) + data
    return b"RIFF" + struct.pack("<I", min(4 + len(body), 2**32 - 1)) + b"WAVE" + body


@functools.cache
def clip(
    frames: int = 20,
    fps: int = 10,
    width: int = 96,
    height: int = 64,
    codec: str = "mp4v",
    suffix: str = ".mp4",
) -> bytes:
    """A clip whose red channel grows by 10 a frame, and whose upper left quarter is green."""
    import cv2

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / f"clip{suffix}")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*codec), fps, (width, height))
        for number in range(frames):
            picture = np.zeros((height, width, 3), np.uint8)
            picture[:, :, 2] = number * 10
            picture[: height // 2, : width // 2, 1] = 255
            writer.write(picture)
        writer.release()
        return Path(path).read_bytes()


def turned(mp4: bytes) -> bytes:
    """The same clip with a quarter turn in its track header."""
    at = mp4.index(b"tkhd") + 4 + 40
    return mp4[:at] + struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30) + mp4[at + 36 :]


def webm(samples: NDArray[np.float32], *, live: bool = False, codec: bytes = b"A_OPUS") -> bytes:
    """48 kHz mono sound as a browser records it: Opus in WebM, of unknown length when `live`."""
    head, packets = _opus_packets(sound(samples, 48_000, "OGG", "OPUS"))
    audio = _element(0xE1, _element(0xB5, struct.pack(">f", 48_000.0)) + _element(0x9F, b"\1"))
    entry = (
        _element(0xD7, b"\1") + _element(0x83, b"\2") + _element(0x86, codec) + _element(0x63A2, head) + audio
    )
    length = struct.pack(">d", len(samples) / 48.0)
    info = _element(
        0x1549A966, _element(0x2AD7B1, b"\x0f\x42\x40") + (b"" if live else _element(0x4489, length))
    )
    blocks = b"".join(_element(0xA3, b"\x81\0\0\x80" + packet) for packet in packets)
    cluster = _element(0x1F43B675, _element(0xE7, b"\0") + blocks, unknown=live)
    body = info + _element(0x1654AE6B, _element(0xAE, entry)) + cluster
    return _element(0x1A45DFA3, _element(0x4282, b"webm")) + _element(0x18538067, body, unknown=live)


def _element(name: int, body: bytes, unknown: bool = False) -> bytes:
    size = b"\x01" + b"\xff" * 7 if unknown else struct.pack(">Q", len(body) | 1 << 56)
    return name.to_bytes((name.bit_length() + 7) // 8, "big") + size + body


def _opus_packets(ogg: bytes) -> tuple[bytes, list[bytes]]:
    at, packets, open_packet = 0, [], b""
    while at < len(ogg):
        lacing = ogg[at + 27 : at + 27 + ogg[at + 26]]
        at += 27 + len(lacing)
        for size in lacing:
            open_packet += ogg[at : at + size]
            at += size
            if size < 255:
                packets.append(open_packet)
                open_packet = b""
    return packets[0], packets[2:]
