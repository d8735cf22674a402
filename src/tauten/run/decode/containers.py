"""What the headers of MP4 and WebM say, read before any decoder sees them; and WebM's sound as Ogg.

Reads lengths, sizes and tracks only. A container whose parts end beyond its last byte was cut short.
The Ogg copy lets libsndfile decode a browser's recording, without an FFmpeg that bundles GPL parts.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from tauten.errors import MediaError
from tauten.run.decode.media import damaged

MAX_PARTS = 1_000_000  # boxes, elements and packets walked: an hour of 20 ms Opus packets has 180,000
_DEPTH = 8  # nested boxes on the way to a sample table: 5 in a healthy file


@dataclass(slots=True)
class Track:
    """One track of a container."""

    kind: str = ""  # video, audio, or empty for the rest
    codec: str = ""  # avc1, mp4a, A_OPUS ...
    number: int = 0
    width: int = 0
    height: int = 0
    rate: int = 0
    channels: int = 1
    seconds: float = 0.0  # of this track alone, where known: sound may outlast the pictures
    setup: bytes = b""  # the codec's own header


@dataclass(slots=True)
class Clip:
    """The header of a container; `seconds` is 0.0 where it says nothing (a live recording)."""

    seconds: float = 0.0
    scale: int = 0  # of an MP4: its units a second
    tracks: list[Track] = field(default_factory=list)

    def first(self, kind: str) -> Track | None:
        """The first track of a kind."""
        return next((track for track in self.tracks if track.kind == kind), None)


def read_clip(data: bytes, media_type: str) -> Clip:
    """Read the header; raises MediaError E216 when the container is cut short or nonsense."""
    try:
        clip = _read_webm(data) if data[:4] == b"\x1aE\xdf\xa3" else _read_mp4(data)
    except (struct.error, IndexError, RecursionError) as error:
        raise damaged(f"{media_type} clip", f"unreadable header ({error})") from error
    if not clip.tracks:
        raise damaged(f"{media_type} clip", "it has no track")
    return clip


# --- MP4: boxes of a 4-byte length and a 4-letter name ---------------------------------------------


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield (name, start of content, end) of the boxes in a range."""
    for _ in range(MAX_PARTS):
        if at + 8 > end:
            return
        size, name = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        elif size == 0:
            size = end - at
        if size < head or at + size > end:
            raise damaged("MP4", f"its part {name!r} announces {size} bytes, {end - at} are there")
        yield name, at + head, at + size
        at += size


_PARENTS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})


def _read_mp4(data: bytes) -> Clip:
    clip = Clip()
    _walk_mp4(data, 0, len(data), clip, 0)
    return clip


def _walk_mp4(data: bytes, start: int, end: int, clip: Clip, depth: int) -> None:
    for name, at, stop in _boxes(data, start, end):
        if name == b"trak":
            clip.tracks.append(Track(number=len(clip.tracks)))
        if name in _PARENTS and depth < _DEPTH:
            _walk_mp4(data, at, stop, clip, depth + 1)
        elif name == b"mvhd":
            (clip.scale,) = struct.unpack_from(">I", data, at + (20 if data[at] == 1 else 12))
            clip.seconds = _mp4_seconds(data, at, 16, clip.scale)
        elif name == b"tkhd" and clip.tracks:
            clip.tracks[-1].seconds = _mp4_seconds(data, at, 20, clip.scale)
        elif clip.tracks:
            _read_track_box(data, name, at, clip.tracks[-1])


def _mp4_seconds(data: bytes, at: int, place: int, scale: int) -> float:
    """A length in the header of a clip or a track, `place` bytes into it; 8 more where its numbers are long."""
    long = data[at] == 1
    (length,) = struct.unpack_from(">Q" if long else ">I", data, at + place + (8 if long else 0))
    unknown = length == (2**64 - 1 if long else 2**32 - 1)
    return 0.0 if unknown or not scale else length / scale


def _read_track_box(data: bytes, name: bytes, at: int, track: Track) -> None:
    if name == b"hdlr" and not track.kind:  # QuickTime has another one further in, of where the data lies
        track.kind = {b"vide": "video", b"soun": "audio"}.get(data[at + 8 : at + 12], "")
    elif name == b"stsd" and data[at + 7] > 0:
        entry = at + 8
        track.codec = data[entry + 4 : entry + 8].decode("latin-1")
        if track.kind == "video":
            track.width, track.height = struct.unpack_from(">HH", data, entry + 32)
        elif track.kind == "audio":
            track.channels, _, _, track.rate = struct.unpack_from(">HHIH", data, entry + 24)


# --- WebM: elements of a variable-length name and length -------------------------------------------

_SEGMENT, _INFO, _TRACKS, _CLUSTER = 0x18538067, 0x1549A966, 0x1654AE6B, 0x1F43B675
_SCALE, _DURATION = 0x2AD7B1, 0x4489
_ENTRY, _NUMBER, _TYPE, _CODEC, _SETUP = 0xAE, 0xD7, 0x83, 0x86, 0x63A2
_VIDEO, _WIDTH, _HEIGHT = 0xE0, 0xB0, 0xBA
_AUDIO, _RATE, _CHANNELS = 0xE1, 0xB5, 0x9F
_SIMPLE, _GROUP, _BLOCK = 0xA3, 0xA0, 0xA1
_OPEN_ENDED = frozenset({_SEGMENT, _CLUSTER})  # a live recording does not know their length


def _number(data: bytes, at: int, keep_mark: bool) -> tuple[int, int, bool]:
    """A variable-length number: (value, next byte, whether it says "unknown")."""
    first = data[at]
    length = 9 - first.bit_length()
    if length > 8 or at + length > len(data):
        raise damaged("WebM", f"unreadable number at byte {at}")
    value = int.from_bytes(data[at : at + length], "big")
    mask = (1 << (7 * length)) - 1
    unknown = value & mask == mask
    return (value if keep_mark else value & mask), at + length, unknown


def _elements(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (name, start, end); containers of unknown length are entered as if they had none."""
    for _ in range(MAX_PARTS):
        if at >= end:
            return
        name, at, _ = _number(data, at, True)
        size, at, unknown = _number(data, at, False)
        if name in _OPEN_ENDED:
            if not unknown and at + size > end:
                raise damaged("WebM", f"{size} bytes are announced, {end - at} are there")
            continue  # their children follow in line
        if unknown or at + size > end:
            raise damaged("WebM", f"a part announces {size} bytes, {end - at} are there")
        yield name, at, at + size
        at += size
    raise damaged("WebM", f"more than {MAX_PARTS} parts")


def _uint(data: bytes, at: int, end: int) -> int:
    return int.from_bytes(data[at:end], "big")


def _float(data: bytes, at: int, end: int) -> float:
    return float(struct.unpack(">f" if end - at == 4 else ">d", data[at:end])[0])


def _read_webm(data: bytes) -> Clip:
    clip, scale_ns, length = Clip(), 1_000_000, 0.0
    for name, at, end in _elements(data, 0, len(data)):
        if name == _INFO:
            for inner, start, stop in _elements(data, at, end):
                if inner == _SCALE:
                    scale_ns = _uint(data, start, stop)
                elif inner == _DURATION:
                    length = _float(data, start, stop)
        elif name == _TRACKS:
            entries = [part for part in _elements(data, at, end) if part[0] == _ENTRY]
            clip.tracks += [_webm_track(data, start, stop) for _, start, stop in entries]
    clip.seconds = max(0.0, length * scale_ns / 1e9)
    return clip


def _webm_track(data: bytes, at: int, end: int) -> Track:
    track = Track()
    for name, start, stop in _elements(data, at, end):
        if name == _NUMBER:
            track.number = _uint(data, start, stop)
        elif name == _TYPE:
            track.kind = {1: "video", 2: "audio"}.get(_uint(data, start, stop), "")
        elif name == _CODEC:
            track.codec = data[start:stop].decode("latin-1")
        elif name == _SETUP:
            track.setup = data[start:stop]
        elif name in (_VIDEO, _AUDIO):
            _webm_settings(data, start, stop, track)
    return track


def _webm_settings(data: bytes, at: int, end: int, track: Track) -> None:
    for name, start, stop in _elements(data, at, end):
        if name == _WIDTH:
            track.width = _uint(data, start, stop)
        elif name == _HEIGHT:
            track.height = _uint(data, start, stop)
        elif name == _RATE:
            track.rate = int(_float(data, start, stop))
        elif name == _CHANNELS:
            track.channels = _uint(data, start, stop)


def _packets(data: bytes, track: int) -> Iterator[bytes]:
    """The encoded packets of one track, in order."""
    for name, at, end in _elements(data, 0, len(data)):
        blocks = [(name, at, end)] if name == _SIMPLE else []
        if name == _GROUP:
            blocks = [part for part in _elements(data, at, end) if part[0] == _BLOCK]
        for _, start, stop in blocks:
            number, after, _ = _number(data, start, False)
            if number != track:
                continue
            if data[after + 2] & 0x06:
                raise MediaError(
                    "WebM sound in laced blocks", help="record it without lacing, or send Ogg", code="E220"
                )
            yield data[after + 3 : stop]


# --- Ogg: pages of packets -------------------------------------------------------------------------


def opus_as_ogg(data: bytes, track: Track) -> bytes:
    """Copy a WebM's Opus packets into an Ogg stream; nothing is decoded or encoded again."""
    head = track.setup or b"OpusHead\x01" + bytes([track.channels, 0, 0]) + struct.pack("<IhB", 48000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 6) + b"tauten" + struct.pack("<I", 0)
    pages = [_page(head, 0, 0, 2), _page(tags, 0, 1, 0)]
    samples, packets = 0, list(_packets(data, track.number))
    for number, packet in enumerate(packets):
        samples += _opus_samples(packet)
        last = number == len(packets) - 1
        pages.append(_page(packet, samples, number + 2, 4 if last else 0))
    return b"".join(pages) if packets else b""


def _opus_samples(packet: bytes) -> int:
    """Samples at 48 kHz in one Opus packet, from its first two bytes (RFC 6716, section 3.1)."""
    if not packet:
        return 0
    config = packet[0] >> 3
    if config < 12:
        size = (480, 960, 1920, 2880)[config & 3]
    elif config < 16:
        size = (480, 960)[config & 1]
    else:
        size = 120 << (config & 3)
    code = packet[0] & 3
    frames = (1, 2, 2)[code] if code < 3 else packet[1] & 63
    return size * frames


def _page(packet: bytes, position: int, number: int, flags: int) -> bytes:
    lacing = b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255])
    if len(lacing) > 255:
        raise damaged("WebM", f"a sound packet of {len(packet)} bytes")
    head = struct.pack("<4sBBqIIIB", b"OggS", 0, flags, position, 1, number, 0, len(lacing))
    page = bytearray(head + lacing + packet)
    page[22:26] = struct.pack("<I", _crc(page))
    return bytes(page)


def _make_table() -> list[int]:
    table = []
    for value in range(256):
        crc = value << 24
        for _ in range(8):
            crc = ((crc << 1) ^ (0x04C11DB7 if crc & 0x80000000 else 0)) & 0xFFFFFFFF
        table.append(crc)
    return table


_CRC_TABLE = _make_table()


def _crc(page: bytes | bytearray) -> int:
    crc = 0
    for byte in page:
        crc = ((crc << 8) & 0xFFFFFFFF) ^ _CRC_TABLE[(crc >> 24) ^ byte]
    return crc
