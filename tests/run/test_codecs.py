"""Codecs give the reference's pixels and samples, refuse bombs from the header, and never a part in silence."""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import importlib.util
import io
import struct
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps

from media import make
from tauten.describe.payload import Audio, Image, Text, Video, sniff
from tauten.errors import InputError, MachineError, MediaError, PlanError, TautenError
from tauten.run.codecs import frames as frames_codec
from tauten.run.codecs.frames import FramesCodec
from tauten.run.codecs.pixels import MAX_PAGES, PixelsCodec
from tauten.run.codecs.samples import SamplesCodec
from tauten.run.contracts import find, names
from tauten.run.decode import containers
from tauten.run.decode.media import shrink

STILLS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")


def pixels(data: bytes, **params: Any) -> Any:
    return PixelsCodec().decode(data, sniff(data), params, "p")


def samples(data: bytes, **params: Any) -> Any:
    return SamplesCodec().decode(data, sniff(data), params, "s")


def frames(data: bytes, **params: Any) -> Any:
    return FramesCodec().decode(data, sniff(data), params, "f")


def reference(data: bytes) -> Any:
    return np.asarray(ImageOps.exif_transpose(Pillow.open(io.BytesIO(data))).convert("RGB")).astype(int)


def code_of(call: Any, *args: Any, **params: Any) -> str:
    with pytest.raises(TautenError) as caught:
        call(*args, **params)
    assert caught.value.help
    return caught.value.code


def pitch(array: Any, rate: int) -> float:
    """The loudest frequency."""
    return float(np.argmax(np.abs(np.fft.rfft(array))) * rate / len(array))


def test_the_shelf_lists_the_codecs() -> None:
    assert set(names("codecs")) >= {"pixels", "samples", "frames"}
    assert find("codecs", "frames") is FramesCodec


def test_codecs_say_what_they_read() -> None:
    picture = Image(make.encode(make.drawing(), "PNG"))
    voice, video = Audio.from_array(make.sine(), 48_000), Video(make.clip())
    accepted = [
        [codec().accepts(payload) for payload in (picture, voice, video, Text("x"))]
        for codec in (PixelsCodec, SamplesCodec, FramesCodec)
    ]
    assert accepted == [[True, False, False, False], [False, True, True, False], [False, False, True, False]]


@pytest.mark.parametrize("format", STILLS)
def test_pixels_equal_pillows(format: str) -> None:
    data = make.encode(make.drawing(), format)
    got = pixels(data)
    assert got.array.shape == (80, 120, 3)
    assert got.array.dtype == np.uint8
    assert (got.width, got.height, got.name) == (120, 80, "p")
    difference = np.abs(got.array.astype(int) - reference(data))
    assert difference.max() <= (2 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_camera_is_turned_upright(format: str, turn: int) -> None:
    exif = Pillow.Exif()
    exif[274] = turn
    options = {"lossless": True} if format == "WEBP" else {}
    data = make.encode(make.drawing(), format, exif=exif, **options)
    got = pixels(data)
    assert np.abs(got.array.astype(int) - reference(data)).max() <= 2
    assert (got.height, got.width) == got.array.shape[:2]
    reduced = pixels(data, max_side=60)
    assert reduced.array.shape == ((60, 40, 3) if turn >= 5 else (40, 60, 3))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_colour_spaces(mode: str, format: str) -> None:
    if (mode, format) in {("CMYK", "PNG"), ("P", "JPEG")}:
        with pytest.raises(OSError, match="cannot write"):
            make.encode(make.drawing().convert(mode), format)
        return
    data = make.encode(make.drawing().convert(mode), format)
    assert np.abs(pixels(data).array.astype(int) - reference(data)).max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_white_paper(mode: str) -> None:
    picture = Pillow.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    options = {"transparency": picture.getpixel((0, 0))} if mode == "P" else {}
    assert pixels(make.encode(picture, "PNG", **options)).array.min() == 255


def test_half_transparency_is_mixed() -> None:
    array = pixels(make.encode(Pillow.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG")).array
    assert array[0, 0].tolist() == [255, 127, 127]


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_keep_the_high_byte(format: str) -> None:
    grey = np.asarray(make.drawing().convert("L"))
    data = make.encode(Pillow.fromarray(grey.astype(np.uint16) * 257), format)
    assert np.array_equal(pixels(data).array[:, :, 0], grey)


def test_floats_name_no_colours() -> None:
    assert code_of(pixels, make.encode(Pillow.fromarray(np.ones((4, 4), np.float32)), "TIFF")) == "E220"


@pytest.mark.parametrize(
    ("wish", "shape"),
    [
        ({"max_side": 60}, (40, 60)),
        ({"min_side": 20}, (20, 30)),
        ({"max_side": 30, "min_side": 40}, (40, 60)),
        ({"max_side": 999}, (80, 120)),
        ({"min_side": 999}, (80, 120)),
    ],
)
@pytest.mark.parametrize("fast", [False, True])
def test_reduced_to_the_wish(wish: dict[str, int], shape: tuple[int, int], fast: bool) -> None:
    data = make.encode(make.drawing(), "JPEG", quality=95)
    got = pixels(data, fast=fast, **wish)
    assert got.array.shape == (*shape, 3)
    assert (got.width, got.height) == (120, 80)
    wanted = make.drawing().resize((shape[1], shape[0]), Pillow.Resampling.BICUBIC)
    assert np.abs(got.array.astype(int) - np.asarray(wanted)).mean() < (6 if fast else 3)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 3000), st.integers(0, 3000))
def test_shrink_never_enlarges_and_keeps_the_short_side(w: int, h: int, most: int, least: int) -> None:
    width, height = shrink(w, h, most, least)
    assert 1 <= width <= w
    assert 1 <= height <= h
    if least:
        assert min(width, height) >= min(least, w, h)
    elif most:
        assert max(width, height) <= max(most, 1)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP"])
def test_pages(format: str) -> None:
    pages = [make.drawing(seed=seed) for seed in range(3)]
    options = {"lossless": True} if format == "WEBP" else {}
    data = make.encode(pages[0], format, save_all=True, append_images=pages[1:], **options)
    for number, page in enumerate(pages):
        difference = np.abs(pixels(data, page=number).array.astype(int) - np.asarray(page))
        assert difference.mean() < (12 if format == "GIF" else 0.5)  # GIF has 256 colours
    assert code_of(pixels, data, page=3) == "E217"


def test_a_png_bomb_is_refused_from_its_header() -> None:
    with pytest.raises(MediaError, match=r"50000x50000 pixels \(2500.0 megapixels\); at most 100") as caught:
        pixels(make.png_header(50_000, 50_000))
    assert caught.value.code == "E215"
    assert code_of(pixels, make.png_header(30_001, 1)) == "E215"
    assert code_of(pixels, make.png_header(10_001, 10_000)) == "E215"


def test_a_clip_of_too_many_pixels_is_refused() -> None:
    data = make.clip()
    at = data.index(b"mp4v", data.index(b"stsd")) + 28
    assert struct.unpack_from(">HH", data, at) == (96, 64)
    assert code_of(frames, data[:at] + struct.pack(">HH", 40_000, 40_000) + data[at + 4 :]) == "E215"


def test_frames_of_one_clip_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames_codec, "MAX_BYTES", 3 * 96 * 64 * 3)
    data = make.clip()
    assert len(frames(data, count=3).pixels) == 3
    assert code_of(frames, data, count=4) == "E215"
    assert len(frames(data, count=4, max_side=48).pixels) == 4


def test_a_clip_that_grows_on_its_way_is_refused() -> None:
    huge = np.broadcast_to(np.uint8(0), (20_000, 20_000, 3))  # takes one byte
    clip = containers.Clip(1.0)
    with pytest.raises(MediaError) as caught:
        frames_codec._collect(iter([(0.0, 1.0, lambda: huge)]), clip, {}, "video/webm", "f")
    assert caught.value.code == "E215"


def test_too_many_frames_and_pages_are_refused() -> None:
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    image = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    assert pixels(screen + image * MAX_PAGES + b";").array.shape == (1, 1, 3)
    assert code_of(pixels, screen + image * (MAX_PAGES + 1) + b";") == "E215"
    tiff = make.encode(Pillow.new("L", (1, 1)), "TIFF")
    (first,) = struct.unpack_from("<I", tiff, 4)
    (entries,) = struct.unpack_from("<H", tiff, first)
    chain, at = bytearray(tiff), first + 2 + 12 * entries
    for _ in range(MAX_PAGES + 1):
        struct.pack_into("<I", chain, at, len(chain))
        at = len(chain) + 2
        chain += struct.pack("<HI", 0, 0)
    assert code_of(pixels, bytes(chain)) == "E215"


def test_cut_and_mislabelled_pictures_are_refused() -> None:
    whole = make.encode(make.drawing(), "JPEG")
    assert code_of(pixels, whole[: len(whole) // 2]) == "E216"
    assert code_of(pixels, b"\xff\xd8\xff" + b"not a picture") == "E216"
    assert code_of(PixelsCodec().decode, b"plain", "text/plain", {}, "p") == "E211"
    cmyk = make.encode(make.drawing().convert("CMYK"), "JPEG")
    assert code_of(pixels, cmyk[: len(cmyk) // 2]) == "E216"


@pytest.mark.parametrize(
    "params", [{"max": 3}, {"max_side": "3"}, {"max_side": 0}, {"page": -1}, {"fast": 1}]
)
def test_parameters_are_checked(params: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="codec `pixels`") as caught:
        pixels(make.encode(make.drawing(), "PNG"), **params)
    assert caught.value.code == "E128"


SOUNDS = [
    ("WAV", "PCM_16"),
    ("WAV", "FLOAT"),
    ("FLAC", None),
    ("MP3", None),
    ("OGG", "VORBIS"),
    ("OGG", "OPUS"),
]


@pytest.mark.parametrize(("format", "subtype"), SOUNDS)
@pytest.mark.parametrize("quality", ["HQ", "QQ"])
def test_a_sine_stays_a_sine(format: str, subtype: str | None, quality: str) -> None:
    got = samples(make.sound(make.sine(), 48_000, format, subtype), quality=quality)
    assert (got.rate, got.name, got.array.dtype, got.array.ndim) == (16_000, "s", np.float32, 1)
    assert got.seconds == pytest.approx(1.0, abs=0.06)  # MP3 and Opus pad
    middle = got.array[4000:12_000]
    assert pitch(middle, 16_000) == pytest.approx(440, abs=2)
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)
    if format in ("WAV", "FLAC"):
        assert np.abs(got.array[100:-100] - make.sine(rate=16_000)[100:-100]).max() < 0.01


def test_channels_are_averaged_and_rates_kept() -> None:
    left = make.sine(rate=16_000)
    got = samples(make.sound(np.stack([left, np.zeros_like(left)], axis=1), 16_000, "WAV", "FLOAT"))
    assert np.allclose(got.array, left / 2, atol=1e-6)
    assert samples(make.sound(left, 16_000, "FLAC"), rate=8000).rate == 8000


def test_blocks_join_without_a_seam() -> None:
    long = make.sine(seconds=12.0, rate=48_000)  # several blocks
    got = samples(make.sound(long, 48_000, "WAV", "FLOAT"))
    assert np.abs(got.array[100:-100] - make.sine(seconds=12.0, rate=16_000)[100:-100]).max() < 0.01


@pytest.mark.parametrize("live", [False, True])
def test_a_browsers_recording_needs_no_ffmpeg(live: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    got = samples(make.webm(make.sine(), live=live))
    assert pitch(got.array[4000:12_000], 16_000) == pytest.approx(440, abs=2)


def test_sound_that_only_ffmpeg_reads_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match="A_VORBIS") as caught:
        samples(make.webm(make.sine(), codec=b"A_VORBIS"))
    assert (caught.value.code, "tauten[video]" in caught.value.help) == ("E320", True)
    with pytest.raises(MachineError) as caught:
        frames(make.clip(), reader="av")
    assert caught.value.code == "E320"


@pytest.mark.parametrize(
    ("package", "made", "read"),
    [
        ("soundfile", lambda: make.sound(make.sine(), 16_000, "WAV", "PCM_16"), samples),
        ("cv2", make.clip, frames),
    ],
)
def test_what_no_installed_package_reads_is_not_called_damaged(
    package: str, made: Any, read: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made()
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MachineError, match=f"package {package} is not installed") as caught:
        read(data)
    assert (caught.value.code, caught.value.help) == ("E315", "pip install 'tauten[local]'")


def test_sound_limits() -> None:
    second = make.sound(make.sine(), 48_000, "WAV", "PCM_16")
    assert code_of(samples, second, max_seconds=0.5) == "E215"
    assert code_of(samples, make.webm(make.sine()), max_seconds=0.5) == "E215"
    assert code_of(samples, make.webm(make.sine(), live=True), max_seconds=0.5) == "E215"
    an_hour = make.riff(bytes(200), rate=1, announced=2 * 4000)
    assert code_of(samples, an_hour) == "E216"  # announced, but not there
    assert code_of(samples, make.riff(bytes(2 * 4000), rate=1)) == "E215"
    assert code_of(samples, second, quality="best") == "E128"


def test_empty_sound_is_named() -> None:
    assert code_of(samples, make.riff(b"")) == "E213"
    assert (
        code_of(samples, make.sound(np.zeros(0, np.float32), 16_000, "FLAC")) == "E216"
    )  # has no frame at all
    header = make.webm(make.sine())
    assert code_of(samples, header[: header.index(b"OpusHead") + 100]) == "E216"


def test_silence_is_sound() -> None:
    assert not samples(make.riff(bytes(3200))).array.any()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_no_numbers_are_damage(value: float) -> None:
    broken = make.sine()
    broken[100] = value
    assert code_of(samples, make.sound(broken, 48_000, "WAV", "FLOAT")) == "E216"


def test_a_pipes_wav_is_read_and_a_cut_one_is_not() -> None:
    pcm = (make.sine(rate=16_000) * 32767).astype("<i2").tobytes()
    for size in (2**32 - 1, 0x7FFFF000, 0x7FFFFF00, 2**31):  # of FFmpeg, SoX, arecord
        assert len(samples(make.riff(pcm, announced=size)).array) == 16_000
    assert code_of(samples, make.riff(pcm)[:-100]) == "E216"


@pytest.mark.parametrize(
    ("codec", "suffix"), [("mp4v", ".mp4"), ("mp4v", ".mov"), ("VP80", ".webm"), ("VP90", ".webm")]
)
def test_frames_at_exact_times(codec: str, suffix: str) -> None:
    data = make.clip(codec=codec, suffix=suffix)
    got = frames(data, every_s=0.5)
    assert got.times_s == pytest.approx([0.0, 0.5, 1.0, 1.5])
    assert [pixels.array.shape for pixels in got.pixels] == [(64, 96, 3)] * 4
    red = [int(pixels.array[-8:, -8:, 0].mean()) for pixels in got.pixels]
    assert np.abs(np.array(red) - [0, 50, 100, 150]).max() <= 12
    assert got.pixels[1].array[8, 8, 1] > 200
    assert got.pixels[1].name == "f@0.500s"


def test_count_poster_and_size() -> None:
    got = frames(make.clip(), count=4, max_side=48)
    assert got.times_s == pytest.approx([0.2, 0.7, 1.2, 1.7])
    assert got.pixels[0].array.shape == (32, 48, 3)
    assert (got.pixels[0].width, got.pixels[0].height) == (96, 64)
    assert frames(make.clip(), poster=True).times_s == pytest.approx([0.2])
    assert len(frames(make.clip(), count=20).pixels) == 20
    assert frames(make.clip()).times_s == pytest.approx([0.0, 1.0])


def test_sound_may_go_on_when_the_pictures_have_ended() -> None:
    data = make.clip()
    at = data.index(b"mvhd") + 4 + 16  # the length of the whole, of which sound may be the longest part
    longer = data[:at] + struct.pack(">I", 3 * struct.unpack_from(">I", data, at)[0]) + data[at + 4 :]
    assert containers.read_clip(longer, "video/mp4").seconds == 6.0
    assert frames(longer, count=4).times_s == frames(data, count=4).times_s
    assert frames(longer, every_s=0.5).times_s == frames(data, every_s=0.5).times_s
    assert code_of(frames, longer, max_seconds=5.0) == "E215"


def test_a_turned_phone_is_turned_back() -> None:
    (upright,) = frames(make.turned(make.clip()), count=1).pixels
    assert upright.array.shape == (96, 64, 3)
    assert upright.array[8, -8, 1] > 200  # the green quarter, now at the upper right
    assert upright.array[-8, 8, 1] < 50


def test_clip_limits_and_damage() -> None:
    data = make.clip()
    assert code_of(frames, data, max_seconds=1.0) == "E215"
    assert code_of(frames, data, every_s=0.01) == "E215"
    assert code_of(frames, data, count=65) == "E215"
    assert code_of(frames, data, count=2, poster=True) == "E128"
    assert code_of(frames, data, reader="ffmpeg") == "E128"
    assert code_of(frames, data[: len(data) // 2]) == "E216"
    assert code_of(frames, make.clip(codec="VP80", suffix=".webm")[:-40]) == "E216"
    assert code_of(frames, make.webm(make.sine())) == "E218"
    assert code_of(samples, data) == "E218"
    silent = data.replace(b"mdat", b"free", 1)
    assert code_of(frames, silent[:0] + data[:40]) == "E216"


@pytest.mark.skipif(
    importlib.util.find_spec("av") is None, reason="PyAV is a separate install (extra `video`)"
)
def test_pyav_gives_the_same_pictures() -> None:
    data = make.turned(make.clip())
    ours, theirs = frames(data, every_s=0.5), frames(data, every_s=0.5, reader="av")
    assert ours.times_s == pytest.approx(theirs.times_s)
    for left, right in zip(ours.pixels, theirs.pixels, strict=True):
        assert np.abs(left.array.astype(int) - right.array).max() <= 2
    vorbis = make.sound(make.sine(), 48_000, "OGG", "VORBIS")
    via_av = SamplesCodec().decode(vorbis, "audio/ogg", {}, "s")
    assert pitch(via_av.array[4000:12_000], 16_000) == pytest.approx(440, abs=2)


def test_headers_are_read_without_a_decoder() -> None:
    clip = containers.read_clip(make.clip(), "video/mp4")
    track = clip.first("video")
    assert track is not None
    assert (clip.seconds, track.width, track.height, track.codec) == (2.0, 96, 64, "mp4v")
    assert clip.first("audio") is None
    live = containers.read_clip(make.webm(make.sine(), live=True), "video/webm")
    assert (live.seconds, live.tracks[0].codec, live.tracks[0].rate) == (0.0, "A_OPUS", 48_000)


WHOLE = {
    **{format: make.encode(make.drawing(), format) for format in STILLS},
    "CMYK": make.encode(make.drawing().convert("CMYK"), "JPEG"),
}
VOICES = {
    **{
        f"{format} {subtype}": make.sound(make.sine(seconds=0.2), 48_000, format, subtype)
        for format, subtype in SOUNDS
    },
    "WEBM": make.webm(make.sine(seconds=0.2)),
}
FUZZ = settings(max_examples=60, deadline=None, derandomize=True)  # the same bytes on every machine


@FUZZ
@given(st.sampled_from(sorted(WHOLE)), st.floats(0.0, 0.999))
def test_a_cut_picture_is_whole_or_refused(kind: str, share: float) -> None:
    data = WHOLE[kind]
    try:
        got = pixels(data[: max(1, int(len(data) * share))]).array
    except MediaError:
        return
    assert np.array_equal(got, pixels(data).array)


@FUZZ
@given(
    st.sampled_from(sorted(WHOLE)), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8)
)
def test_a_mutated_picture_is_whole_or_refused(kind: str, hits: list[tuple[float, int]]) -> None:
    data = mutated(WHOLE[kind], hits)
    try:
        got = pixels(data, max_side=64)
    except MediaError:
        return
    assert got.array.shape == (*reversed(shrink(got.width, got.height, 64, 0)), 3)


@FUZZ
@given(
    st.sampled_from(sorted(VOICES)), st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8)
)
def test_mutated_sound_is_sound_or_refused(kind: str, hits: list[tuple[float, int]]) -> None:
    data = mutated(VOICES[kind], hits)
    try:
        got = samples(data, max_seconds=60.0)
    except (MediaError, MachineError):
        return
    assert np.abs(got.array).max() <= 1.0


@settings(FUZZ, max_examples=25)
@given(st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=8), st.floats(0.01, 1.0))
def test_a_mutated_clip_is_a_clip_or_refused(hits: list[tuple[float, int]], share: float) -> None:
    data = mutated(make.clip(), hits)
    try:
        got = frames(data[: int(len(data) * share)], count=2)
    except (InputError, MachineError):
        return
    assert 1 <= len(got.pixels) <= 2


def mutated(data: bytes, hits: list[tuple[float, int]]) -> bytes:
    changed = bytearray(data)
    for place, value in hits:
        changed[int(place * len(data))] = value
    return bytes(changed)


@pytest.mark.parametrize(
    ("data", "type"),
    [
        (b"\0\0\0\x1cftypavif", "image/avif"),
        (b"\0\0\0\x1cftypheic", "image/heic"),
        (b"\0\0\0\x1cftypM4A ", "audio/mp4"),
        (b"\0\0\0\x1cftypisom", "video/mp4"),
        (b"BMW builds cars, and this is a sentence", ""),
    ],
)
def test_sniffing_tells_pictures_from_clips_and_words_from_bitmaps(data: bytes, type: str) -> None:
    assert sniff(data) == type


def test_text_named_as_a_picture_says_what_it_is(tmp_path: Any) -> None:
    path = tmp_path / "note.png"
    path.write_text("only words")
    with pytest.raises(MediaError, match=r"plain text in 'note.png' is not an image") as caught:
        Image.open(path)
    assert caught.value.code == "E211"


def test_a_soundfile_becomes_audio() -> None:
    import soundfile

    with soundfile.SoundFile(io.BytesIO(make.sound(make.sine(), 48_000, "FLAC"))) as file:
        file.read(100)
        voice = Audio.from_soundfile(file)
    assert voice.type == "audio/wav"
    assert len(samples(voice.data).array) == 16_000
