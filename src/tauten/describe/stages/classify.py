"""What a picture shows: the 1000 ImageNet classes, and whether it is a screen or a photo.

The network is EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946, in its form without squeeze-and-excite).
"""
# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tauten.describe.payload import Image
from tauten.describe.stage import Context, Role, stage
from tauten.describe.view import Pixels, View
from tauten.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

INPUT_SIDE = 224  # of the network
RESIZED_SIDE = 256  # the short side before the centre is cut out, as in training
MID_GREY = 127  # becomes 0 after normalisation

SCREEN_CLASSES = frozenset(
    {
        "website", "menu", "crossword", "oscilloscope", "scoreboard", "digital clock", "monitor", "CRT monitor",
        "desktop computer", "laptop computer", "notebook computer", "hand-held computer", "television",
        "comic book", "odometer", "slide rule", "computer keyboard", "keyboard space bar", "envelope",
        "ring binder",
    }
)  # fmt: skip
"""Classes among which the network spreads pictures of screens and printed text. It never saw a terminal, so
no single class is right; their sum is. "fire screen", "window screen", "sunscreen" and "shoji screen" only
sound alike."""


class Label(msgspec.Struct, frozen=True):
    """One class and its probability, 0 to 1."""

    name: str
    score: float


class Labels(msgspec.Struct, frozen=True):
    """The likeliest classes, best first, and `screen`: how much the picture looks like a screen or printed
    text (0 to 1; above 0.2 it is one, measured on few pictures)."""

    labels: list[Label]
    screen: float = 0.0

    @property
    def best(self) -> Label:
        """The likeliest class."""
        return self.labels[0]

    @property
    def text(self) -> str:
        """The name of the likeliest class."""
        return self.best.name

    def share(self, names: Iterable[str]) -> float:
        """The summed probability of those classes, as far as they are among the labels kept."""
        wanted = set(names)
        return sum(label.score for label in self.labels if label.name in wanted)


@stage(
    pure=True,
    roles={"model": Role("efficientnet-lite0", ("onnx", "openvino"))},
    views={"image": View("pixels", {"max_side": 2000})},  # ocr's view: one decode serves both
)
async def classify(
    ctx: Context, image: Image, *, crops: Literal["center", "center+whole"] = "center", top: int = 5
) -> Labels:
    """Name what a picture of shape (height, width, 3) shows.

    `crops`: "center" sees the middle square, as the network was trained; "center+whole" sees the whole picture,
    letter-boxed, as well: labels are the mean of both, `screen` the larger, which finds screens in wide
    pictures, at twice the cost. `top` is how many labels are kept.

    Raises InputError E240 for unknown crops, MediaError for a damaged picture. The labels are ImageNet's: no
    scenes, people, documents or counts.
    """
    if crops not in ("center", "center+whole") or top < 1:
        raise InputError(
            f"crops={crops!r}, top={top}",
            help='crops is "center" or "center+whole", top 1 or more',
            code="E240",
        )
    pixels: Pixels = image  # type: ignore[assignment]  # the `pixels` view stands in for the payload
    tensors = await ctx.work(_tensors, pixels.array, crops)
    outputs: list[dict[str, Any]] = await asyncio.gather(*(ctx.infer("model", {"x": x}) for x in tensors))
    names = await ctx.work(_names, ctx.files("model")["labels.json"])
    return labels_of([next(iter(output.values())) for output in outputs], names, top)


def _tensors(picture: NDArray[np.uint8], crops: str) -> list[Array]:
    return [center(picture)] + ([whole(picture)] if crops == "center+whole" else [])


def center(picture: NDArray[np.uint8]) -> Array:
    """The middle square: short side to 256, bicubic, then 224 by 224 cut out; (3, 224, 224) in [-1, 1]."""
    from PIL import Image as Pillow

    height, width = picture.shape[:2]
    side = min(height, width) * INPUT_SIDE / RESIZED_SIDE
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)  # resizing only what is kept gives the same pixels for less
    resized = Pillow.fromarray(picture).resize((INPUT_SIDE, INPUT_SIDE), Pillow.Resampling.BICUBIC, box=box)
    return _normalised(resized)


def whole(picture: NDArray[np.uint8]) -> Array:
    """The whole picture inside a grey square; (3, 224, 224) in [-1, 1]."""
    from PIL import Image as Pillow

    height, width = picture.shape[:2]
    scale = INPUT_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    square = Pillow.new("RGB", (INPUT_SIDE, INPUT_SIDE), (MID_GREY,) * 3)
    resized = Pillow.fromarray(picture).resize(size, Pillow.Resampling.BICUBIC)
    square.paste(resized, ((INPUT_SIDE - size[0]) // 2, (INPUT_SIDE - size[1]) // 2))
    return _normalised(square)


def _normalised(picture: Any) -> Array:
    import numpy as np

    planes = np.asarray(picture, np.float32).transpose(2, 0, 1)
    return np.ascontiguousarray((planes - 127.0) / 128.0)  # as Google trained it


def labels_of(logits: Sequence[Array], names: Sequence[str], top: int) -> Labels:
    """Labels from the logits (1000,) of each crop."""
    import numpy as np

    shares = [softmax(each) for each in logits]
    mean = np.mean(shares, axis=0)
    order = np.argsort(-mean, kind="stable")[:top]
    labels = [Label(names[index], float(mean[index])) for index in order]
    return Labels(labels, max(screen_score(share, names) for share in shares))


def softmax(logits: Array) -> Array:
    """Probabilities of logits (n,)."""
    import numpy as np

    powers: Array = np.exp(logits - logits.max())
    powers /= powers.sum()
    return powers


def screen_score(probabilities: Array, names: Sequence[str]) -> float:
    """The summed probability of the classes that screens and printed text fall into."""
    return float(sum(probabilities[index] for index in _screen_indices(tuple(names))))


@functools.lru_cache(maxsize=4)
def _screen_indices(names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(index for index, name in enumerate(names) if name in SCREEN_CLASSES)


@functools.lru_cache(maxsize=4)
def _names(path: Path) -> tuple[str, ...]:
    return tuple(msgspec.json.decode(path.read_bytes(), type=list[str]))
