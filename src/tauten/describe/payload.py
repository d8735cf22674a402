"""What flows: Text, Image, Audio, Video, Pdf, Tensor, Json; encoded, immutable, named by content hash.

A payload holds encoded bytes (or plain text, or JSON) and its media type. Nothing is decoded here:
decoding is a step of the plan. The hash is SHA-256 of the encoded content, computed when first asked.
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import io
import os
import wave
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from tauten.errors import InputError, MediaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_ENCODED_BYTES = 256 * 1024 * 1024  # 256 MiB: an hour of MP3 or a minute of 4K video still fits


class Payload:
    """One immutable value on an edge. Subclasses are the modalities."""

    __slots__ = ("_data", "_hash", "type")
    modality: ClassVar[str] = ""
    type: str

    def __init__(self, data: bytes, type: str) -> None:
        object.__setattr__(self, "_data", data)
        object.__setattr__(self, "type", type)
        object.__setattr__(self, "_hash", "")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{self.__class__.__name__} is immutable; `{name}` cannot be set")

    @property
    def data(self) -> bytes:
        """The encoded bytes."""
        return self._data  # type: ignore[attr-defined, no-any-return]

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    @property
    def hash(self) -> str:
        """SHA-256 of the encoded content and its type, in hex; costs about 1 µs a kilobyte, once."""
        known: str = self._hash  # type: ignore[attr-defined]
        if not known:
            known = hashlib.sha256(self.type.encode() + b"\0" + self.data).hexdigest()
            object.__setattr__(self, "_hash", known)
        return known

    def as_json(self) -> Any:
        """What stands for it in a JSON document: the value where JSON has one, else what it is, not its bytes."""
        return {"type": self.type, "size_bytes": self.size_bytes, "hash": self.hash}

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Payload)
            and self.__class__ is other.__class__
            and self.type == other.type
            and self.data == other.data
        )

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.type}, {self.size_bytes} bytes)"

    def __reduce__(self) -> str:
        raise TypeError("payloads are not pickled; send `.data` and `.type`")


class Text(Payload):
    """Unicode text.

    >>> Text("hello").text
    'hello'
    """

    __slots__ = ("text",)
    modality = "text"
    text: str

    def __init__(self, text: str) -> None:
        super().__init__(b"", "text/plain")
        object.__setattr__(self, "text", text)

    @property
    def data(self) -> bytes:
        return self.text.encode()

    def as_json(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        shown = self.text if len(self.text) <= 60 else self.text[:57] + "..."
        return f"Text({shown!r})"


class Json(Payload):
    """A JSON value; any msgspec, Pydantic or dataclass value may be given and is encoded once."""

    __slots__ = ("value",)
    modality = "json"
    value: Any

    def __init__(self, value: Any) -> None:
        super().__init__(b"", "application/json")
        object.__setattr__(self, "value", value)

    @property
    def data(self) -> bytes:
        return msgspec.json.encode(self.value, order="deterministic")

    def as_json(self) -> Any:
        return self.value


class Tensor(Payload):
    """A numeric array in NumPy's own format (``.npy``, never pickled)."""

    __slots__ = ("array",)
    modality = "tensor"
    array: NDArray[Any]

    def __init__(self, array: NDArray[Any]) -> None:
        if array.dtype.hasobject:
            raise InputError(
                f"a Tensor of dtype {array.dtype} holds Python objects",
                help="give numbers, booleans or fixed-width strings",
                code="E212",
            )
        super().__init__(b"", "application/x-npy")
        array = array.view()
        array.flags.writeable = False
        object.__setattr__(self, "array", array)

    @property
    def data(self) -> bytes:
        import numpy as np

        buffer = io.BytesIO()
        np.save(buffer, self.array, allow_pickle=False)
        return buffer.getvalue()

    def as_json(self) -> Any:
        """Nested lists of numbers."""
        return self.array.tolist()


class Media(Payload):
    """Encoded media: bytes with a sniffed type; made from a path, bytes, or decoded data."""

    __slots__ = ()
    types: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, source: bytes | str | Path, type: str = "") -> None:
        data = source if isinstance(source, bytes) else _read(Path(source))
        _check_size(data, self.modality)
        seen = sniff(data)
        if seen not in self.types:
            name = "" if isinstance(source, bytes) else f" in {Path(source).name!r}"
            raise MediaError(
                f"{_describe(data, seen)}{name} is not {_article(self.modality)} that Tauten reads",
                help=f"give one of: {', '.join(sorted(self.types))}",
                code="E211",
            )
        super().__init__(data, seen if not type or type not in self.types else type)

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read a file; its type is taken from its bytes, never from its name."""
        return cls(Path(path))


class Image(Media):
    """A picture: JPEG, PNG, WebP, GIF, TIFF or BMP."""

    __slots__ = ()
    modality = "image"
    types = frozenset({"image/jpeg", "image/png", "image/webp", "image/gif", "image/tiff", "image/bmp"})

    @classmethod
    def from_array(cls, pixels: NDArray[np.uint8]) -> Image:
        """Encode RGB or grey pixels, uint8 of shape (height, width[, 3 or 4]), as PNG."""
        from PIL import Image as Pillow

        return cls.from_pil(Pillow.fromarray(pixels))

    @classmethod
    def from_pil(cls, picture: Any) -> Image:
        """Encode a Pillow picture as PNG."""
        buffer = io.BytesIO()
        picture.save(buffer, "PNG", compress_level=1)  # 1: four times faster than the default, 5 % larger
        return cls(buffer.getvalue())


class Audio(Media):
    """Sound: WAV, FLAC, MP3, OGG (Vorbis or Opus), WebM or MP4 audio."""

    __slots__ = ()
    modality = "audio"
    types = frozenset(
        {"audio/wav", "audio/flac", "audio/mpeg", "audio/ogg", "video/webm", "video/mp4", "audio/mp4"}
    )

    @classmethod
    def from_array(cls, samples: NDArray[np.floating[Any]], rate: int) -> Audio:
        """Encode float samples in [-1, 1], mono (n,) or (n, channels), as 16-bit WAV at `rate` Hz."""
        import numpy as np

        block = np.atleast_2d(samples.T).T
        pcm = (np.clip(block, -1.0, 1.0) * 32767).astype("<i2")
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as out:
            out.setnchannels(pcm.shape[1])
            out.setsampwidth(2)
            out.setframerate(rate)
            out.writeframes(pcm.tobytes())
        return cls(buffer.getvalue())

    @classmethod
    def from_soundfile(cls, file: Any) -> Audio:
        """Encode what an open ``soundfile.SoundFile`` holds, from its start, as 16-bit WAV."""
        if file.seekable():
            file.seek(0)
        return cls.from_array(file.read(dtype="float32", always_2d=True), file.samplerate)


class Video(Media):
    """A clip: MP4 or WebM; gives frames and its sound track."""

    __slots__ = ()
    modality = "video"
    types = frozenset({"video/mp4", "video/webm"})


class Pdf(Media):
    """A document of pages, as PDF."""

    __slots__ = ()
    modality = "pdf"
    types = frozenset({"application/pdf"})


OPENS_FILES: ContextVar[bool] = ContextVar("tauten_opens_files", default=True)
"""Whether a string may name a media file. A server says no while it works for a request: a string may have
come from the client, through any code. ``tt.Image("logo.png")`` and ``Path`` objects are the author's own."""


def as_payload(value: object, accepted: tuple[type, ...]) -> object:
    """Turn a plain Python value into the first accepted modality that can hold it.

    A string becomes Text where Text is accepted, else the path of a media file; bytes are sniffed;
    NumPy arrays become Tensor, and Pillow pictures Image. A value that already fits is returned as is.
    """
    if value is None or isinstance(value, accepted):
        return value
    if isinstance(value, str) and Text in accepted and not _names_media(value, accepted):
        return Text(value)
    media = [kind for kind in accepted if isinstance(kind, type) and issubclass(kind, Media)]
    if isinstance(value, str) and media and not OPENS_FILES.get():
        raise InputError(
            f"a string given where {' or '.join(kind.__name__ for kind in media)} is expected",
            help='in a served request strings name no files: send media, or write tt.Image("logo.png")',
            code="E202",
        )
    if isinstance(value, bytes | Path | str) and media:
        return _open_media(value, media)
    if value.__class__.__module__.startswith("PIL.") and Image in accepted:
        return Image.from_pil(value)
    if value.__class__.__module__ == "soundfile" and Audio in accepted:
        return Audio.from_soundfile(value)
    if value.__class__.__name__ == "ndarray" and Tensor in accepted:
        return Tensor(value)  # type: ignore[arg-type]
    if value.__class__.__name__ == "ndarray" and Image in accepted:
        return Image.from_array(value)  # type: ignore[arg-type]
    if Json in accepted:
        return Json(value)
    wanted = " or ".join(kind.__name__ for kind in accepted)
    raise InputError(
        f"{value.__class__.__name__} given where {wanted} is expected",
        help="give a payload, a path, bytes, text, a Pillow picture or a NumPy array",
        code="E202",
    )


_SUFFIXES = (
    *(".wav", ".flac", ".mp3", ".ogg", ".opus", ".webm", ".mp4", ".m4a"),
    *(".png", ".jpg", ".jpeg", ".webp", ".gif", ".tif", ".tiff", ".bmp"),
    ".pdf",
)


def _names_media(value: str, accepted: tuple[type, ...]) -> bool:
    """Whether a string, where both Text and media are accepted, is the path of an existing media file."""
    if "\n" in value or len(value) > 1024 or not OPENS_FILES.get():
        return False
    has_media = any(issubclass(kind, Media) for kind in accepted)
    return has_media and value.lower().endswith(_SUFFIXES) and os.path.exists(value)  # of long text, too


def _open_media(value: bytes | str | Path, media: list[type[Media]]) -> Media:
    data = value if isinstance(value, bytes) else _read(Path(value))
    seen = sniff(data)
    for kind in media:
        if seen in kind.types:
            return kind(data)
    return media[0](value)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > MAX_ENCODED_BYTES:
            raise _too_large(size, path.name)
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"no file {str(path)!r}", help="check the path", code="E203") from None
    except OSError as error:
        raise InputError(
            f"cannot read {str(path)!r}: {error.strerror}", help="give a readable file", code="E203"
        ) from error


def _check_size(data: bytes, modality: str) -> None:
    if not data:
        raise MediaError(f"{modality} of zero bytes", help="give a file that holds something", code="E213")
    if len(data) > MAX_ENCODED_BYTES:
        raise _too_large(len(data), modality)


def _too_large(size: int, name: str) -> MediaError:
    return MediaError(
        f"{name} has {size} bytes; at most {MAX_ENCODED_BYTES} are read",
        help="send a smaller file, or cut it into parts",
        code="E214",
    )


def _article(modality: str) -> str:
    return {"image": "an image", "audio": "audio", "video": "a video", "pdf": "a PDF"}.get(modality, modality)


def _describe(data: bytes, seen: str) -> str:
    if seen:
        return seen
    head = data[:64]
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "plain text"
    return f"data that begins with {data[:8].hex(' ')}"


_MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (0, b"II*\0", "image/tiff"),
    (0, b"MM\0*", "image/tiff"),
    (0, b"fLaC", "audio/flac"),
    (0, b"OggS", "audio/ogg"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"\x1aE\xdf\xa3", "video/webm"),
)


def _brand(brand: bytes) -> str:
    """The type of an ISO media file by its brand: pictures use the same container as clips."""
    if brand in (b"avif", b"avis"):
        return "image/avif"
    if brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"):
        return "image/heic"
    return "audio/mp4" if brand in (b"M4A ", b"M4B ", b"F4A ") else "video/mp4"


def sniff(data: bytes) -> str:
    """Return the media type that the first bytes announce, or an empty string."""
    for offset, magic, media_type in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return media_type
    if data[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(data[8:12], "")
    if data[4:8] == b"ftyp":
        return _brand(data[8:12])
    if data[:2] == b"BM" and data[6:10] == bytes(4):  # two letters alone would also fit a sentence
        return "image/bmp"
    if len(data) > 2 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0 and data[1] & 0x06:
        return "audio/mpeg"
    return ""
